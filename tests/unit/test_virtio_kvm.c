/* SPDX-License-Identifier: MIT */
/*
 * Kicks and interrupts with the real /dev/kvm: a guest of a few instructions rings a doorbell, and
 * the interrupts of the device arrive in its local APIC. Skipped without /dev/kvm.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <linux/pci_regs.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/util.h"
#include "device/kernel_devices.h"
#include "tests/lib/null_virtio.h"
#include "tests/lib/vdriver.h"
#include "x86/boot.h"
#include "x86/cpuid.h"

#define PORT 0x80
#define APIC_SPURIOUS 0xfee000f0ull
#define APIC_IRR 0x200

static int sys_fd;

struct rig {
	struct fake_machine fm;
	struct null_virtio *n;
	struct dev_vcpu *cpu;
	struct vdriver d;
};

/* Enables the APIC; then for ever: ring the doorbell at `bell` with 0, write the port. */
static gpa_t program(struct fake_machine *fm, uint64_t bell)
{
	const uint64_t apic = APIC_SPURIOUS;
	uint8_t code[] = {
		0x48, 0xbb, 0,	  0,	0, 0, 0, 0, 0, 0, /* mov rbx, apic */
		0xc7, 0x03, 0xff, 0x01, 0, 0,		  /* mov dword [rbx], 0x1ff */
		0x48, 0xbb, 0,	  0,	0, 0, 0, 0, 0, 0, /* mov rbx, bell */
		0x66, 0xc7, 0x03, 0,	0,		  /* mov word [rbx], 0 */
		0xe6, PORT,				  /* out PORT, al */
		0xeb, 0xf7,				  /* jmp to the doorbell */
	};
	gpa_t at = fm_alloc(fm, 4096, 4096);

	memcpy(code + 2, &apic, 8);
	memcpy(code + 18, &bell, 8);
	gmem_write(fm->m.mem, at, code, sizeof(code));
	return at;
}

static int up(void **state)
{
	static const struct irqchip_cfg chip = { .pit = 0 };
	static const struct vcpu_cfg cpu = { .index = 0, .nr_vcpus = 1 };
	struct boot_entry b = { .mode = BOOT_LONG64 };
	static struct cpuid_table host;
	static struct rig r;
	struct err e;

	memset(&r, 0, sizeof(r));
	fm_init(&r.fm, MIB(64), sys_fd);
	fm_add(&r.fm, &dev_irqchip_class, "irqchip", &chip);
	r.cpu = container_of(fm_add(&r.fm, &dev_vcpu_class, "vcpu0", &cpu), struct dev_vcpu, d);
	r.n = (struct null_virtio *)fm_add(&r.fm, &null_virtio_class, "null", NULL);
	vd_probe(&r.d, &r.fm, NULL_VIRTIO_ID);
	b.cr3 = fm_page_tables(&r.fm);
	b.rip = program(&r.fm, r.d.notify);
	assert_int_equal(kvm_supported_cpuid(r.fm.m.kvm, &host, &e), 0);
	dev_vcpu_boot(&r.cpu->d, &host, &b);
	fm_start(&r.fm);
	vd_start(&r.d, 0, 8);
	*state = &r;
	return 0;
}

static int down(void **state)
{
	fm_fini(&((struct rig *)*state)->fm);
	return 0;
}

/* One turn of the guest's loop, as a vCPU thread would run it; how many exits were for MMIO. */
static unsigned int turn(struct rig *r)
{
	struct kvm_run *run = kvm_vcpu_runpage(r->cpu->kv);
	unsigned int mmio = 0;

	for (;;) {
		BUG_ON(kvm_vcpu_run(r->cpu->kv));
		if (run->exit_reason == KVM_EXIT_IO && run->io.port == PORT)
			break;
		BUG_ON(run->exit_reason != KVM_EXIT_MMIO || !run->mmio.is_write);
		fm_write(&r->fm, run->mmio.phys_addr, run->mmio.len, bus_get(run->mmio.data, 8));
		mmio++;
	}
	fm_spin(&r->fm);
	return mmio;
}

/* Is the vector requested in the guest's local APIC? It runs with interrupts off. */
static bool requested(struct rig *r, unsigned int vector)
{
	struct err e;

	BUG_ON(kvm_vcpu_settle(r->cpu->kv, &e));
	BUG_ON(kvm_vcpu_save(r->cpu->kv, &r->cpu->state, &e));
	return bus_get(r->cpu->state.lapic + APIC_IRR + 16 * (vector / 32), 4) >> vector % 32 & 1;
}

static void test_virtio_kvm__first_kick_exits_and_the_others_do_not(void **state)
{
	struct rig *r = *state;

	assert_int_equal(turn(r), 1);
	assert_int_equal(r->n->kicks[0], 1);
	for (unsigned int i = 2; i < 50; i++) {
		assert_int_equal(turn(r), 0);
		assert_int_equal(r->n->kicks[0], i);
	}
	assert_int_equal(r->n->kicks[1], 0);
}

static void test_virtio_kvm__kicks_of_a_device_that_went_away_exit_again(void **state)
{
	struct rig *r = *state;

	turn(r);
	assert_int_equal(turn(r), 0);
	fm_write(&r->fm, fm_ecam(r->d.slot, PCI_COMMAND), 2, 0);
	fm_spin(&r->fm);
	assert_int_equal(turn(r), 1);
	assert_int_equal(r->n->kicks[0], 2);
	fm_write(&r->fm, fm_ecam(r->d.slot, PCI_COMMAND), 2, PCI_COMMAND_MEMORY);
	fm_spin(&r->fm);
	assert_int_equal(turn(r), 0);
	assert_int_equal(r->n->kicks[0], 3);
}

static void test_virtio_kvm__interrupt_arrives_in_the_local_apic(void **state)
{
	struct rig *r = *state;

	turn(r); /* the APIC is on now */
	assert_false(requested(r, VD_MSI_DATA + 1));
	pci_msix_notify(&r->n->v.pci, 1);
	assert_true(requested(r, VD_MSI_DATA + 1));
	assert_false(requested(r, VD_MSI_DATA + 2));
}

static void test_virtio_kvm__masked_interrupt_arrives_at_unmask(void **state)
{
	struct rig *r = *state;
	uint64_t ctrl = r->d.bar + r->n->v.pci.msix_off + 2 * 16 + 12;

	turn(r);
	fm_write(&r->fm, ctrl, 4, 1);
	pci_msix_notify(&r->n->v.pci, 2);
	assert_false(requested(r, VD_MSI_DATA + 2));
	fm_write(&r->fm, ctrl, 4, 0);
	assert_true(requested(r, VD_MSI_DATA + 2));
}

static void test_virtio_kvm__message_to_an_absent_cpu_goes_nowhere(void **state)
{
	struct rig *r = *state;

	turn(r);
	fm_write(&r->fm, r->d.bar + r->n->v.pci.msix_off + 16, 4, VD_MSI_ADDR | 77 << 12);
	pci_msix_notify(&r->n->v.pci, 1);
	assert_false(requested(r, VD_MSI_DATA + 1));
	assert_int_equal(turn(r), 0);
}

/* In the child: its own doorbell and its own APIC, from where the parent's were. */
static int child(struct rig *r)
{
	const struct identity id = { .renew = true, .name = "child", .generation = { 2 } };

	fm_child(&r->fm, &id);
	fm_resume(&r->fm);
	r->n->kicks[0] = 0;
	if (turn(r) != 1 || r->n->kicks[0] != 1)
		return 1;
	if (turn(r) != 0 || r->n->kicks[0] != 2)
		return 2;
	if (!requested(r, VD_MSI_DATA + 1)) /* came before the fork */
		return 3;
	pci_msix_notify(&r->n->v.pci, 2);
	return requested(r, VD_MSI_DATA + 2) ? 0 : 4;
}

static void test_virtio_kvm__fork_gives_each_its_own_doorbell_and_interrupts(void **state)
{
	struct rig *r = *state;
	int status;
	pid_t pid;

	turn(r);
	turn(r);
	pci_msix_notify(&r->n->v.pci, 1);
	assert_true(requested(r, VD_MSI_DATA + 1)); /* and saves the vCPU's state */
	fm_quiesce(&r->fm);
	pid = fork();
	assert_true(pid >= 0);
	if (!pid)
		_exit(child(r));
	fm_resume(&r->fm);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	r->n->kicks[0] = 0;
	assert_int_equal(turn(r), 0);
	assert_int_equal(r->n->kicks[0], 1);	     /* nobody else's */
	assert_false(requested(r, VD_MSI_DATA + 2)); /* the child's alone */
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, up, down)
	const struct CMUnitTest tests[] = {
		T(test_virtio_kvm__first_kick_exits_and_the_others_do_not),
		T(test_virtio_kvm__kicks_of_a_device_that_went_away_exit_again),
		T(test_virtio_kvm__interrupt_arrives_in_the_local_apic),
		T(test_virtio_kvm__masked_interrupt_arrives_at_unmask),
		T(test_virtio_kvm__message_to_an_absent_cpu_goes_nowhere),
		T(test_virtio_kvm__fork_gives_each_its_own_doorbell_and_interrupts),
	};

	sys_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (sys_fd < 0) {
		printf("skipped: cannot open /dev/kvm\n");
		return 77;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
