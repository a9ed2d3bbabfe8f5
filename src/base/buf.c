/* SPDX-License-Identifier: MIT */
/*
 * Bounded reader and writer for wire data, and the CRC that guards records. See buf.h.
 */
#include "base/buf.h"

#include <stdlib.h>
#include <string.h>

#include "base/endian.h"
#include "base/util.h"

void rbuf_init(struct rbuf *r, const void *data, size_t len)
{
	*r = (struct rbuf){ .data = data, .len = len };
}

const void *rbuf_view(struct rbuf *r, size_t n)
{
	const void *p;

	if (r->bad || n > r->len - r->pos) {
		r->bad = true;
		return NULL;
	}
	p = r->data + r->pos;
	r->pos += n;
	return p;
}

void rbuf_bytes(struct rbuf *r, void *dst, size_t n)
{
	const void *p = rbuf_view(r, n);

	if (p)
		memcpy(dst, p, n);
	else
		memset(dst, 0, n);
}

uint8_t rbuf_u8(struct rbuf *r)
{
	uint8_t v;

	rbuf_bytes(r, &v, sizeof(v));
	return v;
}

uint16_t rbuf_u16(struct rbuf *r)
{
	le16 v;

	rbuf_bytes(r, &v, sizeof(v));
	return le16_get(v);
}

uint32_t rbuf_u32(struct rbuf *r)
{
	le32 v;

	rbuf_bytes(r, &v, sizeof(v));
	return le32_get(v);
}

uint64_t rbuf_u64(struct rbuf *r)
{
	le64 v;

	rbuf_bytes(r, &v, sizeof(v));
	return le64_get(v);
}

uint16_t rbuf_be16(struct rbuf *r)
{
	be16 v;

	rbuf_bytes(r, &v, sizeof(v));
	return be16_get(v);
}

uint32_t rbuf_be32(struct rbuf *r)
{
	be32 v;

	rbuf_bytes(r, &v, sizeof(v));
	return be32_get(v);
}

uint64_t rbuf_be64(struct rbuf *r)
{
	be64 v;

	rbuf_bytes(r, &v, sizeof(v));
	return be64_get(v);
}

void wbuf_init(struct wbuf *w, size_t limit)
{
	*w = (struct wbuf){ .limit = limit };
}

/* Capacity and limit are one, so that a write that needs more is refused before it would grow. */
void wbuf_init_over(struct wbuf *w, void *data, size_t cap)
{
	*w = (struct wbuf){ .data = data, .cap = cap, .limit = cap };
}

void wbuf_fini(struct wbuf *w)
{
	free(w->data);
	*w = (struct wbuf){ 0 };
}

void *wbuf_reserve(struct wbuf *w, size_t n)
{
	size_t cap;
	void *p;

	if (w->bad || n > w->limit - w->len) {
		w->bad = true;
		return NULL;
	}
	if (n > w->cap - w->len) {
		cap = MAX(w->len + n, MAX(w->cap * 2, (size_t)256));
		p = realloc(w->data, cap);
		if (!p) {
			w->bad = true;
			return NULL;
		}
		w->data = p;
		w->cap = cap;
	}
	p = w->data + w->len;
	memset(p, 0, n);
	w->len += n;
	return p;
}

void wbuf_bytes(struct wbuf *w, const void *src, size_t n)
{
	void *p = wbuf_reserve(w, n);

	if (p && n)
		memcpy(p, src, n);
}

void wbuf_u8(struct wbuf *w, uint8_t v)
{
	wbuf_bytes(w, &v, sizeof(v));
}

void wbuf_u16(struct wbuf *w, uint16_t v)
{
	le16 b = le16_put(v);

	wbuf_bytes(w, &b, sizeof(b));
}

void wbuf_u32(struct wbuf *w, uint32_t v)
{
	le32 b = le32_put(v);

	wbuf_bytes(w, &b, sizeof(b));
}

void wbuf_u64(struct wbuf *w, uint64_t v)
{
	le64 b = le64_put(v);

	wbuf_bytes(w, &b, sizeof(b));
}

void wbuf_be16(struct wbuf *w, uint16_t v)
{
	be16 b = be16_put(v);

	wbuf_bytes(w, &b, sizeof(b));
}

void wbuf_be32(struct wbuf *w, uint32_t v)
{
	be32 b = be32_put(v);

	wbuf_bytes(w, &b, sizeof(b));
}

static void patch(struct wbuf *w, size_t at, const void *p, size_t n)
{
	if (w->bad)
		return;
	BUG_ON(!range_ok(at, n, w->len));
	memcpy(w->data + at, p, n);
}

void wbuf_patch_u32(struct wbuf *w, size_t at, uint32_t v)
{
	le32 b = le32_put(v);

	patch(w, at, &b, sizeof(b));
}

void wbuf_patch_be16(struct wbuf *w, size_t at, uint16_t v)
{
	be16 b = be16_put(v);

	patch(w, at, &b, sizeof(b));
}

/* Bit by bit with a byte table built on the stack would cost more than the data; 16 nibbles do. */
uint32_t crc32c(uint32_t crc, const void *data, size_t n)
{
	static const uint32_t nibble[16] = {
		0x00000000, 0x105ec76f, 0x20bd8ede, 0x30e349b1, 0x417b1dbc, 0x5125dad3,
		0x61c69362, 0x7198540d, 0x82f63b78, 0x92a8fc17, 0xa24bb5a6, 0xb21572c9,
		0xc38d26c4, 0xd3d3e1ab, 0xe330a81a, 0xf36e6f75,
	};
	const uint8_t *p = data;

	crc = ~crc;
	while (n--) {
		crc ^= *p++;
		crc = (crc >> 4) ^ nibble[crc & 15];
		crc = (crc >> 4) ^ nibble[crc & 15];
	}
	return ~crc;
}
