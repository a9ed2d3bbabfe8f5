/* SPDX-License-Identifier: MIT */
/*
 * The balloon's policy at work: a scripted guest has an agent behind virtio-vsock and a driver for
 * its balloon; what it is asked when, and what becomes of its answers. The machine is put together
 * by hand: of a struct vm only what the policy looks at.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/time.h"
#include "base/util.h"
#include "tests/lib/kvm_model.h"
#include "tests/lib/vsock_guest.h"
#include "virtio/balloon.h"
#include "vm/vm_private.h"

#define RAM MIB(64) /* as vg_make has it */

static struct vsock_hdr h;
static uint8_t data[VG_RX_DATA];

static const struct squeeze_cfg quick = {
	.idle_s = 1,
	.step_percent = 100,
	.step_s = 1,
	.floor_mib = 16,
	.low_percent = 50,
	.high_percent = 150,
	.psi_some = 5,
	.psi_full = 20,
	.cpu_percent = 10,
	.cool_s = 60,
	.period_s = 1,
	.hold_s = 1,
};

struct rig {
	struct vg g;
	struct vm vm;
	struct device *balloon;
	struct vdriver driver; /* of the balloon */
	struct proto_report report;
	uint32_t next; /* guest port of the next hello */
};

static void driver_has(struct rig *r, uint64_t bytes)
{
	fm_write(&r->g.fm, r->driver.config + 4, 4, bytes >> 12);
}

static uint64_t target(struct rig *r)
{
	struct virtio_balloon_view v;

	virtio_balloon_view(r->balloon, &v);
	assert_int_equal(fm_read(&r->g.fm, r->driver.config, 4), v.target_bytes >> 12);
	return v.target_bytes;
}

/* The guest's agent connects and says this. */
static void say(struct rig *r, const void *b, size_t n)
{
	uint32_t port = r->next++;

	vg_say(&r->g, VSOCK_OP_REQUEST, PROTO_READY_PORT, port, 0, NULL, 0);
	vg_expect(&r->g, VSOCK_OP_RESPONSE, &h, data);
	vg_say(&r->g, VSOCK_OP_RW, PROTO_READY_PORT, port, 0, b, (uint32_t)n);
	fm_spin(&r->g.fm);
	vg_expect(&r->g, VSOCK_OP_SHUTDOWN, &h, data);
	vg_say(&r->g, VSOCK_OP_RST, PROTO_READY_PORT, port, 0, NULL, 0);
}

/* It is asked something of this type, within 5 s, and answers with these bytes. */
static void answer(struct rig *r, uint8_t type, const void *b, size_t n)
{
	struct proto_frame f;
	uint32_t port;

	vg_expect(&r->g, VSOCK_OP_REQUEST, &h, data);
	assert_int_equal(h.dst_port, PROTO_AGENT_PORT);
	port = h.src_port;
	vg_say(&r->g, VSOCK_OP_RESPONSE, port, PROTO_AGENT_PORT, 0, NULL, 0);
	vg_expect(&r->g, VSOCK_OP_RW, &h, data);
	assert_true(proto_frame(data, h.len, &f) > 0);
	assert_int_equal(f.type, type);
	vg_say(&r->g, VSOCK_OP_RW, port, PROTO_AGENT_PORT, 0, b, (uint32_t)n);
	fm_spin(&r->g.fm);
	vg_expect(&r->g, VSOCK_OP_SHUTDOWN, &h, data);
	vg_say(&r->g, VSOCK_OP_RST, port, PROTO_AGENT_PORT, 0, NULL, 0);
}

/* As if so much were available. */
static void report(struct rig *r, uint64_t available)
{
	uint8_t b[PROTO_SMALL_FRAME];

	r->report.mem_available_bytes = available;
	r->report.uptime_ms += 1000;
	r->report.cpu_idle_ms += 1000;
	answer(r, PROTO_ACTIVITY, b, proto_put_report(b, sizeof(b), &r->report));
}

static void speak_up(struct rig *r)
{
	uint8_t b[PROTO_SMALL_FRAME];

	say(r, b, proto_put_report(b, sizeof(b), &r->report));
}

static void refuse(struct rig *r)
{
	vg_expect(&r->g, VSOCK_OP_REQUEST, &h, data);
	vg_say(&r->g, VSOCK_OP_RST, h.src_port, PROTO_AGENT_PORT, 0, NULL, 0);
	fm_spin(&r->g.fm);
}

static bool silent_for(struct rig *r, uint64_t ns)
{
	return !vg_take(&r->g, ns, &h, data);
}

static void reconcile(struct rig *r)
{
	struct identity id = { .name = "me", .hostname = "me", .generation = { 7 } };
	struct proto_ready y = { .version = PROTO_VERSION };
	struct proto_ack a = { .version = PROTO_VERSION, .gen = { 7 } };
	uint8_t b[PROTO_SMALL_FRAME];
	struct err e;

	say(r, b, proto_put_ready(b, sizeof(b), &y));
	assert_int_equal(
		agent_set_identity(r->vm.agent, &id, false, NULL, 0, 60000, NULL, NULL, &e), 0);
	answer(r, PROTO_IDENTITY, b, proto_put_ack(b, sizeof(b), &a));
	assert_true(agent_reconciled(r->vm.agent));
}

static int up(void **state)
{
	static struct rig r;
	const struct virtio_balloon_cfg cfg = { .deflate_on_oom = 1 };
	struct err e;

	memset(&r, 0, sizeof(r));
	r.next = 500; /* root's */
	vg_make(&r.g);
	r.balloon = fm_add(&r.g.fm, &virtio_balloon_class, "balloon", &cfg);
	vg_grant(&r.g, "", "vsock.sock");
	fm_start(&r.g.fm);
	vg_driver(&r.g, VG_RX_BUFS, VG_EVENTS);
	vd_probe(&r.driver, &r.g.fm, 5);
	vd_start(&r.driver, 0, 0);
	r.vm.m = r.g.fm.m;
	r.vm.devices = r.balloon;
	r.vm.state = VM_RUNNING;
	r.vm.cfg.has_balloon = 1;
	r.vm.cfg.mem_bytes = RAM;
	r.report = (struct proto_report){ .mem_total_bytes = RAM,
					  .more = true,
					  .last_exec_ms = UINT64_MAX };
	assert_int_equal(agent_create(&r.g.fm.m, r.g.dev, &r.vm.agent, &e), 0);
	assert_int_equal(agent_adopt(r.vm.agent, &e), 0);
	assert_int_equal(squeeze_run_adopt(&r.vm, &e), 0);
	*state = &r;
	return 0;
}

static int down(void **state)
{
	struct rig *r = *state;

	squeeze_run_fini(&r->vm);
	agent_destroy(r->vm.agent);
	vg_fini(&r->g);
	return 0;
}

static void policy(struct rig *r, bool on)
{
	struct err e;

	assert_int_equal(vm_set_policy(&r->vm, on, &quick, &e), 0);
}

/* A second may not be quite over when a timer of a second is. */
static void report_once_idle(struct rig *r, uint64_t available_bytes)
{
	do
		report(r, available_bytes);
	while (r->vm.squeeze.s.last.why == SQUEEZE_WHY_IDLE);
}

/* To the floor of 16 MiB. */
static void squeeze(struct rig *r)
{
	reconcile(r);
	policy(r, true);
	report(r, MIB(40));
	assert_int_equal(target(r), 0);
	report_once_idle(r, MIB(40));
	assert_int_equal(target(r), MIB(24));
	driver_has(r, MIB(24));
}

static void test_squeeze_run__is_off_until_it_is_asked_for(void **state)
{
	struct rig *r = *state;

	reconcile(r);
	assert_true(silent_for(r, 1500 * NS_PER_MS));
	speak_up(r);
	assert_int_equal(r->vm.squeeze.s.last.at_ns, 0);
}

static void test_squeeze_run__an_idle_guest_is_squeezed_until_it_is_switched_off(void **state)
{
	struct rig *r = *state;

	squeeze(r);
	assert_int_equal(r->vm.squeeze.s.steps, 1);
	report(r, MIB(16));
	assert_int_equal(target(r), MIB(24));
	assert_int_equal(r->vm.squeeze.s.state, SQUEEZE_RESTING);
	policy(r, false);
	assert_true(silent_for(r, 1500 * NS_PER_MS));
	assert_int_equal(target(r), MIB(24)); /* it stays as it is */
}

/* While it is not 0, time is that, and a little more with each look at it. */
static uint64_t stands_ns;

int clock_gettime(clockid_t id, struct timespec *t)
{
	if (!stands_ns || id == CLOCK_REALTIME)
		return (int)syscall(SYS_clock_gettime, id, t);
	stands_ns += 1000;
	*t = (struct timespec){ (time_t)(stands_ns / NS_PER_SEC), (long)(stands_ns % NS_PER_SEC) };
	return 0;
}

static void test_squeeze_run__a_guest_that_speaks_up_gets_memory_and_its_owner_is_told(void **state)
{
	struct rig *r = *state;
	uint64_t after;

	squeeze(r);
	report(r, MIB(16)); /* what the balloon itself made it wait for is over */
	stands_ns = time_mono_ns();
	speak_up(r);
	after = target(r);
	assert_int_equal(after, MIB(24) - MIB(8)); /* to the high mark, 24 */
	assert_string_equal(r->vm.notices.n[0].kind, "balloon-gave-back");
	assert_string_equal(r->vm.notices.n[0].who, "balloon");
	assert_string_equal(r->vm.notices.n[0].detail, "pressure: the guest has 8 of 24 MiB back");
	driver_has(r, after);
	speak_up(r); /* within a tenth of a second: it need not be looked at */
	stands_ns = 0;
	assert_int_equal(target(r), after);
	assert_int_equal(r->vm.squeeze.s.gave_back, 1);
}

static void test_squeeze_run__work_is_no_news_for_the_owner(void **state)
{
	struct rig *r = *state;

	squeeze(r);
	r->report.cpu_busy_ms += 1000;
	report(r, MIB(16));
	assert_int_equal(target(r), MIB(16));
	assert_int_equal(r->vm.notices.number, 0);
}

static void test_squeeze_run__an_agent_that_does_not_answer_gets_all_back(void **state)
{
	struct rig *r = *state;

	squeeze(r);
	refuse(r);
	for (int i = 0; i < 2 && target(r); i++)
		refuse(r);
	assert_int_equal(target(r), 0);
	assert_int_equal(r->vm.squeeze.s.last.why, SQUEEZE_WHY_RELEASED);
}

static void test_squeeze_run__before_it_knows_who_it_is_a_guest_is_not_asked(void **state)
{
	struct rig *r = *state;

	policy(r, true);
	assert_true(silent_for(r, 1500 * NS_PER_MS));
	assert_int_equal(r->vm.squeeze.s.last.why, SQUEEZE_WHY_RELEASED);
	assert_int_equal(target(r), 0);
}

static void test_squeeze_run__one_that_stands_still_is_not_asked(void **state)
{
	struct rig *r = *state;

	squeeze(r);
	r->vm.state = VM_PAUSED;
	assert_true(silent_for(r, 2500 * NS_PER_MS));
	assert_int_equal(target(r), MIB(24));
	r->vm.state = VM_RUNNING;
	report(r, MIB(40));
	assert_int_equal(r->vm.squeeze.s.last.why, SQUEEZE_WHY_FIRST);
	assert_int_equal(target(r), MIB(24)); /* what it was not there was not idle */
}

/* As in a fork's child: the loop is another, the settings are not. */
static void test_squeeze_run__a_child_keeps_the_settings_and_begins_anew(void **state)
{
	struct rig *r = *state;
	struct err e;

	squeeze(r);
	squeeze_run_fini(&r->vm);
	squeeze_run_forget(&r->vm);
	assert_true(silent_for(r, 1500 * NS_PER_MS));
	assert_int_equal(squeeze_run_adopt(&r->vm, &e), 0);
	assert_true(r->vm.squeeze.on);
	assert_memory_equal(&r->vm.squeeze.cfg, &quick, sizeof(quick));
	report(r, MIB(20));
	assert_int_equal(r->vm.squeeze.s.last.why, SQUEEZE_WHY_FIRST);
	assert_int_equal(target(r), MIB(24));
	report_once_idle(r, MIB(20));
	assert_int_equal(target(r), MIB(28));
}

static void test_squeeze_run__without_a_driver_nothing_is_taken(void **state)
{
	struct rig *r = *state;

	reconcile(r);
	vd_set_status(&r->driver, 0);
	policy(r, true);
	for (int i = 0; i < 3; i++)
		report(r, MIB(40));
	assert_int_equal(r->vm.squeeze.s.last.why, SQUEEZE_WHY_NO_DRIVER);
	assert_int_equal(target(r), 0);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, up, down)
	const struct CMUnitTest tests[] = {
		T(test_squeeze_run__is_off_until_it_is_asked_for),
		T(test_squeeze_run__an_idle_guest_is_squeezed_until_it_is_switched_off),
		T(test_squeeze_run__a_guest_that_speaks_up_gets_memory_and_its_owner_is_told),
		T(test_squeeze_run__work_is_no_news_for_the_owner),
		T(test_squeeze_run__an_agent_that_does_not_answer_gets_all_back),
		T(test_squeeze_run__before_it_knows_who_it_is_a_guest_is_not_asked),
		T(test_squeeze_run__one_that_stands_still_is_not_asked),
		T(test_squeeze_run__a_child_keeps_the_settings_and_begins_anew),
		T(test_squeeze_run__without_a_driver_nothing_is_taken),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
