/* SPDX-License-Identifier: MIT */
/*
 * Field tables: a struct's wire form, described once. Saving, restoring, documentation and tests
 * all read the same table. Encoding is the fields in table order, little-endian, no padding; arrays
 * with a `count` member store only the elements used.
 */
#ifndef CLONE_DEVICE_FIELD_H
#define CLONE_DEVICE_FIELD_H

#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"

enum field_kind { FK_U8, FK_U16, FK_U32, FK_U64, FK_BYTES, FK_STRUCT };

struct field {
	const char *name;
	enum field_kind kind;
	uint32_t offset;
	uint32_t size;	/* of one element in memory: bytes for FK_BYTES, the stride for FK_STRUCT */
	uint32_t count; /* elements in the array, 1 for a scalar */
	int32_t used;	/* offset of the uint32_t that says how many are used, or -1: all */
	const struct field *sub; /* FK_STRUCT */
	uint32_t nsub;
};

#define FIELD_SIZE(t, m) sizeof(((t *)0)->m)
#define F_SCALAR(t, m, k)                                                                          \
	{                                                                                          \
		.name = #m, .kind = (k), .offset = offsetof(t, m), .size = FIELD_SIZE(t, m),       \
		.count = 1, .used = -1                                                             \
	}
#define F_U8(t, m) F_SCALAR(t, m, FK_U8)
#define F_U16(t, m) F_SCALAR(t, m, FK_U16)
#define F_U32(t, m) F_SCALAR(t, m, FK_U32)
#define F_U64(t, m) F_SCALAR(t, m, FK_U64)
/* A byte array, stored whole. */
#define F_BYTES(t, m) F_SCALAR(t, m, FK_BYTES)
/* An array of scalars. */
#define F_ARRAY(t, m, k)                                                                           \
	{                                                                                          \
		.name = #m, .kind = (k), .offset = offsetof(t, m), .size = sizeof(((t *)0)->m[0]), \
		.count = FIELD_SIZE(t, m) / sizeof(((t *)0)->m[0]), .used = -1                     \
	}
/* One embedded struct with its own table. */
#define F_STRUCT(t, m, tab)                                                                        \
	{                                                                                          \
		.name = #m, .kind = FK_STRUCT, .offset = offsetof(t, m), .size = FIELD_SIZE(t, m), \
		.count = 1, .used = -1, .sub = (tab), .nsub = sizeof(tab) / sizeof((tab)[0])       \
	}
/* An array of structs, all stored. */
#define F_STRUCTS(t, m, tab)                                                                       \
	{                                                                                          \
		.name = #m, .kind = FK_STRUCT, .offset = offsetof(t, m),                           \
		.size = sizeof(((t *)0)->m[0]),                                                    \
		.count = FIELD_SIZE(t, m) / sizeof(((t *)0)->m[0]), .used = -1, .sub = (tab),      \
		.nsub = sizeof(tab) / sizeof((tab)[0])                                             \
	}
/* An array of structs of which the first `n` (a uint32_t member) are stored, behind a u32 count. */
#define F_STRUCTS_N(t, m, n, tab)                                                                  \
	{                                                                                          \
		.name = #m, .kind = FK_STRUCT, .offset = offsetof(t, m),                           \
		.size = sizeof(((t *)0)->m[0]),                                                    \
		.count = FIELD_SIZE(t, m) / sizeof(((t *)0)->m[0]),                                \
		.used = (int32_t)offsetof(t, n), .sub = (tab),                                     \
		.nsub = sizeof(tab) / sizeof((tab)[0])                                             \
	}

struct field_table {
	const struct field *fields;
	size_t n;
	size_t struct_size;
};
#define FIELD_TABLE(t, tab)                                                                        \
	{                                                                                          \
		.fields = (tab), .n = sizeof(tab) / sizeof((tab)[0]), .struct_size = sizeof(t)     \
	}

void field_encode(const struct field_table *t, const void *obj, struct wbuf *w);
/*
 * Fills obj (struct_size bytes, zeroed first) from r. -EINVAL names the field that was cut short or
 * whose count exceeds its array. r may hold more than the table reads: the caller asks rbuf_done.
 */
int field_decode(const struct field_table *t, struct rbuf *r, void *obj, struct err *e);
/* 0 when equal, else -EINVAL with "FIELD: saved X, here Y" (used to compare cfg on restore). */
int field_compare(const struct field_table *t, const void *saved, const void *here, struct err *e);

#endif
