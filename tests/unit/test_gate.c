/* SPDX-License-Identifier: MIT */
/*
 * Whom the caller of a fork puts into a memory group (in a model of cgroup v2), and whom not: what
 * a source says may be a lie. This program is the source, processes of its own are the children.
 * And what becomes of groups that cannot be removed.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <signal.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "base/fd.h"
#include "base/util.h"
#include "cli/commands.h"
#include "cli/gate.h"
#include "cli/group.h"
#include "cli/procid.h"
#include "control/json.h"
#include "control/sock.h"
#include "event/fdtab.h"
#include "event/grants.h"
#include "tests/lib/cgroup_model.h"
#include "vm/vm_private.h"

#define REPLY "HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n"

struct world {
	char *dir;
	struct vmdir source, child;
	struct gates *gates;
	int end; /* the child's */
};

static pid_t ends_when_moved; /* 0: nobody does */

ssize_t write(int fd, const void *buf, size_t n)
{
	ssize_t r = syscall(SYS_write, fd, buf, n);
	pid_t pid = ends_when_moved;

	if (pid && n > 1 && n < 10 && strtol(buf, NULL, 10) == pid) {
		ends_when_moved = 0;
		kill(pid, SIGKILL);
		assert_int_equal(waitpid(pid, NULL, 0), pid);
	}
	return r;
}

static unsigned int tag; /* of the next group; 0: any */

ssize_t getrandom(void *buf, size_t n, unsigned int flags)
{
	if (!tag || n != sizeof(tag))
		return syscall(SYS_getrandom, buf, n, flags);
	memcpy(buf, &tag, n);
	return (ssize_t)n;
}

static unsigned int signals; /* so many times each of these is interrupted */

ssize_t send(int fd, const void *buf, size_t n, int flags)
{
	static unsigned int in_a_row;

	if (in_a_row++ < signals) {
		errno = EINTR;
		return -1;
	}
	in_a_row = 0;
	return syscall(SYS_sendto, fd, buf, n, flags, NULL, 0);
}

ssize_t recv(int fd, void *buf, size_t n, int flags)
{
	static unsigned int in_a_row;

	if (in_a_row++ < signals) {
		errno = EINTR;
		return -1;
	}
	in_a_row = 0;
	return syscall(SYS_recvfrom, fd, buf, n, flags, NULL, NULL);
}

/* A request of the source whose answer is there already: what is at the gates goes first. */
static void serve(struct world *w)
{
	cleanup_close int listener = sock_listen(w->source.fd, "api.sock", SOCK_STREAM, NULL);
	cleanup_close int conn = -1;
	struct client *api;
	struct err e;

	if (client_open(w->source.fd, &api, &e))
		fail_msg("%s", e.msg);
	conn = accept(listener, NULL, NULL);
	assert_int_equal(write(conn, REPLY, strlen(REPLY)), strlen(REPLY));
	if (gates_watch(w->gates, api, &e) ||
	    client_request(api, "PUT", "/fork", NULL, 1000, NULL, &e))
		fail_msg("%s", e.msg);
	client_close(api);
	assert_int_equal(unlinkat(w->source.fd, "api.sock", 0), 0);
}

static void open_gate(struct world *w, bool live)
{
	struct err e;

	w->gates = gates_new(1, &w->source, live);
	assert_non_null(w->gates);
	w->end = gates_add(w->gates, &w->child, &e);
	assert_true(w->end >= 0);
}

static void close_gate(struct world *w)
{
	gates_free(w->gates);
	close(w->end);
}

/* A child that says its byte at the gate that it is sent. */
static pid_t child_of_ours(int *go)
{
	int sv[2], end = -1;
	size_t n = 0;
	pid_t pid;
	char c;

	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv), 0);
	*go = sv[0];
	pid = fork();
	if (!pid) {
		/* of the gates it has what it is sent, as a child of another program has */
		if (dup2(sv[1], 3) != 3 || close_range(4, ~0u, 0))
			_exit(1);
		if (fd_recv(3, &c, 1, &end, 1, &n) == 1 && write(end, "x", 1) == 1)
			(void)!write(3, "x", 1);
		(void)!read(3, &c, 1);
		_exit(0);
	}
	close(sv[1]);
	return pid;
}

static void say_it(const struct world *w, int go)
{
	char c;

	assert_int_equal(fd_send(go, "x", 1, &w->end, 1), 0);
	assert_int_equal(read(go, &c, 1), 1);
}

static void reap(pid_t pid, int go)
{
	close(go);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
}

static void assert_procs(const struct world *w, const char *want)
{
	char path[PATH_MAX], *got;

	assert_true(group_path(&w->child, path));
	got = cgroup_model_read(path, "cgroup.procs");
	assert_string_equal(got, want);
	free(got);
}

/* The model's processes do not end. */
static void empty_group(const struct world *w)
{
	char path[PATH_MAX];

	assert_true(group_path(&w->child, path));
	scratch_text(path, "cgroup.procs", "");
}

/* The caller's answer, if there was one. */
static void assert_let_through(const struct world *w, bool want)
{
	char c;
	ssize_t n = recv(w->end, &c, 1, MSG_DONTWAIT);

	assert_int_equal(n, want ? 1 : 0);
}

static void test_gate__a_child_is_put_in_and_told(void **state)
{
	struct world *w = *state;
	char pid_text[24];
	pid_t pid;
	int go;

	open_gate(w, true);
	pid = child_of_ours(&go);
	say_it(w, go);
	serve(w);
	snprintf(pid_text, sizeof(pid_text), "%d", pid);
	assert_procs(w, pid_text);
	assert_let_through(w, true);
	assert_null(gates_verdict(w->gates, &w->child, pid, NULL));
	assert_string_equal(gates_verdict(w->gates, &w->child, pid, "it has failed"),
			    "it has failed");
	assert_null(gates_verdict(w->gates, &w->source, 1, NULL));
	/* another process than that may not be the VM's */
	assert_string_equal(
		gates_verdict(w->gates, &w->child, 1, NULL),
		"memory quota: the source names another process than the one in the group");
	reap(pid, go);
	close_gate(w);
	empty_group(w);
}

static void refused(struct world *w, pid_t pid, const char *why)
{
	serve(w);
	assert_procs(w, "");
	assert_let_through(w, false);
	assert_string_equal(gates_verdict(w->gates, &w->child, pid, NULL), why);
	assert_string_equal(gates_verdict(w->gates, &w->child, pid, "nobody"), why);
	close_gate(w);
}

static void test_gate__who_is_no_child_of_the_source_is_left_where_he_is(void **state)
{
	struct world *w = *state;
	pid_t pid;
	int go;

	/* the source itself */
	open_gate(w, true);
	assert_int_equal(write(w->end, "x", 1), 1);
	refused(w, getpid(), "memory quota: its process is no child of its source's");
	/* one that it had before; of a seed it is believed: a spare */
	for (int live = 0; live < 2; live++) {
		pid = child_of_ours(&go);
		usleep(50000); /* the kernel counts in hundredths of a second */
		open_gate(w, live);
		say_it(w, go);
		if (live) {
			refused(w, pid, "memory quota: its process is older than the request");
		} else {
			serve(w);
			assert_let_through(w, true);
			assert_null(gates_verdict(w->gates, &w->child, pid, NULL));
			close_gate(w);
			empty_group(w);
		}
		reap(pid, go);
	}
	/* ended meanwhile: its number may be anybody's */
	open_gate(w, true);
	pid = child_of_ours(&go);
	say_it(w, go);
	reap(pid, go);
	refused(w, pid, "memory quota: its process has ended");
	/* somebody else's */
	w->source.uid = 4711;
	open_gate(w, true);
	pid = child_of_ours(&go);
	say_it(w, go);
	refused(w, pid, "memory quota: its process runs as somebody else");
	reap(pid, go);
	w->source.uid = 0;
}

static void test_gate__why_one_cannot_be_put_in_is_said(void **state)
{
	struct world *w = *state;
	char path[PATH_MAX], file[PATH_MAX + 20], why[2 * PATH_MAX];
	pid_t pid;
	int go;

	assert_true(group_path(&w->child, path));
	snprintf(file, sizeof(file), "%s/cgroup.procs", path);
	snprintf(why, sizeof(why),
		 "memory quota: it cannot be put into its group: cgroup %s: Is a directory", file);
	assert_int_equal(unlink(file), 0);
	assert_int_equal(syscall(SYS_mkdir, file, 0755), 0);
	open_gate(w, true);
	pid = child_of_ours(&go);
	say_it(w, go);
	serve(w);
	assert_let_through(w, false);
	assert_string_equal(gates_verdict(w->gates, &w->child, pid, NULL), why);
	reap(pid, go);
	close_gate(w);
	assert_int_equal(rmdir(file), 0);
	scratch_text(path, "cgroup.procs", "");
}

static void test_gate__who_says_nothing_is_not_let_live(void **state)
{
	struct world *w = *state;

	open_gate(w, true);
	serve(w); /* it has not come yet */
	assert_string_equal(gates_verdict(w->gates, &w->child, 1, NULL),
			    "memory quota: it did not ask to be put into its group");
	assert_string_equal(gates_verdict(w->gates, &w->child, 1, "no disk"), "no disk");
	close(w->end);
	serve(w); /* it has ended */
	assert_string_equal(gates_verdict(w->gates, &w->child, 1, "no disk"), "no disk");
	assert_non_null(gates_verdict(w->gates, &w->child, 1, NULL));
	gates_free(w->gates);
	assert_procs(w, "");
}

static void test_gate__a_source_that_cannot_be_identified_gets_nobody_in(void **state)
{
	struct world *w = *state;
	cleanup_json json_t *info =
		json_pack("{s:i, s:i}", "pid", getpid(), "start_time", 1); /* long gone */
	struct err e;

	assert_int_equal(vmdir_rewrite(&w->source, info, &e), 0);
	open_gate(w, true);
	assert_int_equal(gates_watch(w->gates, NULL, &e), -ESRCH);
	assert_non_null(strstr(e.msg, "the process of source cannot be identified"));
	close_gate(w);
}

static void test_gate__one_that_ends_while_it_is_moved_ends_nobody(void **state)
{
	struct world *w = *state;
	char path[PATH_MAX], again[PATH_MAX], *killed;
	pid_t pid;
	int go;

	assert_true(group_path(&w->child, path));
	open_gate(w, true);
	pid = child_of_ours(&go);
	say_it(w, go);
	ends_when_moved = pid;
	serve(w);
	close(go);
	assert_int_equal(ends_when_moved, 0);
	assert_let_through(w, false);
	assert_string_equal(gates_verdict(w->gates, &w->child, pid, NULL),
			    "memory quota: its process ended while it was put into its group");
	/* whoever has the number now is in it, perhaps: it is nobody's to sweep */
	assert_false(group_path(&w->child, again));
	killed = cgroup_model_read(path, "cgroup.kill");
	assert_string_equal(killed, "");
	free(killed);
	cgroup_model_assert_left("1\n");
	close_gate(w);
}

static void test_gate__signals_keep_no_child_out(void **state)
{
	static struct vm vm;
	struct err e;
	int sv[2];
	char c;

	(void)state;
	assert_int_equal(fdtab_create(&vm.m.fds, &e), 0);
	assert_int_equal(grants_create(vm.m.fds, &vm.m.grants, &e), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv), 0);
	assert_int_equal(grants_put(vm.m.grants, "cgroup/gate", sv[0], &e), 0);
	assert_int_equal(write(sv[1], "", 1), 1); /* the answer */
	signals = 3;
	if (vm_quota_join(&vm, &e))
		fail_msg("%s", e.msg);
	signals = 0;
	assert_int_equal(read(sv[1], &c, 1), 1); /* it has asked, */
	assert_int_equal(read(sv[1], &c, 1), 0); /* once */
	close(sv[1]);
	grants_destroy(vm.m.grants);
	fdtab_destroy(vm.m.fds);
}

static void test_group__forgotten_it_is_removed_only_when_nobody_is_in_it(void **state)
{
	struct world *w = *state;
	char path[PATH_MAX], again[PATH_MAX], *killed;

	assert_true(group_path(&w->child, path));
	scratch_text(path, "cgroup.procs", "1");
	group_forget(&w->child);
	assert_false(group_path(&w->child, again));
	killed = cgroup_model_read(path, "cgroup.kill");
	assert_string_equal(killed, "");
	free(killed);
	cgroup_model_assert_left("1\n");
	assert_int_equal(symlinkat(path, w->child.fd, "group"), 0);
	scratch_text(path, "cgroup.procs", "");
	group_forget(&w->child);
	assert_false(group_path(&w->child, again));
	cgroup_model_assert_left("0\n");
}

static void test_group__one_of_the_same_name_elsewhere_is_left_alone(void **state)
{
	struct world *w = *state;
	char path[PATH_MAX], *killed;
	struct vmdir other;
	struct err e;
	int events;

	assert_true(group_path(&w->child, path));
	tag = (unsigned int)strtoul(strrchr(path, '-') + 1, NULL, 16);
	scratch_text(path, "cgroup.procs", "1");
	setenv("CLONE_RUN_DIR", scratch_path(w->dir, "other.d"), 1);
	assert_int_equal(vmdir_create(PLACE_VM, "child", 0, &other, &e), 0);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(group_make(&other, 0, 0, &events, &e), -EEXIST);
		assert_false(group_path(&other, path));
		/* nor when it would have gone without being ended */
		assert_true(group_path(&w->child, path));
		killed = cgroup_model_read(path, "cgroup.kill");
		assert_string_equal(killed, "");
		free(killed);
		scratch_text(path, "cgroup.procs", "");
	}
	tag = 0;
	cgroup_model_assert_left("1\n");
	vmdir_close(&other);
}

static void must_be_gone(const char *name)
{
	assert_int_equal(vmdir_open(PLACE_VM, name, &(struct vmdir){ 0 }, NULL), -ENOENT);
}

static void test_rm__a_dead_vm_goes_whatever_becomes_of_its_group(void **state)
{
	struct world *w = *state;
	char path[PATH_MAX], arg[3][8] = { "rm", "-f", "child" };
	char *argv[] = { arg[0], arg[1], arg[2], NULL };
	struct err e;

	close(take_fd(&w->child.lock_fd));
	/* somebody is in it who does not end: not without -f */
	assert_true(group_path(&w->child, path));
	scratch_text(path, "cgroup.procs", "1");
	assert_int_equal(vmdir_remove(&w->child, &e), -EBUSY);
	assert_non_null(strstr(e.msg, "what is in it does not end"));
	optind = 1;
	assert_int_equal(cmd_rm(3, argv), 0);
	must_be_gone("child");
	cgroup_model_assert_left("1\n");
	scratch_text(path, "cgroup.procs", "");
	/* it can neither be removed nor waited for */
	assert_int_equal(vmdir_create(PLACE_VM, "other", 0, &w->child, &e), 0);
	snprintf(path, sizeof(path), "%s/mounts/clone-other", w->dir);
	assert_int_equal(symlinkat(path, w->child.fd, "group"), 0);
	close(take_fd(&w->child.lock_fd));
	assert_int_equal(vmdir_remove(&w->child, &e), 0);
	must_be_gone("other");
}

static int make_world(void **state)
{
	struct world *w = calloc(1, sizeof(*w));
	cleanup_json json_t *info = json_object();
	int events;
	struct err e;

	w->dir = scratch_make();
	setenv("CLONE_RUN_DIR", scratch_path(w->dir, "run.d"), 1);
	cgroup_model_mount(w->dir);
	procid_note(info, getpid());
	if (vmdir_create(PLACE_VM, "source", 0, &w->source, &e) ||
	    vmdir_create(PLACE_VM, "child", 0, &w->child, &e) ||
	    vmdir_rewrite(&w->source, info, &e) || group_make(&w->child, 0, 0, &events, &e)) {
		fprintf(stderr, "%s\n", e.msg);
		return -1;
	}
	w->source.uid = 0; /* we are the source */
	*state = w;
	return 0;
}

static int end_world(void **state)
{
	struct world *w = *state;

	vmdir_close(&w->source);
	vmdir_close(&w->child);
	cgroup_model_umount();
	scratch_remove(w->dir);
	free(w);
	return 0;
}

#define CASE(fn) cmocka_unit_test_setup_teardown(fn, make_world, end_world)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(test_gate__a_child_is_put_in_and_told),
		CASE(test_gate__who_is_no_child_of_the_source_is_left_where_he_is),
		CASE(test_gate__why_one_cannot_be_put_in_is_said),
		CASE(test_gate__who_says_nothing_is_not_let_live),
		CASE(test_gate__a_source_that_cannot_be_identified_gets_nobody_in),
		CASE(test_gate__one_that_ends_while_it_is_moved_ends_nobody),
		CASE(test_gate__signals_keep_no_child_out),
		CASE(test_group__forgotten_it_is_removed_only_when_nobody_is_in_it),
		CASE(test_group__one_of_the_same_name_elsewhere_is_left_alone),
		CASE(test_rm__a_dead_vm_goes_whatever_becomes_of_its_group),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
