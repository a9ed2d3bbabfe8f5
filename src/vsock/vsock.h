/* SPDX-License-Identifier: MIT */
/*
 * The socket muxer between virtio-vsock and unix sockets, in Firecracker's shape: a host program
 * connects to the VM's vsock socket, writes "CONNECT <port>\n", reads "OK <host port>\n" and has
 * a stream to that port of the guest; a guest that connects to host port P reaches the listener at
 * "<path>_P". Some host ports are answered inside the VM process (the agent's hello).
 *
 * Main thread only. Every stream's buffering is bounded by the credit it announced.
 */
#ifndef CLONE_VSOCK_VSOCK_H
#define CLONE_VSOCK_VSOCK_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

#define VSOCK_CID_HOST 2ull
#define VSOCK_MAX_CONNS 1024
#define VSOCK_BUF_BYTES (256u << 10) /* the credit we announce, a stream */

struct fdtab;
struct loop;
struct vsock_mux;

/* The 44-byte packet header of virtio 1.2 section 5.10.6, decoded. */
struct vsock_hdr {
	uint64_t src_cid, dst_cid;
	uint32_t src_port, dst_port, len;
	uint16_t type, op;
	uint32_t flags, buf_alloc, fwd_cnt;
};
#define VSOCK_HDR_BYTES 44

struct vsock_mux_ops {
	/* There may be a packet to take by vsock_mux_next: fill the guest's RX queue. */
	void (*rx_ready)(void *arg);
};

int vsock_mux_create(uint64_t guest_cid, const struct vsock_mux_ops *ops, void *arg,
		     struct vsock_mux **out, struct err *e);
void vsock_mux_destroy(struct vsock_mux *m);

/*
 * Host side: a listening unix socket (owned; -1: none) and the path prefix for guest-initiated
 * connections, relative to the process's working directory (the VM's own directory). Used at start
 * and in a fork's child; connections that were inherited are dropped without a byte (their descriptors
 * were closed by the fd table).
 */
int vsock_mux_adopt(struct vsock_mux *m, struct loop *l, struct fdtab *fds, int listen_fd,
		    const char *path, struct err *e);
/* No more reading from host sockets; what was read waits in the streams. */
void vsock_mux_quiesce(struct vsock_mux *m);
void vsock_mux_resume(struct vsock_mux *m);
/* The guest's transport was reset (driver reset, or a fork's child): all streams end. */
void vsock_mux_reset(struct vsock_mux *m);

/* A packet from the guest (hdr checked against the chain by the device; data of hdr->len bytes). */
void vsock_mux_from_guest(struct vsock_mux *m, const struct vsock_hdr *hdr, const void *data);
/* Next packet for the guest: false when there is none. At most max data bytes into data. */
bool vsock_mux_next(struct vsock_mux *m, struct vsock_hdr *hdr, void *data, uint32_t max);
bool vsock_mux_pending(const struct vsock_mux *m);
/* Nothing is given to the guest while held (until it acknowledged a transport reset). */
void vsock_mux_hold(struct vsock_mux *m, bool hold);

/*
 * An in-process stream to a guest port: one end of a socketpair, non-blocking, the caller's; it
 * reads end of file when the guest refuses. -EMFILE beyond VSOCK_MAX_CONNS.
 */
int vsock_mux_connect(struct vsock_mux *m, uint32_t port, int *fd, struct err *e);
/* The guest connecting to this host port reaches fn with a socketpair end (the callee's) instead
 * of a unix listener. */
void vsock_mux_listen(struct vsock_mux *m, uint32_t port, void (*fn)(void *arg, int fd), void *arg);
/* Asked before a host program's CONNECT is forwarded: false refuses it (no command may reach an
 * agent that has not reconciled its identity). */
void vsock_mux_set_gate(struct vsock_mux *m, bool (*allow)(void *arg, uint32_t port), void *arg);

#endif
