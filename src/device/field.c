/* SPDX-License-Identifier: MIT */
/*
 * Field tables: one walker for encoding, decoding, comparing and showing. See field.h.
 */
#include "device/field.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/util.h"

static uint64_t load(const void *p, enum field_kind k)
{
	uint64_t v64;
	uint32_t v32;
	uint16_t v16;

	switch (k) {
	case FK_U8:
		return *(const uint8_t *)p;
	case FK_U16:
		memcpy(&v16, p, sizeof(v16));
		return v16;
	case FK_U32:
		memcpy(&v32, p, sizeof(v32));
		return v32;
	case FK_U64:
		memcpy(&v64, p, sizeof(v64));
		return v64;
	default:
		BUG_ON(true);
	}
}

static uint32_t elements(const struct field *f, const char *obj)
{
	uint32_t n;

	if (f->used < 0)
		return f->count;
	memcpy(&n, obj + f->used, sizeof(n));
	BUG_ON(n > f->count);
	return n;
}

static void check_field(const struct field *f)
{
	static const uint32_t width[] = { 1, 2, 4, 8 };

	BUG_ON(f->kind <= FK_U64 && f->size != width[f->kind]);
}

static void encode(const struct field *fields, size_t n, const char *obj, struct wbuf *w)
{
	for (size_t i = 0; i < n; i++) {
		const struct field *f = &fields[i];
		uint32_t count = elements(f, obj);

		check_field(f);
		if (f->used >= 0)
			wbuf_u32(w, count);
		for (uint32_t j = 0; j < count; j++) {
			const char *p = obj + f->offset + (size_t)j * f->size;

			switch (f->kind) {
			case FK_U8:
				wbuf_u8(w, (uint8_t)load(p, FK_U8));
				break;
			case FK_U16:
				wbuf_u16(w, (uint16_t)load(p, FK_U16));
				break;
			case FK_U32:
				wbuf_u32(w, (uint32_t)load(p, FK_U32));
				break;
			case FK_U64:
				wbuf_u64(w, load(p, FK_U64));
				break;
			case FK_BYTES:
				wbuf_bytes(w, p, f->size);
				break;
			case FK_STRUCT:
				encode(f->sub, f->nsub, p, w);
				break;
			}
		}
	}
}

void field_encode(const struct field_table *t, const void *obj, struct wbuf *w)
{
	encode(t->fields, t->n, obj, w);
}

static int decode(const struct field *fields, size_t n, struct rbuf *r, char *obj, struct err *e)
{
	int ret;

	for (size_t i = 0; i < n; i++) {
		const struct field *f = &fields[i];
		uint32_t count = f->count;

		check_field(f);
		if (f->used >= 0) {
			count = rbuf_u32(r);
			if (count > f->count)
				return err_set(e, EINVAL, "%s: %u elements, at most %u", f->name,
					       count, f->count);
			memcpy(obj + f->used, &count, sizeof(count));
		}
		for (uint32_t j = 0; j < count && !r->bad; j++) {
			char *p = obj + f->offset + (size_t)j * f->size;
			uint64_t v64;
			uint32_t v32;
			uint16_t v16;

			switch (f->kind) {
			case FK_U8:
				*(uint8_t *)p = rbuf_u8(r);
				break;
			case FK_U16:
				v16 = rbuf_u16(r);
				memcpy(p, &v16, sizeof(v16));
				break;
			case FK_U32:
				v32 = rbuf_u32(r);
				memcpy(p, &v32, sizeof(v32));
				break;
			case FK_U64:
				v64 = rbuf_u64(r);
				memcpy(p, &v64, sizeof(v64));
				break;
			case FK_BYTES:
				rbuf_bytes(r, p, f->size);
				break;
			case FK_STRUCT:
				ret = decode(f->sub, f->nsub, r, p, e);
				if (ret)
					return err_wrap(e, ret, "%s[%u]", f->name, j);
				break;
			}
		}
		if (r->bad)
			return err_set(e, EINVAL, "%s: cut short", f->name);
	}
	return 0;
}

int field_decode(const struct field_table *t, struct rbuf *r, void *obj, struct err *e)
{
	memset(obj, 0, t->struct_size);
	return decode(t->fields, t->n, r, obj, e);
}

static int compare(const struct field *fields, size_t n, const char *a, const char *b,
		   struct err *e)
{
	for (size_t i = 0; i < n; i++) {
		const struct field *f = &fields[i];
		uint32_t count = elements(f, a);

		if (f->used >= 0 && count != elements(f, b))
			return err_set(e, EINVAL, "%s: saved %u elements, here %u", f->name, count,
				       elements(f, b));
		for (uint32_t j = 0; j < count; j++) {
			const char *p = a + f->offset + (size_t)j * f->size;
			const char *q = b + f->offset + (size_t)j * f->size;
			int ret;

			if (f->kind == FK_STRUCT) {
				ret = compare(f->sub, f->nsub, p, q, e);
				if (ret)
					return err_wrap(e, ret, "%s[%u]", f->name, j);
			} else if (memcmp(p, q, f->size) != 0) {
				if (f->kind == FK_BYTES)
					return err_set(e, EINVAL, "%s: saved bytes differ",
						       f->name);
				return err_set(e, EINVAL, "%s: saved %" PRIu64 ", here %" PRIu64,
					       f->name, load(p, f->kind), load(q, f->kind));
			}
		}
	}
	return 0;
}

int field_compare(const struct field_table *t, const void *saved, const void *here, struct err *e)
{
	return compare(t->fields, t->n, saved, here, e);
}
