/* SPDX-License-Identifier: MIT */
/*
 * Keeps the emulated host from hanging, in a process of its own that rigd starts and that never
 * ends.
 *
 * QEMU's multi-threaded translator has a race: while one processor rewrites an instruction, another
 * may translate the old one and keep it for good. Linux rewrites its own code whenever a static key
 * flips, with a breakpoint in between, and a processor that keeps the breakpoint spins on it for
 * ever. The worst key sits in schedule() and flips each time the first VM is created or the last
 * one destroyed: under load one flip in about a hundred hangs the machine. So we hold one of each
 * thing whose count drives a key that tests would flip. What is left is for the watchdog: it powers
 * the machine off, so that whoever waits for it sees an error soon.
 */
#include "rigd.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <linux/watchdog.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define CGROUP "/sys/fs/cgroup/rig-keep"
#define APIC_BASE_ENABLE (1u << 11)
#define WATCHDOG_S 60
#define PET_S 5

static void complain(const char *what)
{
	fprintf(stderr, "rigd: keep: %s: %s\n", what, strerror(errno));
}

/*
 * Keys: preempt_notifier_key (any VM), apic_sw_disabled (a vCPU whose guest has not enabled its
 * APIC), apic_hw_disabled (one whose APIC base says off), kvm_has_noapic_vcpu (one without an
 * in-kernel APIC). None of these vCPUs ever runs. The fds stay open.
 */
static void keep_kvm(void)
{
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	int with = ioctl(kvm, KVM_CREATE_VM, 0), without = ioctl(kvm, KVM_CREATE_VM, 0);
	struct kvm_sregs sregs;
	int off;

	if (with < 0 || without < 0 || ioctl(with, KVM_CREATE_IRQCHIP, 0) ||
	    ioctl(with, KVM_CREATE_VCPU, 0) < 0 || ioctl(without, KVM_CREATE_VCPU, 0) < 0) {
		complain("KVM");
		return;
	}
	off = ioctl(with, KVM_CREATE_VCPU, 1);
	if (off < 0 || ioctl(off, KVM_GET_SREGS, &sregs)) {
		complain("KVM vCPU");
		return;
	}
	sregs.apic_base &= ~(__u64)APIC_BASE_ENABLE;
	if (ioctl(off, KVM_SET_SREGS, &sregs))
		complain("KVM APIC");
}

static void write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	if (fd < 0 || write(fd, text, strlen(text)) < 0)
		complain(path);
	if (fd >= 0)
		close(fd);
}

/* Keys of the memory and cpuset controllers (any child group) and of CPU bandwidth (any limit). */
static void keep_cgroup(void)
{
	if (mkdir(CGROUP, 0755)) {
		complain(CGROUP);
		return;
	}
	write_file(CGROUP "/cpu.max", "1000000 1000000");
}

/* Key netstamp_needed: any socket that wants arrival times. */
static void keep_net(void)
{
	int on = 1, fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_TIMESTAMP, &on, sizeof(on)))
		complain("timestamps");
}

static int open_watchdog(void)
{
	int limit = WATCHDOG_S, fd = open("/dev/watchdog", O_WRONLY | O_CLOEXEC);

	if (fd < 0 || ioctl(fd, WDIOC_SETTIMEOUT, &limit))
		complain("watchdog");
	return fd;
}

/* Moves to each processor before it says all is well: one that is stuck stops us. */
static _Noreturn void watch(int dog)
{
	size_t n = (size_t)sysconf(_SC_NPROCESSORS_CONF);

	for (;;) {
		for (size_t cpu = 0; cpu < n && cpu < CPU_SETSIZE; cpu++) {
			cpu_set_t one;

			CPU_ZERO(&one);
			CPU_SET(cpu, &one);
			if (sched_setaffinity(0, sizeof(one), &one) && errno != EINVAL)
				complain("affinity");
		}
		if (dog >= 0 && write(dog, "", 1) != 1)
			complain("watchdog");
		sleep(PET_S);
	}
}

void rigd_keep(void)
{
	int done[2];
	pid_t pid;
	char c;

	if (pipe2(done, O_CLOEXEC)) {
		complain("pipe");
		return;
	}
	pid = fork();
	if (pid < 0)
		complain("fork");
	if (pid) {
		close(done[1]);
		/* Ends when the child closes it: all is held before the first command runs. */
		if (read(done[0], &c, 1) < 0)
			complain("wait");
		close(done[0]);
		return;
	}
	setsid();
	prctl(PR_SET_NAME, "rig-keep");
	setpriority(PRIO_PROCESS, 0, -20);
	signal(SIGHUP, SIG_IGN);
	signal(SIGTERM, SIG_IGN);
	keep_cgroup();
	keep_kvm();
	keep_net();
	close(done[0]);
	close(done[1]);
	watch(open_watchdog());
}
