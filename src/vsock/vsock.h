/* SPDX-License-Identifier: MIT */
/*
 * The socket muxer between virtio-vsock and unix sockets, in Firecracker's shape: a host program
 * connects to the VM's vsock socket, writes "CONNECT <port>\n", reads "OK <host port>\n" and has
 * a stream to that port of the guest; a guest that connects to host port P reaches the listener at
 * "<path>_P". Some host ports are answered inside the VM process (the agent's hello), and the VM
 * process has streams of its own to guest ports.
 *
 * All calls are main's with the device lock held, but for vsock_mux_start and vsock_mux_reset, for
 * which the lock suffices. The muxer never touches guest memory: packets come from and go to the
 * device (virtio/vsock.c), so a paused VM needs nothing from it.
 */
#ifndef CLONE_VSOCK_VSOCK_H
#define CLONE_VSOCK_VSOCK_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

#define VSOCK_CID_HOST 2ull

/* Limits, each against a hostile guest or a careless host program. */

/* Streams and handshakes at once; beyond it, host programs wait in the listener's backlog. */
#define VSOCK_MAX_CONNS 1024
/* Of them opened by the guest, so that it cannot lock the host out; beyond it: RST. */
#define VSOCK_MAX_GUEST_CONNS 512
/* What a stream buffers from the guest: announced as credit; a guest that sends more is reset. */
#define VSOCK_BUF_BYTES (256u << 10)
/* Data in one packet, either way; also read ahead from a host socket, within the guest's credit. */
#define VSOCK_PKT_MAX (64u << 10)
/* The CONNECT line with its newline, and the time until it is complete. */
#define VSOCK_LINE_MAX 32
#define VSOCK_LINE_MS 2000
/* From our REQUEST to the guest's answer: generous, as a guest may be paused. A caller of
 * vsock_mux_connect is waited for as long as it holds its end. */
#define VSOCK_CONNECT_MS 60000
/* From our SHUTDOWN of both directions to the guest's RST; then we send RST. */
#define VSOCK_CLOSE_MS 8000
/* RSTs waiting for room in the guest: beyond it no packets are taken from it
 * (vsock_mux_can_take), so that replies stay bounded. */
#define VSOCK_RST_BACKLOG 256
/* Internal listeners. */
#define VSOCK_MAX_LISTENERS 8

#define VSOCK_PATH_MAX 96 /* with its NUL; "_4294967295" still fits into a socket address */
#define VSOCK_HOST_PORT_BASE (1u << 30) /* host ports of our connections: [1 << 30, 1 << 31) */

struct fdtab;
struct loop;
struct vsock_mux;

#define VSOCK_TYPE_STREAM 1
enum vsock_op {
	VSOCK_OP_REQUEST = 1,
	VSOCK_OP_RESPONSE = 2,
	VSOCK_OP_RST = 3,
	VSOCK_OP_SHUTDOWN = 4,
	VSOCK_OP_RW = 5,
	VSOCK_OP_CREDIT_UPDATE = 6,
	VSOCK_OP_CREDIT_REQUEST = 7,
};
/* Flags of SHUTDOWN: the sender will not receive, not send any more. */
#define VSOCK_SHUTDOWN_RCV 1u
#define VSOCK_SHUTDOWN_SEND 2u
#define VSOCK_SHUTDOWN_BOTH 3u

/* The 44-byte packet header of virtio 1.2 section 5.10.6, decoded. */
struct vsock_hdr {
	uint64_t src_cid, dst_cid;
	uint32_t src_port, dst_port, len;
	uint16_t type, op;
	uint32_t flags, buf_alloc, fwd_cnt;
};
#define VSOCK_HDR_BYTES 44

void vsock_hdr_decode(struct vsock_hdr *h, const uint8_t b[VSOCK_HDR_BYTES]);
void vsock_hdr_encode(const struct vsock_hdr *h, uint8_t b[VSOCK_HDR_BYTES]);

struct vsock_mux_ops {
	/* There may be a packet to take by vsock_mux_next: fill the guest's RX queue. Called last
	 * in whatever made it so; never from vsock_mux_from_guest or vsock_mux_next. */
	void (*rx_ready)(void *arg);
};

/* No descriptors and no streams yet; down. -ENOMEM. */
int vsock_mux_create(uint64_t guest_cid, const struct vsock_mux_ops *ops, void *arg,
		     struct vsock_mux **out, struct err *e);
/* Closes all it owns; after vsock_mux_adopt, the loop and the fd table must still be there. */
void vsock_mux_destroy(struct vsock_mux *m);

/*
 * Host side: a listening unix socket (owned in any case; -1: none) and the path prefix for
 * guest-initiated connections, relative to the process's working directory (the VM's own
 * directory). After create, and in a fork's child, where all descriptors and the loop of the parent
 * are forgotten without being touched: its streams end here, with an RST for each owed to the
 * guest, and stay as they were in the parent. Internal listeners and the gate stay. -EINVAL (path
 * too long), -ENOMEM.
 */
int vsock_mux_adopt(struct vsock_mux *m, struct loop *l, struct fdtab *fds, int listen_fd,
		    const char *path, struct err *e);

/* The guest's driver is there. Until then CONNECTs are refused at once. */
void vsock_mux_start(struct vsock_mux *m);
/* The driver is gone (it reset the device): all streams end without a packet. */
void vsock_mux_reset(struct vsock_mux *m);

/*
 * A packet from the guest, its CIDs checked. data: hdr->len bytes, NULL when the guest announced
 * bytes that it did not provide or more than VSOCK_PKT_MAX (its stream is reset then).
 */
void vsock_mux_from_guest(struct vsock_mux *m, const struct vsock_hdr *hdr, const void *data);
/* false: its replies found no room in the guest yet; take no packets from it until they did. */
bool vsock_mux_can_take(const struct vsock_mux *m);
/*
 * Next packet for the guest, with at most max bytes of data (1 or more): false when there is none.
 * *data points to hdr->len bytes that are good until the next call of any function here.
 */
bool vsock_mux_next(struct vsock_mux *m, struct vsock_hdr *hdr, const void **data, uint32_t max);
/* false: vsock_mux_next would return false. */
bool vsock_mux_pending(const struct vsock_mux *m);
/* Is there something for the guest that a host program waits for: a connection, bytes, their end?
 * Not what only tidies up (RST, the SHUTDOWN of what both have left, credit): that can wait. */
bool vsock_mux_waits(const struct vsock_mux *m);
/* Nothing is given to the guest while held (until it acknowledged a transport reset). */
void vsock_mux_hold(struct vsock_mux *m, bool hold);

/*
 * An in-process stream to a guest port: one end of a socketpair, non-blocking, close-on-exec, the
 * caller's (who lists it in the fd table); it may be written at once and reads end of file when the
 * guest refuses. Not asked of the gate. -EMFILE beyond VSOCK_MAX_CONNS, -ENOTCONN without a driver.
 */
int vsock_mux_connect(struct vsock_mux *m, uint32_t port, int *fd, struct err *e);
/*
 * The guest connecting to this host port reaches fn with a socketpair end (non-blocking,
 * close-on-exec, the callee's) instead of a unix listener. fn must not call the muxer back. BUG
 * beyond VSOCK_MAX_LISTENERS.
 */
void vsock_mux_listen(struct vsock_mux *m, uint32_t port, void (*fn)(void *arg, int fd), void *arg);
/* Asked before a host program's CONNECT is forwarded: false refuses it (no command may reach an
 * agent that has not reconciled its identity). */
void vsock_mux_set_gate(struct vsock_mux *m, bool (*allow)(void *arg, uint32_t port), void *arg);

/* Streams and handshakes at present. */
unsigned int vsock_mux_count(const struct vsock_mux *m);

#endif
