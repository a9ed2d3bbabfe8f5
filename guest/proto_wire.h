/* SPDX-License-Identifier: MIT */
/*
 * The bounded reader and writer under the agent protocol: the only code that touches the bytes of a
 * frame, in host and guest alike. proto.h says what the frames are; include that. Static inline,
 * allocates nothing, without state: any thread.
 */
#ifndef CLONE_GUEST_PROTO_WIRE_H
#define CLONE_GUEST_PROTO_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define PROTO_HEADER 5u
#define PROTO_MAX_PAYLOAD 65536u
#define PROTO_MAX_FRAME (PROTO_HEADER + PROTO_MAX_PAYLOAD)
#define PROTO_MAX_ARGS 4096u /* strings in a list */

/*
 * The bounded writer. Every put after an overflow does nothing; only proto_end says whether all
 * went well.
 */
struct proto_wr {
	uint8_t *buf;
	size_t cap, len;
	bool bad;
};

static inline void proto_put(struct proto_wr *w, const void *p, size_t n)
{
	if (w->bad || n > w->cap - w->len) {
		w->bad = true;
		return;
	}
	if (n)
		memcpy(w->buf + w->len, p, n);
	w->len += n;
}

static inline void proto_put_int(struct proto_wr *w, uint64_t v, size_t bytes)
{
	uint8_t b[8];

	for (size_t i = 0; i < bytes; i++)
		b[i] = (uint8_t)(v >> (8 * i));
	proto_put(w, b, bytes);
}

static inline void proto_put_u8(struct proto_wr *w, uint8_t v)
{
	proto_put_int(w, v, 1);
}

static inline void proto_put_u16(struct proto_wr *w, uint16_t v)
{
	proto_put_int(w, v, 2);
}

static inline void proto_put_u32(struct proto_wr *w, uint32_t v)
{
	proto_put_int(w, v, 4);
}

static inline void proto_put_u64(struct proto_wr *w, uint64_t v)
{
	proto_put_int(w, v, 8);
}

static inline void proto_put_b16(struct proto_wr *w, const void *p, size_t n)
{
	if (n > UINT16_MAX)
		w->bad = true;
	proto_put_u16(w, (uint16_t)n);
	proto_put(w, p, n);
}

/* NULL is written as the empty string. */
static inline void proto_put_s16(struct proto_wr *w, const char *s)
{
	proto_put_b16(w, s, s ? strlen(s) : 0);
}

/* `v` ends with NULL; NULL itself is an empty list. */
static inline void proto_put_list(struct proto_wr *w, const char *const *v)
{
	size_t n = 0;

	while (v && v[n])
		n++;
	if (n > PROTO_MAX_ARGS)
		w->bad = true;
	proto_put_u16(w, (uint16_t)n);
	for (size_t i = 0; i < n && !w->bad; i++) {
		size_t len = strlen(v[i]);

		proto_put_u32(w, len > UINT32_MAX ? UINT32_MAX : (uint32_t)len);
		proto_put(w, v[i], len);
	}
}

/* Only the header, for data frames sent with writev(2); `n` at most PROTO_MAX_PAYLOAD. */
static inline void proto_header(uint8_t h[PROTO_HEADER], uint8_t type, uint32_t n)
{
	struct proto_wr w = { .buf = h, .cap = PROTO_HEADER };

	proto_put_u32(&w, n);
	proto_put_u8(&w, type);
}

/* Starts a frame in `buf`; PROTO_MAX_FRAME bytes hold any. */
static inline void proto_begin(struct proto_wr *w, void *buf, size_t cap, uint8_t type)
{
	*w = (struct proto_wr){ .buf = buf, .cap = cap };
	proto_put_u32(w, 0);
	proto_put_u8(w, type);
}

/* Completes the frame: its size in bytes, header included, or 0 if it did not fit or is too big. */
static inline size_t proto_end(struct proto_wr *w)
{
	if (w->bad || w->len < PROTO_HEADER || w->len > PROTO_MAX_FRAME)
		return 0;
	proto_header(w->buf, w->buf[4], (uint32_t)(w->len - PROTO_HEADER));
	return w->len;
}

/*
 * The bounded reader. A get beyond the end returns zero or an empty slice and sets `bad`; only
 * proto_done says whether all went well. Slices point into the frame and are not NUL-terminated.
 */
struct proto_rd {
	const uint8_t *p;
	size_t left;
	bool bad;
};

struct proto_slice {
	const char *p;
	size_t len;
};

/* A list as it lies in the frame, already checked; walk it with proto_list_next. */
struct proto_list {
	struct proto_rd at;
	uint16_t count;
};

static inline struct proto_slice proto_get(struct proto_rd *r, size_t n)
{
	struct proto_slice s = { "", 0 };

	if (r->bad || n > r->left) {
		r->bad = true;
		return s;
	}
	if (n)
		s = (struct proto_slice){ (const char *)r->p, n };
	r->p += n;
	r->left -= n;
	return s;
}

static inline uint64_t proto_get_int(struct proto_rd *r, size_t bytes)
{
	struct proto_slice s = proto_get(r, bytes);
	uint64_t v = 0;

	for (size_t i = 0; i < s.len; i++)
		v |= (uint64_t)(uint8_t)s.p[i] << (8 * i);
	return v;
}

static inline uint8_t proto_get_u8(struct proto_rd *r)
{
	return (uint8_t)proto_get_int(r, 1);
}

static inline uint16_t proto_get_u16(struct proto_rd *r)
{
	return (uint16_t)proto_get_int(r, 2);
}

static inline uint32_t proto_get_u32(struct proto_rd *r)
{
	return (uint32_t)proto_get_int(r, 4);
}

static inline uint64_t proto_get_u64(struct proto_rd *r)
{
	return proto_get_int(r, 8);
}

static inline struct proto_slice proto_get_b16(struct proto_rd *r, size_t max)
{
	size_t n = proto_get_u16(r);

	if (n > max)
		r->bad = true;
	return proto_get(r, n);
}

static inline struct proto_slice proto_no_nul(struct proto_rd *r, struct proto_slice s)
{
	if (memchr(s.p, 0, s.len)) {
		r->bad = true;
		s.len = 0;
	}
	return s;
}

static inline struct proto_slice proto_get_s16(struct proto_rd *r, size_t max)
{
	return proto_no_nul(r, proto_get_b16(r, max));
}

static inline struct proto_slice proto_get_s32(struct proto_rd *r)
{
	return proto_no_nul(r, proto_get(r, proto_get_u32(r)));
}

static inline struct proto_list proto_get_list(struct proto_rd *r)
{
	struct proto_list l = { .count = proto_get_u16(r) };

	if (l.count > PROTO_MAX_ARGS)
		r->bad = true;
	l.at = *r;
	for (unsigned int i = 0; i < l.count && !r->bad; i++)
		proto_get_s32(r);
	return l;
}

/* The next string of a list that was decoded from a good frame; false at its end. */
static inline bool proto_list_next(struct proto_list *l, struct proto_slice *s)
{
	if (!l->count)
		return false;
	l->count--;
	*s = proto_get_s32(&l->at);
	return !l->at.bad;
}

static inline bool proto_done(const struct proto_rd *r)
{
	return !r->bad && !r->left;
}

/* A whole frame found at the start of received bytes. */
struct proto_frame {
	uint8_t type;
	struct proto_rd payload;
};

/*
 * Looks for a frame at the start of the `n` bytes at `buf`. Returns its size, header included; 0 if
 * more bytes are needed; -1 if its length is beyond PROTO_MAX_PAYLOAD (nothing after it can be
 * understood). The payload points into `buf`.
 */
static inline int proto_frame(const void *buf, size_t n, struct proto_frame *f)
{
	struct proto_rd r = { .p = buf, .left = n };
	uint32_t len;

	if (n < PROTO_HEADER)
		return 0;
	len = proto_get_u32(&r);
	if (len > PROTO_MAX_PAYLOAD)
		return -1;
	f->type = proto_get_u8(&r);
	if (len > r.left)
		return 0;
	f->payload = (struct proto_rd){ .p = r.p, .left = len };
	return (int)(PROTO_HEADER + len);
}

#endif
