/* SPDX-License-Identifier: MIT */
/*
 * Integers of wire formats as struct types, so that their bytes cannot be used as numbers by
 * accident: little-endian ones, and the big-endian ones of qcow2 and networks. Alignment 1: they
 * may be laid over any byte.
 */
#ifndef CLONE_BASE_ENDIAN_H
#define CLONE_BASE_ENDIAN_H

#include <endian.h>
#include <stdint.h>
#include <string.h>

typedef struct {
	uint8_t b[2];
} le16;
typedef struct {
	uint8_t b[4];
} le32;
typedef struct {
	uint8_t b[8];
} le64;

static inline uint16_t le16_get(le16 v)
{
	uint16_t r;

	memcpy(&r, v.b, sizeof(r));
	return le16toh(r);
}

static inline uint32_t le32_get(le32 v)
{
	uint32_t r;

	memcpy(&r, v.b, sizeof(r));
	return le32toh(r);
}

static inline uint64_t le64_get(le64 v)
{
	uint64_t r;

	memcpy(&r, v.b, sizeof(r));
	return le64toh(r);
}

static inline le16 le16_put(uint16_t v)
{
	le16 r;

	v = htole16(v);
	memcpy(r.b, &v, sizeof(v));
	return r;
}

static inline le32 le32_put(uint32_t v)
{
	le32 r;

	v = htole32(v);
	memcpy(r.b, &v, sizeof(v));
	return r;
}

static inline le64 le64_put(uint64_t v)
{
	le64 r;

	v = htole64(v);
	memcpy(r.b, &v, sizeof(v));
	return r;
}

typedef struct {
	uint8_t b[2];
} be16;

typedef struct {
	uint8_t b[4];
} be32;

typedef struct {
	uint8_t b[8];
} be64;

static inline uint16_t be16_get(be16 v)
{
	uint16_t r;

	memcpy(&r, v.b, sizeof(r));
	return be16toh(r);
}

static inline be16 be16_put(uint16_t v)
{
	be16 r;

	v = htobe16(v);
	memcpy(r.b, &v, sizeof(v));
	return r;
}

static inline uint32_t be32_get(be32 v)
{
	uint32_t r;

	memcpy(&r, v.b, sizeof(r));
	return be32toh(r);
}

static inline uint64_t be64_get(be64 v)
{
	uint64_t r;

	memcpy(&r, v.b, sizeof(r));
	return be64toh(r);
}

static inline be32 be32_put(uint32_t v)
{
	be32 r;

	v = htobe32(v);
	memcpy(r.b, &v, sizeof(v));
	return r;
}

static inline be64 be64_put(uint64_t v)
{
	be64 r;

	v = htobe64(v);
	memcpy(r.b, &v, sizeof(v));
	return r;
}

#endif
