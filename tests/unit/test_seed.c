/* SPDX-License-Identifier: MIT */
/*
 * A seed and its spare children (src/fork/spare.c): real processes, jailed, with real KVM and a
 * guest of a few instructions. As root, since a seed gives each child a uid of its own. This
 * program is its own VM process, and the reaper of what a dead seed leaves: it sees how spares
 * exit. Long, because all of it needs the same seed, its sockets and this reaper.
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
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/time.h"
#include "base/util.h"
#include "control/client.h"
#include "control/json.h"
#include "snapshot/snapshot.h"
#include "tests/lib/must.h"
#include "tests/lib/scratch.h"
#include "tests/lib/tiny_seed.h"
#include "vm/vm.h"

#define LIMIT_NS (120 * NS_PER_SEC)
#define PIDS_MAX (VM_SPARES_MAX + 16)
#define SEEDS_MAX 2
#define NOT_A_SEED "spares, huge_pages and working_set are a seed's"

struct world {
	struct tiny_snapshot snapshot;
	char *dir; /* this test's run directory */
	struct tiny_seed seed[SEEDS_MAX];
	size_t nseeds;
};

/* Pids of processes that have not ended. */
struct pids {
	pid_t v[PIDS_MAX];
	size_t n;
};

struct child {
	char name[65];
	pid_t pid;
	bool spare; /* was one, before its fork was asked for */
};

static uint64_t limit(void)
{
	return time_mono_ns() + LIMIT_NS;
}

/* A turn of waiting for what must come at last. */
static void turn(uint64_t until, const char *what)
{
	if (time_mono_ns() > until)
		fail_msg("%s: not in %llu s", what, LIMIT_NS / NS_PER_SEC);
	usleep(5000);
}

/* ---- processes ---- */

static bool has(const struct pids *p, pid_t pid)
{
	for (size_t i = 0; i < p->n; i++)
		if (p->v[i] == pid)
			return true;
	return false;
}

/* Ended, as a zombie too: its descriptors are closed then. */
static bool has_ended(int pidfd, uint64_t wait_ns)
{
	struct pollfd pfd = { .fd = pidfd, .events = POLLIN };

	assert_true(pidfd >= 0);
	return poll(&pfd, 1, (int)(wait_ns / NS_PER_MS)) == 1;
}

static void kill_and_wait(pid_t pid)
{
	int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);

	assert_int_equal(kill(pid, SIGKILL), 0);
	assert_true(has_ended(pidfd, LIMIT_NS));
	close(pidfd);
}

/* ---- seeds and children ---- */

static struct tiny_seed *start_seed(struct world *w, const char *name, unsigned int spares)
{
	struct tiny_seed *seed = &w->seed[w->nseeds];
	struct err e;

	assert_true(w->nseeds < SEEDS_MAX);
	if (tiny_seed_start(name, &w->snapshot, spares, true, seed, &e))
		fail_msg("%s", e.msg);
	w->nseeds++;
	return seed;
}

/* c[i].name is theirs; what was a spare is told by `before`. */
static void fork_children(const struct tiny_seed *seed, struct child *c, size_t n,
			  const struct pids *before)
{
	struct fork_child_info info[8] = { 0 };
	struct err e;

	assert_true(n <= ARRAY_SIZE(info));
	for (size_t i = 0; i < n; i++)
		snprintf(info[i].name, sizeof(info[i].name), "%s", c[i].name);
	if (tiny_seed_fork(seed, info, n, &e))
		fail_msg("%s", e.msg);
	for (size_t i = 0; i < n; i++) {
		c[i].pid = (pid_t)json_integer_value(json_object_get(info[i].clocks, "pid"));
		c[i].spare = before && has(before, c[i].pid);
		json_decref(info[i].clocks);
		assert_true(c[i].pid > 0);
	}
}

/* The seed's children that are nobody yet: they are not among c. */
static struct pids spares_of(const struct tiny_seed *seed, const struct child *c, size_t n)
{
	struct pids p = { .n = 0 };
	pid_t all[PIDS_MAX];
	size_t nall = tiny_children(seed->proc.pid, all, PIDS_MAX);

	for (size_t i = 0, k; i < nall; i++) {
		for (k = 0; k < n && c[k].pid != all[i]; k++)
			;
		if (k == n)
			p.v[p.n++] = all[i];
	}
	return p;
}

static struct pids wait_spares(const struct tiny_seed *seed, const struct child *c, size_t n,
			       size_t want)
{
	uint64_t until = limit();

	for (;;) {
		struct pids p = spares_of(seed, c, n);

		assert_true(p.n <= want); /* never more than was asked for */
		if (p.n == want)
			return p;
		assert_false(has_ended(seed->proc.pidfd, 0));
		turn(until, "spares");
	}
}

static json_t *get(const char *name, const char *path)
{
	json_t *reply = NULL;
	struct err e;

	if (tiny_vm_get(name, path, &reply, &e))
		fail_msg("%s: %s", name, e.msg);
	return reply;
}

static json_int_t exits(const char *name)
{
	cleanup_json json_t *reply = get(name, "/stats");
	json_t *total = json_object_get(json_object_get(reply, "vm"), "exits_total");

	assert_true(json_is_integer(total));
	return json_integer_value(total);
}

/* Its guest runs: each turn of its loop is an exit. It has looked at each page of its block then.
 */
static void assert_progress(const struct child *c, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		uint64_t until = limit();
		json_int_t first = exits(c[i].name);

		while (exits(c[i].name) <= first + TINY_BLOCK_PAGES)
			turn(until, c[i].name);
	}
}

/* Names four children, and makes the one from which on the seed keeps spares. */
static void fork_first(const struct tiny_seed *seed, struct child c[4])
{
	memset(c, 0, 4 * sizeof(*c));
	for (int i = 0; i < 4; i++)
		snprintf(c[i].name, sizeof(c[i].name), "c%d", i);
	fork_children(seed, c, 1, NULL);
}

/* A child of no spare, then three of two spares and a fork(2): what most tests look at. */
static struct tiny_seed *make_family(struct world *w, struct child c[4])
{
	struct tiny_seed *seed = start_seed(w, "seed", 2);
	struct pids p;

	fork_first(seed, c);
	p = wait_spares(seed, c, 1, 2);
	fork_children(seed, c + 1, 3, &p);
	return seed;
}

/* ---- what a child is made of ---- */

/* What its descriptors are, without digits: inodes, and what tells the children's names apart. */
static char *kinds_of_fds(pid_t pid)
{
	return scratch_sh("cd /proc/%d/fd; for f in *; do readlink $f; done | tr -d 0-9 | sort",
			  pid);
}

/* What is closed a moment after a child's report evens out; what leaked does not. */
static void assert_same_fds(pid_t a, pid_t b)
{
	for (uint64_t until = limit();; usleep(20000)) {
		cleanup_free char *of_a = kinds_of_fds(a), *of_b = kinds_of_fds(b);

		assert_true(strlen(of_a) > 0);
		if (!strcmp(of_a, of_b))
			return;
		if (time_mono_ns() > until)
			assert_string_equal(of_a, of_b);
	}
}

/* All threads: to the kernel, ids and capabilities are a thread's. */
static void assert_jailed(pid_t pid, unsigned int uid)
{
	/* newer kernels show a thread of KVM's own among ours, with the credentials of the first
	 * KVM_RUN; it never leaves the kernel */
	cleanup_free char *is =
		scratch_sh("for t in /proc/%d/task/*; do grep -q ^kvm- $t/comm || cat $t/status; "
			   "done | grep -E '^(Uid|Gid|CapEff|CapPrm|Seccomp):' | sort -u",
			   pid);
	char want[300];

	snprintf(want, sizeof(want),
		 "CapEff:\t0000000000000000\nCapPrm:\t0000000000000000\nGid:\t%u\t%u\t%u\t%u\n"
		 "Seccomp:\t2\nUid:\t%u\t%u\t%u\t%u\n",
		 uid, uid, uid, uid, uid, uid, uid, uid);
	assert_string_equal(is, want);
}

/* Its own directory: the one that was made for its name. */
static void assert_rooted(pid_t pid, const struct vmdir *d)
{
	struct stat own, root;
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/root", pid);
	assert_int_equal(fstat(d->fd, &own), 0);
	assert_int_equal(stat(path, &root), 0);
	assert_true(own.st_ino == root.st_ino && own.st_dev == root.st_dev);
}

/* ---- tests ---- */

static void test_spare__forks_take_spares_before_fork2(void **state)
{
	struct child c[4];
	struct tiny_seed *seed = make_family(*state, c);

	assert_int_equal(c[1].spare + c[2].spare + c[3].spare, 2);
	assert_progress(c, 4);
	wait_spares(seed, c, 4, 2); /* and it makes two again */
}

static void test_spare__child_is_jailed_like_a_forked_one(void **state)
{
	struct child c[4];
	struct vmdir d[4];

	make_family(*state, c);
	for (int i = 0; i < 4; i++) {
		assert_int_equal(vmdir_open(PLACE_VM, c[i].name, &d[i], NULL), 0);
		assert_true(d[i].uid >= UID_FIRST);
		for (int k = 0; k < i; k++)
			assert_int_not_equal(d[i].uid, d[k].uid);
		assert_jailed(c[i].pid, d[i].uid);
		assert_rooted(c[i].pid, &d[i]);
	}
	/* the first was forked while the seed still held the RAM file, the others among spares */
	for (int i = 1; i < 4; i++)
		assert_same_fds(c[0].pid, c[i].pid);
	for (int i = 0; i < 4; i++)
		vmdir_close(&d[i]);
}

static void test_spare__siblings_share_no_identity(void **state)
{
	static const char *const own[] = { "name", "hostname", "generation", "machine_id" };
	const char *is[4][ARRAY_SIZE(own)];
	struct child c[4];
	json_t *id[4];

	make_family(*state, c);
	for (int i = 0; i < 4; i++) {
		id[i] = get(c[i].name, "/identity");
		for (size_t f = 0; f < ARRAY_SIZE(own); f++) {
			is[i][f] = json_string_value(json_object_get(id[i], own[f]));
			for (int k = 0; k < i; k++)
				assert_string_not_equal(is[i][f], is[k][f]);
		}
		assert_string_equal(is[i][0], c[i].name);
	}
	for (int i = 0; i < 4; i++)
		json_decref(id[i]);
}

static void put_policy(struct tiny_seed *seed, const char *mode, int idle_s)
{
	cleanup_json json_t *body = json_pack("{s:s, s:i}", "mode", mode, "idle_s", idle_s);
	struct err e;

	must(vmproc_request(&seed->proc, "PUT", "/balloon/policy", body, TINY_MS, NULL, &e), &e);
}

static void assert_policy(const char *name, const char *mode, int idle_s)
{
	cleanup_json json_t *is = get(name, "/balloon/policy");

	assert_string_equal(json_string_value(json_object_get(is, "mode")), mode);
	assert_int_equal(json_integer_value(json_object_get(is, "idle_s")), idle_s);
}

/* Which may have changed since the spare was forked, either way. */
static void test_spare__child_has_the_policy_that_its_seed_has_now(void **state)
{
	struct tiny_seed *seed = start_seed(*state, "seed", 1);
	struct child c[4];
	struct pids p;

	fork_first(seed, c);
	p = wait_spares(seed, c, 1, 1);
	put_policy(seed, "auto", 7);
	fork_children(seed, c + 1, 1, &p);
	assert_true(c[1].spare);
	assert_policy("c1", "auto", 7);
	p = wait_spares(seed, c, 2, 1);
	put_policy(seed, "manual", 9);
	fork_children(seed, c + 2, 1, &p);
	assert_true(c[2].spare);
	assert_policy("c2", "manual", 9);
	assert_policy("c1", "auto", 7);
	assert_policy("c0", "manual", 30);
}

static void test_spare__ends_with_its_seed_and_children_do_not(void **state)
{
	struct child c[4];
	struct tiny_seed *seed = make_family(*state, c);
	struct pids p = wait_spares(seed, c, 4, 2);
	int pidfd[2], st;

	for (int i = 0; i < 2; i++)
		pidfd[i] = (int)syscall(SYS_pidfd_open, p.v[i], 0);
	kill_and_wait(seed->proc.pid);
	for (int i = 0; i < 2; i++) {
		assert_true(has_ended(pidfd[i], LIMIT_NS));
		close(pidfd[i]);
		/* of its own will: it did not crash */
		assert_int_equal(waitpid(p.v[i], &st, 0), p.v[i]);
		assert_true(WIFEXITED(st));
		assert_int_equal(WEXITSTATUS(st), VM_END_KILLED);
	}
	assert_progress(c, 4);
}

static void test_spare__dead_one_is_not_used(void **state)
{
	struct tiny_seed *seed = start_seed(*state, "seed", 2);
	struct child c[4];
	struct pids p;

	fork_first(seed, c);
	p = wait_spares(seed, c, 1, 2);
	kill_and_wait(p.v[0]);
	fork_children(seed, c + 1, 2, &p);
	assert_int_equal(c[1].spare + c[2].spare, 1);
	assert_true(c[1].pid == p.v[1] || c[2].pid == p.v[1]);
	p = wait_spares(seed, c, 3, 2);
	/* none is left: fork(2) */
	kill_and_wait(p.v[0]);
	kill_and_wait(p.v[1]);
	fork_children(seed, c + 3, 1, &p);
	assert_false(c[3].spare);
	assert_progress(c, 4);
	wait_spares(seed, c, 4, 2);
}

/* Has the seed find a request first, then the death of a spare (0: of none). The answer's child. */
static json_t *fork_past_a_death(const struct tiny_seed *seed, pid_t spare)
{
	static const char body[] = "{\"children\":[{\"name\":\"nobody\"}]}";
	struct pollfd pfd = { .events = POLLIN };
	char answer[2048], *at = NULL;
	json_t *reply = NULL, *child;
	struct client *c;
	size_t n = 0;
	struct err e;
	int st;

	/* a request on a new connection would come a turn of the loop later */
	assert_int_equal(client_open(seed->proc.dir.fd, &c, &e), 0);
	assert_int_equal(client_request(c, "GET", "/", NULL, TINY_MS, &reply, &e), 0);
	json_decref(reply);
	pfd.fd = client_fd(c);
	kill(seed->proc.pid, SIGSTOP);
	assert_int_equal(waitpid(seed->proc.pid, &st, WUNTRACED), seed->proc.pid);
	dprintf(pfd.fd, "PUT /fork HTTP/1.1\r\nContent-Length: %zu\r\n\r\n%s", strlen(body), body);
	if (spare)
		kill_and_wait(spare);
	kill(seed->proc.pid, SIGCONT);
	while (!at || !(reply = json_loads(at + 4, 0, NULL))) {
		assert_int_equal(poll(&pfd, 1, (int)(LIMIT_NS / NS_PER_MS)), 1);
		st = (int)read(pfd.fd, answer + n, sizeof(answer) - 1 - n);
		assert_true(st > 0);
		n += (size_t)st;
		answer[n] = '\0';
		at = strstr(answer, "\r\n\r\n");
	}
	client_close(c);
	child = json_incref(json_array_get(json_object_get(reply, "children"), 0));
	json_decref(reply);
	return child;
}

static void test_spare__death_on_the_way_is_no_childs_death(void **state)
{
	struct tiny_seed *seed = start_seed(*state, "seed", 2);
	json_t *past, *none;
	struct child c[4];
	struct pids p;

	fork_first(seed, c);
	p = wait_spares(seed, c, 1, 2);
	/* Whoever is the child has no descriptors and says so. The younger spare is taken first. */
	past = fork_past_a_death(seed, p.v[1]);
	none = fork_past_a_death(seed, 0);
	assert_int_equal(json_integer_value(json_object_get(past, "pid")), p.v[0]);
	assert_string_equal(json_string_value(json_object_get(past, "error")),
			    json_string_value(json_object_get(none, "error")));
	json_decref(past);
	json_decref(none);
	fork_children(seed, c + 1, 1, NULL);
	assert_progress(c, 2);
	wait_spares(seed, c, 2, 2);
}

/* How much of a process's memory is the RAM file, mapped. */
static uint64_t mapped_bytes(pid_t pid, int file)
{
	unsigned long long from, to, inode;
	cleanup_free char *maps = scratch_sh("cat /proc/%d/maps", pid);
	uint64_t sum = 0;
	struct stat st;

	assert_int_equal(fstat(file, &st), 0);
	for (char *line = strtok(maps, "\n"); line; line = strtok(NULL, "\n"))
		if (sscanf(line, "%llx-%llx %*s %*s %*s %llu", &from, &to, &inode) == 3 &&
		    inode == st.st_ino)
			sum += to - from;
	return sum;
}

static void test_seed__children_share_the_huge_pages_it_made(void **state)
{
	struct world *w = *state;
	struct child c[4];
	struct tiny_seed *seed = make_family(w, c);
	uint64_t before = mapped_bytes(c[0].pid, w->snapshot.ram);

	/* the first was forked before the seed was idle; spares come after huge pages */
	assert_true(before >= TINY_BLOCK_BYTES);
	assert_int_equal(mapped_bytes(seed->proc.pid, w->snapshot.ram), before - TINY_BLOCK_BYTES);
	for (int i = 1; i < 4; i++)
		assert_int_equal(mapped_bytes(c[i].pid, w->snapshot.ram),
				 before - TINY_BLOCK_BYTES);
	assert_progress(c, 4); /* their guests look at what is in them */
}

static void test_seed__of_no_spares_keeps_none(void **state)
{
	struct tiny_seed *none = start_seed(*state, "none", 0), *two = start_seed(*state, "two", 2);
	struct child of_none = { .name = "c0" }, of_two = { .name = "c1" };

	/* when the seed that was forked later has its spares, the time for them was there */
	fork_children(none, &of_none, 1, NULL);
	fork_children(two, &of_two, 1, NULL);
	wait_spares(two, &of_two, 1, 2);
	assert_int_equal(spares_of(none, &of_none, 1).n, 0);
	assert_progress(&of_none, 1);
}

static void test_seed__bad_requests_are_refused_by_name(void **state)
{
	static const struct {
		const char *body, *fault;
	} bad[] = {
		{ "{\"spares\":1}", NOT_A_SEED },
		{ "{\"spares\":1,\"seed\":false}", NOT_A_SEED },
		{ "{\"huge_pages\":true}", NOT_A_SEED },
		{ "{\"huge_pages\":true,\"resume_vm\":true}", NOT_A_SEED },
		{ "{\"spares\":65,\"seed\":true}", "spares: 65 is not in 0..64" },
		{ "{\"spares\":-1,\"seed\":true}", "spares: -1 is not in 0..64" },
		{ "{\"spares\":\"2\",\"seed\":true}", "spares: must be a whole number" },
		{ "{\"huge_pages\":1,\"seed\":true}", "huge_pages: must be true or false" },
	};
	struct world *w = *state;
	struct tiny_seed *seed = &w->seed[0];
	struct child c = { .name = "c0" };
	struct err e;

	if (tiny_seed_open("seed", seed, &e))
		fail_msg("%s", e.msg);
	w->nseeds++;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		cleanup_json json_t *body =
			json_pack("{s:s, s:{s:s, s:s}}", "snapshot_path", "state", "mem_backend",
				  "backend_type", "File", "backend_path", "ram");
		cleanup_json json_t *more = json_loads(bad[i].body, 0, NULL);

		assert_int_equal(json_object_update(body, more), 0);
		assert_int_equal(vmproc_request(&seed->proc, "PUT", "/snapshot/load", body, TINY_MS,
						NULL, &e),
				 -EREMOTEIO);
		assert_string_equal(e.msg, bad[i].fault);
	}
	/* it is as it was: the same process becomes a seed that works */
	if (tiny_seed_load(seed, &w->snapshot, VM_SPARES_MAX, false, &e))
		fail_msg("%s", e.msg);
	fork_children(seed, &c, 1, NULL);
	assert_progress(&c, 1);
}

/* ---- each test's world ---- */

static int setup(void **state)
{
	struct world *w = *state;

	w->dir = scratch_make();
	setenv("CLONE_RUN_DIR", w->dir, 1);
	return 0;
}

/* All that a test left, however it ended: without its seed, a seed's child is ours. */
static int teardown(void **state)
{
	struct world *w = *state;
	uint64_t until = limit();

	while (w->nseeds)
		tiny_seed_end(&w->seed[--w->nseeds]);
	for (;;) {
		pid_t pid[PIDS_MAX];

		for (size_t n = tiny_children(getpid(), pid, PIDS_MAX); n;)
			kill(pid[--n], SIGKILL);
		while (waitpid(-1, NULL, WNOHANG) > 0)
			;
		if (waitpid(-1, NULL, WNOHANG) < 0 && errno == ECHILD)
			break;
		turn(until, "the test's processes");
	}
	scratch_remove(w->dir);
	return 0;
}

static int make_world(void **state)
{
	struct world *w = calloc(1, sizeof(*w));
	struct err e;
	int kernel, r;

	assert_non_null(w);
	assert_int_equal(geteuid(), 0);
	assert_int_equal(prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), 0);
	*state = w;
	setup(state);
	kernel = tiny_kernel_filler();
	r = tiny_snapshot_make(w->dir, kernel, &w->snapshot, &e);
	close(kernel);
	if (r)
		print_error("%s\n", e.msg);
	teardown(state);
	return r;
}

static int end_world(void **state)
{
	struct world *w = *state;

	tiny_snapshot_close(&w->snapshot);
	free(w);
	return 0;
}

#define SEED_TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

/* To make what many children need takes longer than a seed lingers, where the host is busy. */
static void test_seed__lives_while_somebody_prepares_a_fork(void **state)
{
	const struct world *w = *state;
	struct tiny_seed seed = { .live = false };
	struct err e;
	int prepares, pidfd;

	must(vmproc_start(PLACE_SEED, "lingers", 500, -1, &seed.proc, &e), &e);
	must(tiny_seed_load(&seed, &w->snapshot, 0, false, &e), &e);
	prepares = client_fdsock(seed.proc.dir.fd, &e);
	pidfd = (int)syscall(SYS_pidfd_open, seed.proc.pid, 0);
	assert_true(prepares >= 0);
	client_close(seed.proc.api);
	seed.proc.api = NULL;
	close(take_fd(&seed.proc.fdsock));
	assert_false(has_ended(pidfd, 2 * NS_PER_SEC));
	close(prepares);
	assert_true(has_ended(pidfd, LIMIT_NS));
	close(pidfd);
	vmproc_abort(&seed.proc);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		SEED_TEST(test_spare__forks_take_spares_before_fork2),
		SEED_TEST(test_spare__child_is_jailed_like_a_forked_one),
		SEED_TEST(test_spare__siblings_share_no_identity),
		SEED_TEST(test_spare__child_has_the_policy_that_its_seed_has_now),
		SEED_TEST(test_spare__ends_with_its_seed_and_children_do_not),
		SEED_TEST(test_spare__dead_one_is_not_used),
		SEED_TEST(test_spare__death_on_the_way_is_no_childs_death),
		SEED_TEST(test_seed__children_share_the_huge_pages_it_made),
		SEED_TEST(test_seed__of_no_spares_keeps_none),
		SEED_TEST(test_seed__lives_while_somebody_prepares_a_fork),
		SEED_TEST(test_seed__bad_requests_are_refused_by_name),
	};

	if (argc >= 3 && !strcmp(argv[1], "vm"))
		return vm_process_main(argc - 1, argv + 1);
	return cmocka_run_group_tests(tests, make_world, end_world);
}
