/* SPDX-License-Identifier: MIT */
/*
 * clone-agent's identity, shutdown, activity, and what it makes of bytes that are no protocol.
 * Long, because all of it needs the same agent in its own namespaces and the same look at what it
 * changed there.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/lib/guest_agent.h"

#define ID_A "0123456789abcdef0123456789abcdef"
#define ID_B "fedcba9876543210fedcba9876543210"
#define ARGV(...) ((const char *const[]){ __VA_ARGS__, NULL })

static const uint8_t gen_a[PROTO_GEN] = { 0xa1, 2, 3, [15] = 0xff }, gen_b[PROTO_GEN] = { 0xb0 };

static int setup(void **state)
{
	guest_setup(state);
	guest_write(*state, "/etc/hostname", "before\n", 7, 0644);
	return 0;
}

static uint8_t identity(struct guest *g, const struct proto_identity_args *a, struct outcome *o)
{
	uint8_t frame[PROTO_MAX_FRAME];
	size_t n = proto_put_identity(frame, sizeof(frame), a);

	assert_true(n > 0);
	return ask(g, frame, n, o);
}

/* The generation that the agent says it is of. */
static void agent_gen(struct guest *g, uint8_t gen[PROTO_GEN])
{
	uint8_t frame[PROTO_SMALL_FRAME];
	struct proto_frame f;
	struct proto_ack a;
	struct link l;

	link_open(&l, g);
	link_send(&l, frame, proto_put_empty(frame, sizeof(frame), PROTO_PING));
	assert_true(link_next(&l, &f));
	assert_int_equal(f.type, PROTO_ACK);
	assert_true(proto_get_ack(f.payload, &a));
	memcpy(gen, a.gen, PROTO_GEN);
	link_close(&l);
}

static void assert_gen(struct guest *g, const uint8_t want[PROTO_GEN])
{
	uint8_t gen[PROTO_GEN];

	agent_gen(g, gen);
	assert_memory_equal(gen, want, PROTO_GEN);
}

static void shell(struct guest *g, const uint8_t *gen, const char *command, struct outcome *o)
{
	struct link l;

	link_open(&l, g);
	exec_send(&l, &(struct proto_exec_args){ .gen = gen }, ARGV("sh", "-c", command));
	exec_collect(&l, o);
}

static void assert_stale(struct guest *g, const uint8_t *gen)
{
	struct outcome o;

	shell(g, gen, "true", &o);
	assert_false(o.started);
	assert_int_equal(o.error, ESTALE);
	assert_int_equal(o.stage, PROTO_STAGE_GENERATION);
	outcome_free(&o);
}

static void assert_runs(struct guest *g, const uint8_t *gen, const char *command, const char *want)
{
	struct outcome o;

	shell(g, gen, command, &o);
	assert_true(o.started && o.exited && !o.kind && !o.value);
	assert_string_equal(o.out, want);
	outcome_free(&o);
}

static void assert_file(struct guest *g, const char *path, const char *want)
{
	char *text = guest_read(g, path);

	if (!want) {
		assert_null(text);
		return;
	}
	assert_non_null(text);
	assert_string_equal(text, want);
	free(text);
}

static void test_agent_identity__only_its_generation_may_run_commands(void **state)
{
	struct proto_identity_args a = { .gen = gen_a };
	struct outcome o;

	assert_runs(*state, NULL, "echo x", "x\n"); /* not a fork: nothing to reconcile */
	assert_stale(*state, gen_a);
	assert_int_equal(identity(*state, &a, &o), PROTO_ACK);
	outcome_free(&o);
	assert_gen(*state, gen_a);
	assert_runs(*state, gen_a, "echo x", "x\n");
	assert_stale(*state, NULL);
	assert_stale(*state, gen_b);
	a.gen = gen_b;
	assert_int_equal(identity(*state, &a, &o), PROTO_ACK);
	outcome_free(&o);
	assert_stale(*state, gen_a);
	assert_runs(*state, gen_b, "echo x", "x\n");
}

static void test_agent_identity__names_and_user_data_are_the_guests(void **state)
{
	struct proto_identity_args a = { .gen = gen_a,
					 .hostname = "fork-1",
					 .machine_id = ID_A,
					 .entropy = "0123456789abcdef0123456789abcdef",
					 .entropy_len = 32,
					 .userdata = "a\0b",
					 .userdata_len = 3 };
	struct outcome o;

	guest_write(*state, "/etc/machine-id", ID_B "\n", 33, 0444);
	guest_write(*state, "/var/lib/dbus/machine-id", "longer than it was " ID_B "\n", 52, 0444);
	assert_int_equal(identity(*state, &a, &o), PROTO_ACK);
	assert_string_equal(o.text, "");
	outcome_free(&o);
	assert_runs(*state, gen_a, "cat /proc/sys/kernel/hostname", "fork-1\n");
	assert_file(*state, "/etc/hostname", "fork-1\n");
	assert_file(*state, "/etc/machine-id", ID_A "\n");
	assert_file(*state, "/var/lib/dbus/machine-id", ID_A "\n");
	assert_file(*state, "/run/clone/userdata", "a");
	/* The next one leaves what it does not name, except user data, which is never inherited. */
	a = (struct proto_identity_args){ .gen = gen_b };
	assert_int_equal(identity(*state, &a, &o), PROTO_ACK);
	outcome_free(&o);
	assert_runs(*state, gen_b, "cat /proc/sys/kernel/hostname", "fork-1\n");
	assert_file(*state, "/etc/machine-id", ID_A "\n");
	assert_file(*state, "/run/clone/userdata", NULL);
}

static void test_agent_identity__a_read_only_machine_id_is_covered(void **state)
{
	struct proto_identity_args a = { .gen = gen_b, .machine_id = ID_B };
	struct guest *g = *state;
	struct outcome o;
	char cmd[512];

	guest_write(g, "/etc/machine-id", ID_A "\n", 33, 0444);
	assert_int_equal(identity(g, &(struct proto_identity_args){ .gen = gen_a }, &o), PROTO_ACK);
	outcome_free(&o);
	snprintf(cmd, sizeof(cmd),
		 "mount --bind %s/etc %s/etc && mount -o remount,bind,ro %s/etc && echo ok",
		 g->root, g->root, g->root);
	assert_runs(g, gen_a, cmd, "ok\n");
	a.hostname = "ro-fork";
	assert_int_equal(identity(g, &a, &o), PROTO_ACK);
	assert_non_null(strstr(o.text, "/etc/machine-id is read-only"));
	assert_non_null(strstr(o.text, "/etc/hostname: Read-only file system"));
	outcome_free(&o);
	/* Seen inside the mount namespace, which ours is not. */
	snprintf(cmd, sizeof(cmd), "cat %s/etc/machine-id /proc/sys/kernel/hostname", g->root);
	assert_runs(g, gen_b, cmd, ID_B "\nro-fork\n");
	/* And once covered it is written through. */
	a = (struct proto_identity_args){ .gen = gen_a, .machine_id = ID_A };
	assert_int_equal(identity(g, &a, &o), PROTO_ACK);
	assert_string_equal(o.text, "");
	outcome_free(&o);
	assert_runs(g, gen_a, cmd, ID_A "\nro-fork\n");
}

static void hook(struct guest *g, const char *name, const char *body, mode_t mode)
{
	char path[128], text[1024];
	int n;

	snprintf(path, sizeof(path), "/etc/clone/fork.d/%s", name);
	n = snprintf(text, sizeof(text), "#!/bin/sh\n%s\n", body);
	guest_write(g, path, text, (size_t)n, mode);
}

static void test_agent_identity__hooks_run_in_order_with_what_they_need(void **state)
{
	struct proto_identity_args a = { .gen = gen_a,
					 .flags = PROTO_IDENTITY_FORK,
					 .name = "vm-1",
					 .hostname = "h1",
					 .machine_id = ID_A,
					 .userdata = "ud",
					 .userdata_len = 2 };
	struct guest *g = *state;
	char body[512], want[512];
	struct outcome o;

	guest_write(g, "/etc/machine-id", ID_B "\n", 33, 0444);
	snprintf(body, sizeof(body), "echo $0 >> %s/log", g->root);
	hook(g, "20-second", body, 0755);
	hook(g, "30-not-executable", body, 0644);
	hook(g, ".hidden", body, 0755);
	snprintf(body, sizeof(body),
		 "echo $CLONE_REASON $CLONE_NAME $CLONE_GENERATION $CLONE_HOSTNAME "
		 "$CLONE_MACHINE_ID $CLONE_OLD_MACHINE_ID $(cat $CLONE_USERDATA) $(pwd) >> %s/log; "
		 "echo noise",
		 g->root);
	hook(g, "10-first", body, 0755);
	assert_int_equal(identity(g, &a, &o), PROTO_ACK);
	outcome_free(&o);
	snprintf(want, sizeof(want),
		 "fork vm-1 a10203000000000000000000000000ff h1 " ID_A " " ID_B
		 " ud /\n%s/etc/clone/fork.d/20-second\n",
		 g->root);
	assert_file(g, "/log", want);
}

static void test_agent_identity__hooks_know_who_the_guest_was(void **state)
{
	struct proto_identity_args a = { .gen = gen_a, .name = "n", .hostname = "first" };
	struct guest *g = *state;
	struct outcome o;
	char body[512];

	snprintf(body, sizeof(body),
		 "echo $CLONE_REASON $CLONE_OLD_HOSTNAME $CLONE_HOSTNAME "
		 "[$CLONE_OLD_MACHINE_ID] [$CLONE_MACHINE_ID] >> %s/log",
		 g->root);
	hook(g, "10", body, 0755);
	guest_write(g, "/etc/machine-id", "uninitialized\n", 14, 0444);
	assert_int_equal(identity(g, &a, &o), PROTO_ACK);
	outcome_free(&o);
	guest_write(g, "/log", "", 0, 0644); /* what it was before we came is the host's name */
	a = (struct proto_identity_args){ .gen = gen_b,
					  .flags = PROTO_IDENTITY_FORK,
					  .name = "n",
					  .hostname = "second",
					  .machine_id = ID_A };
	assert_int_equal(identity(g, &a, &o), PROTO_ACK);
	outcome_free(&o);
	a = (struct proto_identity_args){ .gen = gen_a, .flags = PROTO_IDENTITY_FORK };
	assert_int_equal(identity(g, &a, &o), PROTO_ACK);
	outcome_free(&o);
	assert_file(g, "/log",
		    "fork first second [] [" ID_A "]\n"
		    "fork second second [" ID_A "] [" ID_A "]\n");
}

static void test_agent_identity__a_failing_hook_leaves_no_generation(void **state)
{
	static const uint8_t zero[PROTO_GEN];
	struct proto_identity_args a = { .gen = gen_a };
	struct guest *g = *state;
	struct outcome o;
	char body[256];

	hook(g, "10-bad", "echo keys are gone >&2; exit 7", 0755);
	snprintf(body, sizeof(body), "touch %s/ran", g->root);
	hook(g, "20-after", body, 0755);
	assert_int_equal(identity(g, &a, &o), PROTO_ERROR);
	assert_int_equal(o.stage, PROTO_STAGE_HOOK);
	assert_string_equal(o.text, "hook 10-bad: exit status 7: keys are gone ");
	outcome_free(&o);
	assert_file(g, "/ran", NULL);
	assert_gen(g, zero);
	assert_stale(g, gen_a);
	assert_stale(g, NULL); /* zero was right before, and is not now */
	hook(g, "10-bad", "kill -9 $$", 0755);
	assert_int_equal(identity(g, &a, &o), PROTO_ERROR);
	assert_string_equal(o.text, "hook 10-bad: killed by signal 9");
	outcome_free(&o);
	guest_write(g, "/etc/clone/fork.d/10-bad", "\0\0", 2, 0755);
	assert_int_equal(identity(g, &a, &o), PROTO_ERROR);
	assert_int_equal(o.error, ENOEXEC);
	outcome_free(&o);
	hook(g, "10-bad", "exit 0", 0755);
	assert_int_equal(identity(g, &a, &o), PROTO_ACK);
	outcome_free(&o);
	assert_runs(g, gen_a, "echo x", "x\n");
}

/* Sends IDENTITY and leaves it in a hook that has begun. */
static void identity_in_hook(struct guest *g, struct link *l, const uint8_t *gen)
{
	struct proto_identity_args a = { .gen = gen };
	uint8_t frame[PROTO_SMALL_FRAME];

	link_open(l, g);
	link_send(l, frame, proto_put_identity(frame, sizeof(frame), &a));
	guest_await(g, "/begun");
}

static void slow_hook(struct guest *g)
{
	char body[512];

	snprintf(body, sizeof(body),
		 "test -e %s/quick && exit 0; touch %s/begun; sleep 1000; exit 0", g->root,
		 g->root);
	hook(g, "10-slow", body, 0755);
}

static void test_agent_identity__a_second_one_replaces_the_first(void **state)
{
	struct guest *g = *state;
	struct outcome o;
	struct link l;

	slow_hook(g);
	identity_in_hook(g, &l, gen_a);
	assert_stale(g, gen_a);
	assert_stale(g, NULL);
	guest_write(g, "/quick", "", 0, 0644);
	assert_int_equal(identity(g, &(struct proto_identity_args){ .gen = gen_b }, &o), PROTO_ACK);
	outcome_free(&o);
	exec_collect(&l, &o);
	assert_int_equal(o.error, ECANCELED);
	outcome_free(&o);
	assert_runs(g, gen_b, "echo x", "x\n");
}

static void test_agent_identity__a_lost_connection_cancels_it(void **state)
{
	struct guest *g = *state;
	struct outcome o;
	struct link l;

	slow_hook(g);
	identity_in_hook(g, &l, gen_a);
	link_close(&l);
	assert_stale(g, gen_a);
	guest_write(g, "/quick", "", 0, 0644);
	assert_int_equal(identity(g, &(struct proto_identity_args){ .gen = gen_b }, &o), PROTO_ACK);
	outcome_free(&o);
	assert_runs(g, gen_b, "while pgrep -f [1]0-slow >/dev/null; do sleep 0.02; done; echo none",
		    "none\n");
}

static void test_agent_identity__a_hook_and_an_idle_connection_have_ten_seconds(void **state)
{
	struct guest *g = *state;
	struct timespec a, b;
	struct proto_frame f;
	struct proto_error e;
	struct outcome o;
	struct link l;

	link_open(&l, g);
	link_send(&l, "\x10\0", 2); /* not even a header: says nothing of use */
	hook(g, "10-slow", "sleep 1000", 0755);
	clock_gettime(CLOCK_MONOTONIC, &a);
	assert_int_equal(identity(g, &(struct proto_identity_args){ .gen = gen_a }, &o),
			 PROTO_ERROR);
	clock_gettime(CLOCK_MONOTONIC, &b);
	assert_int_equal(o.error, ETIMEDOUT);
	assert_int_equal(o.stage, PROTO_STAGE_HOOK);
	outcome_free(&o);
	assert_in_range(b.tv_sec - a.tv_sec, 9, 20);
	assert_true(link_next(&l, &f));
	assert_int_equal(f.type, PROTO_ERROR);
	assert_true(proto_get_error(f.payload, &e));
	assert_int_equal(e.err, ETIMEDOUT);
	assert_false(link_next(&l, &f));
	link_close(&l);
}

static void test_agent_identity__a_late_hook_is_named_before_the_host_gives_up(void **state)
{
	struct proto_identity_args a = { .gen = gen_a, .timeout_ms = 6000 };
	struct guest *g = *state;
	struct outcome o;

	hook(g, "10-quick", "true", 0755);
	hook(g, "20-slow", "sleep 1000", 0755);
	assert_int_equal(identity(g, &a, &o), PROTO_ERROR);
	assert_int_equal(o.error, ETIMEDOUT);
	assert_int_equal(o.stage, PROTO_STAGE_HOOK);
	assert_non_null(o.text);
	assert_int_equal(strncmp(o.text, "hook 20-slow: still running after ", 34), 0);
	outcome_free(&o);
	assert_stale(g, gen_a);
}

/* The agent of these tests has no right to set the clock: so this is the step that fails. */
static void test_agent_identity__a_clock_that_cannot_be_set_is_an_error(void **state)
{
	struct proto_identity_args a = { .gen = gen_a, .realtime_ns = 1, .hostname = "not-yet" };
	struct outcome o;

	assert_int_equal(identity(*state, &a, &o), PROTO_ERROR);
	assert_int_equal(o.error, EPERM);
	assert_int_equal(o.stage, PROTO_STAGE_IDENTITY);
	assert_string_equal(o.text, "clock: Operation not permitted");
	outcome_free(&o);
	assert_stale(*state, gen_a);
	assert_file(*state, "/etc/hostname", "before\n");
}

static void test_agent__activity_counts_commands(void **state)
{
	uint8_t frame[PROTO_SMALL_FRAME];
	struct proto_report before, after;
	struct proto_frame f;
	struct link l, cmd;

	link_open(&cmd, *state);
	for (int i = 0; i < 2; i++) {
		link_open(&l, *state);
		link_send(&l, frame, proto_put_empty(frame, sizeof(frame), PROTO_ACTIVITY));
		assert_true(link_next(&l, &f));
		assert_int_equal(f.type, PROTO_REPORT);
		assert_true(proto_get_report(f.payload, i ? &after : &before));
		link_close(&l);
		if (i)
			break;
		exec_send(&cmd, &(struct proto_exec_args){ 0 }, ARGV("sleep", "100"));
		assert_true(link_next(&cmd, &f));
	}
	link_close(&cmd);
	assert_int_equal(before.exec_count, 0);
	assert_int_equal(before.sessions, 0);
	assert_true(before.last_exec_ms == UINT64_MAX);
	assert_int_equal(after.exec_count, 1);
	assert_int_equal(after.sessions, 1);
	assert_true(after.last_exec_ms < 60000);
	assert_true(after.uptime_ms > 0 && after.procs > 0);
	assert_true(after.mem_total_bytes > after.mem_available_bytes);
	assert_true(after.mem_available_bytes > 0);
}

/* The steps that change the machine are for a machine of one's own: system tests do those. */
static void test_agent__settle_does_what_it_is_asked(void **state)
{
	uint8_t frame[PROTO_SMALL_FRAME];
	struct outcome o;

	assert_int_equal(ask(*state, frame, proto_put_settle(frame, sizeof(frame), 0, 0), &o),
			 PROTO_ACK);
	outcome_free(&o);
	assert_int_equal(ask(*state, frame, proto_put_settle(frame, sizeof(frame), 32, 0), &o),
			 PROTO_ERROR);
	assert_int_equal(o.stage, PROTO_STAGE_PROTOCOL);
	outcome_free(&o);
}

static void assert_alive(struct guest *g)
{
	uint8_t frame[PROTO_SMALL_FRAME];
	struct outcome o;

	assert_int_equal(ask(g, frame, proto_put_empty(frame, sizeof(frame), PROTO_PING), &o),
			 PROTO_ACK);
	outcome_free(&o);
}

/* Sends bytes and the end of them; what comes back must be one ERROR of the protocol, or nothing.
 */
static void assert_malformed(struct guest *g, const uint8_t *p, size_t n)
{
	struct outcome o;
	struct link l;

	link_open(&l, g);
	link_send(&l, p, n);
	shutdown(l.fd, SHUT_WR);
	exec_collect(&l, &o);
	assert_false(o.started);
	assert_int_equal(o.error, EPROTO);
	assert_int_equal(o.stage, PROTO_STAGE_PROTOCOL);
	outcome_free(&o);
}

static size_t sample(unsigned int i, uint8_t *frame, size_t cap)
{
	static const struct proto_nic nic = { .driver_mac = { 2, 1 },
					      .mac = { 2, 2 },
					      .prefix4 = 24,
					      .ip4 = { 10, 0, 0, 2 },
					      .ndns = 1,
					      .dns = { { .family = 4 } } };
	struct proto_exec_args x = { .gen = gen_a,
				     .user = "root",
				     .cwd = "/",
				     .env = ARGV("A=b"),
				     .argv = ARGV("true", "x") };
	struct proto_identity_args y = { .gen = gen_a,
					 .hostname = "h",
					 .machine_id = ID_A,
					 .entropy = "ee",
					 .entropy_len = 2,
					 .userdata = "u",
					 .userdata_len = 1,
					 .nics = &nic,
					 .nnics = 1 };

	switch (i) {
	case 0:
		return proto_put_exec(frame, cap, &x);
	case 1:
		return proto_put_identity(frame, cap, &y);
	case 2:
		return proto_put_settle(frame, cap, PROTO_SETTLE_IDLE, 1);
	case 3:
		return proto_put_shutdown(frame, cap, PROTO_SHUTDOWN_REBOOT, 1);
	default:
		return 0;
	}
}

static void test_agent__every_truncation_is_malformed(void **state)
{
	uint8_t frame[PROTO_MAX_FRAME];
	size_t n;

	for (unsigned int i = 0; (n = sample(i, frame, sizeof(frame))); i++) {
		for (size_t cut = 1; cut < n; cut++) {
			assert_malformed(*state, frame, cut); /* the stream ends early */
			if (cut < PROTO_HEADER)
				continue;
			proto_header(frame, frame[4], (uint32_t)(cut - PROTO_HEADER));
			assert_malformed(*state, frame, cut); /* the payload is short */
			proto_header(frame, frame[4], (uint32_t)(n - PROTO_HEADER));
		}
		frame[n] = 0;
		proto_header(frame, frame[4], (uint32_t)(n + 1 - PROTO_HEADER));
		assert_malformed(*state, frame, n + 1); /* a byte left over */
	}
	assert_alive(*state);
}

static void test_agent__every_flipped_bit_is_survived(void **state)
{
	uint8_t frame[PROTO_MAX_FRAME];
	struct proto_frame f;
	struct link l;
	size_t n;

	/* Only those two, for a flip can make a valid SETTLE, and this is not a guest's memory. */
	for (unsigned int i = 0; i < 2; i++) {
		n = sample(i, frame, sizeof(frame));
		for (size_t bit = 0; bit < 8 * n; bit++) {
			frame[bit / 8] ^= (uint8_t)(1u << bit % 8);
			link_open(&l, *state);
			link_send(&l, frame, n);
			shutdown(l.fd, SHUT_WR);
			while (link_next(&l, &f))
				;
			link_close(&l);
			frame[bit / 8] ^= (uint8_t)(1u << bit % 8);
		}
	}
	assert_alive(*state);
}

static void test_agent__lengths_and_types_out_of_range_are_malformed(void **state)
{
	static const uint32_t len[] = { PROTO_MAX_PAYLOAD + 1, 0x7fffffff, 0x80000000, 0xffffffff };
	uint8_t frame[PROTO_MAX_FRAME] = { 0 };
	struct outcome o;
	struct link l;

	for (size_t i = 0; i < sizeof(len) / sizeof(len[0]); i++) {
		proto_header(frame, PROTO_EXEC, len[i]);
		assert_malformed(*state, frame, PROTO_HEADER);
	}
	for (unsigned int type = 0; type < 256; type++) {
		if (type >= PROTO_EXEC && type <= PROTO_PING)
			continue;
		proto_header(frame, (uint8_t)type, 0);
		assert_malformed(*state, frame, PROTO_HEADER);
	}
	/* In a session: what is not legal there ends the connection and leaves the command alone.
	 */
	for (unsigned int type = 0; type < 256; type++) {
		if (type == PROTO_STDIN_EOF || type == PROTO_STDIN)
			continue;
		link_open(&l, *state);
		exec_send(&l, &(struct proto_exec_args){ .flags = PROTO_EXEC_STDIN }, ARGV("cat"));
		proto_header(frame, (uint8_t)type, 0);
		link_send(&l, frame, PROTO_HEADER);
		exec_collect(&l, &o);
		assert_true(o.started);
		assert_int_equal(o.error, EPROTO);
		outcome_free(&o);
	}
	assert_alive(*state);
}

static void test_agent__connections_are_limited_and_come_back(void **state)
{
	static struct link l[PROTO_MAX_CONNS];
	uint8_t frame[PROTO_SMALL_FRAME];
	struct timespec pause = { .tv_nsec = 20000000 };
	struct outcome o;

	for (size_t i = 0; i < PROTO_MAX_CONNS; i++)
		link_open(&l[i], *state);
	assert_int_equal(ask(*state, frame, proto_put_empty(frame, sizeof(frame), PROTO_PING), &o),
			 PROTO_ERROR);
	assert_int_equal(o.error, EAGAIN);
	outcome_free(&o);
	for (size_t i = 0; i < PROTO_MAX_CONNS; i++)
		link_close(&l[i]);
	/* The agent hears of their ends one by one: a whole minute is its time for them. */
	for (int i = 0; i < 3000; i++) {
		uint8_t type =
			ask(*state, frame, proto_put_empty(frame, sizeof(frame), PROTO_PING), &o);

		outcome_free(&o);
		if (type == PROTO_ACK)
			break;
		nanosleep(&pause, NULL);
	}
	assert_alive(*state);
}

static void shut_down(struct guest *g, uint32_t mode, uint32_t grace_ms)
{
	uint8_t frame[PROTO_SMALL_FRAME];
	struct outcome o;

	assert_int_equal(
		ask(g, frame, proto_put_shutdown(frame, sizeof(frame), mode, grace_ms), &o),
		PROTO_ACK);
	outcome_free(&o);
}

static void test_agent__shutdown_is_refused_unless_allowed(void **state)
{
	uint8_t frame[PROTO_SMALL_FRAME];
	struct outcome o;
	size_t n = proto_put_shutdown(frame, sizeof(frame), PROTO_SHUTDOWN_REBOOT, 1);

	assert_int_equal(ask(*state, frame, n, &o), PROTO_ERROR);
	assert_int_equal(o.error, EPERM);
	outcome_free(&o);
	assert_alive(*state);
}

/* In a PID namespace reboot(2) kills process 1: SIGINT for power-off, SIGHUP for restart. */
static void test_agent__shutdown_asks_then_forces(void **state)
{
	static const uint32_t mode[] = { PROTO_SHUTDOWN_POWEROFF, PROTO_SHUTDOWN_REBOOT };
	static const int asked[] = { SIGUSR2, SIGTERM }, forced[] = { SIGINT, SIGHUP };
	struct guest g;

	(void)state;
	for (int i = 0; i < 2; i++) {
		int status;

		/* A program that fails is no help: process 1 is asked. */
		guest_start(&g, true, i ? NULL : "#!/bin/sh\nexit 1\n");
		shut_down(&g, mode[i], 4000);
		assert_int_equal(guest_asked(&g), asked[i]);
		status = guest_wait(&g);
		assert_true(WIFSIGNALED(status));
		assert_int_equal(WTERMSIG(status), forced[i]);
		guest_stop(&g);
	}
}

static void test_agent__shutdown_prefers_the_distributions_program(void **state)
{
	struct guest g;

	(void)state;
	guest_start(&g, true, "#!/bin/sh\nkill -TERM 1\n");
	shut_down(&g, PROTO_SHUTDOWN_POWEROFF, 60000);
	assert_int_equal(guest_asked(&g), SIGTERM); /* and not SIGUSR2, the agent's own */
	guest_stop(&g);
}

static void test_agent__a_shutdown_under_way_is_not_cut_short(void **state)
{
	struct timespec pause = { .tv_sec = PROTO_SHUTDOWN_MS / 1000 + 2 };
	struct guest g;

	(void)state;
	guest_start(&g, true, "#!/bin/sh\nexit 0\n");
	shut_down(&g, PROTO_SHUTDOWN_POWEROFF, 0);
	nanosleep(&pause, NULL);
	assert_alive(&g);
	guest_stop(&g);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, guest_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_agent_identity__only_its_generation_may_run_commands),
		T(test_agent_identity__names_and_user_data_are_the_guests),
		T(test_agent_identity__a_read_only_machine_id_is_covered),
		T(test_agent_identity__hooks_run_in_order_with_what_they_need),
		T(test_agent_identity__hooks_know_who_the_guest_was),
		T(test_agent_identity__a_failing_hook_leaves_no_generation),
		T(test_agent_identity__a_second_one_replaces_the_first),
		T(test_agent_identity__a_lost_connection_cancels_it),
		T(test_agent_identity__a_hook_and_an_idle_connection_have_ten_seconds),
		T(test_agent_identity__a_late_hook_is_named_before_the_host_gives_up),
		T(test_agent_identity__a_clock_that_cannot_be_set_is_an_error),
		T(test_agent__activity_counts_commands),
		T(test_agent__settle_does_what_it_is_asked),
		T(test_agent__every_truncation_is_malformed),
		T(test_agent__every_flipped_bit_is_survived),
		T(test_agent__lengths_and_types_out_of_range_are_malformed),
		T(test_agent__connections_are_limited_and_come_back),
		T(test_agent__shutdown_is_refused_unless_allowed),
		cmocka_unit_test(test_agent__shutdown_asks_then_forces),
		cmocka_unit_test(test_agent__shutdown_prefers_the_distributions_program),
		cmocka_unit_test(test_agent__a_shutdown_under_way_is_not_cut_short),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
