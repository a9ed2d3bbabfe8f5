/* SPDX-License-Identifier: MIT */
/*
 * Vectors that are lent to the kernel (src/pci/irqfd.c), with the real /dev/kvm: an eventfd is
 * signalled as vhost would, and what the guest's MSI-X table says arrives in its local APIC. The
 * vCPU does not run. Skipped without /dev/kvm.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <linux/pci_regs.h>
#include <poll.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/time.h"
#include "base/util.h"
#include "device/kernel_devices.h"
#include "kvm/kvm.h"
#include "tests/lib/null_virtio.h"
#include "tests/lib/vdriver.h"
#include "x86/boot.h"
#include "x86/cpuid.h"

#define APIC_ID 0x20
#define APIC_SVR 0xf0
#define APIC_IRR 0x200
#define VEC 1u

static int sys_fd;

struct rig {
	struct fake_machine fm;
	struct null_virtio *n;
	struct dev_vcpu *cpu;
	struct vdriver d;
};

static void save(struct rig *r)
{
	struct err e;

	BUG_ON(kvm_vcpu_settle(r->cpu->kv, &e));
	BUG_ON(kvm_vcpu_save(r->cpu->kv, &r->cpu->state, &e));
}

/* The local APIC as the kernel will have it, on and with nothing requested. */
static void clear(struct rig *r)
{
	struct err e;

	save(r);
	bus_put(r->cpu->state.lapic + APIC_SVR, 4, 0x1ff);
	for (unsigned int i = 0; i < 8; i++)
		bus_put(r->cpu->state.lapic + APIC_IRR + 16 * i, 4, 0);
	BUG_ON(kvm_vcpu_load(r->cpu->kv, &r->cpu->state, &e));
}

static bool has(struct rig *r, unsigned int vector)
{
	save(r);
	return bus_get(r->cpu->state.lapic + APIC_IRR + 16 * (vector / 32), 4) >> vector % 32 & 1;
}

/* Does it come? The kernel may take a moment. */
static bool arrives(struct rig *r, unsigned int vector)
{
	for (unsigned int i = 0; i < 120000; i++) {
		if (has(r, vector)) {
			clear(r);
			return true;
		}
		usleep(1000);
	}
	return false;
}

static bool nothing_arrives(struct rig *r)
{
	usleep(20000);
	for (unsigned int v = 32; v < 256; v++)
		if (has(r, v))
			return false;
	return true;
}

static void add_devices(struct rig *r)
{
	static const struct irqchip_cfg chip = { .pit = 0 };
	static const struct vcpu_cfg cpu = { .index = 0, .nr_vcpus = 1 };

	fm_init(&r->fm, MIB(64), sys_fd);
	fm_add(&r->fm, &dev_irqchip_class, "irqchip", &chip);
	r->cpu = container_of(fm_add(&r->fm, &dev_vcpu_class, "vcpu0", &cpu), struct dev_vcpu, d);
	r->n = (struct null_virtio *)fm_add(&r->fm, &null_virtio_class, "null", NULL);
	vd_probe(&r->d, &r->fm, NULL_VIRTIO_ID);
}

static int up(void **state)
{
	const struct boot_entry b = { .mode = BOOT_LONG64, .cr3 = 0x1000, .rip = 0x1000 };
	static struct cpuid_table host;
	static struct rig r;
	struct err e;

	memset(&r, 0, sizeof(r));
	add_devices(&r);
	assert_int_equal(kvm_supported_cpuid(r.fm.m.kvm, &host, &e), 0);
	dev_vcpu_boot(&r.cpu->d, &host, &b);
	fm_start(&r.fm);
	vd_start(&r.d, 0, 8);
	clear(&r);
	*state = &r;
	return 0;
}

static int down(void **state)
{
	fm_fini(&((struct rig *)*state)->fm);
	return 0;
}

static int lend(struct rig *r, unsigned int vec)
{
	struct err e;
	int fd = -1;

	assert_int_equal(pci_msix_lend(&r->n->v.pci, vec, &fd, &e), 0);
	return fd;
}

static void raise_it(int fd)
{
	const uint64_t one = 1;

	BUG_ON(write(fd, &one, sizeof(one)) != sizeof(one));
}

/* Word i of a vector's entry in the table. */
static void entry(struct rig *r, unsigned int vec, unsigned int i, uint32_t v)
{
	fm_write(&r->fm, r->d.bar + r->n->v.pci.msix_off + 16ull * vec + 4ull * i, 4, v);
}

static void flags(struct rig *r, uint32_t v)
{
	fm_write(&r->fm, fm_ecam(r->d.slot, (unsigned int)r->d.msix + PCI_MSIX_FLAGS), 2, v);
}

static void test_irqfd__signal_is_the_message_in_the_table(void **state)
{
	struct rig *r = *state;
	int fd = lend(r, VEC);

	assert_true(fd >= 0);
	assert_true(nothing_arrives(r));
	raise_it(fd);
	assert_true(arrives(r, VD_MSI_DATA + VEC));
	assert_true(nothing_arrives(r));
	/* once made it stays */
	assert_int_equal(lend(r, VEC), fd);
	assert_int_not_equal(lend(r, 2), fd);
	raise_it(lend(r, 2));
	assert_true(arrives(r, VD_MSI_DATA + 2));
	/* none that there could be */
	assert_int_equal(lend(r, 0xffff), -1);
	assert_int_equal(lend(r, r->n->v.pci.nr_vectors), -1);
}

static void test_irqfd__what_the_guest_programs_is_followed(void **state)
{
	struct rig *r = *state;
	int fd = lend(r, VEC);

	entry(r, VEC, 3, 1);
	entry(r, VEC, 2, 0x91);
	entry(r, VEC, 3, 0);
	assert_true(arrives(r, 0x91)); /* one it might have missed */
	raise_it(fd);
	assert_true(arrives(r, 0x91));
	/* to a CPU that is not there, and back */
	entry(r, VEC, 3, 1);
	entry(r, VEC, 0, VD_MSI_ADDR | 77 << 12);
	entry(r, VEC, 3, 0);
	raise_it(fd);
	assert_true(nothing_arrives(r));
	entry(r, VEC, 0, VD_MSI_ADDR);
	clear(r);
	raise_it(fd);
	assert_true(arrives(r, 0x91));
	/* what would be a write to memory is nothing */
	entry(r, VEC, 0, 0x1000);
	clear(r);
	raise_it(fd);
	assert_true(nothing_arrives(r));
	entry(r, VEC, 0, VD_MSI_ADDR);
	entry(r, VEC, 1, 1);
	clear(r);
	raise_it(fd);
	assert_true(nothing_arrives(r));
}

static void test_irqfd__masks_are_obeyed_and_one_comes_when_they_fall(void **state)
{
	struct rig *r = *state;
	int fd = lend(r, VEC);

	entry(r, VEC, 3, 1);
	for (unsigned int i = 0; i < 3; i++)
		raise_it(fd);
	assert_true(nothing_arrives(r));
	entry(r, VEC, 3, 0);
	assert_true(arrives(r, VD_MSI_DATA + VEC));
	assert_true(nothing_arrives(r));
	/* all of the function */
	flags(r, PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL);
	raise_it(fd);
	assert_true(nothing_arrives(r));
	flags(r, PCI_MSIX_FLAGS_ENABLE);
	assert_true(arrives(r, VD_MSI_DATA + VEC));
	flags(r, 0);
	raise_it(fd);
	assert_true(nothing_arrives(r));
	assert_int_equal(lend(r, VEC), -1);
	flags(r, PCI_MSIX_FLAGS_ENABLE);
	assert_true(arrives(r, VD_MSI_DATA + VEC));
	raise_it(fd);
	assert_true(arrives(r, VD_MSI_DATA + VEC));
	assert_int_equal(lend(r, VEC), fd);
}

static void test_irqfd__masked_when_it_is_lent(void **state)
{
	struct rig *r = *state;
	int fd;

	entry(r, VEC, 3, 1);
	fd = lend(r, VEC);
	assert_true(fd >= 0);
	raise_it(fd);
	assert_true(nothing_arrives(r));
	entry(r, VEC, 3, 0);
	assert_true(arrives(r, VD_MSI_DATA + VEC));
	raise_it(fd);
	assert_true(arrives(r, VD_MSI_DATA + VEC));
}

static int child(struct rig *r)
{
	const struct identity id = { .renew = true, .name = "child", .generation = { 2 } };
	int fd;

	fm_child(&r->fm, &id);
	fm_resume(&r->fm);
	clear(r);
	if (r->n->v.pci.irqs)
		return 2;
	fd = lend(r, VEC);
	raise_it(fd);
	if (!arrives(r, VD_MSI_DATA + VEC))
		return 3;
	entry(r, VEC, 3, 1);
	raise_it(fd);
	if (!nothing_arrives(r))
		return 4;
	entry(r, VEC, 3, 0);
	return arrives(r, VD_MSI_DATA + VEC) ? 0 : 5;
}

static void test_irqfd__a_child_has_its_own(void **state)
{
	struct rig *r = *state;
	int fd = lend(r, VEC), status;
	pid_t pid;

	save(r);
	fm_quiesce(&r->fm);
	pid = fork();
	assert_true(pid >= 0);
	if (!pid)
		_exit(child(r));
	fm_resume(&r->fm);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	assert_true(nothing_arrives(r)); /* that was the child's */
	raise_it(fd);
	assert_true(arrives(r, VD_MSI_DATA + VEC));
}

/* More devices than there are routes: what goes gives back its descriptor and its route. */
static void test_irqfd__nothing_is_left_of_a_device_that_goes(void **state)
{
	struct rig *r = *state;
	unsigned int fds = fm_open_fds(), slot = r->d.slot;

	for (unsigned int i = 0; i < 1000; i++) {
		int fd;

		r->fm.dev[--r->fm.nr_devs]->cls->destroy(&r->n->v.dev);
		r->n = (struct null_virtio *)fm_add(&r->fm, &null_virtio_class, "null", NULL);
		vd_probe(&r->d, &r->fm, NULL_VIRTIO_ID);
		vd_msix(&r->d);
		fd = lend(r, VEC);
		assert_true(fd >= 0);
		lend(r, 2);
		if (i % 100)
			continue;
		raise_it(fd);
		assert_true(arrives(r, VD_MSI_DATA + VEC));
	}
	assert_int_equal(r->d.slot, slot);
	assert_int_equal(fm_open_fds(), fds + 2);
}

/* When there is none, the caller is told, and what was there goes on. */
static void test_irqfd__more_than_there_are_routes(void **state)
{
	struct rig *r = *state;
	int fd = lend(r, VEC), gsi[KVM_GSI_MAX], other = 0;
	unsigned int fds, n = 0;
	struct err e = { "" };

	while ((gsi[n] = kvm_msi_alloc(r->fm.m.kvm, &e)) >= 0)
		n++;
	fds = fm_open_fds();
	assert_true(pci_msix_lend(&r->n->v.pci, 2, &other, &e) < 0);
	assert_int_equal(other, -1);
	assert_non_null(strstr(e.msg, "vector 2"));
	assert_int_equal(fm_open_fds(), fds);
	raise_it(fd);
	assert_true(arrives(r, VD_MSI_DATA + VEC));
	kvm_msi_free(r->fm.m.kvm, gsi[0]);
	raise_it(lend(r, 2));
	assert_true(arrives(r, VD_MSI_DATA + 2));
	while (n-- > 1)
		kvm_msi_free(r->fm.m.kvm, gsi[n]);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, up, down)
	const struct CMUnitTest tests[] = {
		T(test_irqfd__signal_is_the_message_in_the_table),
		T(test_irqfd__what_the_guest_programs_is_followed),
		T(test_irqfd__masks_are_obeyed_and_one_comes_when_they_fall),
		T(test_irqfd__masked_when_it_is_lent),
		T(test_irqfd__a_child_has_its_own),
		T(test_irqfd__nothing_is_left_of_a_device_that_goes),
		T(test_irqfd__more_than_there_are_routes),
	};

	sys_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (sys_fd < 0) {
		printf("skipped: cannot open /dev/kvm\n");
		return 77;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
