/* SPDX-License-Identifier: MIT */
/*
 * A process of a guest that a fork finds at work: draws random numbers without a pause and notes
 * each with its time, in a ring that is a file. SIGUSR1 stops it, but only when it has drawn once
 * more since (what it noted stays): however little it ran before, its last number is one of after
 * the signal. It sleeps then. SIGUSR2 lets it go on. What two machines noted after the last note
 * that they share is what they drew as twins: tests/system/test_reconcile.py reads that. A static
 * program without libraries.
 *
 *     rngspin FILE     writes its pid to FILE.pid when it is at work
 */
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#define RING 262144u

struct note {
	uint64_t n, mono_ns, value;
};

static volatile sig_atomic_t stopped;

static void on_signal(int sig)
{
	stopped = sig == SIGUSR1;
}

static uint64_t mono_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static struct note *ring_open(const char *path)
{
	size_t n = RING * sizeof(struct note);
	int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
	void *p;

	if (fd < 0 || ftruncate(fd, (off_t)n))
		return NULL;
	p = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
	return p == MAP_FAILED ? NULL : p;
}

static int say_pid(const char *path)
{
	char name[4096];
	FILE *f;

	snprintf(name, sizeof(name), "%s.pid", path);
	f = fopen(name, "w");
	return !f || fprintf(f, "%d\n", getpid()) < 0 || fclose(f);
}

/* Returns when SIGUSR2 has come; a signal that comes as it looks is not lost. */
static void wait_while_stopped(void)
{
	sigset_t both, before;

	sigemptyset(&both);
	sigaddset(&both, SIGUSR1);
	sigaddset(&both, SIGUSR2);
	sigprocmask(SIG_BLOCK, &both, &before);
	while (stopped)
		sigsuspend(&before);
	sigprocmask(SIG_SETMASK, &before, NULL);
}

int main(int argc, char **argv)
{
	struct note *ring = argc == 2 ? ring_open(argv[1]) : NULL;

	if (!ring)
		return 2;
	signal(SIGUSR1, on_signal);
	signal(SIGUSR2, on_signal);
	if (say_pid(argv[1]))
		return 1;
	for (uint64_t n = 1;; n++) {
		struct note *at = &ring[n % RING];
		bool told = stopped; /* before this number is drawn */
		uint64_t value;

		if (getrandom(&value, sizeof(value), 0) != sizeof(value))
			return 1;
		at->value = value;
		at->mono_ns = mono_ns();
		at->n = n;
		if (told)
			wait_while_stopped();
	}
}
