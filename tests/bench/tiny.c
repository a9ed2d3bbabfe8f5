/* SPDX-License-Identifier: MIT */
/*
 * Clocks that need no guest of any size: fork(2) and exec(2) of /bin/true, and the warm fork of a tiny
 * guest with every device and the whole jail, on the machine that we run on (any /dev/kvm will
 * do). Prints one JSON object a line: name, clock, unit, and every sample in "values".
 *
 * usage: tiny SCRATCH-DIRECTORY. It is also its own VM process (`tiny vm FD`), as clone is.
 */
#include <fcntl.h>
#include <jansson.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/time.h"
#include "base/util.h"
#include "cli/forkreq.h"
#include "cli/launch.h"
#include "cli/seed.h"
#include "control/json.h"
#include "tests/lib/tiny_kernel.h"
#include "vm/vm.h"

#define SAMPLES 100
#define WARMUP 5
#define APART_US 250000
#define STEP_MS 30000

static _Noreturn void die(const char *what, const struct err *e)
{
	fprintf(stderr, "tiny: %s: %s\n", what, e ? e->msg : "failed");
	exit(1);
}

/* Takes over the values. */
static void report(const char *name, const char *clock, const char *peer, json_t *values)
{
	json_t *j = json_pack("{s:s, s:s, s:s, s:s*, s:o}", "name", name, "clock", clock, "unit",
			      "ns", "peer", peer, "values", values);

	json_dumpf(j, stdout, JSON_COMPACT);
	putchar('\n');
	fflush(stdout);
	json_decref(j);
}

static void add(json_t *values, uint64_t from, uint64_t to)
{
	json_array_append_new(values, json_integer((json_int_t)(to - from)));
}

static void bench_true(void)
{
	json_t *values = json_array();

	for (int i = 0; i < SAMPLES; i++) {
		uint64_t t0 = time_mono_ns();
		pid_t pid = fork();
		int status;

		if (pid == 0) {
			execl("/bin/true", "true", (char *)NULL);
			_exit(127);
		}
		if (pid < 0 || waitpid(pid, &status, 0) != pid || status)
			die("/bin/true", NULL);
		add(values, t0, time_mono_ns());
	}
	report("native_true", "fork(2) called to waitpid(2) returned", NULL, values);
}

/* What a snapshot is made of. */
struct parts {
	int state, ram, layer, base;
};

static void grant(struct vmproc *p, const char *name, int fd)
{
	struct err e;

	if (client_grant(p->fdsock, &name, &fd, 1, &e))
		die(name, &e);
}

/* Takes over the body. */
static void request(struct vmproc *p, const char *method, const char *path, json_t *body)
{
	struct err e;

	if (vmproc_request(p, method, path, body, STEP_MS, NULL, &e))
		die(path, &e);
	json_decref(body);
}

static int scratch(const char *name)
{
	int fd = open(name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	if (fd < 0)
		die(name, NULL);
	return fd;
}

static void make_snapshot(struct parts *f)
{
	int kernel = tiny_kernel_counter();
	char path[64];
	struct launch_vm vm = { .initrd_fd = -1, .cmdline = "", .mem_bytes = MIB(128), .vcpus = 1 };
	struct vmproc p;
	struct err e;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", kernel);
	vm.kernel = path;
	vm.disks[vm.ndisks++] = (struct launch_disk){ .id = "root", .path = "disk", .root = true };
	*f = (struct parts){ scratch("state"), scratch("ram"), scratch("layer"), scratch("disk") };
	if (ftruncate(f->base, MIB(64)))
		die("disk", NULL);
	if (vmproc_start(PLACE_VM, "origin", 0, -1, &p, &e) || launch_boot(&p, &vm, &e))
		die("origin", &e);
	request(&p, "PATCH", "/vm", json_pack("{s:s}", "state", "Paused"));
	grant(&p, "state", f->state);
	grant(&p, "ram", f->ram);
	grant(&p, "layer/root", f->layer);
	request(&p, "PUT", "/snapshot/create",
	    json_pack("{s:s, s:s, s:s}", "snapshot_type", "Full", "snapshot_path", "state",
		      "mem_file_path", "ram"));
	vmproc_abort(&p);
	close(kernel);
}

static int read_only(int fd)
{
	char path[64];
	int ro;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	ro = open(path, O_RDONLY | O_CLOEXEC);
	if (ro < 0)
		die("reopen", NULL);
	return ro;
}

static void start_seed(const struct parts *f, int spares, struct vmproc *p)
{
	struct err e;

	if (vmproc_start(PLACE_SEED, "tiny", 600000, -1, p, &e))
		die("seed", &e);
	grant(p, "state", read_only(f->state));
	grant(p, "ram", read_only(f->ram));
	grant(p, "disk/root/base", read_only(f->base));
	grant(p, "disk/root/layer", read_only(f->layer));
	request(p, "PUT", "/snapshot/load",
	    json_pack("{s:s, s:{s:s, s:s}, s:b, s:i}", "snapshot_path", "state", "mem_backend",
		      "backend_type", "File", "backend_path", "ram", "seed", 1, "spares", spares));
}

/* The child's own clock of its first exit: the guest has run by then. */
static uint64_t first_exit(const struct vmdir *d)
{
	json_t *reply = NULL;
	struct client *c;
	uint64_t ns = 0;
	struct err e;

	if (client_open(d->fd, &c, &e))
		die("child", &e);
	while (!ns) {
		if (client_request(c, "GET", "/stats", NULL, STEP_MS, &reply, &e))
			die("stats", &e);
		ns = (uint64_t)json_integer_value(
			json_object_get(json_object_get(reply, "clocks"), "first_exit_ns"));
		json_decref(reply);
	}
	client_close(c);
	return ns;
}

static void end_child(struct vmdir *d, pid_t pid)
{
	struct err e;

	kill(pid, SIGKILL);
	if (vmdir_wait_end(d, STEP_MS, -1, &e) || vmdir_remove(d, &e))
		die("end", &e);
	vmdir_close(d);
}

/* One fork at a time, as far apart as a seed needs to make its spares again. */
static void bench_fork(const struct parts *f, int spares, const char *name, const char *clock)
{
	struct vmproc seed_proc, *seed = &seed_proc;
	json_t *request = json_array(), *whole = json_array();
	json_t *info = json_pack("{s:[{s:s, s:b}]}", "disks", "id", "root", "read_only", 0);
	struct fork_source src = { .dir = &seed->dir, .info = info };
	char prepared[64];

	start_seed(f, spares, seed);
	for (int i = -WARMUP; i < SAMPLES; i++) {
		struct fork_child_info c = { .name = "child" };
		uint64_t t0 = time_mono_ns(), pause, ran;
		struct vmdir d;
		struct err e;

		if (fork_request(&src, &c, 1, true, STEP_MS, -1, &pause, &e))
			die("fork", &e);
		if (!c.ok)
			die(c.why, NULL);
		if (vmdir_open(PLACE_VM, c.name, &d, &e))
			die("child", &e);
		ran = first_exit(&d);
		if (i >= 0) {
			add(request, c.sent_ns, ran);
			add(whole, t0, ran);
		}
		end_child(&d, (pid_t)json_integer_value(json_object_get(c.clocks, "pid")));
		json_decref(c.clocks);
		usleep(APART_US);
	}
	report(name, clock, "native_true", request);
	snprintf(prepared, sizeof(prepared), "%s_prepared", name);
	report(prepared, "the same, from before its directory, sockets and descriptors were made",
	       "native_true", whole);
	json_decref(info);
	vmproc_abort(seed);
}

int main(int argc, char **argv)
{
	struct parts f;
	char run[PATH_MAX];

	if (argc >= 3 && !strcmp(argv[1], "vm"))
		return vm_process_main(argc - 1, argv + 1);
	if (argc != 2 || chdir(argv[1])) {
		fprintf(stderr, "usage: tiny SCRATCH-DIRECTORY\n");
		return 2;
	}
	snprintf(run, sizeof(run), "%s/run", argv[1]);
	setenv("CLONE_RUN_DIR", run, 1);
	bench_true();
	make_snapshot(&f);
	bench_fork(&f, SEED_SPARES, "native_tiny_fork",
		   "fork request sent to the seed, to the child's first instructions done; the seed "
		   "has a spare");
	bench_fork(&f, 0, "native_tiny_fork_no_spare",
		   "the same, with fork(2) and all of the child's making in it");
	return 0;
}
