/* SPDX-License-Identifier: MIT */
/*
 * Inside the socket muxer: mux.c (tables, dispatch of packets, round robin), stream.c (one
 * stream's bytes and credit), host.c (listener, handshake, unix and internal connections).
 *
 * Words: "to guest" are bytes read from a host socket, "to host" are bytes that the guest sent.
 * "told" is what the guest was told last.
 */
#ifndef CLONE_VSOCK_MUX_H
#define CLONE_VSOCK_MUX_H

#include <sys/queue.h>

#include "base/log.h"
#include "base/util.h"
#include "event/loop.h"
#include "vsock/vsock.h"

#define MUX_BUCKETS 1024u
#define MUX_RST_RING 2048u /* VSOCK_RST_BACKLOG, one for each stream, and room */

enum stream_state {
	ST_LINE,      /* a host program that has not yet said CONNECT; not in the table */
	ST_REQUESTED, /* REQUEST owed or sent; no RESPONSE yet */
	ST_OPEN,      /* fd -1: the host's end is gone */
	ST_DRAINING,  /* the guest is done; bytes to the host are left; not in the table */
};

/* Packets owed to the guest. */
#define OWE_REQUEST 1u
#define OWE_RESPONSE 2u
#define OWE_CREDIT 4u
#define OWE_CREDIT_REQUEST 8u

struct stream {
	struct vsock_mux *m;
	TAILQ_ENTRY(stream) all, ready, expiry;
	struct stream *hash_next;
	enum stream_state state;
	uint32_t host_port, guest_port;
	bool hashed, queued, external, by_guest;
	unsigned int owe;
	unsigned int expires; /* EXPIRE_*: the list that it is in */
	uint64_t deadline_ns;

	int fd;
	struct loop_io *io;   /* NULL until something is watched */
	unsigned int watched; /* what io was told */
	bool watch_read;      /* the loop tells when there is something to read */
	bool host_eof;	      /* nothing more will be read from fd */
	bool host_deaf;	      /* nothing more can be written to fd */

	uint8_t *to_guest; /* VSOCK_PKT_MAX bytes, or NULL when empty */
	uint32_t tg_off, tg_len;
	uint32_t sent_cnt; /* bytes given to the guest, modulo 2^32 */
	uint32_t peer_alloc, peer_fwd;

	uint8_t *to_host; /* ring of VSOCK_BUF_BYTES, or NULL when empty */
	uint32_t th_pos, th_len;
	uint32_t fwd_cnt, fwd_told;

	unsigned int guest_shut;	   /* VSOCK_SHUTDOWN_* that the guest said */
	unsigned int shut_want, shut_told; /* ours */

	char line[VSOCK_LINE_MAX];
	uint32_t line_len;
};
TAILQ_HEAD(stream_list, stream);

struct mux_listener {
	uint32_t port;
	void (*fn)(void *arg, int fd);
	void *arg;
};

struct mux_rst {
	uint32_t host_port, guest_port;
};

/* Each has one time-out, so that a list in order of arrival is in order of expiry. */
enum { EXPIRE_NONE, EXPIRE_LINE, EXPIRE_CONNECT, EXPIRE_CLOSE, NR_EXPIRE };

struct vsock_mux {
	uint64_t guest_cid;
	const struct vsock_mux_ops *ops;
	void *arg;
	struct loop *loop;
	struct fdtab *fds;
	struct loop_timer *timer;
	uint64_t timer_ns;  /* when it will fire; 0: unarmed */
	uint64_t accept_ns; /* when to accept again after the process ran out of descriptors */
	int listen_fd;
	struct loop_io *listen_io;
	bool accepting;
	char path[VSOCK_PATH_MAX];

	bool up, held;
	bool reset_wanted, settle_posted;
	uint32_t next_port;
	unsigned int nr_streams, nr_by_guest;
	struct stream_list streams;
	struct stream_list ready; /* round robin */
	struct stream_list expire[NR_EXPIRE];
	struct stream *bucket[MUX_BUCKETS];
	struct mux_rst rst[MUX_RST_RING];
	uint32_t rst_pos, rst_len;
	uint8_t *spare; /* a to_guest buffer at rest; its bytes may be lent to the device */
	struct mux_listener listener[VSOCK_MAX_LISTENERS];
	unsigned int nr_listeners;
	bool (*gate)(void *arg, uint32_t port);
	void *gate_arg;
	struct log_limit log;
};

/* mux.c */
/* First thing in callbacks: ends all streams if the driver reset the device; true then. */
bool mux_settle(struct vsock_mux *m);
/* Tells the device if there is work. Last thing in callbacks. */
void mux_wake(struct vsock_mux *m);
struct stream *mux_find(struct vsock_mux *m, uint32_t host_port, uint32_t guest_port);
void mux_hash(struct stream *s);
void mux_unhash(struct stream *s);
void mux_rst(struct vsock_mux *m, uint32_t host_port, uint32_t guest_port);
/* Puts s in the round robin if it has something for the guest. */
void mux_queue(struct stream *s);
/* Moves s to the end of an expiry list, or out of all with EXPIRE_NONE. */
void mux_expire(struct stream *s, unsigned int which);
/* Arms the timer for whatever comes next. */
void mux_arm(struct vsock_mux *m);
/* A new stream around fd (taken over, also on failure); NULL at a limit or without memory. */
struct stream *mux_stream(struct vsock_mux *m, enum stream_state state, int fd);
/* Closes and forgets, without a word to the guest. */
void mux_free(struct stream *s);

/* stream.c */
void stream_watch(struct stream *s);
bool stream_has_work(const struct stream *s);
bool stream_emit(struct stream *s, struct vsock_hdr *hdr, const void **data, uint32_t max);
void stream_from_guest(struct stream *s, const struct vsock_hdr *hdr, const void *data);
/* What the header says of the guest's buffer. */
void stream_credit(struct stream *s, const struct vsock_hdr *hdr);
/* The program at the host's end of it is gone. */
bool stream_hung_up(const struct stream *s);
/* A host program waits for the guest, and the guest can do something for it. */
bool stream_waits(const struct stream *s);
/* Ends the stream at both sides: RST to the guest if it knows of it. */
void stream_kill(struct stream *s);
/* The guest's side has ended: what it sent still goes to the host, then s is freed. */
void stream_guest_done(struct stream *s);
void stream_on_io(void *arg, int fd, unsigned int events);

/* host.c */
void host_accepting(struct vsock_mux *m);
void host_line(struct stream *s);
void host_on_listen(void *arg, int fd, unsigned int events);
void host_request(struct vsock_mux *m, const struct vsock_hdr *hdr);

#endif
