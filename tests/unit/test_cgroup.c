/* SPDX-License-Identifier: MIT */
/*
 * Memory groups, in a model of cgroup v2: where they are made, what is written before anybody is in
 * one, how one goes. The notification is the real kernel's, of another file of its own.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/wait.h>

#include "base/util.h"
#include "cgroup/cgroup.h"
#include "cli/doctor.h"
#include "tests/lib/cgroup_model.h"

struct world {
	char *dir;
	char mounts[PATH_MAX], self[PATH_MAX], above[PATH_MAX], path[2 * PATH_MAX];
	struct cgroup_files files;
};

static int no_memory_to_give; /* errno; 0: none */

ssize_t write(int fd, const void *buf, size_t n)
{
	if (no_memory_to_give && n == 7 && !memcmp(buf, "+memory", 7)) {
		errno = no_memory_to_give;
		return -1;
	}
	return syscall(SYS_write, fd, buf, n);
}

static void mounts(struct world *w, const char *type)
{
	char text[PATH_MAX + 200];

	snprintf(text, sizeof(text),
		 "proc /proc proc rw 0 0\n%s %s %s rw,nsdelegate 0 0\ntmpfs /tmp tmpfs rw 0 0\n",
		 type, w->above, type);
	scratch_text(w->dir, "mounts", text);
}

static int setup(void **state)
{
	struct world *w = calloc(1, sizeof(*w));

	w->dir = scratch_make();
	snprintf(w->mounts, sizeof(w->mounts), "%s/mounts", w->dir);
	snprintf(w->self, sizeof(w->self), "%s/self", w->dir);
	snprintf(w->above, sizeof(w->above), "%s/cg", w->dir);
	snprintf(cgroup_model_root, sizeof(cgroup_model_root), "%s", w->above);
	w->files = (struct cgroup_files){ w->mounts, w->self };
	mkdir(w->above, 0755);
	mounts(w, "cgroup2");
	scratch_text(w->dir, "self", "4:memory:/v1\n0::/user.slice/one.scope\n");
	cgroup_model_dies = false;
	unsetenv("CLONE_CGROUP");
	*state = w;
	return 0;
}

static int teardown(void **state)
{
	struct world *w = *state;

	cgroup_model_root[0] = '\0';
	scratch_remove(w->dir);
	free(w);
	return 0;
}

/* scratch_path's own do not last. */
static const char *below(struct world *w, const char *name)
{
	snprintf(w->path, sizeof(w->path), "%s/%s", w->above, name);
	return w->path;
}

static void assert_file(const char *path, const char *file, const char *want)
{
	char *got = cgroup_model_read(path, file);

	assert_string_equal(got, want);
	free(got);
}

static void test_cgroup__ours_is_at_the_mount_and_gives_memory_to_its_children(void **state)
{
	struct world *w = *state;
	char base[PATH_MAX];
	struct err e;

	assert_int_equal(cgroup_find(&w->files, base, &e), 0);
	assert_string_equal(base, below(w, "clone"));
	assert_false(cgroup_prepared(base));
	assert_int_equal(cgroup_prepare(base, &e), 0);
	assert_file(base, "cgroup.subtree_control", "+memory");
	/* the kernel's words for it */
	scratch_text(base, "cgroup.subtree_control", "cpu memory\n");
	assert_true(cgroup_prepared(base));
	assert_int_equal(cgroup_prepare(base, &e), 0);
	assert_file(base, "cgroup.subtree_control", "cpu memory\n");
	scratch_text(base, "cgroup.subtree_control", "memory_like\n");
	assert_false(cgroup_prepared(base));
}

static void test_cgroup__what_it_lacks_is_asked_of_the_group_above(void **state)
{
	struct world *w = *state;
	char base[PATH_MAX];
	struct err e;

	setenv("CLONE_CGROUP", "/tenants/a", 1);
	assert_int_equal(cgroup_find(&w->files, base, &e), 0);
	assert_string_equal(base, below(w, "tenants/a"));
	/* only the last group is made */
	assert_int_equal(cgroup_prepare(base, &e), -ENOENT);
	mkdir(below(w, "tenants"), 0755);
	mkdir(base, 0755);
	scratch_text(base, "cgroup.controllers", "cpu\n");
	assert_int_equal(cgroup_prepare(base, &e), 0);
	assert_file(below(w, "tenants"), "cgroup.subtree_control", "+memory");
	assert_file(base, "cgroup.subtree_control", "+memory");
}

static void test_cgroup__what_the_group_above_cannot_give_is_said(void **state)
{
	struct world *w = *state;
	char base[PATH_MAX], want[2 * PATH_MAX + 200];
	struct err e;

	setenv("CLONE_CGROUP", "/tenants/a", 1);
	assert_int_equal(cgroup_find(&w->files, base, &e), 0);
	mkdir(below(w, "tenants"), 0755);
	mkdir(base, 0755);
	scratch_text(base, "cgroup.controllers", "cpu\n");
	no_memory_to_give = ENOENT; /* the kernel's word for a controller that is not there */
	assert_int_equal(cgroup_prepare(base, &e), -ENOTSUP);
	snprintf(want, sizeof(want),
		 "cgroup %s has no memory controller to give to the groups below it: echo +memory "
		 "> cgroup.subtree_control in each group above it, beginning at the top, or name "
		 "another group by CLONE_CGROUP",
		 below(w, "tenants"));
	assert_string_equal(e.msg, want);
	no_memory_to_give = EBUSY;
	assert_int_equal(cgroup_prepare(base, &e), -ENOTSUP);
	assert_non_null(strstr(e.msg, "has processes of its own"));
	no_memory_to_give = 0;
}

static void test_cgroup__what_it_made_does_not_stay_when_it_fails(void **state)
{
	struct world *w = *state;
	const char *base = below(w, "clone");
	struct err e;

	no_memory_to_give = EBUSY;
	assert_int_equal(cgroup_prepare(base, &e), -ENOTSUP);
	assert_int_equal(access(base, F_OK), -1);
	/* what was there is not its own */
	mkdir(base, 0755);
	assert_int_equal(cgroup_prepare(base, &e), -ENOTSUP);
	assert_int_equal(access(base, F_OK), 0);
	no_memory_to_give = 0;
}

/* Says "ok", or what is wrong, and changes nothing. */
static void assert_foreseen(struct world *w, const char *base, const char *want)
{
	char *before = scratch_sh("cd %s; ls -R; cat `find . -name 'cgroup.*'`", w->above), *after;
	struct err e = { "ok" };
	int r = cgroup_can_prepare(base, &e);

	after = scratch_sh("cd %s; ls -R; cat `find . -name 'cgroup.*'`", w->above);
	assert_string_equal(before, after);
	free(before);
	free(after);
	if (r ? !strstr(e.msg, want) : strcmp(want, "ok") != 0)
		fail_msg("%s: %d, %s", want, r, e.msg);
}

static void test_cgroup__what_would_be_refused_is_foreseen(void **state)
{
	static const char busy[] = "has processes of its own", none[] = "has no memory controller";
	struct world *w = *state;
	char base[PATH_MAX], a[PATH_MAX + 2];
	struct err e;

	assert_int_equal(cgroup_find(&w->files, base, &e), 0);
	snprintf(a, sizeof(a), "%s/a", base);
	/* the host's root may have processes, that of a container may not */
	scratch_text(w->above, "cgroup.procs", "1\n");
	assert_foreseen(w, base, "ok");
	scratch_text(w->above, "cgroup.type", "domain\n");
	assert_foreseen(w, base, busy);
	scratch_text(w->above, "cgroup.procs", "");
	assert_foreseen(w, base, "ok");
	scratch_text(w->above, "cgroup.procs", "1\n");
	scratch_text(w->above, "cgroup.subtree_control", "cpu memory\n");
	assert_foreseen(w, base, "ok");
	/* only the last group is made */
	assert_foreseen(w, a, "No such file or directory");
	mkdir(base, 0755);
	scratch_text(w->above, "cgroup.subtree_control", "");
	assert_foreseen(w, base, "ok");
	scratch_text(base, "cgroup.type", "domain\n");
	scratch_text(base, "cgroup.procs", "1\n");
	assert_foreseen(w, base, busy);
	scratch_text(base, "cgroup.subtree_control", "memory\n");
	assert_foreseen(w, base, "ok");
	scratch_text(base, "cgroup.subtree_control", "");
	/* it has none yet */
	scratch_text(w->above, "cgroup.procs", "");
	scratch_text(base, "cgroup.controllers", "");
	assert_foreseen(w, base, busy);
	scratch_text(base, "cgroup.procs", "");
	assert_foreseen(w, base, "ok");
	assert_foreseen(w, a, none);
}

static void test_doctor__a_quota_is_ok_only_where_there_will_be_one(void **state)
{
	const struct check c = { .name = "memory-quota" };
	struct world *w = *state;
	struct finding f = { .advice = "" };
	char want[PATH_MAX + 100];

	snprintf(cgroup_model_mounts, sizeof(cgroup_model_mounts), "%s", w->mounts);
	assert_int_equal(look_quota(&c, &f), OK);
	snprintf(want, sizeof(want), "--memory-quota makes its groups in %s/clone", w->above);
	assert_string_equal(f.found, want);
	scratch_text(w->above, "cgroup.type", "domain\n");
	scratch_text(w->above, "cgroup.procs", "1\n");
	assert_int_equal(look_quota(&c, &f), WARN);
	snprintf(want, sizeof(want), "--memory-quota is refused: cgroup %s has processes of its",
		 w->above);
	assert_memory_equal(f.found, want, strlen(want));
	cgroup_model_mounts[0] = '\0';
}

static void test_cgroup__a_host_without_the_controller_is_told_what_to_do(void **state)
{
	struct world *w = *state;
	char base[PATH_MAX];
	struct err e;

	scratch_text(w->above, "cgroup.controllers", "");
	assert_int_equal(cgroup_find(&w->files, base, &e), -ENOTSUP);
	assert_non_null(strstr(e.msg, "no memory controller"));
	assert_non_null(strstr(e.msg, "systemd.unified_cgroup_hierarchy=1"));
	scratch_text(w->above, "cgroup.controllers", "memory_like cpu\n");
	assert_int_equal(cgroup_find(&w->files, base, &e), -ENOTSUP);
	mounts(w, "cgroup");
	assert_int_equal(cgroup_find(&w->files, base, &e), -ENOTSUP);
	assert_non_null(strstr(e.msg, "no cgroup v2"));
}

static void test_cgroup__a_name_that_leads_out_is_refused(void **state)
{
	static const char *const bad[] = { "clone", "/", "/../x", "/a/../../x" };
	struct world *w = *state;
	char base[PATH_MAX];
	struct err e;

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		setenv("CLONE_CGROUP", bad[i], 1);
		assert_int_equal(cgroup_find(&w->files, base, &e), -EINVAL);
	}
}

/* As one that is nobody: root may write everywhere. */
static int find_as_nobody(const struct world *w, const char *want)
{
	pid_t pid = fork();
	int status;

	if (!pid) {
		char base[PATH_MAX];
		struct err e;
		int r;

		if (setresuid(12345, 12345, 12345))
			_exit(1);
		r = cgroup_find(&w->files, base, &e);
		if (!want)
			_exit(r == -ENOTSUP && strstr(e.msg, "delegated") ? 0 : 2);
		_exit(r || strcmp(base, want) ? 3 : 0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 100;
}

static void test_cgroup__who_may_not_at_the_mount_is_beside_his_own_group(void **state)
{
	struct world *w = *state;

	if (geteuid() != 0)
		skip();
	free(scratch_sh("chmod 755 %s; mkdir -p %s/user.slice/one.scope", w->dir, w->above));
	assert_int_equal(find_as_nobody(w, NULL), 0);
	free(scratch_sh("chown 12345 %s/user.slice", w->above));
	assert_int_equal(find_as_nobody(w, below(w, "user.slice/clone")), 0);
	/* of a group that is outside of what we see nothing can be said */
	scratch_text(w->dir, "self", "0::/../other/one.scope\n");
	assert_int_equal(find_as_nobody(w, NULL), 0);
	free(scratch_sh("rm -r %s/user.slice", w->above));
}

/* In a mount namespace of its own. */
static int find_read_only(const struct world *w)
{
	char base[PATH_MAX], want[PATH_MAX + 100];
	const char *at = w->above;
	struct err e;

	if (unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) ||
	    mount(at, at, NULL, MS_BIND, NULL) ||
	    mount(NULL, at, NULL, MS_BIND | MS_REMOUNT | MS_RDONLY, NULL))
		return 1;
	snprintf(want, sizeof(want), "cgroup v2 at %s is mounted read-only,", at);
	return cgroup_find(&w->files, base, &e) != -ENOTSUP ? 2
	       : strncmp(e.msg, want, strlen(want)) != 0    ? 3
	       : strstr(e.msg, "as root") != NULL	    ? 4
							    : 0;
}

static void test_cgroup__a_read_only_mount_is_called_that(void **state)
{
	int status;
	pid_t pid;

	if (geteuid() != 0)
		skip();
	pid = fork();
	if (!pid)
		_exit(find_read_only(*state));
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
}

static void test_cgroup__limits_are_there_before_anybody_is_in_it(void **state)
{
	struct world *w = *state;
	const char *path = below(w, "vm");
	uint64_t n;
	struct err e;

	assert_int_equal(cgroup_create(path, MIB(512), GIB(1), &e), 0);
	/* 512 MiB, 16 MiB, and 1/128 of 1 GiB; a sixteenth less to slow down at */
	assert_file(path, "memory.max", "562036736");
	assert_file(path, "memory.high", "526909440");
	assert_file(path, "memory.oom.group", "1\n"); /* over the model's "0" */
	assert_file(path, "cgroup.procs", "");
	assert_true(cgroup_number(path, "memory.max", &n));
	assert_int_equal(n, 562036736);
	assert_int_equal(cgroup_create(path, MIB(512), GIB(1), &e), -EEXIST);
	assert_int_equal(cgroup_add(path, 4711, &e), 0);
	assert_file(path, "cgroup.procs", "4711");
	scratch_text(path, "cgroup.procs", "");
	assert_int_equal(cgroup_remove(path, &e), 0);
	assert_int_equal(access(path, F_OK), -1);
	assert_int_equal(cgroup_remove(path, &e), 0);
}

static void test_cgroup__without_a_quota_there_are_no_limits(void **state)
{
	struct world *w = *state;
	const char *path = below(w, "free");
	uint64_t n = 0;
	struct err e;

	assert_int_equal(cgroup_create(path, 0, GIB(1), &e), 0);
	assert_true(cgroup_number(path, "memory.max", &n));
	assert_true(n == UINT64_MAX);
	assert_false(cgroup_number(path, "memory.none", &n));
	scratch_text(path, "memory.current", "12 monkeys\n");
	assert_false(cgroup_number(path, "memory.current", &n));
	assert_int_equal(cgroup_remove(path, &e), 0);
}

static void test_cgroup__one_that_cannot_be_limited_is_not_left(void **state)
{
	struct world *w = *state;
	const char *path = below(w, "gone/vm");
	struct err e;

	/* a directory like any other: the kernel's files are not in it */
	free(scratch_sh("mkdir -p %s/gone", w->above));
	cgroup_model_root[0] = '\0';
	assert_int_equal(cgroup_create(path, MIB(64), MIB(64), &e), -ENOENT);
	assert_non_null(strstr(e.msg, "memory.max"));
	assert_int_equal(access(path, F_OK), -1);
	free(scratch_sh("rmdir %s/gone", w->above));
}

static void test_cgroup__what_is_left_in_it_is_ended(void **state)
{
	struct world *w = *state;
	const char *path = below(w, "vm");
	struct err e;

	assert_int_equal(cgroup_create(path, MIB(64), MIB(64), &e), 0);
	scratch_text(path, "cgroup.procs", "4711\n");
	assert_int_equal(cgroup_remove(path, &e), -EBUSY);
	assert_file(path, "cgroup.kill", "1");
	cgroup_model_dies = true;
	assert_int_equal(cgroup_remove(path, &e), 0);
	assert_int_equal(access(path, F_OK), -1);
}

static void test_cgroup__events_are_read_by_their_names(void **state)
{
	struct world *w = *state;
	struct cgroup_events ev = { 9, 9, 9, 9 };
	struct err e;
	int fd;

	scratch_text(w->dir, "memory.events",
		     "low 1\nhigh 22\nmax 333\noom 4444\noom_kill 5\noom_group_kill 6\nx\n");
	fd = cgroup_open(w->dir, "memory.events", O_RDONLY, &e);
	assert_true(fd >= 0);
	assert_int_equal(cgroup_events_read(fd, &ev), 0);
	assert_int_equal(ev.high, 22);
	assert_int_equal(ev.max, 333);
	assert_int_equal(ev.oom, 4444);
	assert_int_equal(ev.oom_kill, 5);
	/* again from the beginning, and what is not named is none */
	free(scratch_sh("echo high 23 > %s/memory.events", w->dir));
	assert_int_equal(cgroup_events_read(fd, &ev), 0);
	assert_int_equal(ev.high, 23);
	assert_int_equal(ev.oom_kill, 0);
	close(fd);
	assert_int_equal(cgroup_events_read(fd, &ev), -EBADF);
}

static bool readable(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };

	return poll(&p, 1, 0) == 1 && (p.revents & POLLIN);
}

/* In a mount namespace of its own, where the kernel's file is changed. */
static int watch_mounts(void)
{
	struct cgroup_events ev;
	struct err e;
	int fd, watch;

	if (unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL))
		return 1;
	fd = cgroup_open("/proc/self", "mounts", O_RDONLY, &e);
	if (fd < 0 || cgroup_events_read(fd, &ev))
		return 2;
	watch = cgroup_watch(fd, &e);
	if (watch < 0)
		return 3;
	/* what changed before it was watched is seen by looking at the file again */
	if (readable(watch))
		return 4;
	if (mount("none", "/mnt", "tmpfs", 0, NULL))
		return 5;
	return readable(watch) ? 0 : 6;
}

static void test_cgroup__a_change_of_the_kernels_file_is_readable(void **state)
{
	int status;
	pid_t pid;

	(void)state;
	if (geteuid() != 0)
		skip();
	pid = fork();
	if (!pid)
		_exit(watch_mounts());
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
}

static void test_cgroup__what_cannot_be_watched_is_refused(void **state)
{
	struct world *w = *state;
	struct err e;
	int fd;

	scratch_text(w->dir, "plain", "high 1\n");
	fd = cgroup_open(w->dir, "plain", O_RDONLY, &e);
	assert_int_equal(cgroup_watch(fd, &e), -EPERM);
	close(fd);
}

static void test_cgroup__sums_end_at_the_most(void **state)
{
	(void)state;
	assert_true(cgroup_max_bytes(UINT64_MAX - 1, MIB(64)) == UINT64_MAX);
	assert_int_equal(cgroup_high_bytes(MIB(16)), MIB(15));
}

int main(void)
{
#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_cgroup__ours_is_at_the_mount_and_gives_memory_to_its_children),
		T(test_cgroup__what_it_lacks_is_asked_of_the_group_above),
		T(test_cgroup__what_the_group_above_cannot_give_is_said),
		T(test_cgroup__what_it_made_does_not_stay_when_it_fails),
		T(test_cgroup__what_would_be_refused_is_foreseen),
		T(test_doctor__a_quota_is_ok_only_where_there_will_be_one),
		T(test_cgroup__a_host_without_the_controller_is_told_what_to_do),
		T(test_cgroup__a_name_that_leads_out_is_refused),
		T(test_cgroup__who_may_not_at_the_mount_is_beside_his_own_group),
		T(test_cgroup__a_read_only_mount_is_called_that),
		T(test_cgroup__limits_are_there_before_anybody_is_in_it),
		T(test_cgroup__without_a_quota_there_are_no_limits),
		T(test_cgroup__one_that_cannot_be_limited_is_not_left),
		T(test_cgroup__what_is_left_in_it_is_ended),
		T(test_cgroup__events_are_read_by_their_names),
		T(test_cgroup__a_change_of_the_kernels_file_is_readable),
		T(test_cgroup__what_cannot_be_watched_is_refused),
		T(test_cgroup__sums_end_at_the_most),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
