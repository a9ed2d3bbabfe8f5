/* SPDX-License-Identifier: MIT */
/*
 * Run directories: who is alive is what the kernel says about a lock, whatever files say; what dead
 * makers leave is swept, what living ones hold is not.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/time.h"
#include "base/util.h"
#include "cli/launch.h"
#include "cli/procid.h"
#include "cli/state.h"
#include "cli/view.h"
#include "control/json.h"
#include "control/sock.h"
#include "tests/lib/scratch.h"

static int setup(void **state)
{
	char *dir = scratch_make();

	setenv("CLONE_RUN_DIR", dir, 1);
	*state = dir;
	return 0;
}

static int teardown(void **state)
{
	scratch_remove(*state);
	return 0;
}

static bool exists(const char *dir, const char *path)
{
	struct stat st;

	return !lstat(scratch_path(dir, path), &st);
}

static struct vmdir create(const char *name)
{
	struct vmdir d;
	struct err e;

	if (vmdir_create(PLACE_VM, name, 0, &d, &e))
		fail_msg("%s", e.msg);
	return d;
}

static void publish(struct vmdir *d, bool rm)
{
	cleanup_json json_t *info = json_pack("{s:s, s:b}", "name", d->name, "rm", rm);
	struct err e;

	assert_int_equal(vmdir_publish(d, info, &e), 0);
}

/* A process that holds what a VM process holds: the lock, and a listener on fd.sock. */
struct holder {
	pid_t pid;
	int go; /* closing it ends the process */
};

static struct holder hold(struct vmdir *d)
{
	int sock = sock_listen(d->fd, "fd.sock", SOCK_SEQPACKET, NULL), p[2];
	struct holder h;

	assert_true(sock >= 0);
	assert_int_equal(pipe2(p, O_CLOEXEC), 0);
	h.pid = fork();
	if (!h.pid) {
		int lock = fcntl(d->lock_fd, F_DUPFD, 100), listener = fcntl(sock, F_DUPFD, 100);
		int wait_fd = fcntl(p[0], F_DUPFD, 100);
		char c;

		close_range(3, 99, 0);
		if (lock < 0 || listener < 0 || read(wait_fd, &c, 1) != 0)
			_exit(1);
		_exit(0);
	}
	close(p[0]);
	close(sock);
	h.go = p[1];
	return h;
}

static void end(struct holder *h, int sig)
{
	if (sig)
		kill(h->pid, sig);
	close(h->go);
	waitpid(h->pid, NULL, 0);
}

static size_t count(void)
{
	char **names;
	struct err e;
	size_t n;

	assert_int_equal(vmdir_list(PLACE_VM, &names, &n, &e), 0);
	vmdir_list_free(names, n);
	return n;
}

static void test_state__a_name_is_taken_once(void **state)
{
	struct vmdir a = create("web"), b;
	struct err e;

	assert_int_equal(vmdir_create(PLACE_VM, "web", 0, &b, &e), -EEXIST);
	assert_non_null(strstr(e.msg, "web"));
	publish(&a, false);
	vmdir_close(&a);
	/* dead, but not forgotten */
	assert_int_equal(vmdir_create(PLACE_VM, "web", 0, &b, &e), -EEXIST);
	assert_int_equal(vmdir_open(PLACE_VM, "web", &a, &e), 0);
	assert_int_equal(vmdir_remove(&a, &e), 0);
	vmdir_close(&a);
	b = create("web");
	vmdir_close(&b);
	assert_true(exists(*state, "vms/web"));
}

static void test_state__names_are_checked(void **state)
{
	static const char *const bad[] = { "", "..", "a/b", ".a", "-a", "a b", "a\n" };
	struct vmdir d;
	struct err e;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(vmdir_open(PLACE_VM, bad[i], &d, &e), -EINVAL);
	assert_int_equal(vmdir_open(PLACE_VM, "none", &d, &e), -ENOENT);
	assert_non_null(strstr(e.msg, "none"));
}

static void test_state__alive_is_who_holds_the_lock(void **state)
{
	struct vmdir d = create("web"), other;
	struct holder h = hold(&d);
	struct err e;

	(void)state;
	publish(&d, false);
	assert_int_equal(vmdir_open(PLACE_VM, "web", &other, &e), 0);
	assert_true(vmdir_alive(&other));
	assert_int_equal(vmdir_remove(&other, &e), -EBUSY);
	assert_int_equal(vmdir_wait_end(&other, 100, -1, &e), -ETIMEDOUT);
	end(&h, SIGKILL);
	assert_int_equal(vmdir_wait_end(&other, 60000, -1, &e), 0);
	assert_false(vmdir_alive(&other));
	assert_int_equal(vmdir_remove(&other, &e), 0);
	vmdir_close(&other);
	vmdir_close(&d);
	assert_int_equal(count(), 0);
}

/* One that closes its connections and goes on: whoever waits does so for as long as it said. */
static void test_state__who_only_says_that_it_ends_is_not_waited_for(void **state)
{
	struct vmdir d = create("liar"), other;
	int held = dup(d.lock_fd);
	struct err e;

	(void)state;
	publish(&d, false); /* the lock is held, and nobody listens */
	assert_int_equal(vmdir_open(PLACE_VM, "liar", &other, &e), 0);
	assert_int_equal(vmdir_wait_end(&other, 100, -1, &e), -ETIMEDOUT);
	close(held);
	assert_int_equal(vmdir_wait_end(&other, 100, -1, &e), 0);
	vmdir_close(&other);
	vmdir_close(&d);
}

static void test_state__who_does_not_accept_is_not_waited_for(void **state)
{
	struct vmdir d = create("deaf");
	int listener, fd[200], n = 0;
	struct err e;

	(void)state;
	listener = sock_listen(d.fd, "deaf.sock", SOCK_STREAM, &e);
	assert_true(listener >= 0);
	while (n < (int)ARRAY_SIZE(fd) &&
	       (fd[n] = sock_connect(d.fd, "deaf.sock", SOCK_STREAM, &e)) >= 0)
		n++;
	assert_in_range(n, 1, ARRAY_SIZE(fd) - 1);
	assert_int_equal(fd[n], -ETIMEDOUT);
	while (n--)
		close(fd[n]);
	close(listener);
	vmdir_close(&d);
}

static void test_state__the_end_is_seen_when_it_happens(void **state)
{
	struct vmdir d = create("web");
	struct holder h = hold(&d);
	struct err e;
	pid_t killer;

	(void)state;
	publish(&d, false);
	killer = fork();
	if (!killer) {
		usleep(200000);
		kill(h.pid, SIGKILL);
		_exit(0);
	}
	assert_int_equal(vmdir_wait_end(&d, 60000, -1, &e), 0);
	assert_false(vmdir_alive(&d));
	waitpid(killer, NULL, 0);
	end(&h, 0);
	vmdir_close(&d);
}

static void test_state__half_made_by_the_dead_is_swept(void **state)
{
	pid_t maker = fork();

	if (!maker) {
		struct vmdir d;
		struct err e;

		_exit(vmdir_create(PLACE_VM, "half", 0, &d, &e) ? 1 : 0);
	}
	waitpid(maker, NULL, 0);
	assert_true(exists(*state, "vms/half"));
	state_sweep();
	assert_false(exists(*state, "vms/half"));
}

static void test_state__half_made_by_the_living_is_left_alone(void **state)
{
	struct vmdir d = create("half");

	state_sweep();
	assert_true(exists(*state, "vms/half"));
	vmdir_close(&d);
	state_sweep();
	assert_false(exists(*state, "vms/half"));
}

static void test_state__the_dead_stay_unless_they_wanted_to_go(void **state)
{
	struct vmdir a = create("stays"), b = create("goes");

	publish(&a, false);
	publish(&b, true);
	vmdir_close(&a);
	vmdir_close(&b);
	state_sweep();
	assert_true(exists(*state, "vms/stays"));
	assert_false(exists(*state, "vms/goes"));
}

static void test_state__a_dead_vm_is_seen_with_its_end(void **state)
{
	cleanup_json json_t *v = NULL;
	struct vmdir d = create("web");
	char why[300];
	struct err e;

	publish(&d, false);
	v = view_vm(&d, &e);
	assert_string_equal(json_string_value(json_object_get(v, "state")), "exited");
	assert_non_null(strstr(json_string_value(json_object_get(v, "end")), "killed"));
	json_decref(v);
	scratch_text(*state, "vms/web/exit.json",
		     "{\"reason\":\"panic\",\"detail\":\"Oops\\u001b[2J\"}");
	v = view_vm(&d, &e);
	assert_string_equal(json_string_value(json_object_get(v, "end")), "panic: Oops [2J");
	/* what `clone run` prints of it, and of a log */
	vmdir_end_text(&d, why, sizeof(why));
	assert_string_equal(why, "panic: Oops [2J");
	assert_int_equal(unlinkat(d.fd, "exit.json", 0), 0);
	scratch_text(*state, "vms/web/vmm.log",
		     "first\nlast \x1b]0;x\a \xc2\x9b"
		     "2J\n");
	vmdir_end_text(&d, why, sizeof(why));
	assert_string_equal(why, "it was killed: last  ]0;x    2J");
	vmdir_close(&d);
}

/* uids are given to root only. */
static void test_state__uids_are_unlike_and_come_back(void **state)
{
	struct vmdir a, b, child;
	char link[64], to[32] = "";
	struct err e;
	struct stat st;

	if (geteuid() != 0)
		skip();
	a = create("a");
	b = create("b");
	assert_true(a.uid >= UID_FIRST && b.uid >= UID_FIRST && a.uid != b.uid);
	assert_int_equal(fstat(a.fd, &st), 0);
	/* root's, passable by the VM's group, closed to all others */
	assert_int_equal(st.st_uid, 0);
	assert_int_equal(st.st_gid, a.gid);
	assert_int_equal(st.st_mode & 07777, 02710);
	snprintf(link, sizeof(link), "uids/%u", a.uid);
	assert_true(readlink(scratch_path(*state, link), to, sizeof(to) - 1) == 1);
	assert_string_equal(to, "a");
	/* a live fork has its parent's uid, and keeps it from being given away */
	assert_int_equal(vmdir_create(PLACE_VM, "child", a.uid, &child, &e), 0);
	assert_int_equal(child.uid, a.uid);
	publish(&a, true);
	publish(&b, true);
	publish(&child, true);
	vmdir_close(&a);
	assert_int_equal(vmdir_open(PLACE_VM, "a", &a, &e), 0);
	assert_int_equal(a.uid, child.uid);
	assert_int_equal(vmdir_remove(&a, &e), 0);
	assert_true(exists(*state, link));
	assert_int_equal(vmdir_remove(&child, &e), 0);
	assert_false(exists(*state, link));
	vmdir_close(&a);
	vmdir_close(&b);
	vmdir_close(&child);
}

static void test_state__a_uid_without_a_vm_is_swept(void **state)
{
	struct err e;
	int run = run_open(&e);

	assert_true(run >= 0);
	assert_int_equal(symlinkat("gone", run, "uids/1073741900"), 0);
	close(run);
	state_sweep();
	assert_false(exists(*state, "uids/1073741900"));
}

static void test_state__a_pid_alone_is_not_believed(void **state)
{
	cleanup_json json_t *info = json_object(), *lie = NULL, *lied = NULL;
	struct vmdir d = create("web");
	struct err e;
	pid_t pid = fork();

	(void)state;
	if (!pid) {
		if (d.uid && setresuid(d.uid, d.uid, d.uid))
			_exit(1);
		for (;;)
			pause();
	}
	procid_note(info, pid);
	assert_int_equal(procid_pid(info), pid);
	lie = json_deep_copy(info);
	json_object_set_new(
		lie, "start_time",
		json_integer(json_integer_value(json_object_get(info, "start_time")) + 1));
	assert_int_equal(procid_pid(lie), 0);
	assert_int_equal(vmdir_publish(&d, lie, &e), 0);
	assert_int_equal(procid_kill(&d, &e), -ESRCH);
	assert_int_equal(kill(pid, 0), 0);
	/* what a VM says of itself may be somebody else */
	lied = json_object();
	procid_note(lied, getpid());
	assert_int_equal(json_write_file(d.fd, "vm.json", 0600, lied, &e), 0);
	if (d.uid)
		assert_int_equal(procid_kill(&d, &e), -ESRCH);
	assert_int_equal(json_write_file(d.fd, "vm.json", 0600, info, &e), 0);
	for (int i = 0; i < 6000 && procid_kill(&d, &e); i++)
		usleep(10000); /* until it runs as the VM's user */
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	assert_int_equal(procid_pid(info), 0);
	vmdir_close(&d);
}

static void test_state__paths_longer_than_sun_path_work(void **state)
{
	char name[65], longer[4096], *old = strdup(getenv("CLONE_RUN_DIR"));
	int at = snprintf(longer, sizeof(longer), "%s", (char *)*state), listener, conn;
	struct vmdir d;
	struct err e;

	for (int i = 0; i < 3; i++) {
		at += snprintf(longer + at, sizeof(longer) - (size_t)at, "/%050d", i);
		assert_int_equal(mkdir(longer, 0700), 0);
	}
	setenv("CLONE_RUN_DIR", longer, 1);
	memset(name, 'n', 64);
	name[64] = '\0';
	d = create(name);
	listener = sock_listen(d.fd, "api.sock", SOCK_STREAM, &e);
	assert_true(listener >= 0);
	conn = sock_connect(d.fd, "api.sock", SOCK_STREAM, &e);
	assert_true(conn >= 0);
	close(conn);
	close(listener);
	vmdir_close(&d);
	setenv("CLONE_RUN_DIR", old, 1);
	free(old);
}

#define CASE(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(test_state__a_name_is_taken_once),
		CASE(test_state__names_are_checked),
		CASE(test_state__alive_is_who_holds_the_lock),
		CASE(test_state__who_only_says_that_it_ends_is_not_waited_for),
		CASE(test_state__who_does_not_accept_is_not_waited_for),
		CASE(test_state__the_end_is_seen_when_it_happens),
		CASE(test_state__half_made_by_the_dead_is_swept),
		CASE(test_state__half_made_by_the_living_is_left_alone),
		CASE(test_state__the_dead_stay_unless_they_wanted_to_go),
		CASE(test_state__a_dead_vm_is_seen_with_its_end),
		CASE(test_state__uids_are_unlike_and_come_back),
		CASE(test_state__a_uid_without_a_vm_is_swept),
		CASE(test_state__a_pid_alone_is_not_believed),
		CASE(test_state__paths_longer_than_sun_path_work),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
