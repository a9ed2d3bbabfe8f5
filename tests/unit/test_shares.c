/* SPDX-License-Identifier: MIT */
/*
 * Memory quotas and trust domains of real VM processes (jailed, with a guest of a few instructions)
 * in a model of cgroup v2: who is in which group, what is left of it, what is said of an end, and
 * whose pages KSM may look at. Long, because all of it needs the same model and the same processes.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "base/fd.h"
#include "base/time.h"
#include "base/util.h"
#include "cgroup/cgroup.h"
#include "cli/cli.h"
#include "cli/commands.h"
#include "cli/forkreq.h"
#include "cli/group.h"
#include "cli/ksm.h"
#include "cli/procid.h"
#include "cli/shares.h"
#include "cli/template_from.h"
#include "control/json.h"
#include "tests/lib/cgroup_model.h"
#include "tests/lib/tiny_kernel.h"
#include "tests/lib/tiny_seed.h"
#include "vm/vm.h"

#define QUOTA MIB(64)

struct world {
	char *dir;
	struct tiny_snapshot snapshot;
	struct tiny_seed vm;
};

static unsigned int passed; /* descriptors that this program sent */
static char passed_wrong[PATH_MAX];
static bool dies_at_gate;

/* Of what is passed nothing may be written to that is a group's, or the trust domain's. */
static void look_at_passed(int fd)
{
	char link[64], path[PATH_MAX];
	ssize_t n;

	passed++;
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	n = readlink(link, path, sizeof(path) - 1);
	path[MAX(n, 0)] = '\0';
	if ((cgroup_model_has(path) || strstr(path, "/ksm/")) &&
	    (fcntl(fd, F_GETFL) & O_ACCMODE) != O_RDONLY)
		snprintf(passed_wrong, sizeof(passed_wrong), "%s", path);
}

ssize_t sendmsg(int sock, const struct msghdr *msg, int flags)
{
	struct cmsghdr *c = CMSG_FIRSTHDR(msg);

	if (c && c->cmsg_type == SCM_RIGHTS)
		for (size_t i = 0; i < (c->cmsg_len - CMSG_LEN(0)) / sizeof(int); i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(c) + i * sizeof(fd), sizeof(fd));
			look_at_passed(fd);
		}
	return syscall(SYS_sendmsg, sock, msg, flags);
}

ssize_t send(int sock, const void *buf, size_t n, int flags)
{
	if (dies_at_gate && n == 1)
		raise(SIGKILL);
	return syscall(SYS_sendto, sock, buf, n, flags, NULL, 0);
}

static json_t *info_of(uint64_t quota, const char *ksm)
{
	json_t *info = json_pack("{s:I, s:[], s:s*}", "memory_bytes", (json_int_t)MIB(64), "disks",
				 "ksm", ksm);

	if (quota)
		json_object_set_new(info, "memory_quota_bytes", json_integer((json_int_t)quota));
	return info;
}

/* One fork of a running VM or of a seed, or why not. */
static int fork_one(const struct vmdir *from, bool live, const json_t *disks, uint64_t quota,
		    const char *ksm, struct fork_child_info *c, struct err *e)
{
	cleanup_json json_t *info = info_of(quota, ksm);
	const struct fork_source src = { .dir = from, .live = live, .info = info };
	const struct fork_how how = { .wait = true, .userdata_fd = -1, .timeout_ms = TINY_MS };
	uint64_t pause_ns;
	int r;

	json_object_set(info, "disks", (json_t *)disks);
	r = fork_request(&src, c, 1, &how, -1, &pause_ns, e);
	return r ? r : c->ok ? 0 : err_set(e, ECHILD, "%s", c->why);
}

static struct fork_child_info *kid(const struct vmdir *from, const struct world *w, bool live,
				   const char *name, uint64_t quota, const char *ksm)
{
	struct fork_child_info *c = calloc(1, sizeof(*c));
	struct err e;

	snprintf(c->name, sizeof(c->name), "%s", name);
	if (fork_one(from, live, json_object_get(w->vm.info, "disks"), quota, ksm, c, &e))
		fail_msg("%s", e.msg);
	return c;
}

static pid_t pid_of(const struct fork_child_info *c)
{
	return (pid_t)json_integer_value(json_object_get(c->clocks, "pid"));
}

static struct vmdir dir_of(const char *name)
{
	struct vmdir d;
	struct err e;

	if (vmdir_open(PLACE_VM, name, &d, &e))
		fail_msg("%s", e.msg);
	return d;
}

/* As its maker would have published it. */
static void note_pid(const struct vmproc *p)
{
	cleanup_json json_t *info = json_pack("{s:s}", "name", p->dir.name);

	procid_note(info, p->pid);
	assert_int_equal(vmdir_rewrite(&p->dir, info, NULL), 0);
}

static void kill_it(const struct fork_child_info *c)
{
	struct vmdir d = dir_of(c->name);

	kill(pid_of(c), SIGKILL);
	assert_int_equal(vmdir_wait_end(&d, TINY_MS, -1, NULL), 0);
	vmdir_close(&d);
}

/* Killed, removed, forgotten. */
static void end(struct fork_child_info *c)
{
	struct vmdir d = dir_of(c->name);
	struct err e;

	kill_it(c);
	if (vmdir_remove(&d, &e))
		fail_msg("%s", e.msg);
	vmdir_close(&d);
	fork_child_info_free(c, 1);
}

static void must_run(const char *name)
{
	uint64_t until = time_mono_ns() + TINY_MS * NS_PER_MS;
	json_int_t first = -1, now = -1;

	do {
		cleanup_json json_t *reply = NULL;

		assert_int_equal(tiny_vm_get(name, "/stats", &reply, NULL), 0);
		now = json_integer_value(
			json_object_get(json_object_get(reply, "vm"), "exits_total"));
		if (first < 0)
			first = now;
		assert_true(time_mono_ns() < until);
		usleep(1000);
	} while (now <= first);
}

static json_int_t config_of(const char *name, const char *key)
{
	cleanup_json json_t *reply = NULL;
	json_t *v;

	assert_int_equal(tiny_vm_get(name, "/machine-config", &reply, NULL), 0);
	v = json_object_get(reply, key);
	return json_is_boolean(v) ? json_is_true(v) : json_integer_value(v);
}

static void assert_in_group(const char *name, const char *file, const char *want)
{
	struct vmdir d = dir_of(name);
	char path[PATH_MAX], *got;

	assert_true(group_path(&d, path));
	got = cgroup_model_read(path, file);
	assert_string_equal(got, want);
	free(got);
	vmdir_close(&d);
}

/* It, and nobody else. */
static void assert_in_it(const struct fork_child_info *c)
{
	char pid[24];

	snprintf(pid, sizeof(pid), "%d", pid_of(c));
	assert_in_group(c->name, "cgroup.procs", pid);
}

static void test_shares__a_fork_is_in_a_group_of_its_own(void **state)
{
	struct world *w = *state;
	struct fork_child_info *a = kid(&w->vm.proc.dir, w, true, "a", QUOTA, NULL);
	struct fork_child_info *b = kid(&w->vm.proc.dir, w, true, "b", 2 * QUOTA, NULL);
	struct fork_child_info *c = kid(&w->vm.proc.dir, w, true, "c", 0, NULL);

	cgroup_model_assert_left("2\n");
	assert_in_it(a);
	assert_in_group("a", "memory.max", "84410368");
	assert_in_group("b", "memory.max", "151519232");
	assert_int_equal(config_of("a", "quota_bytes"), QUOTA);
	assert_int_equal(config_of("b", "quota_bytes"), 2 * QUOTA);
	assert_int_equal(config_of("c", "quota_bytes"), 0);
	must_run("a");
	must_run("c");
	end(a);
	cgroup_model_assert_left("1\n");
	assert_in_it(b);
	end(b);
	end(c);
	cgroup_model_assert_left("0\n");
	must_run("parent");
}

static void test_shares__a_fork_leaves_its_parents_group(void **state)
{
	struct world *w = *state;
	struct fork_child_info *a = kid(&w->vm.proc.dir, w, true, "a", QUOTA, NULL), *free_one;
	struct fork_child_info none = { .name = "none" };
	struct vmdir d = dir_of("a");
	struct err e;

	/* without a quota it is still not in its parent's */
	free_one = kid(&d, w, true, "free", 0, NULL);
	cgroup_model_assert_left("2\n");
	assert_in_it(free_one);
	assert_in_group("free", "memory.max", "max\n");
	assert_int_equal(config_of("free", "quota_bytes"), 0);
	must_run("free");
	/* a caller that passes no group: nobody is to pay for another */
	assert_int_equal(renameat(d.fd, "group", d.fd, "hidden"), 0);
	assert_int_equal(
		fork_one(&d, true, json_object_get(w->vm.info, "disks"), 0, NULL, &none, &e),
		-ECHILD);
	assert_non_null(strstr(e.msg, "its parent has one, and no cgroup/gate was passed"));
	assert_int_equal(renameat(d.fd, "hidden", d.fd, "group"), 0);
	assert_int_equal(vmdir_open(PLACE_VM, "none", &(struct vmdir){ 0 }, NULL), -ENOENT);
	must_run("a");
	vmdir_close(&d);
	end(free_one);
	end(a);
	cgroup_model_assert_left("0\n");
}

static void test_shares__a_spare_joins_when_it_is_somebody(void **state)
{
	struct world *w = *state;
	struct tiny_snapshot s;
	struct fork_child_info *first, *c;
	struct tiny_seed seed;
	int kernel = tiny_kernel_counter();
	pid_t v[8];
	struct err e;

	if (tiny_snapshot_make(w->dir, kernel, &s, &e) ||
	    tiny_seed_start("seed", &s, 1, false, &seed, &e))
		fail_msg("%s", e.msg);
	note_pid(&seed.proc);
	first = kid(&seed.proc.dir, w, false, "first", 0, NULL); /* spares come after that */
	for (unsigned int i = 0; tiny_children(seed.proc.pid, v, 8) != 2; i++) {
		assert_true(i < TINY_MS);
		usleep(1000);
	}
	c = kid(&seed.proc.dir, w, false, "s", QUOTA, "dom");
	assert_true(pid_of(c) == v[0] || pid_of(c) == v[1]);
	assert_in_it(c);
	assert_int_equal(config_of("s", "quota_bytes"), QUOTA);
	assert_true(config_of("s", "mergeable"));
	must_run("s");
	assert_int_equal(config_of("first", "quota_bytes"), 0);
	end(c);
	end(first);
	tiny_seed_end(&seed);
	tiny_snapshot_close(&s);
	close(kernel);
	cgroup_model_assert_left("0\n");
}

static void test_shares__nothing_that_moves_processes_is_passed_to_a_vm(void **state)
{
	struct world *w = *state;
	struct fork_child_info *a = kid(&w->vm.proc.dir, w, true, "a", QUOTA, "dom"), *b;
	struct vmdir d = dir_of("a");
	char path[PATH_MAX];
	struct err e;
	int fd, sv[2];

	b = kid(&d, w, true, "b", QUOTA, "dom");
	assert_true(passed > 20);
	assert_string_equal(passed_wrong, "");
	/* it would have been seen */
	assert_true(group_path(&d, path));
	fd = cgroup_open(path, "cgroup.procs", O_WRONLY, &e);
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv), 0);
	assert_int_equal(fd_send(sv[0], "x", 1, &fd, 1), 0);
	assert_non_null(strstr(passed_wrong, "/cgroup.procs"));
	passed_wrong[0] = '\0';
	close(fd);
	close(sv[0]);
	close(sv[1]);
	vmdir_close(&d);
	end(b);
	end(a);
}

static void test_shares__who_put_it_in_died_so_it_ends_at_its_gate(void **state)
{
	struct world *w = *state;
	struct vmdir d;
	pid_t pid = fork();
	int status;
	struct err e;

	if (!pid) {
		dies_at_gate = true;
		(void)kid(&w->vm.proc.dir, w, true, "a", QUOTA, NULL);
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	/* by itself: nobody has swept yet */
	d = dir_of("a");
	if (vmdir_wait_end(&d, TINY_MS, -1, &e))
		fail_msg("%s", e.msg);
	vmdir_close(&d);
	must_run("parent");
	cgroup_model_assert_left("1\n");
	state_sweep();
	cgroup_model_assert_left("0\n");
	assert_int_equal(vmdir_open(PLACE_VM, "a", &d, NULL), -ENOENT);
	end(kid(&w->vm.proc.dir, w, true, "a", QUOTA, NULL));
}

static unsigned long open_files(void)
{
	DIR *list = opendir("/proc/self/fd");
	unsigned long n = 0;

	assert_non_null(list);
	while (readdir(list))
		n++;
	closedir(list);
	return n;
}

static void test_shares__one_that_is_not_its_sources_is_not_let_live(void **state)
{
	unsigned long before = open_files();
	struct world *w = *state;
	struct fork_child_info c = { .name = "a" };
	struct vmproc not_it = w->vm.proc;
	struct err e;

	not_it.pid = getpid();
	note_pid(&not_it);
	assert_int_equal(fork_one(&w->vm.proc.dir, true, json_object_get(w->vm.info, "disks"),
				  QUOTA, NULL, &c, &e),
			 -ECHILD);
	assert_string_equal(e.msg, "memory quota: its process is no child of its source's");
	assert_int_equal(open_files(), before);
	cgroup_model_assert_left("0\n");
	assert_int_equal(vmdir_open(PLACE_VM, "a", &(struct vmdir){ 0 }, NULL), -ENOENT);
	must_run("parent");
}

/* Its one event when it has happened n times. */
static void assert_event(const char *vm, json_int_t n)
{
	uint64_t until = time_mono_ns() + TINY_MS * NS_PER_MS;
	const char *kind, *device, *detail;
	json_int_t count = -1;

	for (;;) {
		cleanup_json json_t *reply = NULL;
		json_t *list;

		assert_true(time_mono_ns() < until);
		assert_int_equal(tiny_vm_get(vm, "/events", &reply, NULL), 0);
		list = json_object_get(reply, "events");
		if (!json_array_size(list)) {
			usleep(1000);
			continue;
		}
		assert_int_equal(json_array_size(list), 1);
		assert_int_equal(json_unpack(json_array_get(list, 0), "{s:s, s:s, s:s, s:I}",
					     "kind", &kind, "device", &device, "detail", &detail,
					     "count", &count),
				 0);
		assert_string_equal(kind, "memory-quota");
		assert_string_equal(device, vm);
		assert_string_equal(
			detail,
			"a is at its memory quota of 64 MiB: it is slowed down, then ended");
		assert_true(count <= n);
		if (count == n)
			return;
		usleep(1000);
	}
}

static void say(const char *events)
{
	assert_int_equal(sethostname(events, strlen(events)), 0);
}

static void test_shares__being_slowed_down_is_an_event_with_its_name(void **state)
{
	cleanup_json json_t *reply = NULL;
	struct world *w = *state;
	struct fork_child_info *a;

	if (geteuid() != 0)
		skip();
	say("high 0");
	a = kid(&w->vm.proc.dir, w, true, "a", QUOTA, NULL);
	say("max 7");
	usleep(50000);
	assert_int_equal(tiny_vm_get("a", "/events", &reply, NULL), 0);
	assert_int_equal(json_array_size(json_object_get(reply, "events")), 0);
	say("high 1");
	assert_event("a", 1);
	/* two while it does not look are one */
	kill(pid_of(a), SIGSTOP);
	free(scratch_sh("until grep -q '^State:.T' /proc/%d/status; do sleep 0.01; done",
			(int)pid_of(a)));
	say("high 30");
	say("high 31");
	kill(pid_of(a), SIGCONT);
	assert_event("a", 2);
	must_run("a");
	end(a);
}

static void test_shares__a_new_process_is_put_in_before_it_is_a_vm(void **state)
{
	cleanup_json json_t *info = info_of(QUOTA, "dom");
	char pid[24], domain[80];
	struct vmproc p;
	struct err e;

	(void)state;
	if (vmproc_start(PLACE_VM, "new", 0, -1, &p, &e) || shares_apply(&p, info, &e))
		fail_msg("%s", e.msg);
	snprintf(pid, sizeof(pid), "%d", p.pid);
	assert_in_group("new", "cgroup.procs", pid);
	assert_in_group("new", "memory.max", "84410368");
	assert_int_equal(config_of("new", "quota_bytes"), QUOTA);
	assert_true(ksm_holder(domain, sizeof(domain)));
	assert_string_equal(domain, "dom");
	vmproc_abort(&p);
	cgroup_model_assert_left("0\n");
	assert_false(ksm_holder(domain, sizeof(domain)));
}

/* What is said when it is dead and the kernel's count was this. */
static void end_text(struct world *w, const char *events, char *why, size_t n)
{
	struct fork_child_info *c = kid(&w->vm.proc.dir, w, true, "a", QUOTA, NULL);
	struct vmdir d = dir_of("a");
	char path[PATH_MAX], again[300];

	assert_true(group_path(&d, path));
	scratch_text(path, "memory.events.local", events);
	kill_it(c);
	vmdir_end_text(&d, why, n);
	cgroup_model_assert_left("0\n");
	/* and once more, when the group is long gone */
	vmdir_end_text(&d, again, sizeof(again));
	assert_string_equal(again, why);
	vmdir_close(&d);
	end(c);
}

static void test_shares__an_end_by_the_quota_is_said_by_name(void **state)
{
	char why[300];

	end_text(*state, "high 7\nmax 3\noom 1\noom_kill 2\n", why, sizeof(why));
	assert_string_equal(why, "killed by its memory quota (a, 64M)");
	end_text(*state, "high 7\nmax 0\noom 0\noom_kill 2\n", why, sizeof(why));
	assert_string_equal(why, "killed because the host, or the group that VMs are in, was out "
				 "of memory (a was within its quota of 64M)");
	end_text(*state, "high 7\nmax 3\noom 1\noom_kill 0\n", why, sizeof(why));
	assert_memory_equal(why, "it was killed", 13);
}

static void test_shares__one_without_a_quota_was_not_within_it(void **state)
{
	struct world *w = *state;
	struct fork_child_info *a = kid(&w->vm.proc.dir, w, true, "a", QUOTA, NULL), *c;
	struct vmdir of_a = dir_of("a"), d;
	char path[PATH_MAX], why[300];

	c = kid(&of_a, w, true, "free", 0, NULL);
	d = dir_of("free");
	assert_true(group_path(&d, path));
	scratch_text(path, "memory.events.local", "oom 0\noom_kill 2\n");
	kill_it(c);
	vmdir_end_text(&d, why, sizeof(why));
	assert_string_equal(why, "killed because the host, or the group that VMs are in, was out "
				 "of memory (free has no quota)");
	vmdir_close(&d);
	vmdir_close(&of_a);
	end(c);
	end(a);
}

static void test_shares__what_nobody_was_there_to_remove_is_swept(void **state)
{
	struct world *w = *state;
	struct fork_child_info *c = kid(&w->vm.proc.dir, w, true, "a", QUOTA, NULL);
	char path[PATH_MAX], why[300];
	struct vmdir d, half;
	int events = -1;
	struct err e;

	/* a living one's stays */
	state_sweep();
	cgroup_model_assert_left("1\n");
	d = dir_of("a");
	assert_true(group_path(&d, path));
	scratch_text(path, "memory.events.local", "oom 1\noom_kill 1\n");
	kill_it(c);
	state_sweep();
	cgroup_model_assert_left("0\n");
	vmdir_end_text(&d, why, sizeof(why));
	assert_string_equal(why, "killed by its memory quota (a, 64M)");
	vmdir_close(&d);
	end(c);
	/* its maker died half-way */
	assert_int_equal(vmdir_create(PLACE_VM, "half", 0, &half, &e), 0);
	assert_int_equal(group_make(&half, QUOTA, QUOTA, &events, &e), 0);
	close(events);
	state_sweep();
	cgroup_model_assert_left("1\n");
	vmdir_close(&half);
	state_sweep();
	cgroup_model_assert_left("0\n");
	assert_int_equal(vmdir_open(PLACE_VM, "half", &half, NULL), -ENOENT);
}

static void test_shares__only_what_is_ours_is_removed(void **state)
{
	struct world *w = *state;
	char path[PATH_MAX];
	struct vmdir d;
	struct err e;

	assert_int_equal(vmdir_create(PLACE_VM, "x", 0, &d, &e), 0);
	snprintf(path, sizeof(path), "%s/cg/tenant", w->dir);
	mkdir(path, 0755);
	assert_int_equal(symlinkat(path, d.fd, "group"), 0);
	assert_false(group_path(&d, path));
	assert_int_equal(unlinkat(d.fd, "group", 0), 0);
	assert_int_equal(symlinkat("clone-x", d.fd, "group"), 0);
	assert_false(group_path(&d, path));
	close(take_fd(&d.lock_fd));
	assert_int_equal(vmdir_remove(&d, &e), 0);
	vmdir_close(&d);
	assert_int_equal(access(scratch_path(w->dir, "cg/tenant"), F_OK), 0);
}

static void test_shares__without_groups_a_quota_is_refused_and_nothing_made(void **state)
{
	struct world *w = *state;
	struct fork_child_info c = { .name = "a" };
	struct err e;

	scratch_text(scratch_path(w->dir, "cg"), "cgroup.controllers", "cpu\n");
	assert_int_equal(fork_one(&w->vm.proc.dir, true, json_object_get(w->vm.info, "disks"),
				  QUOTA, NULL, &c, &e),
			 -ECHILD);
	assert_non_null(strstr(e.msg, "memory quota: cgroup v2 at"));
	assert_int_equal(vmdir_open(PLACE_VM, "a", &(struct vmdir){ 0 }, NULL), -ENOENT);
	must_run("parent");
	/* without one it runs as ever */
	end(kid(&w->vm.proc.dir, w, true, "a", 0, NULL));
}

/* The exit code of `clone fork parent --memory-quota 64M`, with a command or not, and what it says.
 */
static int fork_command(bool command, char *said, size_t n)
{
	char *argv[] = { "fork", "parent", "--memory-quota", "64M", "--", "true", NULL };
	int out[2], status;
	ssize_t got;
	pid_t pid;

	assert_int_equal(pipe(out), 0);
	pid = fork();
	if (!pid) {
		dup2(out[1], STDERR_FILENO);
		optind = 1;
		_exit(cmd_fork(command ? 6 : 4, argv));
	}
	close(out[1]);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	got = read(out[0], said, n - 1);
	close(out[0]);
	said[MAX(got, 0)] = '\0';
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void test_shares__without_groups_a_command_is_not_what_failed(void **state)
{
	struct world *w = *state;
	char said[600];

	scratch_text(scratch_path(w->dir, "cg"), "cgroup.controllers", "cpu\n");
	assert_int_equal(fork_command(false, said, sizeof(said)), CLI_FAIL);
	assert_int_equal(fork_command(true, said, sizeof(said)), CLI_EXEC_FAILED);
	assert_memory_equal(said, "clone: --memory-quota: cgroup v2 at ", 36);
	assert_ptr_equal(strchr(said, '\n'), said + strlen(said) - 1);
}

static void test_ksm__one_domain_has_it_until_its_last_share_is_gone(void **state)
{
	char domain[80];
	struct err e;
	int a, again;

	(void)state;
	assert_false(ksm_holder(domain, sizeof(domain)));
	a = ksm_claim("payroll", &e);
	again = ksm_claim("payroll", &e);
	assert_true(a >= 0 && again >= 0);
	assert_int_equal(ksm_claim("pay", &e), -EBUSY);
	assert_non_null(strstr(e.msg, "KSM is in use by the trust domain payroll,"));
	close(a);
	assert_int_equal(ksm_claim("tenant-b", &e), -EBUSY);
	assert_true(ksm_holder(domain, sizeof(domain)));
	assert_string_equal(domain, "payroll");
	close(again);
	assert_false(ksm_holder(domain, sizeof(domain)));
	/* a shorter name: nothing of the longer one is left */
	a = ksm_claim("b", &e);
	assert_true(a >= 0 && ksm_holder(domain, sizeof(domain)));
	assert_string_equal(domain, "b");
	close(a);
	assert_int_equal(ksm_claim("../b", &e), -EINVAL);
}

static void test_ksm__what_the_kernel_lacks_is_said(void **state)
{
	struct world *w = *state;
	char warning[200];
	struct err e;

	assert_int_equal(ksm_there(w->dir, warning, sizeof(warning), &e), -EOPNOTSUPP);
	scratch_text(w->dir, "run", "1\n");
	assert_int_equal(ksm_there(w->dir, warning, sizeof(warning), &e), 0);
	assert_string_equal(warning, "");
	scratch_text(w->dir, "run", "0\n");
	assert_int_equal(ksm_there(w->dir, warning, sizeof(warning), &e), 0);
	assert_non_null(strstr(warning, "KSM is off on this host"));
	assert_non_null(strstr(warning, "echo 1 > "));
	scratch_text(w->dir, "run", "2\n"); /* unmerges all */
	assert_int_equal(ksm_there(w->dir, warning, sizeof(warning), &e), 0);
	assert_non_null(strstr(warning, "off"));
}

/* Mappings of a process that KSM may look at ("mg" of its smaps). */
static unsigned long mergeable(const struct fork_child_info *c)
{
	char *text = scratch_sh("grep -c '^VmFlags:.* mg\\b' /proc/%d/smaps || true", pid_of(c));
	unsigned long n = strtoul(text, NULL, 10);

	free(text);
	return n;
}

static void test_ksm__only_who_has_a_share_is_merged(void **state)
{
	struct world *w = *state;
	struct fork_child_info *a, *b, *plain;
	struct fork_child_info other = { .name = "other" };
	struct vmdir d;
	char domain[80];
	struct err e;

	if (access(KSM_DIR, F_OK))
		skip();
	a = kid(&w->vm.proc.dir, w, true, "a", 0, "dom");
	d = dir_of("a");
	assert_true(mergeable(a) > 0);
	assert_true(config_of("a", "mergeable"));
	/* another domain's is refused, and leaves nothing */
	assert_int_equal(
		fork_one(&d, true, json_object_get(w->vm.info, "disks"), 0, "evil", &other, &e),
		-EBUSY);
	assert_non_null(strstr(e.msg, "the trust domain dom,"));
	assert_int_equal(vmdir_open(PLACE_VM, "other", &(struct vmdir){ 0 }, NULL), -ENOENT);
	/* a fork has its parent's mappings: with a share of its own, or not to be merged */
	b = kid(&d, w, true, "b", 0, "dom");
	plain = kid(&d, w, true, "plain", 0, NULL);
	vmdir_close(&d);
	assert_true(mergeable(b) > 0);
	assert_int_equal(mergeable(plain), 0);
	assert_false(config_of("plain", "mergeable"));
	must_run("a");
	must_run("b");
	must_run("plain");
	end(a);
	assert_true(ksm_holder(domain, sizeof(domain)));
	end(b);
	for (uint64_t until = time_mono_ns() + 60 * NS_PER_SEC; ksm_holder(domain, sizeof(domain));
	     usleep(2000)) /* its last descriptors */
		assert_true(time_mono_ns() < until);
	must_run("plain");
	end(plain);
}

/* Whoever has KSM: the machine that a template is made of is never merged, its domain recorded. */
static void test_ksm__a_template_is_made_of_a_machine_without_a_share(void **state)
{
	struct world *w = *state;
	cleanup_json json_t *source = info_of(0, "dom"), *info = NULL, *made = NULL;
	struct vmproc p = { .pidfd = -1, .fdsock = -1 };
	cleanup_free struct template *t = calloc(2, sizeof(*t));
	struct template_from from = { .source = "parent",
				      .timeout_ms = TINY_MS,
				      .p = &p,
				      .t = t,
				      .base = t + 1,
				      .info = &info };
	char domain[80];
	struct err e;
	int claim = ksm_claim("other", &e);

	assert_true(claim >= 0);
	setenv("CLONE_STATE_DIR", scratch_path(w->dir, "state.d"), 1);
	json_object_set_new(source, "name", json_string("parent"));
	json_object_set(source, "disks", json_object_get(w->vm.info, "disks"));
	procid_note(source, w->vm.proc.pid);
	assert_int_equal(vmdir_rewrite(&w->vm.proc.dir, source, &e), 0);
	vmdir_init(&p.dir);
	if (template_from(&from, -1, &e))
		fail_msg("%s", e.msg);
	assert_string_equal(json_string_value(json_object_get(info, "ksm")), "dom");
	assert_int_equal(vmdir_info(&p.dir, &made, &e), 0);
	assert_null(json_object_get(made, "ksm"));
	assert_false(config_of(p.dir.name, "mergeable"));
	must_run(p.dir.name);
	vmproc_abort(&p);
	/* nor did it hold one of the other's */
	close(claim);
	assert_false(ksm_holder(domain, sizeof(domain)));
}

static void test_shares__options_are_noted_over_what_was_there(void **state)
{
	struct shares s = { .ksm = NULL };
	json_t *info = info_of(MIB(32), NULL);
	struct err e;

	(void)state;
	assert_int_equal(shares_option(&s, 'x', "", &e), -ENOSYS);
	assert_int_equal(shares_note(&s, info, &e), 0);
	assert_int_equal(shares_quota(info), MIB(32));
	assert_int_equal(shares_option(&s, O_SHARES_QUOTA, "1G", &e), 0);
	assert_int_equal(shares_note(&s, info, &e), 0);
	assert_int_equal(shares_quota(info), GIB(1));
	assert_int_equal(shares_option(&s, O_SHARES_QUOTA, "none", &e), 0);
	assert_int_equal(shares_option(&s, O_SHARES_KSM, "none", &e), 0);
	json_object_set_new(info, "ksm", json_string("dom"));
	assert_int_equal(shares_note(&s, info, &e), 0);
	assert_int_equal(shares_quota(info), 0);
	assert_null(json_object_get(info, "ksm"));
	assert_int_equal(shares_option(&s, O_SHARES_QUOTA, "15M", &e), -EINVAL);
	assert_non_null(strstr(e.msg, "less than 16M"));
	assert_int_equal(shares_option(&s, O_SHARES_QUOTA, "many", &e), -EINVAL);
	assert_int_equal(shares_option(&s, O_SHARES_KSM, "a/b", &e), -EINVAL);
	json_decref(info);
}

static int make_world(void **state)
{
	struct world *w = calloc(1, sizeof(*w));
	int kernel = tiny_kernel_counter();
	struct err e;

	w->dir = scratch_make();
	setenv("CLONE_RUN_DIR", scratch_path(w->dir, "run.d"), 1);
	cgroup_model_mount(w->dir);
	cgroup_model_dies = true;
	if (tiny_files_make(w->dir, &w->snapshot, &e) ||
	    tiny_vm_start("parent", kernel, w->snapshot.base, &w->vm, &e)) {
		fprintf(stderr, "%s\n", e.msg);
		return -1;
	}
	close(kernel);
	note_pid(&w->vm.proc);
	*state = w;
	return 0;
}

static int end_world(void **state)
{
	struct world *w = *state;

	tiny_seed_end(&w->vm);
	tiny_snapshot_close(&w->snapshot);
	cgroup_model_umount();
	scratch_remove(w->dir);
	free(w);
	return 0;
}

#define CASE(fn) cmocka_unit_test_setup_teardown(fn, make_world, end_world)

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		CASE(test_shares__a_fork_is_in_a_group_of_its_own),
		CASE(test_shares__a_fork_leaves_its_parents_group),
		CASE(test_shares__a_spare_joins_when_it_is_somebody),
		CASE(test_shares__nothing_that_moves_processes_is_passed_to_a_vm),
		CASE(test_shares__who_put_it_in_died_so_it_ends_at_its_gate),
		CASE(test_shares__one_that_is_not_its_sources_is_not_let_live),
		CASE(test_shares__being_slowed_down_is_an_event_with_its_name),
		CASE(test_shares__a_new_process_is_put_in_before_it_is_a_vm),
		CASE(test_shares__an_end_by_the_quota_is_said_by_name),
		CASE(test_shares__one_without_a_quota_was_not_within_it),
		CASE(test_shares__what_nobody_was_there_to_remove_is_swept),
		CASE(test_shares__only_what_is_ours_is_removed),
		CASE(test_shares__without_groups_a_quota_is_refused_and_nothing_made),
		CASE(test_shares__without_groups_a_command_is_not_what_failed),
		CASE(test_shares__options_are_noted_over_what_was_there),
		CASE(test_ksm__one_domain_has_it_until_its_last_share_is_gone),
		CASE(test_ksm__what_the_kernel_lacks_is_said),
		CASE(test_ksm__only_who_has_a_share_is_merged),
		CASE(test_ksm__a_template_is_made_of_a_machine_without_a_share),
	};

	if (argc >= 3 && !strcmp(argv[1], "vm"))
		return vm_process_main(argc - 1, argv + 1);
	/* the host's name is what the model's kernel says */
	if (geteuid() == 0 && unshare(CLONE_NEWUTS))
		return 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
