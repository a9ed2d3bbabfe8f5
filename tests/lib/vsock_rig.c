/* SPDX-License-Identifier: MIT */
/*
 * The scripted guest and the host programs of the vsock tests: see vsock_rig.h.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <event2/event.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/time.h"
#include "event/fdtab.h"
#include "event/loop.h"
#include "tests/lib/vsock_rig.h"

#define PATIENCE_NS (60 * NS_PER_SEC)

static void rx_ready(void *arg)
{
	struct vr *r = arg;

	r->woken++;
}

static const struct vsock_mux_ops ops = { .rx_ready = rx_ready };

static struct sockaddr_un address(const char *path)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX };

	snprintf(sa.sun_path, sizeof(sa.sun_path), "%s", path);
	return sa;
}

int vr_listen(const char *path)
{
	struct sockaddr_un sa = address(path);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	assert_true(fd >= 0);
	unlink(path);
	assert_int_equal(bind(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
	assert_int_equal(listen(fd, 128), 0);
	return fd;
}

void vr_adopt(struct vr *r, const char *path)
{
	struct err e;

	assert_int_equal(loop_create(&r->lock, &r->l, &e), 0);
	assert_int_equal(fdtab_create(&r->fds, &e), 0);
	int fd = vr_listen(path);
	fdtab_add(r->fds, fd, FD_CLOSE, "listener");
	assert_int_equal(vsock_mux_adopt(r->m, r->l, r->fds, fd, path, &e), 0);
}

void vr_init(struct vr *r)
{
	struct err e;

	*r = (struct vr){ .alloc = 256u << 10 };
	pthread_mutex_init(&r->lock, NULL);
	strcpy(r->dir, "/tmp/vsock-test-XXXXXX");
	assert_non_null(mkdtemp(r->dir));
	assert_int_equal(chdir(r->dir), 0);
	assert_int_equal(vsock_mux_create(VR_CID, &ops, r, &r->m, &e), 0);
	vr_adopt(r, "vsock.sock");
	vsock_mux_start(r->m);
}

void vr_fini(struct vr *r)
{
	vsock_mux_destroy(r->m);
	loop_destroy(r->l);
	fdtab_destroy(r->fds);
	unlink("vsock.sock");
	assert_int_equal(chdir("/"), 0);
	rmdir(r->dir);
}

void vr_spin(struct vr *r)
{
	/* Several rounds: what one callback wrote, another may be able to read. */
	for (int i = 0; i < 4; i++)
		event_base_loop(loop_base(r->l), EVLOOP_NONBLOCK);
}

void vr_send(struct vr *r, enum vsock_op op, uint32_t host_port, uint32_t guest_port,
	     uint32_t flags, const void *data, uint32_t len)
{
	const struct vsock_hdr h = {
		.src_cid = VR_CID,
		.dst_cid = VSOCK_CID_HOST,
		.src_port = guest_port,
		.dst_port = host_port,
		.len = len,
		.type = VSOCK_TYPE_STREAM,
		.op = op,
		.flags = flags,
		.buf_alloc = r->alloc,
		.fwd_cnt = r->fwd,
	};

	vsock_mux_from_guest(r->m, &h, data);
}

bool vr_take(struct vr *r, struct vr_pkt *p, uint32_t max)
{
	const void *data = NULL;

	if (!vsock_mux_next(r->m, &p->h, &data, max))
		return false;
	assert_int_equal(p->h.src_cid, VSOCK_CID_HOST);
	assert_int_equal(p->h.dst_cid, VR_CID);
	assert_int_equal(p->h.type, VSOCK_TYPE_STREAM);
	assert_true(p->h.len <= max);
	if (p->h.len)
		memcpy(p->data, data, p->h.len);
	return true;
}

void vr_expect(struct vr *r, struct vr_pkt *p, enum vsock_op op)
{
	uint64_t end = time_mono_ns() + PATIENCE_NS;

	while (!vr_take(r, p, 4096)) {
		assert_true(time_mono_ns() < end);
		vr_spin(r);
	}
	assert_int_equal(p->h.op, op);
}

void vr_expect_none(struct vr *r)
{
	static struct vr_pkt p;

	vr_spin(r);
	assert_false(vr_take(r, &p, 4096));
}

int vr_dial(const char *line)
{
	struct sockaddr_un sa = address("vsock.sock");
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	assert_true(fd >= 0);
	if (connect(fd, (struct sockaddr *)&sa, sizeof(sa))) {
		close(fd);
		return -1;
	}
	assert_int_equal(write(fd, line, strlen(line)), strlen(line));
	return fd;
}

ssize_t vr_read(struct vr *r, int fd, void *buf, size_t n)
{
	ssize_t got;

	vr_spin(r);
	got = recv(fd, buf, n, MSG_DONTWAIT);
	return got < 0 && errno == ECONNRESET ? 0 : got;
}

bool vr_closed(struct vr *r, int fd)
{
	uint64_t end = time_mono_ns() + PATIENCE_NS;
	char buf[4096];

	while (time_mono_ns() < end)
		if (vr_read(r, fd, buf, sizeof(buf)) == 0)
			return true;
	return false;
}

int vr_stream(struct vr *r, uint32_t guest_port, uint32_t *host_port)
{
	static struct vr_pkt p;
	char line[64], want[64];
	ssize_t n;
	int fd;

	snprintf(line, sizeof(line), "CONNECT %u\n", guest_port);
	fd = vr_dial(line);
	assert_true(fd >= 0);
	vr_expect(r, &p, VSOCK_OP_REQUEST);
	assert_int_equal(p.h.dst_port, guest_port);
	assert_int_equal(p.h.buf_alloc, VSOCK_BUF_BYTES);
	vr_send(r, VSOCK_OP_RESPONSE, p.h.src_port, guest_port, 0, NULL, 0);
	n = vr_read(r, fd, line, sizeof(line) - 1);
	assert_true(n > 0);
	line[n] = '\0';
	snprintf(want, sizeof(want), "OK %u\n", p.h.src_port);
	assert_string_equal(line, want);
	*host_port = p.h.src_port;
	return fd;
}
