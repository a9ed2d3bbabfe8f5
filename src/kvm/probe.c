/* SPDX-License-Identifier: MIT */
/*
 * The behavioural KVM probe: a child process runs a hand-written 64-bit guest, the caller waits for
 * it with a deadline. See probe.h. A child rather than a thread, because only its death stops a
 * vCPU surely.
 */
#include "kvm/probe.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define RAM_BYTES 0x10000u
#define PML4_GPA 0x1000u
#define PDPT_GPA 0x2000u
#define PD_GPA 0x3000u
#define CODE_GPA 0x4000u
#define STACK_GPA 0x8000u
#define STAGE_GPA 0x9000u /* the guest writes here what it is about to do */
#define DONE_PORT 0xf4
#define DONE_VALUE 0x600du
#define CPUID_MAX 256
#define BUSY_FACTOR 10

enum stage { STAGE_NONE, STAGE_CPUID, STAGE_TSC, STAGE_SSE, STAGE_AVX, STAGE_LOOP };

static const char *const stage_names[] = {
	[STAGE_NONE] = "its first instruction",
	[STAGE_CPUID] = "CPUID",
	[STAGE_TSC] = "RDTSC",
	[STAGE_SSE] = "SSE arithmetic",
	[STAGE_AVX] = "AVX arithmetic",
	[STAGE_LOOP] = "a loop of 100 million instructions",
};

/* What parent and child share. */
struct shared {
	uint8_t ram[RAM_BYTES];
	int answer; /* 1 or 0 once the child knows, -1 before */
	char why[160];
};

extern const uint8_t kvm_probe_guest[], kvm_probe_guest_end[];

/*
 * Flat 64-bit code, position independent, no stack use, no interrupts: any exception is a triple
 * fault. A result is right or the guest stops with its stage number; numbers are those of enum
 * stage.
 */
__asm__(".pushsection .rodata\n"
	".balign 16\n"
	".globl kvm_probe_guest, kvm_probe_guest_end\n"
	".hidden kvm_probe_guest, kvm_probe_guest_end\n"
	"kvm_probe_guest:\n"
	"	movl	$1, 0x9000\n"
	"	xorl	%eax, %eax\n"
	"	cpuid\n"
	"	testl	%ebx, %ebx\n"
	"	jz	9f\n"
	"	movl	$2, 0x9000\n"
	"	rdtsc\n"
	"	shlq	$32, %rdx\n"
	"	leaq	(%rdx,%rax), %rsi\n"
	"	rdtsc\n"
	"	shlq	$32, %rdx\n"
	"	orq	%rdx, %rax\n"
	"	cmpq	%rsi, %rax\n"
	"	jb	9f\n"
	/* sqrt(3*3 + 16) = 5, sqrt(5*5 + 144) = 13; then 5*13 as integers */
	"	movl	$3, 0x9000\n"
	"	movupd	6f(%rip), %xmm0\n"
	"	mulpd	%xmm0, %xmm0\n"
	"	movupd	7f(%rip), %xmm1\n"
	"	addpd	%xmm1, %xmm0\n"
	"	sqrtpd	%xmm0, %xmm2\n"
	"	cvttpd2dq %xmm2, %xmm3\n"
	"	pshufd	$0x55, %xmm3, %xmm4\n"
	"	pmuludq	%xmm3, %xmm4\n"
	"	movq	%xmm4, %rax\n"
	"	cmpq	$65, %rax\n"
	"	jne	9f\n"
	/* AVX, if there: 3*16 + 5*144 in 256-bit registers */
	"	movl	$1, %eax\n"
	"	cpuid\n"
	"	andl	$0x14000000, %ecx\n"
	"	cmpl	$0x14000000, %ecx\n"
	"	jne	1f\n"
	"	movl	$4, 0x9000\n"
	"	movq	%cr4, %rax\n"
	"	orl	$0x40000, %eax\n"
	"	movq	%rax, %cr4\n"
	"	xorl	%ecx, %ecx\n"
	"	xorl	%edx, %edx\n"
	"	movl	$7, %eax\n"
	"	xsetbv\n"
	"	vbroadcastf128 6f(%rip), %ymm0\n"
	"	vbroadcastf128 7f(%rip), %ymm1\n"
	"	vmulpd	%ymm0, %ymm1, %ymm2\n"
	"	vhaddpd	%ymm2, %ymm2, %ymm3\n"
	"	vextractf128 $1, %ymm3, %xmm4\n"
	"	vcvttsd2si %xmm4, %rax\n"
	"	cmpq	$768, %rax\n"
	"	jne	9f\n"
	"1:	movl	$5, 0x9000\n"
	"	movl	$25000000, %ecx\n"
	"	xorl	%eax, %eax\n"
	"2:	addq	%rcx, %rax\n"
	"	xorq	%rcx, %rsi\n"
	"	decl	%ecx\n"
	"	jnz	2b\n"
	"	movq	$312500012500000, %rdx\n"
	"	cmpq	%rdx, %rax\n"
	"	jne	9f\n"
	"	movl	$0x600d, %eax\n"
	"	outl	%eax, $0xf4\n"
	"9:	movl	0x9000, %eax\n"
	"	outl	%eax, $0xf4\n"
	"	jmp	9b\n"
	".balign 16\n"
	"6:	.double	3.0, 5.0\n"
	"7:	.double	16.0, 144.0\n"
	"kvm_probe_guest_end:\n"
	".popsection\n");

static const char *stage_name(const struct shared *sh)
{
	uint32_t stage;

	memcpy(&stage, sh->ram + STAGE_GPA, sizeof(stage));
	return stage <= STAGE_LOOP ? stage_names[stage] : "?";
}

static void put_u64(struct shared *sh, uint32_t gpa, uint64_t v)
{
	memcpy(sh->ram + gpa, &v, sizeof(v));
}

/* Identity map of the first 2 MiB in one large page. */
static void load_guest(struct shared *sh)
{
	put_u64(sh, PML4_GPA, PDPT_GPA | 3);
	put_u64(sh, PDPT_GPA, PD_GPA | 3);
	put_u64(sh, PD_GPA, 0x83);
	memcpy(sh->ram + CODE_GPA, kvm_probe_guest,
	       (size_t)(kvm_probe_guest_end - kvm_probe_guest));
}

static int long_mode(int vcpu)
{
	struct kvm_regs regs = { .rip = CODE_GPA, .rsp = STACK_GPA, .rflags = 2 };
	struct kvm_segment seg = {
		.limit = 0xffffffff,
		.selector = 0x10,
		.type = 3,
		.present = 1,
		.s = 1,
		.g = 1,
		.db = 1,
	};
	struct kvm_sregs sregs;

	if (ioctl(vcpu, KVM_GET_SREGS, &sregs))
		return -1;
	sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = seg;
	seg.selector = 8;
	seg.type = 11;
	seg.db = 0;
	seg.l = 1;
	sregs.cs = seg;
	sregs.cr3 = PML4_GPA;
	sregs.cr4 = 1u << 5 | 1u << 9 | 1u << 10; /* PAE, OSFXSR, OSXMMEXCPT */
	sregs.cr0 = 0x80010033;			  /* PG, WP, NE, ET, MP, PE */
	sregs.efer = 0x500;			  /* LMA, LME */
	return ioctl(vcpu, KVM_SET_SREGS, &sregs) || ioctl(vcpu, KVM_SET_REGS, &regs) ? -1 : 0;
}

static int give_cpuid(int kvm, int vcpu)
{
	union {
		struct kvm_cpuid2 head;
		uint8_t room[sizeof(struct kvm_cpuid2) +
			     CPUID_MAX * sizeof(struct kvm_cpuid_entry2)];
	} cpuid = { .head = { .nent = CPUID_MAX } };

	if (ioctl(kvm, KVM_GET_SUPPORTED_CPUID, &cpuid))
		return -1;
	return ioctl(vcpu, KVM_SET_CPUID2, &cpuid);
}

static void read_exit(struct shared *sh, const struct kvm_run *run)
{
	uint32_t value = 0;

	switch (run->exit_reason) {
	case KVM_EXIT_IO:
		if (run->io.port == DONE_PORT && run->io.size == sizeof(value))
			memcpy(&value, (const uint8_t *)run + run->io.data_offset, sizeof(value));
		if (value == DONE_VALUE)
			sh->answer = 1;
		else
			snprintf(sh->why, sizeof(sh->why), "its guest computes wrongly: %s",
				 stage_name(sh));
		break;
	case KVM_EXIT_INTERNAL_ERROR:
		snprintf(sh->why, sizeof(sh->why),
			 "it cannot run %s (KVM internal error, suberror %u)", stage_name(sh),
			 run->internal.suberror);
		break;
	case KVM_EXIT_SHUTDOWN:
		snprintf(sh->why, sizeof(sh->why), "its guest dies at %s (triple fault)",
			 stage_name(sh));
		break;
	default:
		snprintf(sh->why, sizeof(sh->why), "its guest stops at %s (exit reason %u)",
			 stage_name(sh), run->exit_reason);
	}
}

/* Runs in the child. Leaves the answer in sh; a step that failed is the reason why not. */
static const char *try_kvm(struct shared *sh)
{
	struct kvm_userspace_memory_region slot = {
		.memory_size = RAM_BYTES,
		.userspace_addr = (uintptr_t)sh->ram,
	};
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC), vm, vcpu, len, rc, tries = 0;
	struct kvm_run *run;

	if (kvm < 0)
		return "open /dev/kvm";
	if (ioctl(kvm, KVM_GET_API_VERSION, 0) != KVM_API_VERSION)
		return "KVM_GET_API_VERSION";
	do { /* a busy host may interrupt it for no reason */
		vm = ioctl(kvm, KVM_CREATE_VM, 0);
	} while (vm < 0 && errno == EINTR && ++tries < 10);
	if (vm < 0)
		return "KVM_CREATE_VM";
	load_guest(sh);
	if (ioctl(vm, KVM_SET_USER_MEMORY_REGION, &slot))
		return "KVM_SET_USER_MEMORY_REGION";
	if (ioctl(vm, KVM_CREATE_IRQCHIP, 0))
		return "KVM_CREATE_IRQCHIP";
	vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);
	len = ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	if (vcpu < 0 || len < (int)sizeof(*run))
		return "KVM_CREATE_VCPU";
	run = mmap(NULL, (size_t)len, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
	if (run == MAP_FAILED)
		return "mmap of the vCPU";
	if (give_cpuid(kvm, vcpu))
		return "KVM_SET_CPUID2";
	if (long_mode(vcpu))
		return "KVM_SET_SREGS for 64-bit mode";
	tries = 0;
	do
		rc = ioctl(vcpu, KVM_RUN, 0);
	while (rc < 0 && (errno == EINTR || errno == EAGAIN) && ++tries < 1000);
	if (rc < 0)
		return "KVM_RUN";
	read_exit(sh, run);
	return NULL;
}

static _Noreturn void child(struct shared *sh)
{
	const char *failed;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	failed = try_kvm(sh);
	if (failed)
		snprintf(sh->why, sizeof(sh->why), "%s: %s", failed, strerror(errno));
	if (sh->answer < 0)
		sh->answer = 0;
	_exit(0);
}

static int64_t clock_ms(clockid_t clock)
{
	struct timespec t;

	return clock_gettime(clock, &t) ? 0 : (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* Waits for the child's end; kills it at the deadline, which counts its own time on a busy machine.
 */
static int await_child(pid_t pid, int deadline_ms, struct shared *sh)
{
	int64_t start_ms = clock_ms(CLOCK_MONOTONIC), cpu_ms = 0, wall_ms = 0;
	struct pollfd p = { .events = POLLIN };
	int n = 0, rc = 0;
	clockid_t cpu;

	p.fd = (int)syscall(SYS_pidfd_open, pid, 0);
	if (p.fd < 0)
		rc = -errno;
	else
		rc = -clock_getcpuclockid(pid, &cpu);
	while (!rc && n <= 0 && cpu_ms < deadline_ms &&
	       wall_ms < (int64_t)deadline_ms * BUSY_FACTOR) {
		n = poll(&p, 1, deadline_ms - (int)cpu_ms);
		if (n < 0 && errno != EINTR)
			rc = -errno;
		cpu_ms = clock_ms(cpu);
		wall_ms = clock_ms(CLOCK_MONOTONIC) - start_ms;
	}
	if (p.fd >= 0)
		close(p.fd);
	if (n <= 0)
		kill(pid, SIGKILL);
	while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		;
	if (n <= 0 && !rc && sh->answer < 0)
		snprintf(sh->why, sizeof(sh->why),
			 "its guest is still in %s after %lld ms, %lld ms of them on a CPU",
			 stage_name(sh), (long long)wall_ms, (long long)cpu_ms);
	else if (sh->answer < 0)
		snprintf(sh->why, sizeof(sh->why), "the probe's process died");
	return rc;
}

int kvm_probe_stock(int deadline_ms, char *why, size_t why_len)
{
	struct shared *sh;
	pid_t pid;
	int rc;

	if (why_len)
		why[0] = '\0';
	if (deadline_ms < 1)
		return -EINVAL;
	sh = mmap(NULL, sizeof(*sh), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (sh == MAP_FAILED)
		return -errno;
	sh->answer = -1;
	pid = fork();
	if (!pid)
		child(sh);
	rc = pid < 0 ? -errno : await_child(pid, deadline_ms, sh);
	if (!rc)
		rc = sh->answer == 1;
	if (!rc && why_len)
		snprintf(why, why_len, "%s", sh->why);
	munmap(sh, sizeof(*sh));
	return rc;
}
