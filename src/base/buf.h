/* SPDX-License-Identifier: MIT */
/*
 * Bounded buffers: the only way wire data is read or written. A reader that runs over its end
 * turns sticky-bad and returns zeroes from then on, so a decoder may read a whole record and ask
 * once. A writer grows up to its limit and turns sticky-bad beyond it or without memory.
 * Integers are little-endian, those of rbuf_beN and wbuf_beN big-endian. One thread at a time.
 */
#ifndef CLONE_BASE_BUF_H
#define CLONE_BASE_BUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct rbuf {
	const uint8_t *data; /* borrowed: outlives the reader */
	size_t len, pos;
	bool bad;
};

void rbuf_init(struct rbuf *r, const void *data, size_t len);
uint8_t rbuf_u8(struct rbuf *r);
uint16_t rbuf_u16(struct rbuf *r);
uint32_t rbuf_u32(struct rbuf *r);
uint64_t rbuf_u64(struct rbuf *r);
uint16_t rbuf_be16(struct rbuf *r);
uint32_t rbuf_be32(struct rbuf *r);
uint64_t rbuf_be64(struct rbuf *r);
/* Copies n bytes out; dst is zeroed when they are not there. */
void rbuf_bytes(struct rbuf *r, void *dst, size_t n);
/* Borrows n bytes in place; NULL when they are not there. */
const void *rbuf_view(struct rbuf *r, size_t n);
static inline size_t rbuf_left(const struct rbuf *r)
{
	return r->len - r->pos;
}
/* true when everything was there and nothing is left over. */
static inline bool rbuf_done(const struct rbuf *r)
{
	return !r->bad && r->pos == r->len;
}

struct wbuf {
	uint8_t *data; /* owned, but after wbuf_init_over */
	size_t len, cap, limit;
	bool bad;
};

void wbuf_init(struct wbuf *w, size_t limit);
/* Writes to the caller's memory, which stays his, up to cap bytes: never allocates, needs no fini.
 */
void wbuf_init_over(struct wbuf *w, void *data, size_t cap);
void wbuf_fini(struct wbuf *w);
void wbuf_u8(struct wbuf *w, uint8_t v);
void wbuf_u16(struct wbuf *w, uint16_t v);
void wbuf_u32(struct wbuf *w, uint32_t v);
void wbuf_u64(struct wbuf *w, uint64_t v);
void wbuf_be16(struct wbuf *w, uint16_t v);
void wbuf_be32(struct wbuf *w, uint32_t v);
void wbuf_bytes(struct wbuf *w, const void *src, size_t n);
/* Overwrites 4 bytes written before at `at` (a length or checksum known only later). */
void wbuf_patch_u32(struct wbuf *w, size_t at, uint32_t v);
void wbuf_patch_be16(struct wbuf *w, size_t at, uint16_t v); /* 2 bytes */
/* Appends n zero bytes and returns where they begin; NULL (and bad) beyond the limit. */
void *wbuf_reserve(struct wbuf *w, size_t n);

/* CRC-32C (Castagnoli, reflected, as in iSCSI RFC 3720 B.4) of n bytes, continuing from crc. */
uint32_t crc32c(uint32_t crc, const void *data, size_t n);

#endif
