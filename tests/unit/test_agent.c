/* SPDX-License-Identifier: MIT */
/*
 * clone-agent's commands: the built program, driven over its protocol.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "tests/lib/guest_agent.h"

static double now_s(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static void assert_exit(const struct outcome *o, uint32_t kind, uint32_t value)
{
	assert_true(o->started);
	assert_true(o->exited);
	assert_int_equal(o->kind, kind);
	assert_int_equal(o->value, value);
}

static void assert_error(const struct outcome *o, uint32_t err, uint32_t stage)
{
	assert_false(o->started);
	assert_int_equal(o->error, err);
	assert_int_equal(o->stage, stage);
}

static void run(struct guest *g, const struct proto_exec_args *a, const char *const *argv,
		struct outcome *o)
{
	struct link l;

	link_open(&l, g);
	exec_send(&l, a, argv);
	exec_collect(&l, o);
}

#define ARGV(...) ((const char *const[]){ __VA_ARGS__, NULL })

static void test_agent_exec__stdout_and_stderr_arrive_apart(void **state)
{
	struct outcome o;

	exec_shell(*state, "echo one; echo two >&2; echo three", &o);
	assert_string_equal(o.out, "one\nthree\n");
	assert_string_equal(o.err, "two\n");
	assert_exit(&o, PROTO_EXIT_EXITED, 0);
	outcome_free(&o);
}

static void test_agent_exec__exit_status_and_signal_are_told_apart(void **state)
{
	struct outcome o;

	exec_shell(*state, "exit 137", &o);
	assert_exit(&o, PROTO_EXIT_EXITED, 137);
	outcome_free(&o);
	exec_shell(*state, "kill -KILL $$", &o);
	assert_exit(&o, PROTO_EXIT_SIGNALED, SIGKILL);
	outcome_free(&o);
}

static void test_agent_exec__a_command_that_cannot_run_says_why(void **state)
{
	struct outcome o;

	run(*state, &(struct proto_exec_args){ 0 }, ARGV("no-such-command"), &o);
	assert_error(&o, ENOENT, PROTO_STAGE_COMMAND);
	outcome_free(&o);
	run(*state, &(struct proto_exec_args){ 0 }, ARGV("/etc/passwd"), &o);
	assert_error(&o, EACCES, PROTO_STAGE_COMMAND);
	outcome_free(&o);
	guest_write(*state, "/bad", "\0\0\0\0", 4, 0755);
	char bad[128];

	snprintf(bad, sizeof(bad), "%s/bad", ((struct guest *)*state)->root);
	run(*state, &(struct proto_exec_args){ 0 }, ARGV(bad), &o);
	assert_error(&o, ENOEXEC, PROTO_STAGE_COMMAND);
	outcome_free(&o);
	run(*state, &(struct proto_exec_args){ .cwd = "/no/such" }, ARGV("true"), &o);
	assert_error(&o, ENOENT, PROTO_STAGE_SETUP);
	outcome_free(&o);
	run(*state, &(struct proto_exec_args){ .user = "no-such-user" }, ARGV("true"), &o);
	assert_error(&o, ENOENT, PROTO_STAGE_SETUP);
	outcome_free(&o);
}

static void test_agent_exec__environment_is_the_users_with_ours_over_it(void **state)
{
	struct proto_exec_args a = { .env = ARGV("A=1", "LANG=xx", "A=2=3") };
	struct outcome o;

	run(*state, &a, ARGV("sh", "-c", "echo $USER $LOGNAME $HOME $LANG $A ${TERM-none}; pwd"),
	    &o);
	assert_string_equal(o.out, "root root /root xx 2=3 none\n/root\n");
	outcome_free(&o);
	a.cwd = "/usr";
	a.env = ARGV("PATH=/nowhere");
	run(*state, &a, ARGV("/bin/pwd"), &o);
	assert_string_equal(o.out, "/usr\n");
	outcome_free(&o);
	run(*state, &a, ARGV("sh"), &o);
	assert_error(&o, ENOENT, PROTO_STAGE_COMMAND);
	outcome_free(&o);
}

static void test_agent_exec__user_group_and_number_are_obeyed(void **state)
{
	static const char *const spec[] = { "nobody", "65534", "12345", "12345:7", "root:nogroup" };
	static const char *const want[] = { "65534 65534 65534\n", "65534 65534 65534\n",
					    "12345 12345 12345\n", "12345 7 7\n",
					    "0 65534 65534\n" };
	struct outcome o;

	for (size_t i = 0; i < sizeof(spec) / sizeof(spec[0]); i++) {
		run(*state, &(struct proto_exec_args){ .user = spec[i], .cwd = "/" },
		    ARGV("sh", "-c", "echo $(id -u) $(id -g) $(id -G)"), &o);
		assert_string_equal(o.out, want[i]);
		outcome_free(&o);
	}
	run(*state, &(struct proto_exec_args){ .user = "4294967295" }, ARGV("id"), &o);
	assert_error(&o, ENOENT, PROTO_STAGE_SETUP);
	outcome_free(&o);
}

static void test_agent_exec__a_command_inherits_nothing_of_the_agents(void **state)
{
	struct outcome o;

	exec_shell(*state,
		   "ls /proc/self/fd | wc -l; ulimit -n; exec grep -E 'Sig(Blk|Ign)' "
		   "/proc/self/status",
		   &o);
	/* 0, 1, 2 and the one that ls reads the directory with */
	assert_string_equal(o.out,
			    "4\n1024\nSigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n");
	outcome_free(&o);
}

static void test_agent_exec__stdin_arrives_whole_and_is_acknowledged(void **state)
{
	const size_t n = 3000000;
	char *data = malloc(n);
	struct outcome o;
	struct link l;

	for (size_t i = 0; i < n; i++)
		data[i] = (char)(i * 2654435761u >> 13);
	link_open(&l, *state);
	exec_send(&l, &(struct proto_exec_args){ .flags = PROTO_EXEC_STDIN }, ARGV("cat"));
	exec_feed(&l, data, n, &o);
	assert_exit(&o, PROTO_EXIT_EXITED, 0);
	assert_int_equal(o.nout, n);
	assert_memory_equal(o.out, data, n);
	/* What is less than a quarter of the window need not be told. */
	assert_true(o.acked <= n && o.acked + PROTO_STDIN_WINDOW / 4 >= n);
	free(data);
	outcome_free(&o);
}

static void test_agent_exec__stdin_that_nobody_reads_is_dropped_not_fatal(void **state)
{
	char *data = calloc(1, 1000000);
	struct outcome o;
	struct link l;

	link_open(&l, *state);
	exec_send(&l, &(struct proto_exec_args){ .flags = PROTO_EXEC_STDIN },
		  ARGV("sh", "-c", "exec <&-; sleep 0.3; echo alive"));
	exec_feed(&l, data, 1000000, &o);
	assert_exit(&o, PROTO_EXIT_EXITED, 0);
	assert_string_equal(o.out, "alive\n");
	free(data);
	outcome_free(&o);
}

static void test_agent_exec__a_signal_passes_a_full_window_of_stdin(void **state)
{
	static uint8_t frame[PROTO_HEADER + 32768];
	uint8_t sig[PROTO_SMALL_FRAME];
	struct outcome o;
	struct link l;

	link_open(&l, *state);
	exec_send(&l, &(struct proto_exec_args){ .flags = PROTO_EXEC_STDIN }, ARGV("sleep", "100"));
	proto_header(frame, PROTO_STDIN, 32768);
	for (size_t sent = 0; sent < PROTO_STDIN_WINDOW; sent += 32768)
		link_send(&l, frame, sizeof(frame));
	link_send(&l, sig, proto_put_signal(sig, sizeof(sig), SIGINT));
	exec_collect(&l, &o);
	assert_exit(&o, PROTO_EXIT_SIGNALED, SIGINT);
	outcome_free(&o);
}

static void test_agent_exec__half_closing_is_end_of_input(void **state)
{
	uint8_t frame[PROTO_SMALL_FRAME] = { 0 };
	struct outcome o;
	struct link l;

	link_open(&l, *state);
	exec_send(&l, &(struct proto_exec_args){ .flags = PROTO_EXEC_STDIN }, ARGV("cat"));
	proto_header(frame, PROTO_STDIN, 3);
	memcpy(frame + PROTO_HEADER, "abc", 3);
	link_send(&l, frame, PROTO_HEADER + 3);
	shutdown(l.fd, SHUT_WR);
	exec_collect(&l, &o);
	assert_string_equal(o.out, "abc");
	assert_exit(&o, PROTO_EXIT_EXITED, 0);
	outcome_free(&o);
}

static void test_agent_exec__terminal_has_size_resizes_and_ends(void **state)
{
	static const char script[] = "stty size; test -t 0 && test -t 1 && test -t 2 && echo tty; "
				     "trap 'stty size' WINCH; echo go >&2; read x; read x; echo $x";
	struct proto_exec_args a = { .flags = PROTO_EXEC_TTY | PROTO_EXEC_STDIN,
				     .rows = 40,
				     .cols = 132,
				     .env = ARGV("PS1=") };
	uint8_t frame[PROTO_SMALL_FRAME];
	struct proto_frame f;
	char seen[4096] = "";
	struct outcome o;
	struct link l;

	link_open(&l, *state);
	exec_send(&l, &a, ARGV("bash", "-c", script));
	while (!strstr(seen, "go\r\n")) {
		assert_true(link_next(&l, &f));
		assert_true(f.type == PROTO_STARTED || f.type == PROTO_STDOUT);
		if (f.type == PROTO_STDOUT)
			strncat(seen, (const char *)f.payload.p, f.payload.left);
	}
	assert_string_equal(seen, "40 132\r\ntty\r\ngo\r\n");
	link_send(&l, frame, proto_put_resize(frame, sizeof(frame), 50, 90));
	exec_feed(&l, "one\ntwo\n", 8, &o);
	assert_non_null(strstr(o.out, "50 90\r\n"));
	assert_string_equal(o.out + o.nout - 5, "two\r\n");
	assert_int_equal(o.nerr, 0);
	assert_true(o.exited && !o.kind && !o.value);
	outcome_free(&o);
	/* End of input in the middle of a line is typed so that the reader sees it. */
	link_open(&l, *state);
	exec_send(&l, &a, ARGV("sh", "-c", "cat; echo over"));
	exec_feed(&l, "half", 4, &o);
	assert_non_null(strstr(o.out, "halfover\r\n"));
	outcome_free(&o);
}

/* Runs a script into its time-out, with more and more time until it came so far as to say
 * something; how many ms it had. */
static uint32_t run_timed(struct guest *g, const char *script, struct outcome *o, double *start)
{
	for (uint32_t ms = 300;; ms *= 2) {
		*start = now_s();
		run(g, &(struct proto_exec_args){ .timeout_ms = ms }, ARGV("sh", "-c", script), o);
		assert_exit(o, PROTO_EXIT_TIMEOUT, 0);
		if (o->nout)
			return ms;
		assert_true(ms < 60000);
		outcome_free(o);
	}
}

static void test_agent_exec__timeout_ends_the_whole_group(void **state)
{
	struct outcome o, left;
	char cmd[200];
	double start;
	uint32_t ms =
		run_timed(*state, "trap '' TERM; (trap '' TERM; sleep 1000) & echo $!; wait; wait",
			  &o, &start);

	assert_true(now_s() - start < ms / 1000.0 + 60);
	assert_true(now_s() - start > ms / 1000.0 + 0.49); /* the grace was given */
	/* it dies, and whoever inherited it waits for it, in their own time */
	snprintf(cmd, sizeof(cmd),
		 "n=0; while kill -0 %d 2>/dev/null; do n=$((n+1)); [ $n -lt 3000 ] || exit 1; "
		 "sleep 0.02; done",
		 atoi(o.out));
	exec_shell(*state, cmd, &left);
	assert_exit(&left, PROTO_EXIT_EXITED, 0);
	outcome_free(&left);
	outcome_free(&o);
}

static void test_agent_exec__timeout_gives_a_command_time_to_end(void **state)
{
	struct outcome o;
	double start;

	run_timed(*state,
		  "trap 'echo cleaned; exit 0' TERM; echo ready; while :; do sleep 0.02; done", &o,
		  &start);
	assert_string_equal(o.out, "ready\ncleaned\n");
	outcome_free(&o);
}

static void test_agent_exec__disconnection_leaves_the_command_running(void **state)
{
	static const char script[] = "cat > in; head -c 2000000 /dev/zero; "
				     "head -c 2000000 /dev/zero >&2; echo $? > x; mv x done";
	struct guest *g = *state;
	struct proto_frame f;
	struct link l;

	link_open(&l, g);
	exec_send(&l, &(struct proto_exec_args){ .flags = PROTO_EXEC_STDIN, .cwd = g->root },
		  ARGV("sh", "-c", script));
	assert_true(link_next(&l, &f));
	assert_int_equal(f.type, PROTO_STARTED);
	uint8_t frame[PROTO_SMALL_FRAME];

	proto_header(frame, PROTO_STDIN, 4);
	memcpy(frame + PROTO_HEADER, "kept", 4);
	link_send(&l, frame, PROTO_HEADER + 4);
	link_close(&l);
	guest_await(g, "/done");
	char *in = guest_read(g, "/in"), *done = guest_read(g, "/done");

	assert_string_equal(in, "kept");
	assert_string_equal(done, "0\n");
	free(in);
	free(done);
}

static void test_agent_exec__what_a_command_leaves_behind_does_not_hold_its_exit(void **state)
{
	static const char script[] = "(until [ -e go ]; do sleep 0.05; done; "
				     "echo late && echo ok > x; mv x late) & "
				     "head -c 60000 /dev/zero | tr '\\0' a";
	struct guest *g = *state;
	struct outcome o;

	run(g, &(struct proto_exec_args){ .cwd = g->root }, ARGV("sh", "-c", script), &o);
	assert_exit(&o, PROTO_EXIT_EXITED, 0);
	assert_int_equal(o.nout, 60000);
	outcome_free(&o);
	guest_write(g, "/go", "", 0, 0644); /* until now it held the pipe */
	guest_await(g, "/late");	    /* its echo met a reader, not SIGPIPE */
	char *late = guest_read(g, "/late");

	assert_string_equal(late, "ok\n");
	free(late);
}

static void test_agent_exec__output_waits_for_a_slow_host(void **state)
{
	struct timespec pause = { .tv_sec = 1 };
	struct outcome o;
	struct link l;

	link_open(&l, *state);
	exec_send(&l, &(struct proto_exec_args){ 0 },
		  ARGV("sh", "-c", "sleep 30 & head -c 1000000 /dev/zero; echo end"));
	nanosleep(&pause, NULL); /* far beyond the time that EXIT lingers */
	exec_collect(&l, &o);
	assert_exit(&o, PROTO_EXIT_EXITED, 0);
	assert_int_equal(o.nout, 1000004);
	outcome_free(&o);
}

static void test_agent_exec__200_megabytes_arrive_as_they_were(void **state)
{
	const unsigned int last = 25000000;
	char line[16] = "";
	size_t len = 0, at = 0, total = 0;
	unsigned int next = 1;
	struct proto_frame f;
	struct link l;

	link_open(&l, *state);
	exec_send(&l, &(struct proto_exec_args){ 0 }, ARGV("seq", "1", "25000000"));
	while (link_next(&l, &f)) {
		if (f.type == PROTO_EXIT)
			break;
		if (f.type != PROTO_STDOUT)
			continue;
		for (size_t i = 0; i < f.payload.left; i++) {
			if (at == len) {
				len = (size_t)snprintf(line, sizeof(line), "%u\n", next++);
				at = 0;
			}
			if (f.payload.p[i] != (uint8_t)line[at++])
				fail_msg("byte %zu is wrong", total + i);
		}
		total += f.payload.left;
	}
	assert_int_equal(f.type, PROTO_EXIT);
	assert_int_equal(next, last + 1);
	assert_int_equal(at, len);
	assert_true(total > 200000000);
	link_close(&l);
}

static void test_agent_exec__64_commands_at_once(void **state)
{
	static struct link l[64];
	struct outcome o;
	char n[16];

	for (int i = 0; i < 64; i++) {
		link_open(&l[i], *state);
		snprintf(n, sizeof(n), "%d", i);
		exec_send(&l[i], &(struct proto_exec_args){ .flags = PROTO_EXEC_STDIN },
			  ARGV("sh", "-c", "read go; seq 1 20000; exit $0", n));
	}
	for (int i = 63; i >= 0; i--) {
		exec_feed(&l[i], "go\n", 3, &o);
		assert_exit(&o, PROTO_EXIT_EXITED, (uint32_t)i);
		assert_int_equal(o.nout, 108894);
		outcome_free(&o);
	}
}

static void test_agent_exec__leaves_no_zombie_and_no_descriptor(void **state)
{
	/* Process 2 of the namespace is the agent, one that nothing was left behind in. */
	static const char count[] = "ls /proc/2/fd | wc -l; ps -o stat= --ppid 2 | grep -c Z";
	const struct timespec pause = { .tv_nsec = 20000000 };
	struct outcome a, b, o;
	struct guest g;

	(void)state;
	guest_start(&g, false, NULL);
	exec_shell(&g, count, &a);
	for (int i = 0; i < 50; i++) {
		exec_shell(&g, i % 2 ? "exit 1" : "exec no-such", &o);
		outcome_free(&o);
		run(&g, &(struct proto_exec_args){ .flags = PROTO_EXEC_TTY },
		    ARGV(i % 3 ? "true" : "missing"), &o);
		outcome_free(&o);
	}
	for (int i = 0;; i++) { /* a session's ends close a moment later */
		exec_shell(&g, count, &b);
		if (!strcmp(a.out, b.out))
			break;
		if (i == 3000)
			fail_msg("\"%s\" instead of \"%s\"", b.out, a.out);
		outcome_free(&b);
		nanosleep(&pause, NULL);
	}
	assert_non_null(strstr(a.out, "\n0\n"));
	outcome_free(&a);
	outcome_free(&b);
	guest_stop(&g);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_agent_exec__stdout_and_stderr_arrive_apart),
		cmocka_unit_test(test_agent_exec__exit_status_and_signal_are_told_apart),
		cmocka_unit_test(test_agent_exec__a_command_that_cannot_run_says_why),
		cmocka_unit_test(test_agent_exec__environment_is_the_users_with_ours_over_it),
		cmocka_unit_test(test_agent_exec__user_group_and_number_are_obeyed),
		cmocka_unit_test(test_agent_exec__a_command_inherits_nothing_of_the_agents),
		cmocka_unit_test(test_agent_exec__stdin_arrives_whole_and_is_acknowledged),
		cmocka_unit_test(test_agent_exec__stdin_that_nobody_reads_is_dropped_not_fatal),
		cmocka_unit_test(test_agent_exec__a_signal_passes_a_full_window_of_stdin),
		cmocka_unit_test(test_agent_exec__half_closing_is_end_of_input),
		cmocka_unit_test(test_agent_exec__terminal_has_size_resizes_and_ends),
		cmocka_unit_test(test_agent_exec__timeout_ends_the_whole_group),
		cmocka_unit_test(test_agent_exec__timeout_gives_a_command_time_to_end),
		cmocka_unit_test(test_agent_exec__disconnection_leaves_the_command_running),
		cmocka_unit_test(
			test_agent_exec__what_a_command_leaves_behind_does_not_hold_its_exit),
		cmocka_unit_test(test_agent_exec__output_waits_for_a_slow_host),
		cmocka_unit_test(test_agent_exec__200_megabytes_arrive_as_they_were),
		cmocka_unit_test(test_agent_exec__64_commands_at_once),
		cmocka_unit_test(test_agent_exec__leaves_no_zombie_and_no_descriptor),
	};

	return cmocka_run_group_tests(tests, guest_setup, guest_teardown);
}
