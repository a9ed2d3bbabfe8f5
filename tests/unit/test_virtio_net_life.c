/* SPDX-License-Identifier: MIT */
/*
 * The life of a virtio-net device whose packets this process moves: pauses, the driver's resets,
 * copies of the machine and their links. The test is the guest and the wire.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <event2/event.h>
#include <linux/virtio_config.h>
#include <linux/virtio_net.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/util.h"
#include "event/fdtab.h"
#include "event/grants.h"
#include "event/loop.h"
#include "tests/lib/kvm_model.h"
#include "tests/lib/vnic.h"

#define CTRL 2u

static unsigned int tap_reads;

/* Counts those that could be of a packet. */
ssize_t read(int fd, void *buf, size_t n)
{
	tap_reads += n == TAP_PACKET_MAX;
	return syscall(SYS_read, fd, buf, n);
}

static uint64_t link_status(struct vnic_rig *g)
{
	return fm_read(&g->fm, g->d.config + 6, 2);
}

static bool is_asked(void *arg)
{
	return link_status(arg) & VIRTIO_NET_S_ANNOUNCE;
}

static unsigned int received(struct vnic_rig *g)
{
	unsigned int n = 0;

	while (vd_used(&g->d, 0, NULL, NULL))
		n++;
	return n;
}

/* ---- pauses ---- */

static void test_vnet__what_waits_while_the_vm_stands_still_is_served_after(void **state)
{
	struct vnic_rig *g = *state;

	vnic_offer(g, 0, 100);
	vnic_put_seed(g, 0, 150, 1); /* waits for a second buffer */
	vnic_settle(g);
	fm_quiesce(&g->fm);
	assert_int_equal(gmem_pins(g->fm.m.mem), 0);
	for (unsigned int i = 0; i < 100; i++)
		vnic_send(g, 0, 100, i);
	vnic_offer(g, 0, 100);
	vnic_offer(g, 0, 100);
	vnic_put_seed(g, 0, 60, 2);
	vnic_settle(g);
	assert_int_equal(vnic_sent(g, 0), 0);
	assert_int_equal(vd_used_idx(&g->d, 0), 0);
	fm_resume(&g->fm);
	vnic_settle(g);
	for (unsigned int i = 0; i < 100; i++)
		assert_true(vnic_got_seed(g, 0, 100, i));
	assert_int_equal(vnic_sent(g, 0), 100);
	assert_true(vnic_took_seed(g, 0, 150, 1, 2));
	assert_true(vnic_took_seed(g, 0, 60, 2, 1));
	assert_int_equal(vnic_of(g)->dropped, 0);
}

static unsigned int wakes;

static void on_wake(struct machine *m, const char *why)
{
	(void)m;
	assert_string_equal(why, "network");
	wakes++;
}

static void test_vnet__a_frame_wakes_who_is_watched_and_is_not_lost(void **state)
{
	struct vnic_rig *g = *state;

	wakes = 0;
	g->fm.m.wake = on_wake;
	vnic_offer(g, 0, 1000);
	vnic_offer(g, 0, 1000);
	vnic_settle(g);
	fm_quiesce(&g->fm);
	vnic_put_seed(g, 0, 60, 1);
	vnic_settle(g);
	assert_int_equal(wakes, 0); /* a pause is a pause */
	virtio_net_watch(g->dev, true);
	vnic_settle(g);
	assert_int_equal(wakes, 1);
	vnic_put_seed(g, 0, 70, 2);
	vnic_settle(g);
	assert_int_equal(wakes, 1); /* once, also when nobody got up */
	virtio_net_watch(g->dev, true);
	virtio_net_watch(g->dev, false);
	vnic_settle(g);
	assert_int_equal(wakes, 1);
	assert_int_equal(vd_used_idx(&g->d, 0), 0);
	fm_resume(&g->fm);
	vnic_settle(g);
	assert_true(vnic_took_seed(g, 0, 60, 1, 1));
	assert_true(vnic_took_seed(g, 0, 70, 2, 1));
	assert_int_equal(vnic_of(g)->dropped, 0);
}

static void test_vnet__nobody_is_woken_for_a_guest_that_does_not_hear(void **state)
{
	struct vnic_rig *g = *state;

	wakes = 0;
	g->fm.m.wake = on_wake;
	vd_set_status(&g->d, 0); /* no driver */
	vnic_settle(g);
	fm_quiesce(&g->fm);
	virtio_net_watch(g->dev, true);
	vnic_put_seed(g, 0, 60, 1);
	vnic_settle(g);
	assert_int_equal(wakes, 0);
	virtio_net_watch(g->dev, false);
	fm_resume(&g->fm);
}

/* ---- resets ---- */

static void test_vnet__a_new_driver_does_not_get_its_predecessors_packet(void **state)
{
	struct vnic_rig *g = *state;

	for (unsigned int paused = 0; paused < 2; paused++) {
		vnic_offer(g, 0, 100);
		vnic_put_seed(g, 0, 150, 1); /* waits */
		vnic_settle(g);
		if (paused)
			fm_quiesce(&g->fm);
		vd_set_status(&g->d, 0);
		vnic_settle(g);
		if (paused)
			fm_resume(&g->fm);
		assert_int_equal(gmem_pins(g->fm.m.mem), 0);
		vnic_drive(g, 0);
		vnic_offer(g, 0, 1000);
		vnic_put_seed(g, 0, 60, 2);
		vnic_settle(g);
		assert_true(vnic_took_seed(g, 0, 60, 2, 1));
		assert_int_equal(received(g), 0);
		vnic_send(g, 0, 70, 3);
		vnic_settle(g);
		assert_true(vnic_got_seed(g, 0, 70, 3));
	}
}

static void test_vnet__the_drivers_reset_forgets_what_it_said(void **state)
{
	struct vnic_rig *g = *state;
	struct vnet *d = vnic_of(g);
	const uint8_t none[NIC_MAC] = { 0 };

	assert_int_equal(vnic_command(g, CTRL, VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET,
				      "\2\1\2\3\4\5", 6),
			 VIRTIO_NET_OK);
	vnic_drive(g, 0); /* reads it */
	assert_memory_equal(virtio_net_driver_mac(g->dev), "\2\1\2\3\4\5", 6);
	assert_true(d->state.guest_offloads);
	for (unsigned int i = 0; i < 200; i++)
		vnic_send(g, 0, 100, i);
	vd_set_status(&g->d, 0);
	assert_memory_equal(virtio_net_driver_mac(g->dev), none, 6);
	assert_int_equal(d->state.guest_offloads, 0);
	assert_int_equal(link_status(g), VIRTIO_NET_S_LINK_UP);
	vnic_settle(g);
	assert_int_equal(d->pair[0].now, VNET_NONE);
	/* the whole device's */
	vnic_drive(g, 0);
	pthread_mutex_lock(&g->fm.lock);
	g->dev->cls->reset(g->dev);
	pthread_mutex_unlock(&g->fm.lock);
	vnic_settle(g);
	assert_int_equal(d->pair[0].now, VNET_NONE);
	vnic_drive(g, 0);
	vnic_send(g, 0, 70, 3);
	vnic_settle(g);
	assert_int_equal(vnic_sent(g, 0), 1);
}

/* ---- copies ---- */

static const struct identity copy = { .renew = true,
				      .name = "copy",
				      .generation = { 2 },
				      .nics = { { .id = "net0",
						  .addr = { .mac = { 2, 8, 8, 8, 8, 8 } } } },
				      .nr_nics = 1 };

static void test_vnet__a_copy_is_cut_off_until_it_is_connected(void **state)
{
	struct vnic_rig *g = *state;
	static struct vnic_rig h;
	unsigned int interrupts;
	uint64_t generation;

	vnic_offer(g, 0, 1000);
	fm_quiesce(&g->fm);
	for (unsigned int i = 0; i < 250; i++) /* as somebody else */
		vnic_send(g, 0, 100, i);
	vnic_copy(g, &h, &copy);
	/* Nobody looks at it before it runs: a seed that is saved again is what was restored. */
	assert_int_equal(link_status(&h), VIRTIO_NET_S_LINK_UP);
	generation = vd_get(&h.d, 0x15, 1);
	fm_resume(&h.fm);
	assert_int_equal(fm_read(&h.fm, h.d.config, 4), 0x08080802);
	assert_int_equal(link_status(&h), 0);
	assert_int_not_equal(vd_get(&h.d, 0x15, 1), generation);
	interrupts = h.fm.m.kvm->msgs[VD_MSI_DATA];
	assert_true(interrupts);
	vnic_put_seed(&h, 0, 60, 1); /* to whoever had this address before */
	vnic_settle(&h);
	assert_int_equal(vnic_sent(&h, 0), 250);
	vnic_send(&h, 0, 100, 300);
	vnic_settle(&h);
	assert_int_equal(vnic_sent(&h, 0), 1);
	assert_int_equal(received(&h), 0);
	vnic_put_seed(&h, 0, 60, 2);
	virtio_net_connect(h.dev);
	vnic_settle(&h);
	assert_false(vnic_got_seed(&h, 0, 100, 0));
	/* it is asked to announce itself when it has seen the link, and more than once */
	vnic_settle(&h);
	assert_int_equal(h.fm.m.kvm->msgs[VD_MSI_DATA], interrupts + 1);
	assert_int_equal(link_status(&h), VIRTIO_NET_S_LINK_UP);
	for (int i = 0; i < 2; i++) {
		assert_true(fm_until(&h.fm, is_asked, &h));
		assert_int_equal(vnic_command(&h, CTRL, VIRTIO_NET_CTRL_ANNOUNCE,
					      VIRTIO_NET_CTRL_ANNOUNCE_ACK, NULL, 0),
				 VIRTIO_NET_OK);
	}
	assert_true(h.fm.m.kvm->msgs[VD_MSI_DATA] >= interrupts + 3);
	assert_int_equal(received(&h), 0);
	vnic_put_seed(&h, 0, 60, 3);
	vnic_send(&h, 0, 100, 301);
	vnic_settle(&h);
	assert_true(vnic_took_seed(&h, 0, 60, 3, 1));
	assert_true(vnic_got_seed(&h, 0, 100, 301));
	virtio_net_connect(h.dev); /* again: nothing */
	assert_true(link_status(&h) & VIRTIO_NET_S_LINK_UP);
	vnic_end(&h);
	fm_resume(&g->fm);
}

/* In a while in which it stands still: timers that are set, and whatever else is waited for. */
static int awaited(struct vnic_rig *g)
{
	vnic_settle(g);
	usleep(200 * 1000);
	vnic_settle(g);
	return event_base_get_num_events(loop_base(g->fm.m.loop), EVENT_BASE_COUNT_ADDED);
}

static bool is_late(void *arg)
{
	return vnic_of(arg)->late;
}

static void acknowledge(struct vnic_rig *g)
{
	assert_int_equal(vnic_command(g, CTRL, VIRTIO_NET_CTRL_ANNOUNCE,
				      VIRTIO_NET_CTRL_ANNOUNCE_ACK, NULL, 0),
			 VIRTIO_NET_OK);
}

/* However long it stands still nobody looks whether it goes on, and then its rounds come. */
static void test_vnet__announcements_wait_for_a_machine_that_stands_still(void **state)
{
	struct vnic_rig *g = *state;
	static struct vnic_rig h;
	int none;

	fm_quiesce(&g->fm);
	vnic_copy(g, &h, &copy);
	fm_resume(&h.fm);
	virtio_net_connect(h.dev);
	acknowledge(&h); /* which it may whenever it likes; its queue is watched then */
	fm_quiesce(&h.fm);
	none = awaited(&h); /* it has not looked at its link */
	fm_resume(&h.fm);
	assert_int_equal(link_status(&h), VIRTIO_NET_S_LINK_UP);
	for (unsigned int i = 0; i < 2; i++) {
		fm_quiesce(&h.fm);
		assert_true(fm_until(&h.fm, is_late, &h)); /* the round that falls due meanwhile */
		assert_int_equal(awaited(&h), none);
		assert_int_equal(awaited(&h), none);
		fm_resume(&h.fm);
		assert_true(fm_until(&h.fm, is_asked, &h));
		acknowledge(&h);
	}
	assert_true(fm_until(&h.fm, is_asked, &h)); /* and on by themselves */
	assert_in_range(vnic_of(&h)->rounds, 0, 1);
	vnic_end(&h);
	fm_resume(&g->fm);
}

/* The n packets that were sent before are done with, and none has left; what is sent now does. */
static void only_new_ones_leave(struct vnic_rig *h, unsigned int n)
{
	uint8_t p[100];

	assert_int_equal(vnic_sent(h, 0), n);
	assert_int_equal(vnic_got(h, 0, p, sizeof(p)), -1);
	vnic_send(h, 0, 100, 301);
	vnic_settle(h);
	assert_true(vnic_got_seed(h, 0, 100, 301));
}

/* What its parent's programs had sent is as much as a ring holds, and it is connected at once. */
static void test_vnet__connecting_sends_nothing_that_was_sent_before(void **state)
{
	struct vnic_rig *g = *state;
	static struct vnic_rig h;

	fm_quiesce(&g->fm);
	for (unsigned int i = 0; i < 250; i++)
		vnic_send(g, 0, 100, i);
	vnic_copy(g, &h, &copy);
	fm_resume(&h.fm);
	virtio_net_connect(h.dev);
	vnic_settle(&h);
	only_new_ones_leave(&h, 250);
	vnic_end(&h);
	fm_resume(&g->fm);
}

static void test_vnet__a_copy_without_a_driver_has_its_link_and_its_mac(void **state)
{
	struct vnic_rig *g = *state;
	static struct vnic_rig h;

	vd_set_status(&g->d, 0);
	fm_spin(&g->fm);
	fm_quiesce(&g->fm);
	vnic_copy(g, &h, &copy);
	fm_resume(&h.fm);
	assert_int_equal(link_status(&h), VIRTIO_NET_S_LINK_UP);
	vnic_drive(&h, 0);
	assert_memory_equal(virtio_net_driver_mac(h.dev), copy.nics[0].addr.mac, NIC_MAC);
	vnic_send(&h, 0, 100, 1);
	vnic_settle(&h);
	assert_true(vnic_got_seed(&h, 0, 100, 1));
	vnic_end(&h);
	fm_resume(&g->fm);
}

/* Its guest may learn who it is and be parked before that is known: its rings are not looked at
 * then, and what was sent before is dropped all the same. */
static void test_vnet__connecting_one_that_stands_still_waits_until_it_goes_on(void **state)
{
	struct vnic_rig *g = *state;
	static struct vnic_rig h;

	fm_quiesce(&g->fm);
	vnic_copy(g, &h, &copy);
	fm_resume(&h.fm);
	for (unsigned int i = 0; i < 30; i++)
		vnic_send(&h, 0, 100, i);
	fm_quiesce(&h.fm);
	virtio_net_connect(h.dev);
	assert_int_equal(vd_used_idx(&h.d, 1), 0);
	assert_false(vnic_of(&h)->state.status & VIRTIO_NET_S_LINK_UP);
	fm_resume(&h.fm);
	assert_true(link_status(&h) & VIRTIO_NET_S_LINK_UP);
	only_new_ones_leave(&h, 30);
	vnic_end(&h);
	fm_resume(&g->fm);
}

static int child_life(struct vnic_rig *g)
{
	fm_child(&g->fm, &copy);
	fm_resume(&g->fm);
	vnic_settle(g);
	if (link_status(g) || vnic_sent(g, 0) != 30 || received(g))
		return 2;
	virtio_net_connect(g->dev);
	vnic_offer(g, 0, 1000);
	vnic_put_seed(g, 0, 60, 7);
	vnic_send(g, 0, 100, 8);
	vnic_settle(g);
	if (vnic_got_seed(g, 0, 100, 0) || !vnic_of(g)->tx_packets)
		return 3;
	/* it offered two small buffers before the fork */
	return received(g) == 1 ? 0 : 4;
}

/* Parent and child get the same ring; what is in it leaves once, by the parent. */
static void test_vnet__a_fork_under_load_loses_and_doubles_nothing(void **state)
{
	struct vnic_rig *g = *state;
	int status;
	pid_t pid;

	vnic_offer(g, 0, 100);
	vnic_put_seed(g, 0, 150, 1); /* waits in the parent, and is nobody's in the child */
	vnic_settle(g);
	fm_quiesce(&g->fm);
	for (unsigned int i = 0; i < 30; i++)
		vnic_send(g, 0, 100, i);
	/* the child's wire: a pair of its own */
	{
		int mine = g->wire[0];

		g->wire[0] = -1;
		vnic_plug(g, "child/", 0);
		pid = fork();
		assert_true(pid >= 0);
		if (!pid)
			_exit(child_life(g));
		grants_drop(g->fm.m.grants, "child/");
		BUG_ON(g->wire[0] < 0);
		status = g->wire[0];
		g->wire[0] = mine;
	}
	fm_resume(&g->fm);
	vnic_settle(g);
	for (unsigned int i = 0; i < 30; i++)
		assert_true(vnic_got_seed(g, 0, 100, i));
	assert_false(vnic_got_seed(g, 0, 100, 8));
	vnic_offer(g, 0, 100);
	vnic_settle(g);
	assert_true(vnic_took_seed(g, 0, 150, 1, 2));
	close(status);
	fdtab_del(g->fm.m.fds, status);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

static void unplug_wire(struct vnic_rig *g)
{
	fdtab_del(g->fm.m.fds, g->wire[0]);
	close(g->wire[0]);
	g->wire[0] = -1;
}

/* Its TAP is gone, which poll(2) reports for ever: main does not run in circles for it. */
static void test_vnet__a_tap_that_is_gone_keeps_nobody_busy(void **state)
{
	struct vnic_rig *g = *state;
	unsigned int before;

	vnic_offer(g, 0, 1000);
	vnic_settle(g);
	unplug_wire(g);
	vnic_settle(g);
	before = tap_reads;
	vnic_settle(g);
	assert_int_equal(tap_reads, before);
	vnic_send(g, 0, 100, 1);
	vnic_settle(g);
	assert_int_equal(vnic_sent(g, 0), 1);
	assert_false(vnic_broken(g));
}

int main(void)
{
#define T(t) cmocka_unit_test_setup_teardown(t, vnic_up, vnic_down)
	const struct CMUnitTest tests[] = {
		T(test_vnet__what_waits_while_the_vm_stands_still_is_served_after),
		T(test_vnet__a_frame_wakes_who_is_watched_and_is_not_lost),
		T(test_vnet__nobody_is_woken_for_a_guest_that_does_not_hear),
		T(test_vnet__a_new_driver_does_not_get_its_predecessors_packet),
		T(test_vnet__the_drivers_reset_forgets_what_it_said),
		T(test_vnet__a_copy_is_cut_off_until_it_is_connected),
		T(test_vnet__announcements_wait_for_a_machine_that_stands_still),
		T(test_vnet__connecting_sends_nothing_that_was_sent_before),
		T(test_vnet__connecting_one_that_stands_still_waits_until_it_goes_on),
		T(test_vnet__a_copy_without_a_driver_has_its_link_and_its_mac),
		T(test_vnet__a_fork_under_load_loses_and_doubles_nothing),
		T(test_vnet__a_tap_that_is_gone_keeps_nobody_busy),
	};

	vnic_taken = kvm_model_taken;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
