/* SPDX-License-Identifier: MIT */
/*
 * System call filters. The whole process gets the main filter before it reads its first request;
 * each vCPU thread adds a narrower one before KVM_RUN. Both are compiled ahead by libseccomp and
 * kept as BPF, because a fork's child installs the vCPU filter on its critical path.
 *
 * A VM must be able to fork: so clone (without new namespaces), KVM_CREATE_VM and the rest of a
 * VM's making stay allowed for life. That a guest that took over its VMM can make more KVM guests
 * out of its own memory is the price; files, networks and other processes stay out of reach. ioctls
 * are allowed by number. Everything that opens by path answers EPERM, because libc probes for files
 * and lives without; all else kills the process.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <seccomp.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/util.h"
#include "jail/jail.h"
#include "kvm/kvm.h"
#include "net/tap.h"

struct jail_filters {
	struct sock_fprog main, vcpu;
};

enum { MAIN = 1, VCPU = 2, BOTH = 3 };

struct rule {
	int nr;
	int who;
	const char *why;
};
#define R(name, who, why)                                                                          \
	{                                                                                          \
		SCMP_SYS(name), who, why                                                           \
	}

static const struct rule rules[] = {
	R(read, BOTH, "eventfds, sockets, timers"),
	R(write, BOTH, "eventfds, console, log"),
	R(readv, BOTH, "sockets"),
	R(writev, BOTH, "sockets"),
	R(pread64, MAIN, "state files"),
	R(pwrite64, BOTH, "console log (from a vCPU's port write), snapshots"),
	R(preadv, MAIN, "disks"),
	R(pwritev, MAIN, "disks"),
	R(close, BOTH, "interrupt eventfds that a guest reprograms"),
	R(close_range, MAIN, "a child sweeps what it inherited"),
	R(fstat, MAIN, "size of a granted file"),
	R(newfstatat, MAIN, "libc's spelling of fstat"),
	R(lseek, BOTH, "size of a granted disk, log position"),
	R(ftruncate, MAIN, "snapshot files, exit record"),
	R(fallocate, BOTH, "holes in disks; the console log is bounded by them"),
	R(fsync, MAIN, "snapshots"),
	R(fdatasync, MAIN, "disks"),
	R(dup, MAIN, "descriptors for two owners"),
	R(dup2, MAIN, "a child's own log"),
	R(dup3, MAIN, "a child's own log"),
	R(mmap, BOTH, "memory; rings; malloc of a thread"),
	R(munmap, BOTH, "as mmap"),
	R(mremap, BOTH, "realloc; a seed's huge pages"),
	R(mprotect, BOTH, "malloc, thread stacks"),
	R(madvise, BOTH, "discard; thread stacks at their end"),
	R(fadvise64, MAIN, "a seed's huge pages: the file's are not needed any more"),
	R(mincore, MAIN, "which RAM was never touched"),
	R(brk, BOTH, "malloc"),
	R(sysinfo, MAIN, "is anything swapped out"),
	R(futex, BOTH, "locks"),
	R(rseq, BOTH, "libc registers it in each thread"),
	R(set_robust_list, BOTH, "libc, in each thread"),
	R(set_tid_address, MAIN, "libc, after fork"),
	R(sched_yield, BOTH, "libc locks"),
	R(exit, BOTH, "end of a thread"),
	R(exit_group, BOTH, "end"),
	R(getpid, BOTH, "abort, libevent"),
	R(gettid, BOTH, "abort"),
	R(getuid, MAIN, "libevent, for a child's loop: is it set-uid"),
	R(geteuid, MAIN, "as getuid"),
	R(getgid, MAIN, "as getuid"),
	R(getegid, MAIN, "as getuid"),
	R(tgkill, BOTH, "kicks; abort"),
	R(kill, MAIN, "a child that does not get ready is ended"),
	R(wait4, MAIN, "children are reaped"),
	R(pidfd_open, MAIN, "a child's end is an event"),
	R(rt_sigaction, BOTH, "abort"),
	R(rt_sigprocmask, BOTH, "kicks"),
	R(rt_sigreturn, BOTH, "kicks"),
	R(rt_sigsuspend, VCPU, "a vCPU that ended waits"),
	R(sigaltstack, BOTH, "libc, sanitizers"),
	R(restart_syscall, BOTH, "the kernel, after a stop"),
	R(nanosleep, BOTH, "sanitizers"),
	R(clock_nanosleep, BOTH, "sanitizers"),
	R(clock_gettime, BOTH, "when the vDSO cannot"),
	R(getrusage, MAIN, "page faults: what a live snapshot costs"),
	R(gettimeofday, BOTH, "when the vDSO cannot"),
	R(time, BOTH, "when the vDSO cannot"),
	R(getrandom, BOTH, "virtio-rng, identities"),
	R(eventfd2, BOTH, "kicks, interrupts"),
	R(epoll_create1, MAIN, "a child's own loop"),
	R(epoll_ctl, MAIN, "loop"),
	R(epoll_wait, MAIN, "loop"),
	R(epoll_pwait, MAIN, "loop"),
	R(epoll_pwait2, MAIN, "loop"),
	R(timerfd_create, MAIN, "loop"),
	R(timerfd_settime, MAIN, "loop"),
	R(poll, MAIN, "libevent"),
	R(pipe2, MAIN, "libevent"),
	R(socketpair, MAIN, "streams to the agent, children's reports"),
	R(accept4, MAIN, "control, console, vsock"),
	R(accept, MAIN, "control, console, vsock"),
	R(connect, MAIN, "the guest's connections to PATH_PORT in the VM's own directory"),
	R(getsockname, MAIN, "libevent"),
	R(getpeername, MAIN, "libevent"),
	R(getsockopt, MAIN, "libevent"),
	R(setsockopt, MAIN, "libevent"),
	R(sendmsg, BOTH, "descriptors; console"),
	R(recvmsg, MAIN, "descriptors"),
	R(sendto, BOTH, "console, reports"),
	R(recvfrom, MAIN, "reports"),
	R(shutdown, MAIN, "half-closed streams"),
	R(io_uring_setup, MAIN, "disks: each child makes its own ring"),
	R(io_uring_enter, BOTH, "disks; a driver's reset drains from a vCPU"),
	R(io_uring_register, MAIN, "the ring is restricted to what disks need"),
	R(fchdir, MAIN, "a child enters its own directory"),
	R(setresuid, BOTH, "a seed's child gets its own uid, thread by thread"),
	R(setresgid, BOTH, "as setresuid"),
	R(chroot, MAIN, "a seed's child gets its own root"),
	R(capset, BOTH, "a seed's child drops all, thread by thread"),
	R(seccomp, MAIN, "vCPU threads add their filter"),
	R(prlimit64, MAIN, "libc asks for the stack size of a new thread"),
	R(sched_getaffinity, MAIN, "libc, for a new thread's attributes"),
	R(uname, MAIN, "liburing probes"),
};

/* Reaching for the file system is an answer, not a death: libc and sanitizers try and go on. */
static const int refused[] = {
	SCMP_SYS(open),	      SCMP_SYS(openat), SCMP_SYS(openat2),  SCMP_SYS(access),
	SCMP_SYS(faccessat2), SCMP_SYS(stat),	SCMP_SYS(readlink), SCMP_SYS(statx),
};

/* Duplicates, the lock, stdio. */
static const unsigned int fcntls[] = { F_DUPFD, F_DUPFD_CLOEXEC, F_GETFD,    F_SETFD,
				       F_GETFL, F_OFD_SETLK,	 F_OFD_GETLK };

static int add_rules(scmp_filter_ctx ctx, int who)
{
	int ret = 0;

	for (size_t i = 0; i < ARRAY_SIZE(rules) && !ret; i++)
		if (rules[i].who & who)
			ret = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, rules[i].nr, 0);
	for (size_t i = 0; i < ARRAY_SIZE(refused) && !ret; i++)
		ret = seccomp_rule_add(ctx, SCMP_ACT_ERRNO(EPERM), refused[i], 0);
	for (unsigned int i = 0; i < kvm_ioctls_count && !ret; i++)
		ret = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1,
				       SCMP_A1(SCMP_CMP_MASKED_EQ, 0xffffffffu, kvm_ioctls[i].nr));
	for (unsigned int i = 0; i < net_ioctls_count && !ret; i++) {
		if (who == VCPU && !net_ioctls[i].vcpu)
			continue;
		ret = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1,
				       SCMP_A1(SCMP_CMP_MASKED_EQ, 0xffffffffu, net_ioctls[i].nr));
	}
	for (size_t i = 0; i < ARRAY_SIZE(fcntls) && !ret; i++)
		ret = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(fcntl), 1,
				       SCMP_A1(SCMP_CMP_MASKED_EQ, 0xffffffffu, fcntls[i]));
	/* Not the modes of files: a fork shares them with its siblings (an open file description),
	 * and O_DIRECT would be theirs, too. */
	if (!ret)
		ret = seccomp_rule_add(
			ctx, SCMP_ACT_ALLOW, SCMP_SYS(fcntl), 2,
			SCMP_A1(SCMP_CMP_MASKED_EQ, 0xffffffffu, F_SETFL),
			SCMP_A2(SCMP_CMP_MASKED_EQ, O_DIRECT | O_APPEND | O_ASYNC | O_NOATIME, 0));
	if (!ret)
		ret = seccomp_rule_add(ctx, SCMP_ACT_ERRNO(ENOTTY), SCMP_SYS(ioctl), 1,
				       SCMP_A1(SCMP_CMP_EQ, TCGETS)); /* stdio asks: a terminal? */
	if (ret)
		return ret;
	ret = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(prctl), 1,
			       SCMP_A0(SCMP_CMP_EQ, PR_SET_NAME));
	if (ret || who != MAIN)
		return ret;
	/* the writer of a snapshot ends with its VM */
	ret = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(prctl), 1,
			       SCMP_A0(SCMP_CMP_EQ, PR_SET_PDEATHSIG));
	if (ret)
		return ret;
	/* fork and threads, but no new namespaces */
	ret = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(clone), 1,
			       SCMP_A0(SCMP_CMP_MASKED_EQ,
				       CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET |
					       CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP,
				       0));
	/* its flags cannot be seen through a pointer: libc falls back to clone */
	if (!ret)
		ret = seccomp_rule_add(ctx, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0);
	/* connect needs a socket: unix ones only */
	if (!ret)
		ret = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(socket), 1,
				       SCMP_A0(SCMP_CMP_EQ, 1 /* AF_UNIX */));
	return ret;
}

/* libseccomp writes BPF to a descriptor; we keep it in memory. */
static int export(scmp_filter_ctx ctx, struct sock_fprog *out)
{
	cleanup_close int fd = memfd_create("filter", MFD_CLOEXEC);
	struct stat st;
	int ret;

	if (fd < 0)
		return -errno;
	ret = seccomp_export_bpf(ctx, fd);
	if (ret)
		return ret;
	if (fstat(fd, &st) < 0)
		return -errno;
	out->filter = malloc((size_t)st.st_size);
	if (!out->filter)
		return -ENOMEM;
	out->len = (unsigned short)((size_t)st.st_size / sizeof(struct sock_filter));
	return fd_pread_full(fd, out->filter, (size_t)st.st_size, 0);
}

static int compile(int who, struct sock_fprog *out, struct err *e)
{
#ifdef CLONE_DEBUG
	/* a signal that a debugger sees, and not an end at once */
	scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_TRAP);
#else
	scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_KILL_PROCESS);
#endif
	int ret;

	if (!ctx)
		return err_set(e, ENOMEM, "jail: out of memory");
	ret = add_rules(ctx, who);
	if (!ret)
		ret = export(ctx, out);
	seccomp_release(ctx);
	return ret ? err_sys(e, -ret, "jail: compiling a system call filter") : 0;
}

int jail_prepare(struct jail_filters **out, struct err *e)
{
	struct jail_filters *f = calloc(1, sizeof(*f));
	int ret;

	if (!f)
		return err_set(e, ENOMEM, "jail: out of memory");
	ret = compile(MAIN, &f->main, e);
	if (!ret)
		ret = compile(VCPU, &f->vcpu, e);
	if (ret) {
		free(f->main.filter);
		free(f->vcpu.filter);
		free(f);
		return ret;
	}
	*out = f;
	return 0;
}

static int install(const struct sock_fprog *prog, struct err *e)
{
	if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, prog) < 0)
		return err_sys(e, errno, "jail: installing a system call filter");
	return 0;
}

int jail_enter_main(const struct jail_filters *f, struct err *e)
{
	return install(&f->main, e);
}

int jail_enter_vcpu(const struct jail_filters *f, struct err *e)
{
	return install(&f->vcpu, e);
}
