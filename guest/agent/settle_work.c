/* SPDX-License-Identifier: MIT */
/*
 * Makes the guest small before it becomes a template: waits until it idles, writes back, drops
 * caches, compacts, and overwrites free memory with zeros, because most kernels leave in a free
 * page what was in it, and only a page of zeros need not be stored. Then it reads again what every
 * fork will need. Runs in a child process of the agent, so it may block, and be chosen by the OOM
 * killer.
 */
#include "settle.h"

#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../proto.h"
#include "loop.h"
#include "procfs.h"

#define MIB (1024u * 1024u)
#define REHEARSAL_MS 5000

static void nap_ms(long ms)
{
	struct timespec ts = { .tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000 };

	nanosleep(&ts, NULL);
}

/*
 * Four quarters of a second in a row, each at least 97 % idle: one alone may be the pause between
 * two services that start. One tick more is let through, for that is the measure's own grain.
 */
static bool wait_idle(uint32_t timeout_ms)
{
	uint64_t end = loop_now_ms() + timeout_ms, total, idle, total0, idle0;
	int quiet = 0;

	if (!procfs_cpu(&total0, &idle0))
		return false;
	for (;;) {
		nap_ms(250);
		if (!procfs_cpu(&total, &idle))
			return false;
		uint64_t busy = (total - total0) - (idle - idle0);

		quiet = busy <= (total - total0) * 3 / 100 + 1 ? quiet + 1 : 0;
		if (quiet == 4)
			return true;
		if (loop_now_ms() >= end)
			return false;
		total0 = total;
		idle0 = idle;
	}
}

static bool write_string(const char *path, const char *s)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	bool ok;

	if (fd < 0)
		return false;
	ok = write(fd, s, strlen(s)) == (ssize_t)strlen(s);
	close(fd);
	return ok;
}

/* What stays free: room for the kernel's watermarks and for whoever else needs memory meanwhile. */
static uint64_t margin_bytes(void)
{
	uint64_t m = procfs_mem("MemTotal") / 64;
	char buf[64];

	m = m < 4 * MIB ? 4 * MIB : m > 64 * MIB ? 64 * MIB : m;
	if (procfs_read("/proc/sys/vm/min_free_kbytes", buf, sizeof(buf)))
		m += 2048 * strtoull(buf, NULL, 10);
	return m;
}

/*
 * Fresh anonymous pages are zeroed by the kernel and stay so when they are given back unwritten.
 * Taken in pieces, each half of what is left above the margin, so that others' allocations are
 * seen.
 */
static uint64_t zero_free(void)
{
	uint64_t margin = margin_bytes(), sum = 0;

	write_string("/proc/self/oom_score_adj", "1000");
	for (;;) {
		uint64_t left = procfs_mem("MemFree"), n;
		void *p;

		if (left < margin + MIB)
			return sum;
		n = (left - margin) / 2;
		n = (n > 256 * MIB ? 256 * MIB : n) / 4096 * 4096;
		p = mmap(NULL, n, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE | MAP_NORESERVE, -1, 0);
		if (p == MAP_FAILED)
			return sum;
		sum += n;
	}
}

/* The files that IDENTITY and the first EXEC read are worth keeping when the caches are gone. */
static void warm(void)
{
	static const char *const files[] = { "/etc/passwd",	  "/etc/group",
					     "/etc/hostname",	  "/etc/machine-id",
					     "/etc/clone/fork.d", "/var/lib/dbus/machine-id" };
	char buf[4096];

	for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++)
		procfs_read(files[i], buf, sizeof(buf));
}

/*
 * What the first command of each fork would do for itself: read a shell, the C library and what a
 * command needs from the disk into memory that is only its own. Here it is done once for all of
 * them. A guest without a shell has nothing to rehearse.
 */
static void rehearse(void)
{
	static const char *const argv[] = { "/bin/sh", "-c", "/bin/true", NULL };
	static const char *const envp[] = { "PATH=/usr/sbin:/usr/bin:/sbin:/bin", NULL };
	uint64_t end = loop_now_ms() + REHEARSAL_MS;
	pid_t pid = fork();

	if (!pid) {
		int fd = open("/dev/null", O_RDWR);

		for (int i = 0; i < 3; i++)
			dup2(fd, i);
		syscall(SYS_close_range, 3u, ~0u, 0u);
		execve(argv[0], (char *const *)argv, (char *const *)envp);
		_exit(127);
	}
	while (pid > 0 && !waitpid(pid, NULL, WNOHANG)) {
		if (loop_now_ms() >= end)
			kill(pid, SIGKILL);
		nap_ms(5);
	}
}

void settle_work(uint32_t flags, uint32_t timeout_ms, struct settle_result *res)
{
	uint64_t zeroed = 0;
	bool idle = true;

	if (flags & PROTO_SETTLE_IDLE) {
		idle = wait_idle(timeout_ms);
		res->done |= idle ? PROTO_SETTLE_IDLE : 0;
	}
	if (flags & PROTO_SETTLE_SYNC) {
		sync();
		res->done |= PROTO_SETTLE_SYNC;
	}
	if ((flags & PROTO_SETTLE_DROP) && write_string("/proc/sys/vm/drop_caches", "3"))
		res->done |= PROTO_SETTLE_DROP;
	if ((flags & PROTO_SETTLE_COMPACT) && write_string("/proc/sys/vm/compact_memory", "1"))
		res->done |= PROTO_SETTLE_COMPACT;
	if (flags & PROTO_SETTLE_ZERO) {
		zeroed = zero_free();
		res->done |= PROTO_SETTLE_ZERO;
	}
	warm();
	if (flags & PROTO_SETTLE_DROP)
		rehearse();
	if (!idle)
		strcpy(res->text, "still busy at the deadline; ");
	if (flags & PROTO_SETTLE_ZERO)
		snprintf(res->text + strlen(res->text), 64, "%llu MiB of free memory zeroed",
			 (unsigned long long)(zeroed / MIB));
}
