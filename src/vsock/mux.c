/* SPDX-License-Identifier: MIT */
/*
 * The socket muxer's tables: streams by port pair, the round robin of those that have something for
 * the guest, time-outs, RSTs, and what a fork or a driver reset does to them. See vsock.h. Main
 * thread with the device lock held, but for vsock_mux_start and vsock_mux_reset.
 */
#include "vsock/mux.h"

#include <errno.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/buf.h"
#include "base/endian.h"
#include "base/time.h"
#include "event/fdtab.h"

static const unsigned int expire_ms[NR_EXPIRE] = {
	[EXPIRE_LINE] = VSOCK_LINE_MS,
	[EXPIRE_CONNECT] = VSOCK_CONNECT_MS,
	[EXPIRE_CLOSE] = VSOCK_CLOSE_MS,
};

static uint32_t bucket_of(uint32_t host_port, uint32_t guest_port)
{
	uint64_t k = ((uint64_t)host_port << 32 | guest_port) * 0x9E3779B97F4A7C15ull;

	return (uint32_t)(k >> 54) % MUX_BUCKETS;
}

struct stream *mux_find(struct vsock_mux *m, uint32_t host_port, uint32_t guest_port)
{
	struct stream *s = m->bucket[bucket_of(host_port, guest_port)];

	while (s && (s->host_port != host_port || s->guest_port != guest_port))
		s = s->hash_next;
	return s;
}

void mux_hash(struct stream *s)
{
	struct stream **b = &s->m->bucket[bucket_of(s->host_port, s->guest_port)];

	s->hash_next = *b;
	*b = s;
	s->hashed = true;
}

void mux_unhash(struct stream *s)
{
	struct stream **p = &s->m->bucket[bucket_of(s->host_port, s->guest_port)];

	if (!s->hashed)
		return;
	while (*p != s)
		p = &(*p)->hash_next;
	*p = s->hash_next;
	s->hashed = false;
	if (s->queued)
		TAILQ_REMOVE(&s->m->ready, s, ready);
	s->queued = false;
}

void mux_queue(struct stream *s)
{
	if (s->queued || !s->hashed || !stream_has_work(s))
		return;
	TAILQ_INSERT_TAIL(&s->m->ready, s, ready);
	s->queued = true;
}

void mux_rst(struct vsock_mux *m, uint32_t host_port, uint32_t guest_port)
{
	/* Full only if the guest leaves a great many unread; it finds out with its next packet. */
	if (m->rst_len == MUX_RST_RING)
		return;
	m->rst[(m->rst_pos + m->rst_len++) % MUX_RST_RING] =
		(struct mux_rst){ .host_port = host_port, .guest_port = guest_port };
}

/* A REQUEST begins a new life of the pair: an RST that was owed to the old one must not end it. */
static void rst_cancel(struct vsock_mux *m, uint32_t host_port, uint32_t guest_port)
{
	uint32_t n = m->rst_len;

	m->rst_len = 0;
	for (uint32_t i = 0; i < n; i++) {
		struct mux_rst r = m->rst[(m->rst_pos + i) % MUX_RST_RING];

		if (r.host_port != host_port || r.guest_port != guest_port)
			mux_rst(m, r.host_port, r.guest_port);
	}
}

void mux_arm(struct vsock_mux *m)
{
	uint64_t next = m->accept_ns, now;

	for (unsigned int i = EXPIRE_LINE; i < NR_EXPIRE; i++) {
		struct stream *s = TAILQ_FIRST(&m->expire[i]);

		if (s && (!next || s->deadline_ns < next))
			next = s->deadline_ns;
	}
	/* A timer that fires too early finds nothing and arms itself again: cheaper than to set it
	 * for each stream that comes and goes. */
	if (!next || !m->timer || (m->timer_ns && m->timer_ns <= next))
		return;
	now = time_mono_ns();
	m->timer_ns = next;
	loop_set_timer(m->timer, next > now ? next - now : 1);
}

void mux_expire(struct stream *s, unsigned int which)
{
	struct vsock_mux *m = s->m;

	if (s->expires)
		TAILQ_REMOVE(&m->expire[s->expires], s, expiry);
	s->expires = which;
	if (!which)
		return;
	s->deadline_ns = time_mono_ns() + expire_ms[which] * NS_PER_MS;
	TAILQ_INSERT_TAIL(&m->expire[which], s, expiry);
	mux_arm(m);
}

/* A caller in this process has a clock of its own, which may be longer than ours: its guest may be
 * one of more than the host can run. It waits on while it is there. */
static void expired(struct stream *s)
{
	if (s->state == ST_REQUESTED && !s->external && !stream_hung_up(s))
		mux_expire(s, EXPIRE_CONNECT);
	else
		stream_kill(s);
}

static void on_timer(void *arg)
{
	struct vsock_mux *m = arg;
	uint64_t now = time_mono_ns();
	struct stream *s;

	m->timer_ns = 0;
	mux_settle(m);
	for (unsigned int i = EXPIRE_LINE; i < NR_EXPIRE; i++)
		while ((s = TAILQ_FIRST(&m->expire[i])) && s->deadline_ns <= now)
			expired(s);
	if (m->accept_ns && m->accept_ns <= now)
		m->accept_ns = 0;
	host_accepting(m);
	mux_arm(m);
	mux_wake(m);
}

struct stream *mux_stream(struct vsock_mux *m, enum stream_state state, int fd)
{
	struct stream *s = m->nr_streams < VSOCK_MAX_CONNS ? calloc(1, sizeof(*s)) : NULL;

	if (!s) {
		close(fd);
		return NULL;
	}
	s->m = m;
	s->state = state;
	s->fd = fd;
	fdtab_add(m->fds, fd, FD_CLOSE, "vsock stream");
	TAILQ_INSERT_TAIL(&m->streams, s, all);
	m->nr_streams++;
	host_accepting(m);
	return s;
}

/* What needs no descriptor and no loop: all that a fork's child may do to an inherited stream. */
static void forget(struct stream *s)
{
	struct vsock_mux *m = s->m;

	mux_unhash(s);
	if (s->expires)
		TAILQ_REMOVE(&m->expire[s->expires], s, expiry);
	TAILQ_REMOVE(&m->streams, s, all);
	m->nr_streams--;
	m->nr_by_guest -= s->by_guest;
	free(s->to_guest);
	free(s->to_host);
	free(s);
}

void mux_free(struct stream *s)
{
	struct vsock_mux *m = s->m;

	loop_del_io(s->io);
	if (s->fd >= 0) {
		fdtab_del(m->fds, s->fd);
		close(s->fd);
	}
	forget(s);
	host_accepting(m);
}

bool mux_settle(struct vsock_mux *m)
{
	struct stream *s, *next;

	if (!m->reset_wanted)
		return false;
	m->reset_wanted = false;
	m->rst_len = 0;
	for (s = TAILQ_FIRST(&m->streams); s; s = next) {
		next = TAILQ_NEXT(s, all);
		if (s->hashed)
			stream_guest_done(s);
	}
	return true;
}

static void on_settle(void *arg)
{
	struct vsock_mux *m = arg;

	m->settle_posted = false;
	mux_settle(m);
}

void mux_wake(struct vsock_mux *m)
{
	if (vsock_mux_pending(m))
		m->ops->rx_ready(m->arg);
}

/* Not the same in two VMs, and not the same after a restore: packets that a guest still has for a
 * connection of its former life must not hit one of this life. */
static void random_port(struct vsock_mux *m)
{
	uint32_t r = 0;

	if (getrandom(&r, sizeof(r), GRND_NONBLOCK) != sizeof(r))
		r = (uint32_t)time_mono_ns();
	m->next_port = r % VSOCK_HOST_PORT_BASE;
}

int vsock_mux_create(uint64_t guest_cid, const struct vsock_mux_ops *ops, void *arg,
		     struct vsock_mux **out, struct err *e)
{
	struct vsock_mux *m = calloc(1, sizeof(*m));

	if (!m)
		return err_set(e, ENOMEM, "vsock: no memory for the socket muxer");
	m->guest_cid = guest_cid;
	m->ops = ops;
	m->arg = arg;
	m->listen_fd = -1;
	TAILQ_INIT(&m->streams);
	TAILQ_INIT(&m->ready);
	for (unsigned int i = 0; i < NR_EXPIRE; i++)
		TAILQ_INIT(&m->expire[i]);
	*out = m;
	return 0;
}

void vsock_mux_destroy(struct vsock_mux *m)
{
	struct stream *s;

	if (!m)
		return;
	if (m->loop)
		loop_unpost(m->loop, m);
	loop_del_io(m->listen_io);
	m->listen_io = NULL;
	if (m->listen_fd >= 0) {
		fdtab_del(m->fds, m->listen_fd);
		close(m->listen_fd);
	}
	while ((s = TAILQ_FIRST(&m->streams)))
		mux_free(s);
	loop_del_timer(m->timer);
	free(m->spare);
	free(m);
}

static bool guest_knows(const struct stream *s)
{
	return s->hashed && !(s->owe & OWE_REQUEST);
}

int vsock_mux_adopt(struct vsock_mux *m, struct loop *l, struct fdtab *fds, int listen_fd,
		    const char *path, struct err *e)
{
	struct stream *s;

	if (m->reset_wanted)
		m->rst_len = 0;
	while ((s = TAILQ_FIRST(&m->streams))) {
		if (guest_knows(s) && !m->reset_wanted)
			mux_rst(m, s->host_port, s->guest_port);
		forget(s);
	}
	m->reset_wanted = m->settle_posted = false;
	m->timer_ns = m->accept_ns = 0;
	m->loop = l;
	m->fds = fds;
	m->listen_fd = listen_fd;
	m->listen_io = NULL;
	m->accepting = true;
	random_port(m);
	m->timer = loop_add_timer(l, on_timer, m);
	if (listen_fd >= 0)
		fd_set_nonblock(listen_fd, true); /* accept until there is nobody left */
	if (listen_fd >= 0)
		m->listen_io = loop_add_io(l, listen_fd, LOOP_READ, host_on_listen, m);
	if (!m->timer || (listen_fd >= 0 && !m->listen_io))
		return err_set(e, ENOMEM, "vsock: no memory to watch the listening socket");
	if (strlen(path) >= sizeof(m->path))
		return err_set(e, EINVAL, "vsock: path of %zu bytes exceeds %d", strlen(path),
			       VSOCK_PATH_MAX - 1);
	strcpy(m->path, path);
	return 0;
}

void vsock_mux_start(struct vsock_mux *m)
{
	m->up = true;
}

void vsock_mux_reset(struct vsock_mux *m)
{
	m->up = m->held = false;
	/* This may be a vCPU thread, and loop and descriptors are main's: streams end when main
	 * comes here next, before it does anything else. */
	if (!m->nr_streams && !m->rst_len)
		return;
	m->reset_wanted = true;
	if (m->loop && !m->settle_posted) {
		m->settle_posted = true;
		loop_post(m->loop, on_settle, m);
	}
}

void vsock_mux_from_guest(struct vsock_mux *m, const struct vsock_hdr *hdr, const void *data)
{
	struct stream *s;

	mux_settle(m);
	s = mux_find(m, hdr->dst_port, hdr->src_port);
	if (hdr->type != VSOCK_TYPE_STREAM || (hdr->len && !data)) {
		if (s)
			stream_kill(s);
		else if (hdr->op != VSOCK_OP_RST)
			mux_rst(m, hdr->dst_port, hdr->src_port);
		return;
	}
	if (s) {
		stream_from_guest(s, hdr, data);
	} else if (hdr->op == VSOCK_OP_REQUEST) {
		rst_cancel(m, hdr->dst_port, hdr->src_port);
		host_request(m, hdr);
	} else if (hdr->op != VSOCK_OP_RST) {
		mux_rst(m, hdr->dst_port, hdr->src_port);
	}
}

bool vsock_mux_can_take(const struct vsock_mux *m)
{
	return m->rst_len < VSOCK_RST_BACKLOG;
}

bool vsock_mux_next(struct vsock_mux *m, struct vsock_hdr *hdr, const void **data, uint32_t max)
{
	struct stream *s;

	mux_settle(m);
	if (!vsock_mux_pending(m) || !max)
		return false;
	if (m->rst_len) {
		struct mux_rst r = m->rst[m->rst_pos++ % MUX_RST_RING];

		m->rst_pos %= MUX_RST_RING;
		m->rst_len--;
		*data = NULL;
		*hdr = (struct vsock_hdr){
			.src_cid = VSOCK_CID_HOST,
			.dst_cid = m->guest_cid,
			.src_port = r.host_port,
			.dst_port = r.guest_port,
			.type = VSOCK_TYPE_STREAM,
			.op = VSOCK_OP_RST,
		};
		return true;
	}
	while ((s = TAILQ_FIRST(&m->ready))) {
		bool got;

		TAILQ_REMOVE(&m->ready, s, ready);
		s->queued = false;
		got = stream_emit(s, hdr, data, max);
		mux_queue(s);
		if (got)
			return true;
	}
	return false;
}

bool vsock_mux_pending(const struct vsock_mux *m)
{
	return m->up && !m->held && (m->rst_len || !TAILQ_EMPTY(&m->ready));
}

bool vsock_mux_waits(const struct vsock_mux *m)
{
	const struct stream *s;

	if (!m->up || m->held || m->reset_wanted)
		return false;
	for (s = TAILQ_FIRST(&m->streams); s; s = TAILQ_NEXT(s, all))
		if (stream_waits(s))
			return true;
	return false;
}

void vsock_mux_hold(struct vsock_mux *m, bool hold)
{
	m->held = hold;
}

void vsock_mux_listen(struct vsock_mux *m, uint32_t port, void (*fn)(void *arg, int fd), void *arg)
{
	BUG_ON(m->nr_listeners == VSOCK_MAX_LISTENERS);
	m->listener[m->nr_listeners++] =
		(struct mux_listener){ .port = port, .fn = fn, .arg = arg };
}

void vsock_mux_set_gate(struct vsock_mux *m, bool (*allow)(void *arg, uint32_t port), void *arg)
{
	m->gate = allow;
	m->gate_arg = arg;
}

unsigned int vsock_mux_count(const struct vsock_mux *m)
{
	return m->nr_streams;
}

void vsock_hdr_decode(struct vsock_hdr *h, const uint8_t b[VSOCK_HDR_BYTES])
{
	struct rbuf r;

	rbuf_init(&r, b, VSOCK_HDR_BYTES);
	h->src_cid = rbuf_u64(&r);
	h->dst_cid = rbuf_u64(&r);
	h->src_port = rbuf_u32(&r);
	h->dst_port = rbuf_u32(&r);
	h->len = rbuf_u32(&r);
	h->type = rbuf_u16(&r);
	h->op = rbuf_u16(&r);
	h->flags = rbuf_u32(&r);
	h->buf_alloc = rbuf_u32(&r);
	h->fwd_cnt = rbuf_u32(&r);
}

void vsock_hdr_encode(const struct vsock_hdr *h, uint8_t b[VSOCK_HDR_BYTES])
{
	const struct {
		le64 src_cid, dst_cid;
		le32 src_port, dst_port, len;
		le16 type, op;
		le32 flags, buf_alloc, fwd_cnt;
	} w = {
		.src_cid = le64_put(h->src_cid),
		.dst_cid = le64_put(h->dst_cid),
		.src_port = le32_put(h->src_port),
		.dst_port = le32_put(h->dst_port),
		.len = le32_put(h->len),
		.type = le16_put(h->type),
		.op = le16_put(h->op),
		.flags = le32_put(h->flags),
		.buf_alloc = le32_put(h->buf_alloc),
		.fwd_cnt = le32_put(h->fwd_cnt),
	};

	_Static_assert(sizeof(w) == VSOCK_HDR_BYTES, "no padding");
	memcpy(b, &w, sizeof(w));
}
