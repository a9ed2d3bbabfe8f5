/* SPDX-License-Identifier: MIT */
/*
 * vCPU and chip state against the real /dev/kvm, with a hand-written guest that counts: saved,
 * loaded into a second VM, it goes on counting from where it was. Skipped where there is no
 * /dev/kvm.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/util.h"
#include "device/kernel_devices.h"
#include "kvm/kvm.h"
#include "kvm/state.h"
#include "x86/boot.h"
#include "x86/cpuid.h"

#define RAM_BYTES (4ull << 20)
#define CODE 0x10000u
#define PML4 0x1000u
#define PORT 0x80

/* loop: inc rax; movq xmm1, rax; out 0x80, al; jmp loop. */
static const uint8_t counter[] = { 0x48, 0xff, 0xc0, 0xe6, PORT, 0xeb, 0xf9 };

struct vm {
	struct kvm *k;
	struct kvm_vcpu *v;
	uint8_t *ram;
};

static int sys_fd;

static void ram_make(struct vm *vm)
{
	uint64_t *t;

	vm->ram = mmap(NULL, RAM_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_true(vm->ram != MAP_FAILED);
	t = (uint64_t *)(void *)(vm->ram + PML4);
	t[0] = (PML4 + 0x1000) | 3;
	t[512] = (PML4 + 0x2000) | 3;
	for (uint64_t i = 0; i < 512; i++)
		t[1024 + i] = (i << 21) | 0x83;
	memcpy(vm->ram + CODE, counter, sizeof(counter));
}

static void vm_make(struct vm *vm, const struct vcpu_state *s, const struct chip_state *c)
{
	struct err e;

	assert_int_equal(kvm_create(sys_fd, &vm->k, &e), 0);
	assert_int_equal(kvm_set_memory(vm->k, 0, 0, RAM_BYTES, vm->ram, false, &e), 0);
	assert_int_equal(kvm_create_irqchip(vm->k, true, &e), 0);
	if (c)
		assert_int_equal(kvm_chip_load(vm->k, c, &e), 0);
	assert_int_equal(kvm_vcpu_create(vm->k, 0, &vm->v, &e), 0);
	if (kvm_vcpu_load(vm->v, s, &e))
		fail_msg("%s", e.msg);
}

static void vm_free(struct vm *vm)
{
	kvm_destroy(vm->k);
	munmap(vm->ram, RAM_BYTES);
}

static void cold(struct vcpu_state *s)
{
	struct boot_entry b = { .mode = BOOT_LONG64, .rip = CODE, .cr3 = PML4 };
	static struct cpuid_table host;
	struct kvm *k;
	struct err e;

	memset(s, 0, sizeof(*s));
	assert_int_equal(kvm_create(sys_fd, &k, &e), 0);
	assert_int_equal(kvm_supported_cpuid(k, &host, &e), 0);
	kvm_destroy(k);
	s->phase = VCPU_COLD;
	s->has_regs = 1;
	cpuid_build(&host, 0, 1, &s->cpuid);
	boot_regs(&b, &s->regs, &s->sregs);
}

/* Runs until the guest has written the port n times; what it wrote last. */
static uint8_t count(struct vm *vm, int n)
{
	struct kvm_run *run = kvm_vcpu_runpage(vm->v);
	uint8_t last = 0;

	while (n--) {
		int r = kvm_vcpu_run(vm->v);

		assert_int_equal(r, 0);
		assert_int_equal(run->exit_reason, KVM_EXIT_IO);
		assert_int_equal(run->io.port, PORT);
		last = *((uint8_t *)run + run->io.data_offset);
	}
	return last;
}

static void save(struct vm *vm, struct vcpu_state *s, struct chip_state *c)
{
	struct err e;

	assert_int_equal(kvm_vcpu_settle(vm->v, &e), 0);
	if (kvm_vcpu_save(vm->v, s, &e))
		fail_msg("%s", e.msg);
	assert_int_equal(kvm_chip_save(vm->k, c, &e), 0);
	assert_int_equal(s->phase, VCPU_SAVED);
}

static void test_vcpu__goes_on_counting_in_a_second_vm(void **st)
{
	static struct vcpu_state s;
	struct chip_state c;
	struct vm a, b;

	(void)st;
	cold(&s);
	ram_make(&a);
	vm_make(&a, &s, NULL);
	assert_int_equal(count(&a, 100), 100);
	save(&a, &s, &c);

	ram_make(&b);
	memcpy(b.ram, a.ram, RAM_BYTES);
	vm_make(&b, &s, &c);
	assert_int_equal(count(&b, 50), 150);
	/* The first is none the wiser. */
	assert_int_equal(count(&a, 7), 107);
	vm_free(&a);
	vm_free(&b);
}

/* Registers that change by themselves. */
#define MSR_TSC 0x10

static void assert_same(const struct vcpu_state *a, const struct vcpu_state *b)
{
	assert_memory_equal(&a->regs, &b->regs, sizeof(a->regs));
	assert_memory_equal(&a->sregs, &b->sregs, sizeof(a->sregs));
	assert_memory_equal(&a->debugregs, &b->debugregs, sizeof(a->debugregs));
	assert_memory_equal(&a->xcrs, &b->xcrs, sizeof(a->xcrs));
	assert_memory_equal(&a->events, &b->events, sizeof(a->events));
	assert_memory_equal(a->xsave, b->xsave, sizeof(a->xsave));
	assert_memory_equal(a->lapic, b->lapic, sizeof(a->lapic));
	assert_int_equal(a->mp_state, b->mp_state);
	assert_int_equal(a->tsc_khz, b->tsc_khz);
	assert_int_equal(a->msrs.n, b->msrs.n);
	for (uint32_t i = 0; i < a->msrs.n; i++) {
		assert_int_equal(a->msrs.e[i].index, b->msrs.e[i].index);
		if (a->msrs.e[i].index == MSR_TSC)
			assert_true(b->msrs.e[i].data >= a->msrs.e[i].data);
		else if (a->msrs.e[i].data != b->msrs.e[i].data)
			fail_msg("MSR %#x: %#llx, then %#llx", a->msrs.e[i].index,
				 (unsigned long long)a->msrs.e[i].data,
				 (unsigned long long)b->msrs.e[i].data);
	}
}

static void test_vcpu__save_load_save_is_equal(void **st)
{
	static struct vcpu_state s, s2;
	struct chip_state c, c2;
	struct vm a, b;

	(void)st;
	cold(&s);
	ram_make(&a);
	vm_make(&a, &s, NULL);
	count(&a, 3);
	save(&a, &s, &c);
	/* States that a guest of ours does not make by itself. */
	s.regs.r15 = 0x1122334455667788;
	s.debugregs.db[1] = 0xffff800012345000;
	for (uint32_t i = 0; i < s.msrs.n; i++)
		if (s.msrs.e[i].index == 0xc0000102) /* KERNEL_GS_BASE */
			s.msrs.e[i].data = 0xffff888000001000;
	s.xsave[176] = 0x5a; /* XMM1, */
	s.xsave[512] |= 3;   /* and XSTATE_BV says that x87 and SSE are in use */
	c.ioapic.redirtbl[5].bits = 0x0300000000000033;

	ram_make(&b);
	memcpy(b.ram, a.ram, RAM_BYTES);
	vm_make(&b, &s, &c);
	s2 = s;
	assert_int_equal(kvm_vcpu_save(b.v, &s2, NULL), 0);
	assert_same(&s, &s2);
	assert_int_equal(kvm_chip_save(b.k, &c2, NULL), 0);
	assert_memory_equal(&c.pic, &c2.pic, sizeof(c.pic));
	assert_memory_equal(&c.ioapic, &c2.ioapic, sizeof(c.ioapic));
	vm_free(&a);
	vm_free(&b);
}

static void test_vcpu__wire_form_loses_nothing(void **st)
{
	const struct field_table t = dev_vcpu_class.state;
	static struct vcpu_state s, back;
	struct chip_state c;
	struct wbuf w, w2;
	struct rbuf r;
	struct vm a;
	struct err e;

	(void)st;
	cold(&s);
	ram_make(&a);
	vm_make(&a, &s, NULL);
	count(&a, 3);
	save(&a, &s, &c);
	wbuf_init(&w, 1 << 20);
	wbuf_init(&w2, 1 << 20);
	field_encode(&t, &s, &w);
	assert_false(w.bad);
	rbuf_init(&r, w.data, w.len);
	assert_int_equal(field_decode(&t, &r, &back, &e), 0);
	assert_true(rbuf_done(&r));
	assert_same(&s, &back);
	assert_int_equal(s.cpuid.n, back.cpuid.n);
	assert_memory_equal(&s.cpuid, &back.cpuid, sizeof(s.cpuid));
	field_encode(&t, &back, &w2);
	assert_int_equal(w.len, w2.len);
	assert_memory_equal(w.data, w2.data, w.len);
	/* And it runs. */
	vm_free(&a);
	ram_make(&a);
	vm_make(&a, &back, &c);
	assert_int_equal(count(&a, 1), 4);
	wbuf_fini(&w);
	wbuf_fini(&w2);
	vm_free(&a);
}

static void test_vcpu__msr_that_cannot_be_set_is_named(void **st)
{
	static struct vcpu_state s;
	struct chip_state c;
	struct vm a;
	struct kvm_vcpu *v;
	struct err e;

	(void)st;
	cold(&s);
	ram_make(&a);
	vm_make(&a, &s, NULL);
	save(&a, &s, &c);
	vm_free(&a);

	ram_make(&a);
	assert_int_equal(kvm_create(sys_fd, &a.k, &e), 0);
	assert_int_equal(kvm_set_memory(a.k, 0, 0, RAM_BYTES, a.ram, false, &e), 0);
	assert_int_equal(kvm_create_irqchip(a.k, false, &e), 0);
	assert_int_equal(kvm_vcpu_create(a.k, 0, &v, &e), 0);
	/* One that does not exist, in the middle: zero is nothing lost, another value is. */
	s.msrs.e[s.msrs.n] = s.msrs.e[3];
	s.msrs.e[3] = (struct kvm_msr_entry){ .index = 0x7fff1234, .data = 0 };
	s.msrs.n++;
	assert_int_equal(kvm_vcpu_load(v, &s, &e), 0);
	s.msrs.e[3].data = 5;
	assert_int_equal(kvm_vcpu_load(v, &s, &e), -EOPNOTSUPP);
	assert_string_equal(e.msg, "vCPU 0: MSR 0x7fff1234 is 0x5, but this host's KVM does not "
				   "have it");
	vm_free(&a);
}

static void test_vcpu__other_tsc_rate_is_refused(void **st)
{
	static struct vcpu_state s;
	struct chip_state c;
	struct vm a, b;
	struct err e;
	int r;

	(void)st;
	cold(&s);
	ram_make(&a);
	vm_make(&a, &s, NULL);
	save(&a, &s, &c);
	ram_make(&b);
	assert_int_equal(kvm_create(sys_fd, &b.k, &e), 0);
	assert_int_equal(kvm_create_irqchip(b.k, false, &e), 0);
	assert_int_equal(kvm_vcpu_create(b.k, 0, &b.v, &e), 0);
	if (s.tsc_khz) {
		s.tsc_khz /= 2;
		r = kvm_vcpu_load(b.v, &s, &e);
		/* A host that scales takes it. */
		assert_true(r == 0 || r == -EOPNOTSUPP);
		s.tsc_khz = s.tsc_khz * 2 + s.tsc_khz / 1000;
		assert_int_equal(kvm_vcpu_load(b.v, &s, &e), 0);
	}
	vm_free(&a);
	vm_free(&b);
}

/* The boot CPU runs, the others wait for INIT and SIPI; so they do when they were saved like that.
 */
static void test_vcpu__64_of_them_each_with_its_apic_id(void **st)
{
	static struct vcpu_state s[KVM_MAX_VCPUS_OURS];
	static struct cpuid_table host;
	struct boot_entry b = { .mode = BOOT_LONG64, .rip = CODE, .cr3 = PML4 };
	struct err e;
	struct vm vm;

	(void)st;
	ram_make(&vm);
	for (int life = 0; life < 2; life++) {
		struct kvm_vcpu *v;

		assert_int_equal(kvm_create(sys_fd, &vm.k, &e), 0);
		assert_int_equal(kvm_set_memory(vm.k, 0, 0, RAM_BYTES, vm.ram, false, &e), 0);
		assert_int_equal(kvm_create_irqchip(vm.k, false, &e), 0);
		assert_int_equal(kvm_supported_cpuid(vm.k, &host, &e), 0);
		for (uint32_t i = 0; i < ARRAY_SIZE(s); i++) {
			if (!life) {
				s[i].phase = VCPU_COLD;
				s[i].has_regs = !i;
				cpuid_build(&host, i, ARRAY_SIZE(s), &s[i].cpuid);
				boot_regs(&b, &s[i].regs, &s[i].sregs);
			}
			assert_int_equal(kvm_vcpu_create(vm.k, i, &v, &e), 0);
			if (kvm_vcpu_load(v, &s[i], &e) || kvm_vcpu_save(v, &s[i], &e))
				fail_msg("%s", e.msg);
			assert_int_equal(s[i].lapic[0x23], i);
			assert_int_equal(s[i].mp_state,
					 i ? KVM_MP_STATE_UNINITIALIZED : KVM_MP_STATE_RUNNABLE);
		}
		kvm_destroy(vm.k);
	}
	munmap(vm.ram, RAM_BYTES);
}

static void test_kvm__clock_goes_on(void **st)
{
	struct kvm_time t = { .clock_ns = 1000ull * 1000000000 };
	bool exact = true;
	struct kvm *k;
	struct err e;

	(void)st;
	assert_int_equal(kvm_create(sys_fd, &k, &e), 0);
	assert_int_equal(kvm_create_irqchip(k, false, &e), 0);
	assert_int_equal(kvm_time_set(k, &t, false, &exact, &e), 0);
	assert_false(exact);
	assert_int_equal(kvm_time_get(k, &t, &e), 0);
	assert_true(t.clock_ns >= 1000ull * 1000000000 && t.clock_ns < 1100ull * 1000000000);
	kvm_destroy(k);
}

#define TIMED 4

/* A VM with vCPUs that never run. */
static struct kvm *timed_vm(struct kvm_vcpu **v)
{
	struct kvm *k;
	struct err e;

	assert_int_equal(kvm_create(sys_fd, &k, &e), 0);
	assert_int_equal(kvm_create_irqchip(k, false, &e), 0);
	for (unsigned int i = 0; i < TIMED; i++)
		assert_int_equal(kvm_vcpu_create(k, i, &v[i], &e), 0);
	return k;
}

/* How far two instants are apart, by two clocks; the same but for what reading them takes. */
static void same_span(uint64_t ns, uint64_t tsc, uint32_t khz)
{
	int64_t off = (int64_t)(kvm_tsc_at(0, khz, 0, ns) - tsc);

	/* a quarter of what makes a Linux guest give up its TSC */
	if (llabs(off) > (int64_t)khz / 16)
		fail_msg("%lld cycles at %u kHz", (long long)off, khz);
}

/* tsc[] is that of a's vCPUs at the instant ta; b is to be as if it were a. */
static void copy_time(struct kvm *b, struct kvm_vcpu **vb, const struct kvm_time *ta,
		      const uint64_t *tsc, uint32_t khz, bool passed)
{
	struct kvm_time t = *ta;
	bool exact;
	struct err e;

	assert_int_equal(kvm_time_set(b, &t, passed, &exact, &e), 0);
	assert_int_equal(exact, passed && ta->realtime_ns != 0);
	if (!exact)
		assert_int_equal(kvm_time_get(b, &t, &e), 0);
	for (int i = 0; i < TIMED; i++)
		assert_int_equal(kvm_vcpu_tsc_set(vb[i], &t,
						  kvm_tsc_at(tsc[i], khz, ta->clock_ns, t.clock_ns),
						  &e),
				 0);
}

/* Some KVMs (page-table virtualisation) give every guest the host's own TSC, and say nothing. */
static bool tsc_can_be_set(struct kvm_vcpu *v, const struct kvm_time *now)
{
	uint64_t tsc = 0;
	struct err e;

	assert_int_equal(kvm_vcpu_tsc_set(v, now, 77, &e), 0);
	assert_int_equal(kvm_vcpu_tsc_get(v, now, &tsc, &e), 0);
	return tsc == 77;
}

static void test_kvm__tsc_and_clock_go_on_as_one(void **st)
{
	struct kvm_vcpu *va[TIMED], *vb[TIMED];
	struct kvm *a = timed_vm(va), *b;
	static struct vcpu_state s;
	uint64_t tsc[TIMED], now;
	struct kvm_time ta, tb, later;
	uint32_t khz;
	bool can;
	struct err e;

	(void)st;
	assert_int_equal(kvm_vcpu_save(va[0], &s, &e), 0);
	khz = s.tsc_khz;
	assert_int_equal(kvm_time_get(a, &ta, &e), 0);
	/* in step with each other, but not with the host */
	for (int i = 0; i < TIMED; i++)
		assert_int_equal(kvm_vcpu_tsc_set(va[i], &ta, 5000000, &e), 0);
	assert_int_equal(kvm_time_get(a, &ta, &e), 0);
	can = tsc_can_be_set(va[0], &ta);
	assert_int_equal(kvm_vcpu_tsc_set(va[0], &ta, 5000000, &e), 0);
	for (int i = 0; i < TIMED; i++) {
		assert_int_equal(kvm_vcpu_tsc_get(va[i], &ta, &tsc[i], &e), 0);
		if (can && i)
			assert_true(tsc[i] > tsc[0] && tsc[i] == tsc[1]);
	}
	for (int passed = 0; passed < 2; passed++) {
		usleep(20000); /* in which the copy would fall behind, if it could */
		b = timed_vm(vb);
		copy_time(b, vb, &ta, tsc, khz, passed);
		assert_int_equal(kvm_time_get(b, &tb, &e), 0);
		for (int i = 0; i < TIMED; i++) {
			assert_int_equal(kvm_vcpu_tsc_get(vb[i], &tb, &now, &e), 0);
			if (can || passed)
				same_span(tb.clock_ns - ta.clock_ns, now - tsc[i], khz);
			if (passed && ta.realtime_ns)
				assert_true(now - tb.host_tsc == tsc[i] - ta.host_tsc);
		}
		assert_int_equal(kvm_time_get(a, &later, &e), 0);
		if (passed) /* b is where a is */
			same_span(later.clock_ns - tb.clock_ns, later.host_tsc - tb.host_tsc, khz);
		else /* b is where a was */
			assert_true(tb.clock_ns + 20000000 <= later.clock_ns);
		kvm_destroy(b);
	}
	kvm_destroy(a);
}

static void test_kvm__routes_run_out_and_come_back(void **st)
{
	struct kvm *k;
	struct err e;
	int gsi, last = -1;

	(void)st;
	assert_int_equal(kvm_create(sys_fd, &k, &e), 0);
	assert_int_equal(kvm_create_irqchip(k, false, &e), 0);
	assert_int_equal(kvm_routes_commit(k, &e), 0);
	while ((gsi = kvm_msi_alloc(k, &e)) >= 0) {
		assert_true(gsi >= KVM_GSI_PINS && gsi < KVM_GSI_MAX);
		kvm_msi_set(k, gsi, 0xfee00000, 0x40, true);
		last = gsi;
	}
	assert_int_equal(gsi, -ENOSPC);
	assert_int_equal(kvm_routes_commit(k, &e), 0);
	kvm_msi_free(k, last);
	assert_int_equal(kvm_msi_alloc(k, &e), last);
	assert_int_equal(kvm_routes_commit(k, &e), 0);
	kvm_destroy(k);
}

static void test_kvm__wrong_fd_says_so(void **st)
{
	int fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	struct kvm *k = NULL;
	struct err e;

	(void)st;
	assert_true(kvm_check_system(fd, &e) < 0);
	assert_true(kvm_create(fd, &k, &e) < 0);
	assert_null(k);
	assert_int_equal(kvm_check_system(sys_fd, &e), 0);
	close(fd);
}

static bool listed(const char *name, size_t n)
{
	for (unsigned int i = 0; i < kvm_ioctls_count; i++)
		if (strlen(kvm_ioctls[i].name) == n && !memcmp(kvm_ioctls[i].name, name, n))
			return true;
	return false;
}

/* The seccomp filter is made of this list: a call that is missing from it kills a VM, but only
 * the VM that comes to make it. So the sources are searched. */
static void test_ioctls__every_call_in_the_sources_is_listed(void **st)
{
	static const char *const files[] = { "kvm", "msrs", "vcpu", "routes" };
	static const char *const calls[] = { "kvm_call(", "kvm_callp(", "ioctl(", "STEP(" };
	unsigned int found = 0;

	(void)st;
	for (size_t f = 0; f < ARRAY_SIZE(files); f++) {
		char path[64], line[512];
		FILE *src;

		snprintf(path, sizeof(path), "src/kvm/%s.c", files[f]);
		src = fopen(path, "re");
		if (!src)
			fail_msg("%s cannot be read: run from the top of the source tree", path);
		while (fgets(line, sizeof(line), src)) {
			for (size_t c = 0; c < ARRAY_SIZE(calls); c++) {
				const char *p = strstr(line, calls[c]), *k;
				size_t n;

				k = p ? strstr(p, "KVM_") : NULL;
				if (!k || *line == '#')
					continue;
				n = strspn(k, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_");
				if (!listed(k, n))
					fail_msg("%s: %.*s is not in kvm_ioctls", path, (int)n, k);
				found++;
			}
		}
		fclose(src);
	}
	assert_true(found > 40);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_vcpu__goes_on_counting_in_a_second_vm),
		cmocka_unit_test(test_vcpu__save_load_save_is_equal),
		cmocka_unit_test(test_vcpu__wire_form_loses_nothing),
		cmocka_unit_test(test_vcpu__msr_that_cannot_be_set_is_named),
		cmocka_unit_test(test_vcpu__other_tsc_rate_is_refused),
		cmocka_unit_test(test_vcpu__64_of_them_each_with_its_apic_id),
		cmocka_unit_test(test_kvm__clock_goes_on),
		cmocka_unit_test(test_kvm__tsc_and_clock_go_on_as_one),
		cmocka_unit_test(test_kvm__routes_run_out_and_come_back),
		cmocka_unit_test(test_kvm__wrong_fd_says_so),
		cmocka_unit_test(test_ioctls__every_call_in_the_sources_is_listed),
	};

	sys_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (sys_fd < 0)
		return 77;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
