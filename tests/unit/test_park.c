/* SPDX-License-Identifier: MIT */
/*
 * Parking real, jailed VM processes with real KVM and a guest of a few instructions that counts:
 * their memory is gone from the host, what wakes them, and that the guest never knows. As root.
 * This program is its own VM process. Long, because all rows park the same guest.
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
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/time.h"
#include "base/util.h"
#include "cli/cli.h"
#include "cli/commands.h"
#include "cli/procid.h"
#include "control/json.h"
#include "control/sock.h"
#include "fork/fork.h"
#include "mem/gmem.h"
#include "snapshot/ram.h"
#include "tests/lib/must.h"
#include "tests/lib/scratch.h"
#include "tests/lib/tiny_kernel.h"
#include "tests/lib/tiny_world.h"
#include "vm/vm_private.h"

#define LIMIT_NS (120 * NS_PER_SEC)

struct world {
	char *dir;
	struct tiny_snapshot s;
	struct vmproc p;
};

/* ---- the VM ---- */

static int patch(struct vmproc *p, const char *state, struct err *e)
{
	cleanup_json json_t *body = json_pack("{s:s}", "state", state);

	return vmproc_request(p, "PATCH", "/vm", body, TINY_MS, NULL, e);
}

static json_int_t stat_of(struct vmproc *p, const char *key)
{
	cleanup_json json_t *reply = tiny_get(p, "/stats");

	return json_integer_value(json_object_get(json_object_get(reply, "vm"), key));
}

static void assert_state(struct vmproc *p, const char *want)
{
	cleanup_json json_t *root = tiny_get(p, "/");

	assert_string_equal(json_string_value(json_object_get(root, "state")), want);
}

static void assert_counts(struct vmproc *p)
{
	uint64_t until = time_mono_ns() + LIMIT_NS;
	json_int_t first = stat_of(p, "exits_pio");

	while (stat_of(p, "exits_pio") < first + 100) {
		assert_true(time_mono_ns() < until);
		usleep(2000);
	}
	assert_state(p, "Running");
}

/* It stands still, and asking does not change that. */
static void assert_parked(struct vmproc *p)
{
	json_int_t first = stat_of(p, "exits_pio");

	usleep(20000);
	assert_int_equal(stat_of(p, "exits_pio"), first);
	assert_state(p, "Parked");
}

/* Memory is dirty; what is clean is files, program text above all, which comes as it is used. */
static json_int_t private_bytes(pid_t pid)
{
	cleanup_free char *kb = scratch_sh("awk '/^Private_Dirty/{n+=$2} END{print n}' "
					   "/proc/%d/smaps_rollup",
					   pid);

	return (json_int_t)atol(kb) << 10;
}

static int new_file(const char *dir)
{
	int fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

	assert_true(fd >= 0);
	return fd;
}

/* What is granted lasts as long as the connection that is returned. */
static int grant(struct vmproc *p, pid_t pid, int file)
{
	static const char *const names[] = { "ram", "pagemap" };
	cleanup_close int pagemap = -1;
	char path[64];
	struct err e;
	int sock = client_fdsock(p->dir.fd, &e);

	snprintf(path, sizeof(path), "/proc/%d/pagemap", pid);
	pagemap = open(path, O_RDONLY | O_CLOEXEC);
	assert_true(sock >= 0 && pagemap >= 0);
	must(client_grant(sock, names, (const int[]){ file, pagemap }, 2, &e), &e);
	return sock;
}

static int put_park(struct vmproc *p, json_t **reply, struct err *e)
{
	cleanup_json json_t *body =
		json_pack("{s:s, s:s}", "mem_file_path", "ram", "pagemap_path", "pagemap");

	return vmproc_request(p, "PUT", "/park", body, TINY_MS, reply, e);
}

static int park_into(struct vmproc *p, pid_t pid, int file, json_t **reply, struct err *e)
{
	cleanup_close int sock = grant(p, pid, file);

	return sock < 0 ? sock : put_park(p, reply, e);
}

static json_int_t park(struct world *w)
{
	cleanup_close int file = new_file(w->dir);
	cleanup_json json_t *reply = NULL;
	struct err e;

	must(park_into(&w->p, w->p.pid, file, &reply, &e), &e);
	assert_int_equal(json_object_size(reply), 3);
	return json_integer_value(json_object_get(reply, "pushed_bytes"));
}

static json_int_t unpark(struct vmproc *p)
{
	cleanup_json json_t *reply = NULL, *none = json_object();
	struct err e;

	must(vmproc_request(p, "PUT", "/unpark", none, TINY_MS, &reply, &e), &e);
	return json_integer_value(json_object_get(reply, "read_bytes"));
}

static bool noticed(struct vmproc *p, const char *kind)
{
	cleanup_json json_t *all = tiny_get(p, "/events");
	const json_t *one;
	size_t i;

	json_array_foreach(json_object_get(all, "events"), i,
			   one) if (!strcmp(json_string_value(json_object_get(one, "kind")),
					    kind)) return true;
	return false;
}

/* The last thing that happened is that it woke for this reason. */
static void assert_woken_by(struct vmproc *p, const char *why)
{
	cleanup_json json_t *all = tiny_get(p, "/events");
	const json_t *list = json_object_get(all, "events");
	const json_t *last = json_array_get(list, json_array_size(list) - 1);

	assert_string_equal(json_string_value(json_object_get(last, "kind")), "unparked");
	assert_string_equal(json_string_value(json_object_get(last, "device")), why);
}

/* ---- its RAM, by a snapshot ---- */

static void read_window(const struct tiny_snapshot *s, uint64_t at, uint8_t *buf)
{
	struct ram_layer l;
	struct err e;

	tiny_ram_open(s, &l);
	must(ram_chain_read(&l, 1, at, buf, &e), &e);
	ram_layer_close(&l);
}

/* What the guest filled is whole, and it has counted as often as it wrote its port. */
static void assert_ram(struct vmproc *p, struct tiny_snapshot *s)
{
	const struct tiny_save save = { .to = s, .wait = true };
	cleanup_free uint8_t *buf = malloc(RAM_WINDOW);
	uint64_t counter, wrote, word = TINY_LARGE_WORD;
	struct err e;

	must(patch(p, "Paused", &e), &e);
	wrote = (uint64_t)stat_of(p, "exits_pio");
	must(tiny_vm_save(p, &save, &e), &e);
	must(patch(p, "Resumed", &e), &e);
	read_window(s, TINY_COUNTER_GPA / RAM_WINDOW * RAM_WINDOW, buf);
	memcpy(&counter, buf + TINY_COUNTER_GPA % RAM_WINDOW, sizeof(counter));
	/* it may have been stopped between the counter and the port */
	assert_in_range(counter, wrote, wrote + 1);
	for (uint64_t at = TINY_LARGE_GPA; at < TINY_LARGE_GPA + TINY_LARGE_BYTES;
	     at += RAM_WINDOW) {
		read_window(s, at, buf);
		for (size_t i = 0; i < RAM_WINDOW; i += 8)
			assert_memory_equal(buf + i, &word, 8);
	}
}

/* ---- tests ---- */

static void test_park__memory_is_gone_and_the_guest_never_knows(void **state)
{
	struct world *w = *state;
	json_int_t before = private_bytes(w->p.pid), bytes;

	assert_true(before > (json_int_t)TINY_LARGE_BYTES);
	bytes = park(w);
	assert_in_range(bytes, TINY_LARGE_BYTES, before);
	/* but for a little of the process's own */
	assert_true(private_bytes(w->p.pid) < before - bytes + (json_int_t)MIB(1));
	assert_parked(&w->p);
	assert_int_equal(stat_of(&w->p, "parked_bytes"), bytes);
	assert_int_equal(unpark(&w->p), bytes);
	assert_int_equal(stat_of(&w->p, "parked_bytes"), 0);
	assert_woken_by(&w->p, "request");
	assert_counts(&w->p);
	assert_ram(&w->p, &w->s);
	/* again, from what has come back */
	assert_in_range(park(w), TINY_LARGE_BYTES, before);
	unpark(&w->p);
	assert_counts(&w->p);
	assert_ram(&w->p, &w->s);
}

static void test_park__asked_twice_is_parked_once(void **state)
{
	struct world *w = *state;
	json_int_t bytes = park(w);

	assert_int_equal(park(w), bytes);
	assert_parked(&w->p);
	assert_int_equal(unpark(&w->p), bytes);
	assert_int_equal(unpark(&w->p), 0); /* it runs: so be it */
	assert_counts(&w->p);
}

static void test_park__resume_wakes_and_pause_only_brings_memory_back(void **state)
{
	struct world *w = *state;
	cleanup_json json_t *none = json_object();
	cleanup_close int file = new_file(w->dir);
	json_int_t exits;
	struct err e;

	park(w);
	must(patch(&w->p, "Resumed", &e), &e);
	assert_counts(&w->p);
	park(w);
	exits = stat_of(&w->p, "exits_pio");
	must(patch(&w->p, "Paused", &e), &e);
	assert_state(&w->p, "Paused");
	assert_true(private_bytes(w->p.pid) > (json_int_t)TINY_LARGE_BYTES);
	assert_int_equal(stat_of(&w->p, "exits_pio"), exits);
	/* one that is paused was meant to be: it must not wake by itself */
	assert_int_equal(park_into(&w->p, w->p.pid, file, NULL, &e), -EREMOTEIO);
	assert_string_equal(e.msg, "park: the VM is not running");
	assert_int_equal(vmproc_request(&w->p, "PUT", "/unpark", none, TINY_MS, NULL, &e),
			 -EREMOTEIO);
	assert_string_equal(e.msg, "unpark: the VM is not parked");
	must(patch(&w->p, "Resumed", &e), &e);
	assert_counts(&w->p);
	assert_ram(&w->p, &w->s);
}

static void test_park__typing_wakes(void **state)
{
	struct world *w = *state;
	uint64_t until = time_mono_ns() + LIMIT_NS;
	struct err e;
	cleanup_close int console = sock_connect(w->p.dir.fd, "console.sock", SOCK_STREAM, &e);

	assert_true(console >= 0);
	park(w);
	assert_parked(&w->p); /* watching does not */
	assert_int_equal(write(console, "x", 1), 1);
	while (stat_of(&w->p, "parked_bytes"))
		assert_true(time_mono_ns() < until);
	assert_woken_by(&w->p, "console");
	assert_counts(&w->p);
	assert_ram(&w->p, &w->s);
}

static void test_park__snapshot_wakes_and_is_whole(void **state)
{
	struct world *w = *state;
	struct tiny_save save = { .to = &w->s, .wait = true };
	struct err e;

	park(w);
	must(tiny_vm_save(&w->p, &save, &e), &e);
	assert_woken_by(&w->p, "snapshot");
	assert_counts(&w->p);
	assert_ram(&w->p, &w->s);
}

static void assert_refused(struct vmproc *p, const char *path, const char *body, const char *words)
{
	struct err e;

	assert_int_equal(tiny_send(p, "PUT", path, body, &e), -EREMOTEIO);
	assert_string_equal(e.msg, words);
}

/* One that does not get further than that: there is no memory that could be read back. */
static void assert_no_fork(void)
{
	static char none[4096];
	static struct vm vm = { .state = VM_PARKED,
				.park = (struct park *)none,
				.cfg = { .nr_disks = 1,
					 .disks = { { .id = "d", .writes = BLK_IN_RAW } } } };
	const struct vm_child_spec a[2] = { { .id.name = "a" }, { .id.name = "a" } };
	struct vm_fork_request rq = { .specs = a, .n = 2 };
	struct err e;

	assert_int_equal(vm_fork(&vm, &rq, &e), -EINVAL);
	assert_string_equal(e.msg, "fork: two children are named 'a'");
	rq.n = 1;
	assert_int_equal(vm_fork(&vm, &rq, &e), -ENOTSUP);
	assert_non_null(strstr(e.msg, "fork: disk 'd' is persistent and raw"));
	assert_int_equal(vm.state, VM_PARKED);
	assert_ptr_equal(vm.park, none);
}

static void test_park__what_is_refused_anyway_does_not_wake(void **state)
{
	struct world *w = *state;
	json_int_t bytes = park(w);
	cleanup_json json_t *diff =
		json_pack("{s:s, s:s, s:s, s:[]}", "snapshot_type", "Diff", "snapshot_path", "a",
			  "mem_file_path", "b", "parents");
	cleanup_free char *text = NULL;

	for (int i = 0; i < 16; i++)
		json_array_append_new(
			json_object_get(diff, "parents"),
			json_pack("{s:s, s:s}", "snapshot_path", "a", "mem_file_path", "b"));
	text = json_dumps(diff, 0);
	assert_no_fork();
	assert_refused(&w->p, "/snapshot/create", text,
		       "snapshot: it would be number 17 of a chain of at most 16: flatten what it "
		       "stands on");
	assert_parked(&w->p);
	assert_int_equal(stat_of(&w->p, "parked_bytes"), bytes);
	assert_int_equal(unpark(&w->p), bytes);
	assert_counts(&w->p);
}

static void test_park__power_button_wakes(void **state)
{
	struct world *w = *state;
	cleanup_json json_t *body = json_pack("{s:s}", "action_type", "SendCtrlAltDel");
	struct err e;

	park(w);
	must(vmproc_request(&w->p, "PUT", "/actions", body, TINY_MS, NULL, &e), &e);
	assert_woken_by(&w->p, "power-button");
	assert_counts(&w->p);
}

static void test_park__fork_of_a_parked_one_and_its_child_parked(void **state)
{
	cleanup_json json_t *info =
		json_pack("{s:[{s:s, s:b}]}", "disks", "id", "root", "read_only", 0);
	cleanup_json json_t *reply = NULL;
	struct world *w = *state;
	struct fork_source src = { .dir = &w->p.dir, .live = true, .info = info };
	const struct fork_how how = { .userdata_fd = -1, .timeout_ms = TINY_MS };
	cleanup_close int file = new_file(w->dir), pagemap = -1;
	struct fork_child_info c = { .name = "child" };
	struct vmproc child;
	uint64_t pause_ns;
	struct err e;
	pid_t pid;

	park(w);
	must(fork_request(&src, &c, 1, &how, -1, &pause_ns, &e), &e);
	assert_true(c.ok);
	pid = (pid_t)json_integer_value(json_object_get(c.clocks, "pid"));
	json_decref(c.clocks);
	assert_woken_by(&w->p, "fork");
	assert_counts(&w->p);
	must(vmproc_attach("child", -1, &child, &e), &e);
	assert_counts(&child);
	/* what it shares with its parent is not its to push out */
	pagemap = procid_open(&child.dir, "pagemap", &e);
	assert_true(pagemap >= 0);
	must(park_into(&child, pid, file, &reply, &e), &e);
	assert_in_range(json_integer_value(json_object_get(reply, "pushed_bytes")), GMEM_PAGE,
			MIB(1));
	unpark(&child);
	assert_counts(&child);
	vmproc_abort(&child);
	assert_ram(&w->p, &w->s);
}

/* A command of ours in a process of its own; its exit code. */
static int command(int (*cmd)(int argc, char **argv), const char *name, const char *vm)
{
	char *const argv[] = { (char *)(uintptr_t)name, (char *)(uintptr_t)vm, NULL };
	pid_t pid = fork();
	int status;

	if (!pid)
		_exit(cmd(2, (char **)(uintptr_t)argv));
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	return WEXITSTATUS(status);
}

/* A file system of so much that is none in memory to those who ask, in w->dir/NAME/m. */
static char *overlay(struct world *w, const char *name, unsigned int mib)
{
	cleanup_free char *at = strdup(scratch_path(w->dir, name));

	free(scratch_sh("mkdir %s && mount -t tmpfs -o size=%um none %s && cd %s && "
			"mkdir l u w m && "
			"mount -t overlay -o lowerdir=l,upperdir=u,workdir=w none m",
			at, mib, at, at));
	return strdup(scratch_path(at, "m"));
}

static void drop_overlay(struct world *w, const char *name)
{
	const char *at = scratch_path(w->dir, name);

	free(scratch_sh("umount %s/m; umount %s; rmdir %s", at, at, at));
}

/* Parking "child" with this state directory is refused, in these words. */
static void refused_in(struct world *w, const char *dir, const char *words)
{
	cleanup_free char *said = NULL;
	pid_t pid = fork();
	int status;

	if (!pid) {
		char cmd[] = "park", vm[] = "child", *argv[] = { cmd, vm, NULL };

		setenv("CLONE_STATE_DIR", dir, 1);
		if (!freopen(scratch_path(w->dir, "said"), "w", stderr))
			_exit(99);
		status = cmd_park(2, argv);
		fflush(stderr);
		_exit(status);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), CLI_FAIL);
	said = scratch_sh("cat %s", scratch_path(w->dir, "said"));
	if (!strstr(said, words))
		fail_msg("it said: %s", said);
}

static void test_park__commands_park_and_unpark_and_leave_no_name(void **state)
{
	cleanup_json json_t *info =
		json_pack("{s:[{s:s, s:b}]}", "disks", "id", "root", "read_only", 0);
	struct world *w = *state;
	struct fork_source src = { .dir = &w->p.dir, .live = true, .info = info };
	const struct fork_how how = { .userdata_fd = -1, .timeout_ms = TINY_MS };
	struct fork_child_info c = { .name = "child" };
	cleanup_free char *left = NULL, *disk = overlay(w, "disk", 4096);
	cleanup_free char *small = overlay(w, "small", 64);
	cleanup_free char *tmpfs = strdup(scratch_path(w->dir, "disk"));
	struct vmproc child;
	uint64_t pause_ns;
	struct err e;

	must(fork_request(&src, &c, 1, &how, -1, &pause_ns, &e), &e);
	assert_true(c.ok);
	json_decref(c.clocks);
	must(vmproc_attach("child", -1, &child, &e), &e);
	refused_in(w, tmpfs, "park child: the state directory is in memory (tmpfs)");
	refused_in(w, small, " are to be written, and 256M are to stay free");
	assert_counts(&child);
	setenv("CLONE_STATE_DIR", disk, 1);
	assert_int_equal(command(cmd_park, "park", "child"), CLI_OK);
	assert_parked(&child);
	assert_true(stat_of(&child, "parked_bytes") > 0);
	left = scratch_sh("ls -A %s/parked", disk);
	assert_string_equal(left, "");
	assert_int_equal(command(cmd_unpark, "unpark", "child"), CLI_OK);
	assert_counts(&child);
	assert_int_equal(command(cmd_park, "park", "nobody"), CLI_FAIL);
	vmproc_abort(&child);
	unsetenv("CLONE_STATE_DIR");
	drop_overlay(w, "small");
	drop_overlay(w, "disk");
}

static char *small_disk(struct world *w, unsigned int mib)
{
	cleanup_free char *at = strdup(scratch_path(w->dir, "small"));

	free(scratch_sh("mkdir %s && mount -t tmpfs -o size=%um none %s", at, mib, at));
	return take_ptr(at);
}

static uint64_t used_bytes(const char *at)
{
	struct statvfs v;

	assert_int_equal(statvfs(at, &v), 0);
	return (v.f_blocks - v.f_bfree) * v.f_bsize;
}

static void test_park__full_disk_is_said_and_the_vm_goes_on(void **state)
{
	struct world *w = *state;
	cleanup_free char *at = small_disk(w, 4);
	int file = new_file(at);
	struct err e;

	assert_int_equal(park_into(&w->p, w->p.pid, file, NULL, &e), -EREMOTEIO);
	assert_non_null(strstr(e.msg, "park: writing RAM out, after"));
	assert_non_null(strstr(e.msg, "No space left on device"));
	close(file);
	assert_int_equal(used_bytes(at), 0); /* nobody holds it */
	assert_int_equal(umount2(at, MNT_DETACH), 0);
	assert_counts(&w->p);
	assert_ram(&w->p, &w->s);
	park(w);
	unpark(&w->p);
	assert_ram(&w->p, &w->s);
}

static void test_park__cut_file_keeps_it_parked_until_mended(void **state)
{
	struct world *w = *state;
	cleanup_close int file = new_file(w->dir);
	cleanup_free uint8_t *last = malloc(GMEM_PAGE);
	cleanup_json json_t *none = json_object();
	struct err e;
	uint64_t end;

	must(park_into(&w->p, w->p.pid, file, NULL, &e), &e);
	end = (uint64_t)lseek(file, 0, SEEK_END) - GMEM_PAGE;
	assert_int_equal(fd_pread_full(file, last, GMEM_PAGE, end), 0);
	assert_int_equal(ftruncate(file, (off_t)end), 0);
	assert_int_equal(vmproc_request(&w->p, "PUT", "/unpark", none, TINY_MS, NULL, &e),
			 -EREMOTEIO);
	assert_non_null(strstr(e.msg, "unpark: the VM cannot go on and stays parked: the file of"));
	assert_parked(&w->p);
	assert_int_equal(patch(&w->p, "Resumed", &e), -EREMOTEIO);
	assert_parked(&w->p);
	assert_int_equal(fd_pwrite_full(file, last, GMEM_PAGE, end), 0);
	unpark(&w->p);
	assert_counts(&w->p);
	assert_ram(&w->p, &w->s);
}

/* What woke it does not say so again, and what kept it from waking has gone. */
static void test_park__a_wake_that_failed_is_tried_again(void **state)
{
	struct world *w = *state;
	cleanup_close int file = new_file("/dev/shm");
	uint64_t end, until = time_mono_ns() + LIMIT_NS;
	uint8_t last[GMEM_PAGE];
	struct err e;
	cleanup_close int console = sock_connect(w->p.dir.fd, "console.sock", SOCK_STREAM, &e);

	assert_true(console >= 0);
	must(park_into(&w->p, w->p.pid, file, NULL, &e), &e);
	end = (uint64_t)lseek(file, 0, SEEK_END) - GMEM_PAGE;
	assert_int_equal(fd_pread_full(file, last, GMEM_PAGE, end), 0);
	assert_int_equal(ftruncate(file, (off_t)end), 0);
	assert_int_equal(write(console, "x", 1), 1);
	while (!noticed(&w->p, "unpark-failed"))
		assert_true(time_mono_ns() < until);
	assert_parked(&w->p);
	/* parking it again is answered, and no other try */
	park(w);
	assert_int_equal(fd_pwrite_full(file, last, GMEM_PAGE, end), 0);
	while (stat_of(&w->p, "parked_bytes"))
		assert_true(time_mono_ns() < until);
	assert_woken_by(&w->p, "console");
	assert_counts(&w->p);
	assert_ram(&w->p, &w->s);
}

/* Asks, on a connection of its own, and returns when the request is in the VM's hands, whether it
 * looks or not. */
static int say(struct vmproc *p, const char *method, const char *path, const char *body)
{
	struct err e;
	int fd = sock_connect(p->dir.fd, "api.sock", SOCK_STREAM, &e);

	assert_true(fd >= 0);
	assert_true(dprintf(fd,
			    "%s %s HTTP/1.1\r\nConnection: close\r\nContent-Length: %zu\r\n\r\n%s",
			    method, path, strlen(body), body) > 0);
	return fd;
}

static void answer_has(int fd, const char *want)
{
	char text[4096] = "";
	size_t n = 0;
	ssize_t r;

	while ((r = recv(fd, text + n, sizeof(text) - 1 - n, 0)) > 0)
		n += (size_t)r;
	close(fd);
	if (!strstr(text, want))
		fail_msg("%s, not %s", text, want);
}

/* Both requests are there when the process, which was stopped, looks: the second one comes before
 * much is written. */
static void test_park__woken_meanwhile_it_just_goes_on(void **state)
{
	struct world *w = *state;
	cleanup_close int file = new_file("/dev/shm"), sock = grant(&w->p, w->p.pid, file);
	int parker, waker;

	kill(w->p.pid, SIGSTOP);
	free(scratch_sh("until grep -q '^State:.T' /proc/%d/status; do sleep 0.01; done",
			w->p.pid));
	parker = say(&w->p, "PUT", "/park",
		     "{\"mem_file_path\":\"ram\",\"pagemap_path\":\"pagemap\"}");
	waker = say(&w->p, "PATCH", "/vm", "{\"state\":\"Resumed\"}");
	kill(w->p.pid, SIGCONT);
	answer_has(waker, "HTTP/1.1 204 ");
	answer_has(parker, "park: woken meanwhile (request)");
	assert_counts(&w->p);
	assert_ram(&w->p, &w->s);
}

static void test_park__killed_it_leaves_no_file(void **state)
{
	struct world *w = *state;
	cleanup_free char *at = small_disk(w, 64);
	uint64_t until = time_mono_ns() + LIMIT_NS;
	int file = new_file(at);
	struct err e;

	must(park_into(&w->p, w->p.pid, file, NULL, &e), &e);
	close(file);
	assert_true(used_bytes(at) > TINY_LARGE_BYTES);
	kill(w->p.pid, SIGKILL);
	while (used_bytes(at))
		assert_true(time_mono_ns() < until);
	assert_int_equal(umount2(at, MNT_DETACH), 0);
}

static void test_park__ended_by_request_while_parked(void **state)
{
	struct world *w = *state;
	cleanup_json json_t *body = json_pack("{s:s}", "action_type", "Kill"), *end = NULL;
	siginfo_t how;
	struct err e;

	park(w);
	must(vmproc_request(&w->p, "PUT", "/actions", body, TINY_MS, NULL, &e), &e);
	assert_int_equal(waitid(P_PID, (id_t)w->p.pid, &how, WEXITED | WNOWAIT), 0);
	must(vmdir_exit(&w->p.dir, &end, &e), &e);
	assert_string_equal(json_string_value(json_object_get(end, "reason")), "killed");
}

static void test_park__fifty_times_leave_nothing(void **state)
{
	struct world *w = *state;
	int fds = 0;

	for (int i = 0; i <= 50; i++) {
		cleanup_close int file = new_file("/dev/shm"); /* no disk to wait for */
		cleanup_free char *n = NULL;
		struct err e;

		must(park_into(&w->p, w->p.pid, file, NULL, &e), &e);
		unpark(&w->p);
		n = scratch_sh("ls /proc/%d/fd | wc -l", w->p.pid);
		if (!i)
			fds = atoi(n);
		assert_int_equal(atoi(n), fds);
	}
	assert_counts(&w->p);
	assert_ram(&w->p, &w->s);
}

static int setup(void **state)
{
	struct world *w = calloc(1, sizeof(*w));
	int fd = tiny_kernel_large();
	struct err e;

	assert_non_null(w);
	assert_int_equal(geteuid(), 0);
	assert_int_equal(prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), 0);
	w->dir = scratch_make();
	setenv("CLONE_RUN_DIR", w->dir, 1);
	must(tiny_files_make(w->dir, &w->s, &e), &e);
	must(tiny_vm_boot("vm", fd, w->s.base, &w->p, &e), &e);
	close(fd);
	*state = w;
	return 0;
}

static int teardown(void **state)
{
	struct world *w = *state;

	vmproc_abort(&w->p);
	tiny_end_children();
	tiny_snapshot_close(&w->s);
	scratch_remove(w->dir);
	free(w);
	return 0;
}

#define PARK_TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		PARK_TEST(test_park__memory_is_gone_and_the_guest_never_knows),
		PARK_TEST(test_park__asked_twice_is_parked_once),
		PARK_TEST(test_park__resume_wakes_and_pause_only_brings_memory_back),
		PARK_TEST(test_park__typing_wakes),
		PARK_TEST(test_park__snapshot_wakes_and_is_whole),
		PARK_TEST(test_park__what_is_refused_anyway_does_not_wake),
		PARK_TEST(test_park__power_button_wakes),
		PARK_TEST(test_park__fork_of_a_parked_one_and_its_child_parked),
		PARK_TEST(test_park__commands_park_and_unpark_and_leave_no_name),
		PARK_TEST(test_park__full_disk_is_said_and_the_vm_goes_on),
		PARK_TEST(test_park__cut_file_keeps_it_parked_until_mended),
		PARK_TEST(test_park__a_wake_that_failed_is_tried_again),
		PARK_TEST(test_park__woken_meanwhile_it_just_goes_on),
		PARK_TEST(test_park__killed_it_leaves_no_file),
		PARK_TEST(test_park__ended_by_request_while_parked),
		PARK_TEST(test_park__fifty_times_leave_nothing),
	};

	if (argc >= 3 && !strcmp(argv[1], "vm"))
		return vm_process_main(argc - 1, argv + 1);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
