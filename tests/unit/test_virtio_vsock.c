/* SPDX-License-Identifier: MIT */
/*
 * The virtio-vsock device through its rings: packets, starvation, hostile drivers, and who is owed
 * a transport reset after a fork or a restore.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <linux/virtio_config.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/lib/kvm_model.h"
#include "tests/lib/vsock_guest.h"

static struct vsock_hdr h;
static uint8_t data[VSOCK_PKT_MAX];

static int up(void **state)
{
	static struct vg g;

	vg_init(&g, true);
	*state = &g;
	return 0;
}

static int up_without_driver(void **state)
{
	static struct vg g;

	vg_init(&g, false);
	*state = &g;
	return 0;
}

static int down(void **state)
{
	vg_fini(*state);
	return 0;
}

/* A host program's stream to a guest port; returns its end and the host port. */
static int stream(struct vg *g, const char *path, uint32_t guest_port, uint32_t *host_port)
{
	char line[32];
	int fd;

	snprintf(line, sizeof(line), "CONNECT %u\n", guest_port);
	fd = vg_dial(path, line);
	vg_expect(g, VSOCK_OP_REQUEST, &h, data);
	*host_port = h.src_port;
	vg_say(g, VSOCK_OP_RESPONSE, h.src_port, guest_port, 0, NULL, 0);
	assert_true(vg_read(g, fd, line, sizeof(line)) > 4);
	return fd;
}

static void test_vsock__config_space_is_the_cid(void **state)
{
	struct vg *g = *state;

	assert_int_equal(fm_read(&g->fm, g->d.config, 8), VG_CID);
	assert_int_equal(fm_read(&g->fm, g->d.config + 4, 4), 0);
	assert_int_equal(fm_read(&g->fm, g->d.config + 8, 4), 0);
	fm_write(&g->fm, g->d.config, 4, 99);
	assert_int_equal(fm_read(&g->fm, g->d.config, 4), VG_CID);
}

static void test_vsock__bad_cfg_is_refused(void **state)
{
	static const uint64_t bad[] = { 0, 1, 2, 0xffffffffull, 1ull << 32, UINT64_MAX };
	struct virtio_vsock_cfg cfg = { .guest_cid = 3 };
	struct vg *g = *state;
	struct device *d = NULL;
	struct err e;

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		cfg.guest_cid = bad[i];
		assert_int_equal(virtio_vsock_class.create(&g->fm.m, "v", &cfg, &d, &e), -EINVAL);
	}
	cfg.guest_cid = 3;
	memset(cfg.path, 'a', sizeof(cfg.path));
	assert_int_equal(virtio_vsock_class.create(&g->fm.m, "v", &cfg, &d, &e), -EINVAL);
	assert_null(d);
}

static void test_vsock__bytes_go_both_ways_through_the_rings(void **state)
{
	struct vg *g = *state;
	uint32_t port, got = 0;
	static char b[10000], c[20000];
	int fd = stream(g, "vsock.sock", 52, &port);

	memset(b, 'b', sizeof(b));
	assert_int_equal(write(fd, b, sizeof(b)), sizeof(b));
	while (got < sizeof(b)) {
		vg_expect(g, VSOCK_OP_RW, &h, data);
		assert_memory_equal(data, b, h.len);
		got += h.len;
	}
	memset(data, 'c', sizeof(data));
	vg_say(g, VSOCK_OP_RW, port, 52, 0, data, 20000);
	assert_int_equal(vg_read(g, fd, c, sizeof(c)), sizeof(c));
	assert_memory_equal(c, data, sizeof(c));
	assert_true(kvm_model_deliver(g->fm.m.kvm) > 0);
	close(fd);
}

static void test_vsock__malformed_packets_are_dropped_and_completed(void **state)
{
	struct vsock_hdr w = { .src_cid = VG_CID,
			       .dst_cid = VSOCK_CID_HOST,
			       .src_port = 1,
			       .dst_port = 2,
			       .type = VSOCK_TYPE_STREAM,
			       .op = VSOCK_OP_RW };
	struct vg *g = *state;
	const struct vd_buf tiny = { g->tx, VSOCK_HDR_BYTES - 1, false };
	const struct vd_buf in = { g->tx, VSOCK_HDR_BYTES, true };
	uint32_t len;

	vd_add(&g->d, VG_TX, &tiny, 1, false);
	vd_add(&g->d, VG_TX, &in, 1, false);
	vd_kick(&g->d, VG_TX);
	fm_spin(&g->fm);
	assert_true(vd_used(&g->d, VG_TX, NULL, &len));
	assert_true(vd_used(&g->d, VG_TX, NULL, &len));
	assert_int_equal(len, 0);
	w.src_cid = 4;
	vg_send(g, &w, NULL, 0);
	w.src_cid = VG_CID;
	w.dst_cid = 1;
	vg_send(g, &w, NULL, 0);
	assert_true(vg_quiet(g));
	w.dst_cid = VSOCK_CID_HOST;
	vg_send(g, &w, NULL, 0);
	vg_expect(g, VSOCK_OP_RST, &h, data); /* it lives */
}

/* Announced and provided lengths that differ, and one that is too large, end the stream. */
static void test_vsock__lengths_that_lie_end_the_stream(void **state)
{
	static const uint32_t lens[][2] = { { 101, 100 },
					    { 1, 0 },
					    { UINT32_MAX, 100 },
					    { VSOCK_PKT_MAX + 1, VSOCK_PKT_MAX + 1 } };
	static uint8_t big[VSOCK_PKT_MAX + 1];
	struct vg *g = *state;
	char c;

	for (size_t i = 0; i < ARRAY_SIZE(lens); i++) {
		struct vsock_hdr w = { .src_cid = VG_CID,
				       .dst_cid = VSOCK_CID_HOST,
				       .src_port = 52,
				       .len = lens[i][0],
				       .type = VSOCK_TYPE_STREAM,
				       .op = VSOCK_OP_RW };
		int fd = stream(g, "vsock.sock", 52, &w.dst_port);

		vg_send(g, &w, big, lens[i][1]);
		vg_expect(g, VSOCK_OP_RST, &h, data);
		assert_int_equal(vg_read(g, fd, &c, 1), 0);
		close(fd);
	}
}

/* No RX buffers: TX goes on until the replies reach their bound, and again when there is room. */
static void test_vsock__starved_rx_neither_grows_nor_deadlocks(void **state)
{
	const unsigned int total = VSOCK_RST_BACKLOG + 100;
	struct vg *g = *state;
	unsigned int done = 0, posted = 0;

	vg_driver(g, 0, VG_EVENTS);
	while (posted < total) {
		for (unsigned int i = 0; i < 64 && posted < total; i++, posted++)
			vg_post(g, VSOCK_OP_RW, posted, 7);
		fm_spin(&g->fm);
		while (vd_used(&g->d, VG_TX, NULL, NULL))
			done++;
		if (done < posted)
			break;
	}
	assert_int_equal(done, VSOCK_RST_BACKLOG);
	vg_add_rx(g, VG_RX_BUFS);
	for (unsigned int i = 0; i < posted; i++) {
		vg_expect(g, VSOCK_OP_RST, &h, data);
		while (vd_used(&g->d, VG_TX, NULL, NULL))
			done++;
	}
	assert_int_equal(done, posted);
	assert_true(vg_quiet(g));
}

static void test_vsock__rx_buffer_without_room_breaks_the_device(void **state)
{
	struct vg *g = *state;
	const struct vd_buf b = { g->rx, VSOCK_HDR_BYTES, true };

	vg_driver(g, 0, VG_EVENTS);
	vd_add(&g->d, VG_RX, &b, 1, false);
	vg_post(g, VSOCK_OP_RW, 1, 2);
	fm_spin(&g->fm);
	assert_true(vd_status(&g->d) & VIRTIO_CONFIG_S_NEEDS_RESET);
	vg_driver(g, VG_RX_BUFS, VG_EVENTS); /* and a reset mends it */
	vg_post(g, VSOCK_OP_RW, 1, 2);
	vg_expect(g, VSOCK_OP_RST, &h, data);
}

static void test_vsock__boot_owes_no_reset(void **state)
{
	struct vg *g = *state;
	int fd;

	assert_false(virtio_vsock_resetting(g->dev));
	fd = vg_dial("vsock.sock", "CONNECT 1\n");
	assert_true(vg_closed(g, fd)); /* no driver yet */
	close(fd);
	vg_driver(g, VG_RX_BUFS, VG_EVENTS);
	assert_true(vg_quiet(g));
	assert_false(virtio_vsock_resetting(g->dev));
}

static void count(void *arg)
{
	++*(int *)arg;
}

/* From the reset to its acknowledgement, with a host program waiting: -1 when all is right. */
static int reset_passes(struct vg *g, const char *path, int *ready)
{
	int fd = vg_dial(path, "CONNECT 52\n");
	char c;

	if (!virtio_vsock_resetting(g->dev))
		return 11;
	if (!vg_event(g))
		return 12;
	if (!vg_quiet(g) || *ready) /* one event only, and no packet */
		return 13;
	if (vg_read(g, fd, &c, 1) != -1)
		return 14;
	vg_add_event(g); /* the driver has handled it */
	fm_spin(&g->fm);
	if (*ready != 1 || virtio_vsock_resetting(g->dev))
		return 15;
	vg_expect(g, VSOCK_OP_REQUEST, &h, data);
	vg_say(g, VSOCK_OP_RESPONSE, h.src_port, 52, 0, NULL, 0);
	if (vg_read(g, fd, &c, 1) != 1 || c != 'O')
		return 16;
	close(fd);
	return -1;
}

static int fork_child(struct vg *g, int old, uint32_t port, int *ready)
{
	const struct identity id = { .renew = true, .name = "child", .generation = { 2 } };

	(void)old;
	fm_child(&g->fm, &id);
	if (vsock_mux_count(g->mux))
		return 1;
	fm_resume(&g->fm);
	/* A packet of the old life is answered, but not before the reset is acknowledged. */
	vg_say(g, VSOCK_OP_RW, port, 52, 0, "x", 1);
	if (vd_used_idx(&g->d, VG_RX) != g->d.q[VG_RX].last_used)
		return 2;
	if (!virtio_vsock_agent_seen(g->dev))
		return 3;
	if (!vg_event(g))
		return 4;
	vg_add_event(g);
	vg_expect(g, VSOCK_OP_RST, &h, data);
	vg_expect(g, VSOCK_OP_RST, &h, data);
	*ready = 0;
	/* and once more, for a child's child */
	fm_quiesce(&g->fm);
	vg_grant(g, "child/", "child.sock");
	fm_child(&g->fm, &id);
	fm_resume(&g->fm);
	return reset_passes(g, "child.sock", ready);
}

static unsigned int wakes;

static void on_wake(struct machine *m, const char *why)
{
	(void)m;
	assert_string_equal(why, "vsock");
	wakes++;
}

static void test_vsock__host_wakes_who_stands_still_and_nothing_is_lost(void **state)
{
	struct vg *g = *state;
	uint32_t port;
	int fd = stream(g, "vsock.sock", 52, &port), call;

	wakes = 0;
	g->fm.m.wake = on_wake;
	assert_true(vg_quiet(g));
	fm_quiesce(&g->fm);
	assert_true(vg_quiet(g));
	assert_int_equal(wakes, 0);
	/* a call that says nothing yet is not for the guest */
	call = vg_dial("vsock.sock", "");
	assert_true(vg_quiet(g));
	assert_int_equal(wakes, 0);
	assert_int_equal(write(call, "CONNECT 77\n", 11), 11);
	assert_true(vg_quiet(g));
	assert_int_equal(wakes, 1);
	assert_int_equal(write(fd, "in", 2), 2);
	assert_true(vg_quiet(g));
	assert_int_equal(wakes, 2);
	fm_resume(&g->fm);
	vg_expect(g, VSOCK_OP_REQUEST, &h, data);
	assert_int_equal(h.dst_port, 77);
	vg_expect(g, VSOCK_OP_RW, &h, data);
	assert_int_equal(h.len, 2);
	assert_memory_equal(data, "in", 2);
	assert_int_equal(wakes, 2); /* who runs is not woken */
	close(fd);
	close(call);
}

static void test_vsock__ends_of_connections_wake_nobody(void **state)
{
	struct vg *g = *state;
	uint32_t port;
	int fd = stream(g, "vsock.sock", 52, &port);

	wakes = 0;
	g->fm.m.wake = on_wake;
	fm_quiesce(&g->fm);
	close(fd);
	assert_true(vg_quiet(g));
	assert_int_equal(wakes, 0);
	assert_false(virtio_vsock_waits(g->dev));
	fm_resume(&g->fm);
	vg_expect(g, VSOCK_OP_SHUTDOWN, &h, data);
}

static void test_vsock__what_the_guest_had_no_room_for_waits_when_it_stops(void **state)
{
	struct vg *g = *state;
	uint32_t port;
	int fd = stream(g, "vsock.sock", 52, &port);

	for (unsigned int i = 0; i < VG_RX_BUFS; i++) { /* its buffers are given back by nobody */
		assert_int_equal(write(fd, "x", 1), 1);
		fm_spin(&g->fm);
	}
	fm_quiesce(&g->fm);
	assert_false(virtio_vsock_waits(g->dev));
	fm_resume(&g->fm);
	assert_int_equal(write(fd, "x", 1), 1);
	fm_spin(&g->fm);
	fm_quiesce(&g->fm);
	assert_true(virtio_vsock_waits(g->dev));
	fm_resume(&g->fm);
	close(fd);
}

static void test_vsock__fork_resets_the_child_and_not_the_parent(void **state)
{
	struct vg *g = *state;
	int ready = 0, status;
	uint32_t port;
	int fd = stream(g, "vsock.sock", 52, &port);
	char c[8];
	pid_t pid;

	virtio_vsock_set_ready_cb(g->dev, count, &ready);
	virtio_vsock_set_agent_seen(g->dev);
	vg_grant(g, "child/", "child.sock");
	fm_quiesce(&g->fm);
	/* What comes meanwhile waits. */
	assert_int_equal(write(fd, "in", 2), 2);
	assert_true(vg_quiet(g));
	pid = fork();
	assert_true(pid >= 0);
	if (!pid)
		_exit(fork_child(g, fd, port, &ready) == -1 ? 0 : 1);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	fm_resume(&g->fm);
	assert_int_equal(ready, 0);
	assert_false(virtio_vsock_resetting(g->dev));
	vg_expect(g, VSOCK_OP_RW, &h, data);
	assert_memory_equal(data, "in", 2);
	vg_say(g, VSOCK_OP_RW, port, 52, 0, "out", 3);
	assert_int_equal(vg_read(g, fd, c, sizeof(c)), 3);
	assert_true(vg_quiet(g));
	close(fd);
}

/* Another machine with the same device, the same RAM and the driver's view of it, adopted. */
static void restore(struct vg *from, struct vg *to, bool renew)
{
	const struct identity id = { .renew = renew, .name = "again", .generation = { 3 } };
	struct gmem_region a[GMEM_MAX_REGIONS], b[GMEM_MAX_REGIONS];
	struct wbuf w, w2;
	struct err e;

	fm_quiesce(&from->fm);
	fm_save(from->dev, &w);
	vg_make(to);
	assert_int_equal(gmem_regions(from->fm.m.mem, a), 1);
	assert_int_equal(gmem_regions(to->fm.m.mem, b), 1);
	memcpy(b[0].hva, a[0].hva, FM_ALLOC_BASE + MIB(4));
	assert_int_equal(fm_load(to->dev, w.data, w.len, &e), 0);
	to->d = from->d;
	to->d.fm = &to->fm;
	to->fm.brk = from->fm.brk;
	vg_grant(to, "", "vsock.sock");
	fm_adopt(&to->fm, &id);
	/* Not resumed yet, it is what it was: a seed can be saved again. */
	fm_save(to->dev, &w2);
	assert_int_equal(w.len, w2.len);
	assert_memory_equal(w.data, w2.data, w.len);
	wbuf_fini(&w);
	wbuf_fini(&w2);
	fm_resume(&to->fm);
}

static void restore_and_check(struct vg *g, bool renew)
{
	static struct vg to;
	int ready = 0;
	uint32_t port;
	int fd = stream(g, "vsock.sock", 52, &port);

	virtio_vsock_set_agent_seen(g->dev);
	restore(g, &to, renew);
	virtio_vsock_set_ready_cb(to.dev, count, &ready);
	assert_true(virtio_vsock_agent_seen(to.dev));
	assert_int_equal(reset_passes(&to, "vsock.sock", &ready), -1);
	vg_fini(&to);
	assert_int_equal(chdir(g->dir), 0);
	close(fd);
}

static void test_vsock__restore_of_the_same_machine_owes_a_reset(void **state)
{
	restore_and_check(*state, false);
}

static void test_vsock__restore_as_another_machine_owes_a_reset(void **state)
{
	restore_and_check(*state, true);
}

/* The driver may have no event buffer just then; and what it adds first is for the event. */
static void test_vsock__reset_waits_for_an_event_buffer(void **state)
{
	static struct vg to;
	struct vg *g = *state;
	int ready = 0;

	vg_driver(g, VG_RX_BUFS, 0);
	restore(g, &to, true);
	virtio_vsock_set_ready_cb(to.dev, count, &ready);
	assert_true(vg_quiet(&to));
	assert_true(virtio_vsock_resetting(to.dev));
	vg_add_event(&to);
	assert_int_equal(reset_passes(&to, "vsock.sock", &ready), -1);
	/* A kick out of nowhere afterwards is not one more acknowledgement. */
	vg_expect(&to, VSOCK_OP_SHUTDOWN, &h, data);
	vd_kick(&to.d, VG_EVENT);
	assert_true(vg_quiet(&to));
	assert_int_equal(ready, 1);
	vg_fini(&to);
	assert_int_equal(chdir(g->dir), 0);
}

static void test_vsock__kick_alone_acknowledges_nothing(void **state)
{
	static struct vg to;
	struct vg *g = *state;
	int ready = 0;

	restore(g, &to, true);
	virtio_vsock_set_ready_cb(to.dev, count, &ready);
	for (int i = 0; i < 3; i++) {
		vd_kick(&to.d, VG_EVENT);
		fm_spin(&to.fm);
	}
	assert_int_equal(ready, 0);
	/* Nor do pause and resume, which look at every queue; and the event is not repeated. */
	fm_quiesce(&to.fm);
	fm_resume(&to.fm);
	assert_int_equal(ready, 0);
	assert_int_equal(reset_passes(&to, "vsock.sock", &ready), -1);
	vg_fini(&to);
	assert_int_equal(chdir(g->dir), 0);
}

static void test_vsock__driver_reset_forgets_what_was_owed_and_seen(void **state)
{
	static struct vg to;
	struct vg *g = *state;
	uint32_t port;
	int fd;

	virtio_vsock_set_agent_seen(g->dev);
	restore(g, &to, true);
	vg_driver(&to, VG_RX_BUFS, VG_EVENTS); /* it boots anew */
	assert_false(virtio_vsock_resetting(to.dev));
	assert_false(virtio_vsock_agent_seen(to.dev));
	assert_true(vg_quiet(&to));
	fd = stream(&to, "vsock.sock", 52, &port);
	close(fd);
	vg_fini(&to);
	assert_int_equal(chdir(g->dir), 0);
}

static void test_vsock__impossible_states_are_refused(void **state)
{
	struct vg *g = *state;
	struct wbuf w;
	struct err e;

	fm_quiesce(&g->fm);
	fm_save(g->dev, &w);
	/* The last five bytes: owed, unacknowledged, seen, and the index. */
	for (size_t i = 5; i >= 3; i--) {
		w.data[w.len - i] = 2;
		assert_int_equal(fm_load(g->dev, w.data, w.len, &e), -EINVAL);
		w.data[w.len - i] = 0;
	}
	w.data[w.len - 5] = w.data[w.len - 4] = 1;
	assert_int_equal(fm_load(g->dev, w.data, w.len, &e), -EINVAL);
	wbuf_fini(&w);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, up, down)
	const struct CMUnitTest tests[] = {
		T(test_vsock__config_space_is_the_cid),
		T(test_vsock__bad_cfg_is_refused),
		T(test_vsock__bytes_go_both_ways_through_the_rings),
		T(test_vsock__malformed_packets_are_dropped_and_completed),
		T(test_vsock__lengths_that_lie_end_the_stream),
		T(test_vsock__starved_rx_neither_grows_nor_deadlocks),
		T(test_vsock__rx_buffer_without_room_breaks_the_device),
		cmocka_unit_test_setup_teardown(test_vsock__boot_owes_no_reset, up_without_driver,
						down),
		T(test_vsock__host_wakes_who_stands_still_and_nothing_is_lost),
		T(test_vsock__ends_of_connections_wake_nobody),
		T(test_vsock__what_the_guest_had_no_room_for_waits_when_it_stops),
		T(test_vsock__fork_resets_the_child_and_not_the_parent),
		T(test_vsock__restore_of_the_same_machine_owes_a_reset),
		T(test_vsock__restore_as_another_machine_owes_a_reset),
		T(test_vsock__reset_waits_for_an_event_buffer),
		T(test_vsock__kick_alone_acknowledges_nothing),
		T(test_vsock__driver_reset_forgets_what_was_owed_and_seen),
		T(test_vsock__impossible_states_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
