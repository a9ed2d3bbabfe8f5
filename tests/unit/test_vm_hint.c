/* SPDX-License-Identifier: MIT */
/*
 * Rounds of free page hinting with the real /dev/kvm (src/vm/hint.c, dirty_log.c): a guest of a few
 * instructions writes to pages that its driver has hinted, and has what it wrote; the others are
 * given back. The machine is put together by hand: of a struct vm only what a round looks at. As
 * whoever may open /dev/kvm; skipped without.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <linux/virtio_config.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/endian.h"
#include "base/time.h"
#include "base/util.h"
#include "device/kernel_devices.h"
#include "event/loop.h"
#include "tests/lib/vballoon.h"
#include "vm/dirty_log.h"
#include "vm/hint.h"
#include "vm/vm_private.h"
#include "x86/boot.h"
#include "x86/cpuid.h"

#define PORT 0x80
#define RAM MIB(128)
#define PAGES MIB(32) /* where the pages are that are hinted */
#define LEN MIB(16)
#define NR (LEN / GMEM_PAGE)
#define DONE VIRTIO_BALLOON_CMD_ID_DONE

static int sys_fd;

/* While it is on, time passes where it is said to, and a little with each look at the clock. */
static struct {
	bool on;
	uint64_t now_ns, read_ns, give_ns; /* a read of KVM's log; a call that gives back */
	unsigned int reads;
} costs;

int clock_gettime(clockid_t id, struct timespec *ts)
{
	if (!costs.on || id == CLOCK_REALTIME)
		return (int)syscall(SYS_clock_gettime, id, ts);
	costs.now_ns += 20000;
	ts->tv_sec = (time_t)(costs.now_ns / NS_PER_SEC);
	ts->tv_nsec = (long)(costs.now_ns % NS_PER_SEC);
	return 0;
}

int ioctl(int fd, unsigned long request, ...)
{
	va_list ap;
	void *arg;

	va_start(ap, request);
	arg = va_arg(ap, void *);
	va_end(ap);
	if (costs.on && request == KVM_GET_DIRTY_LOG) {
		costs.now_ns += costs.read_ns;
		costs.reads++;
	}
	return (int)syscall(SYS_ioctl, fd, request, arg);
}

int madvise(void *p, size_t n, int advice)
{
	if (costs.on && advice == MADV_DONTNEED)
		costs.now_ns += costs.give_ns;
	return (int)syscall(SYS_madvise, p, n, advice);
}

struct rig {
	struct vballoon b;
	struct dev_vcpu *cpu;
	struct vm vm;
	unsigned int notices;
	gpa_t mail; /* the guest stores the word at mail + 8 where mail says */
};

/* For ever: write the port, then store. */
static gpa_t program(struct fake_machine *fm, uint64_t mail)
{
	uint8_t code[] = {
		0x48, 0xbb, 0,	  0,	0, 0, 0, 0, 0, 0, /* mov rbx, mail */
		0xe6, PORT,				  /* again: out PORT, al */
		0x48, 0x8b, 0x0b,			  /* mov rcx, [rbx] */
		0x48, 0x8b, 0x43, 0x08,			  /* mov rax, [rbx + 8] */
		0x48, 0x89, 0x01,			  /* mov [rcx], rax */
		0xeb, 0xf2,				  /* jmp again */
	};
	gpa_t at = fm_alloc(fm, 4096, 4096);

	memcpy(code + 2, &mail, 8);
	gmem_write(fm->m.mem, at, code, sizeof(code));
	return at;
}

/* Until it writes the port. */
static void run(struct rig *r)
{
	struct kvm_run *page = kvm_vcpu_runpage(r->cpu->kv);

	do
		BUG_ON(kvm_vcpu_run(r->cpu->kv));
	while (page->exit_reason == KVM_EXIT_INTR);
	BUG_ON(page->exit_reason != KVM_EXIT_IO || page->io.port != PORT);
}

/* By the guest's own instructions. */
static void store(struct rig *r, gpa_t at, uint64_t word)
{
	BUG_ON(gmem_write(r->b.fm.m.mem, r->mail, &at, 8) ||
	       gmem_write(r->b.fm.m.mem, r->mail + 8, &word, 8));
	run(r);
}

static uint64_t load(struct rig *r, gpa_t at)
{
	uint64_t word;

	BUG_ON(gmem_read(r->b.fm.m.mem, at, &word, 8));
	return word;
}

static void on_notice(struct machine *m, const char *kind, const char *who, const char *detail)
{
	struct rig *r = container_of(container_of(m, struct vm, m), struct rig, vm);

	assert_string_equal(kind, "hinting-ended");
	assert_string_equal(who, "balloon");
	assert_true(strlen(detail) > 10);
	r->notices++;
}

static void boot(struct rig *r)
{
	struct fake_machine *fm = &r->b.fm;
	struct boot_entry entry = { .mode = BOOT_LONG64 };
	static struct cpuid_table host;
	struct err e;

	entry.cr3 = fm_page_tables(fm);
	r->mail = fm_alloc(fm, 4096, 4096);
	entry.rip = program(fm, r->mail);
	assert_int_equal(kvm_supported_cpuid(fm->m.kvm, &host, &e), 0);
	dev_vcpu_boot(&r->cpu->d, &host, &entry);
}

static int up(void **state)
{
	static const struct virtio_balloon_cfg all = { 1, 1, 1, 1 };
	static const struct irqchip_cfg chip = { .pit = 0 };
	static const struct vcpu_cfg cpu = { .index = 0, .nr_vcpus = 1 };
	static struct rig r;
	struct fake_machine *fm = &r.b.fm;

	memset(&r, 0, sizeof(r));
	fm_init(fm, RAM, sys_fd);
	fm_add(fm, &dev_irqchip_class, "irqchip", &chip);
	r.cpu = container_of(fm_add(fm, &dev_vcpu_class, "vcpu0", &cpu), struct dev_vcpu, d);
	r.b.dev = fm_add(fm, &virtio_balloon_class, "balloon", &all);
	r.b.buf = fm_alloc(fm, 65536, 4096);
	boot(&r);
	fm_start(fm);
	vd_probe(&r.b.d, fm, 5);
	vb_start(&r.b, VB_ALL, true, 0);
	run(&r); /* to where it waits for its first word */
	r.vm.m = fm->m;
	r.vm.m.notice = on_notice;
	r.vm.devices = r.b.dev;
	r.vm.state = VM_RUNNING;
	r.vm.cfg.has_balloon = 1;
	pthread_mutex_init(&r.vm.lock, NULL);
	pthread_mutex_lock(&r.vm.lock);
	vb_fill(&r.b, PAGES, LEN, 1);
	*state = &r;
	return 0;
}

static int down(void **state)
{
	struct rig *r = *state;

	hint_break_off(&r->vm, "the test is over");
	pthread_mutex_unlock(&r->vm.lock);
	pthread_mutex_destroy(&r->vm.lock);
	fm_fini(&r->b.fm);
	return 0;
}

/* The driver begins its round and hints it all. */
static void hint_all(struct rig *r)
{
	struct err e;

	if (hint_begin(&r->vm, r->b.dev, &e))
		fail_msg("%s", e.msg);
	assert_true(vb_word(&r->b, r->b.q[VB_HINT], vb_config(&r->b, 8)));
	assert_true(vb_pages(&r->b, r->b.q[VB_HINT], PAGES, LEN));
}

/* The driver is through, which the device has just heard and nobody else. */
static void stop(struct rig *r)
{
	le32 id = le32_put(VIRTIO_BALLOON_CMD_ID_STOP);
	struct vd_buf b = { r->b.buf, sizeof(id), false };

	BUG_ON(gmem_write(r->b.fm.m.mem, b.gpa, &id, sizeof(id)));
	vd_submit(&r->b.d, (unsigned int)r->b.q[VB_HINT], &b, 1, false);
	for (int i = 0; i < 100 && !virtio_balloon_hint_through(r->b.dev); i++)
		event_base_loop(loop_base(r->b.fm.m.loop), EVLOOP_NONBLOCK | EVLOOP_ONCE);
	assert_true(virtio_balloon_hint_through(r->b.dev));
	assert_non_null(r->vm.hint);
}

static bool is_over(void *arg)
{
	return !((struct rig *)arg)->vm.hint;
}

/* The driver is through; and so is the round. */
static void end(struct rig *r)
{
	stop(r);
	assert_true(fm_until(&r->b.fm, is_over, r));
	assert_int_equal(vb_config(&r->b, 8), DONE);
}

/* Nobody logs any more: neither we nor KVM. */
static void assert_no_log(struct rig *r)
{
	cleanup_free uint64_t *bits = dirty_log_bits(&r->vm);
	struct err e;

	assert_null(r->vm.hint);
	assert_false(gmem_dirty_tracked(r->b.fm.m.mem));
	assert_int_equal(kvm_get_dirty(r->b.fm.m.kvm, 0, bits, &e), -ENOENT);
}

static void assert_broken_off(struct rig *r, uint64_t hinted)
{
	assert_no_log(r);
	assert_int_equal(r->notices, 1);
	assert_int_equal(vb_filled(&r->b, PAGES, LEN, 1), NR);
	assert_int_equal(vb_view(&r->b).hinted_bytes, hinted);
	assert_int_equal(vb_view(&r->b).kept_bytes, hinted);
}

static void test_hint__what_the_guest_wrote_since_is_kept_and_all_else_is_given_back(void **state)
{
	const gpa_t before = PAGES + 3 * 4096, in = PAGES + MIB(5), after = PAGES + LEN - 4096;
	struct rig *r = *state;
	uint64_t ours = 0x5555;
	struct err e;

	store(r, PAGES, 0x1111); /* before the round: free since, and not kept */
	if (hint_begin(&r->vm, r->b.dev, &e))
		fail_msg("%s", e.msg);
	store(r, before + 8, 0x2222); /* since its begin, and then freed and hinted */
	assert_true(vb_word(&r->b, r->b.q[VB_HINT], vb_config(&r->b, 8)));
	assert_true(vb_pages(&r->b, r->b.q[VB_HINT], PAGES, LEN));
	store(r, in + 8, 0x3333); /* hinted, taken back */
	/* a device's, in this process */
	assert_int_equal(gmem_write(r->b.fm.m.mem, PAGES + MIB(7), &ours, 8), 0);
	stop(r);
	store(r, after, 0x4444); /* and when the driver was through */
	assert_true(fm_until(&r->b.fm, is_over, r));
	assert_int_equal(vb_config(&r->b, 8), DONE);
	assert_int_equal(load(r, before + 8), 0x2222);
	assert_int_equal(load(r, in + 8), 0x3333);
	assert_int_equal(load(r, after), 0x4444);
	assert_int_equal(load(r, PAGES + MIB(7)), 0x5555);
	assert_int_equal(load(r, before) & 0xffffffff, before / GMEM_PAGE);
	assert_int_equal(vb_zero(&r->b, PAGES, LEN), NR - 4);
	assert_int_equal(vb_view(&r->b).hinted_bytes, LEN);
	assert_int_equal(vb_view(&r->b).kept_bytes, 4 * 4096);
	assert_int_equal(r->notices, 0);
	assert_no_log(r);
	/* it goes on: what was taken is there to be written to */
	store(r, PAGES + 8, 0x6666);
	assert_int_equal(load(r, PAGES + 8), 0x6666);
	assert_int_equal(load(r, PAGES), 0);
}

static void test_hint__of_a_templates_memory_and_again(void **state)
{
	struct rig *r = *state;

	vb_template(&r->b, PAGES, MIB(8), 7);
	for (uint64_t i = 0; i < 3; i++) {
		vb_fill(&r->b, PAGES, LEN, 1);
		hint_all(r);
		store(r, PAGES + MIB(i) + 8, 100 + i);
		end(r);
		assert_int_equal(load(r, PAGES + MIB(i) + 8), 100 + i);
		assert_int_equal(vb_filled(&r->b, PAGES, MIB(8), 7), MIB(8) / GMEM_PAGE - 1);
		assert_int_equal(vb_zero(&r->b, PAGES + MIB(8), MIB(8)), MIB(8) / GMEM_PAGE);
		assert_int_equal(vb_view(&r->b).kept_bytes, (i + 1) * 4096);
	}
	assert_no_log(r);
}

/* 64 MiB are eight calls of 8 MiB, and then it is seen that there is no more. */
static void test_hint__a_pause_gives_as_long_as_its_log_took_to_read_within_limits(void **state)
{
	static const struct {
		uint64_t read_ms, give_ms;
		unsigned int pauses;
	} c[] = {
		{ 0, 6, 5 },	/* 10 ms: two calls */
		{ 40, 15, 3 },	/* 40 ms: three */
		{ 200, 15, 3 }, /* 50 ms: four */
	};
	struct rig *r = *state;
	struct err e;

	for (size_t i = 0; i < ARRAY_SIZE(c); i++) {
		if (hint_begin(&r->vm, r->b.dev, &e))
			fail_msg("%s", e.msg);
		assert_true(vb_word(&r->b, r->b.q[VB_HINT], vb_config(&r->b, 8)));
		assert_true(vb_pages(&r->b, r->b.q[VB_HINT], PAGES, MIB(64)));
		costs.now_ns = time_mono_ns();
		costs.read_ns = c[i].read_ms * NS_PER_MS;
		costs.give_ns = c[i].give_ms * NS_PER_MS;
		costs.reads = 0;
		costs.on = true;
		end(r);
		costs.on = false;
		assert_int_equal(costs.reads, c[i].pauses);
		assert_int_equal(vb_view(&r->b).kept_bytes, 0);
	}
}

static void test_hint__whatever_stops_the_vm_ends_a_round(void **state)
{
	struct rig *r = *state;
	struct err e;

	for (unsigned int through = 0; through < 2; through++) {
		r->notices = 0;
		hint_all(r);
		store(r, PAGES + 8, 1000);
		vb_fill(&r->b, PAGES, 4096, 1);
		if (through)
			stop(r);
		assert_int_equal(vm_stop_world(&r->vm, &e), 0);
		assert_broken_off(r, (1 + through) * LEN);
		vm_start_world(&r->vm);
		fm_spin(&r->b.fm);
		assert_int_equal(vb_config(&r->b, 8), DONE);
		assert_broken_off(r, (1 + through) * LEN);
	}
	/* the next one is as good as the first */
	hint_all(r);
	end(r);
	assert_int_equal(vb_zero(&r->b, PAGES, LEN), NR);
	assert_int_equal(vb_view(&r->b).kept_bytes, 2 * LEN);
}

static void test_hint__a_driver_that_resets_ends_its_round(void **state)
{
	struct rig *r = *state;

	for (unsigned int through = 0; through < 2; through++) {
		r->notices = 0;
		hint_all(r);
		if (through)
			stop(r);
		vb_start(&r->b, VB_ALL, true, 0);
		assert_true(fm_until(&r->b.fm, is_over, r));
		assert_broken_off(r, (1 + through) * LEN);
	}
	hint_all(r);
	end(r);
	assert_int_equal(vb_zero(&r->b, PAGES, LEN), NR);
}

/* A clock of its own would prove little: the loop's timer is what must be armed. */
static void test_hint__a_driver_that_never_ends_has_its_round_ended(void **state)
{
	struct rig *r = *state;
	uint64_t t0 = time_mono_ns();

	hint_all(r);
	while (r->vm.hint && time_mono_ns() - t0 < 40 * NS_PER_SEC) {
		fm_spin(&r->b.fm);
		usleep(20000);
	}
	assert_in_range((time_mono_ns() - t0) / NS_PER_SEC, 29, 39);
	assert_broken_off(r, LEN);
	assert_int_equal(vb_config(&r->b, 8), DONE);
	assert_true(vb_word(&r->b, r->b.q[VB_HINT], VIRTIO_BALLOON_CMD_ID_STOP)); /* too late */
	fm_spin(&r->b.fm);
	assert_broken_off(r, LEN);
}

static void refused(struct rig *r, const char *says)
{
	struct err e = { "" };

	assert_int_equal(hint_begin(&r->vm, r->b.dev, &e), -EBUSY);
	if (!strstr(e.msg, says))
		fail_msg("%s", e.msg);
}

static void test_hint__who_logs_or_saves_is_not_disturbed(void **state)
{
	struct rig *r = *state;
	struct err e;

	assert_int_equal(dirty_log_start(&r->vm, &e), 0);
	refused(r, "is being recorded");
	assert_true(gmem_dirty_tracked(r->b.fm.m.mem));
	dirty_log_stop(&r->vm);
	r->vm.frozen = (struct frozen_op *)r;
	refused(r, "a snapshot of VM");
	assert_no_log(r);
	r->vm.frozen = NULL;
	hint_all(r);
	refused(r, "a round of hinting is at work");
	end(r);
	assert_int_equal(vb_zero(&r->b, PAGES, LEN), NR);
	/* a driver that does not hint */
	vb_start(&r->b, VB_F(REPORTING), true, 0);
	assert_int_equal(hint_begin(&r->vm, r->b.dev, &e), -ENOTSUP);
	assert_no_log(r);
}

/* In the child: its exit status. */
static int child(struct rig *r)
{
	const struct identity id = { .renew = true, .generation = { 2 } };
	struct vballoon *b = &r->b;

	fm_child(&b->fm, &id);
	fm_resume(&b->fm);
	if (gmem_dirty_tracked(b->fm.m.mem) || vb_config(b, 8) != DONE)
		return 1;
	if (!vb_word(b, b->q[VB_HINT], VIRTIO_BALLOON_CMD_ID_STOP))
		return 2;
	if (vb_filled(b, PAGES, LEN, 1) != NR || vb_view(b).hinted_bytes)
		return 3;
	/* it has rounds of its own */
	r->vm.m = b->fm.m;
	r->vm.m.notice = on_notice;
	r->vm.state = VM_RUNNING;
	hint_all(r);
	store(r, PAGES + 8, 77);
	end(r);
	return vb_zero(b, PAGES, LEN) == NR - 1 && load(r, PAGES + 8) == 77 ? 0 : 4;
}

static void test_hint__a_fork_ends_it_in_both(void **state)
{
	struct rig *r = *state;
	struct err e;
	pid_t pid;
	int st;

	hint_all(r);
	stop(r);
	assert_int_equal(vm_stop_world(&r->vm, &e), 0);
	/* as its thread does where it parks */
	assert_int_equal(kvm_vcpu_settle(r->cpu->kv, &e), 0);
	assert_int_equal(kvm_vcpu_save(r->cpu->kv, &r->cpu->state, &e), 0);
	fm_quiesce(&r->b.fm); /* the others */
	pid = fork();
	assert_true(pid >= 0);
	if (!pid)
		_exit(child(r));
	fm_resume(&r->b.fm);
	barrier_resume(r->vm.m.barrier);
	assert_int_equal(waitpid(pid, &st, 0), pid);
	assert_int_equal(st, 0);
	fm_spin(&r->b.fm);
	assert_broken_off(r, LEN);
	assert_int_equal(vb_config(&r->b, 8), DONE);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, up, down)
	const struct CMUnitTest tests[] = {
		T(test_hint__what_the_guest_wrote_since_is_kept_and_all_else_is_given_back),
		T(test_hint__of_a_templates_memory_and_again),
		T(test_hint__a_pause_gives_as_long_as_its_log_took_to_read_within_limits),
		T(test_hint__whatever_stops_the_vm_ends_a_round),
		T(test_hint__a_driver_that_resets_ends_its_round),
		T(test_hint__a_driver_that_never_ends_has_its_round_ended),
		T(test_hint__who_logs_or_saves_is_not_disturbed),
		T(test_hint__a_fork_ends_it_in_both),
	};

	sys_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (sys_fd < 0) {
		printf("skipped: cannot open /dev/kvm\n");
		return 77;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
