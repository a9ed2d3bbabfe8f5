/* SPDX-License-Identifier: MIT */
/*
 * Fuzz target: the socket muxer. The input is a script of what guest, host program and driver do;
 * the guest's headers are its bytes, with ports from a small set so that they often hit. What comes
 * out is bounded by what was asked for and by the credit given.
 */
#include <event2/event.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/util.h"
#include "event/fdtab.h"
#include "event/loop.h"
#include "vsock/vsock.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define PORTS 8
static int host[PORTS];	     /* host programs' ends */
static uint32_t port[PORTS]; /* host ports of the last REQUESTs to the guest */
static uint8_t bytes[VSOCK_PKT_MAX];

static void rx_ready(void *arg)
{
	(void)arg;
}

static void keep(void *arg, int fd)
{
	unsigned int *n = arg, i = (*n)++ % PORTS;

	if (host[i] >= 0)
		close(host[i]);
	host[i] = fd;
}

static void from_guest(struct vsock_mux *m, struct rbuf *r)
{
	uint8_t sel = rbuf_u8(r), op = rbuf_u8(r);
	struct vsock_hdr h = {
		.src_cid = 3,
		.dst_cid = 2,
		.src_port = sel & 3,
		.dst_port = sel & 8 ? 1025 : port[(sel >> 4) % PORTS],
		.len = rbuf_u16(r),
		.type = op & 0x80 ? op : 1,
		.op = op & 15,
		.flags = rbuf_u8(r),
		.buf_alloc = rbuf_u32(r),
		.fwd_cnt = rbuf_u32(r),
	};

	if (vsock_mux_can_take(m))
		vsock_mux_from_guest(m, &h, op & 0x40 ? NULL : bytes);
}

static void to_guest(struct vsock_mux *m, uint32_t max)
{
	struct vsock_hdr h;
	const void *p = NULL;
	volatile uint8_t sum = 0;

	if (!vsock_mux_next(m, &h, &p, max))
		return;
	if (h.len > max || h.len > VSOCK_PKT_MAX || (h.len && h.op != VSOCK_OP_RW))
		abort();
	for (uint32_t i = 0; i < h.len; i++)
		sum = (uint8_t)(sum + ((const uint8_t *)p)[i]);
	if (h.op == VSOCK_OP_REQUEST)
		port[h.dst_port % PORTS] = h.src_port;
}

static void host_does(struct vsock_mux *m, unsigned int *n, uint8_t what, uint8_t i)
{
	int *fd = &host[i % PORTS], new;

	if (what == 0 && !vsock_mux_connect(m, i & 3, &new, NULL))
		keep(n, new);
	else if (what == 1)
		(void)!send(*fd, bytes, 1u << (i >> 4), MSG_NOSIGNAL | MSG_DONTWAIT);
	else if (what == 2)
		(void)!recv(*fd, bytes, 1u << (i >> 4), MSG_DONTWAIT);
	else if (what == 3)
		shutdown(*fd, i & 16 ? SHUT_WR : SHUT_RDWR);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct vsock_mux_ops ops = { .rx_ready = rx_ready };
	static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	struct vsock_mux *m;
	struct fdtab *fds;
	struct loop *l;
	struct rbuf r;
	unsigned int n = 0;

	memset(host, -1, sizeof(host));
	rbuf_init(&r, data, size);
	BUG_ON(loop_create(&lock, &l, NULL) || fdtab_create(&fds, NULL) ||
	       vsock_mux_create(3, &ops, NULL, &m, NULL) ||
	       vsock_mux_adopt(m, l, fds, -1, "none", NULL));
	vsock_mux_listen(m, 1025, keep, &n);
	vsock_mux_start(m);
	while (rbuf_left(&r) && !r.bad) {
		uint8_t what = rbuf_u8(&r), i = rbuf_u8(&r);

		switch (what & 7) {
		case 0:
		case 1:
			from_guest(m, &r);
			break;
		case 2:
			to_guest(m, 1u + i * 64u);
			break;
		case 3:
		case 4:
			host_does(m, &n, what >> 6, i);
			break;
		case 5:
			event_base_loop(loop_base(l), EVLOOP_NONBLOCK);
			break;
		case 6:
			vsock_mux_hold(m, i & 1);
			break;
		case 7:
			i < 16 ? vsock_mux_reset(m) : vsock_mux_start(m);
			break;
		}
	}
	vsock_mux_destroy(m);
	loop_destroy(l);
	fdtab_destroy(fds);
	for (unsigned int i = 0; i < PORTS; i++)
		if (host[i] >= 0)
			close(host[i]);
	return 0;
}
