/* SPDX-License-Identifier: MIT */
/*
 * AML writer. See aml.h; section numbers are of ACPI 6.5.
 */
#include "x86/aml.h"

#include <string.h>

#include "base/util.h"

enum {
	OP_ZERO = 0x00,
	OP_ONE = 0x01,
	OP_NAME = 0x08,
	OP_BYTE = 0x0a,
	OP_WORD = 0x0b,
	OP_DWORD = 0x0c,
	OP_STRING = 0x0d,
	OP_QWORD = 0x0e,
	OP_SCOPE = 0x10,
	OP_BUFFER = 0x11,
	OP_PACKAGE = 0x12,
	OP_METHOD = 0x14,
	OP_DUAL_NAME = 0x2e,
	OP_MULTI_NAME = 0x2f,
	OP_EXT = 0x5b,
	OP_EXT_DEVICE = 0x82,
	OP_ROOT = 0x5c,
	OP_ARG0 = 0x68,
	OP_NOTIFY = 0x86,
	OP_LEQUAL = 0x93,
	OP_IF = 0xa0,
};

/* 20.2.2 */
void aml_path(struct wbuf *w, const char *path)
{
	size_t segments = 1;

	if (*path == '\\') {
		wbuf_u8(w, OP_ROOT);
		path++;
	}
	for (const char *p = path; *p; p++)
		segments += *p == '.';
	if (segments == 2) {
		wbuf_u8(w, OP_DUAL_NAME);
	} else if (segments > 2) {
		wbuf_u8(w, OP_MULTI_NAME);
		wbuf_u8(w, (uint8_t)segments);
	}
	while (segments--) {
		size_t n = strcspn(path, ".");

		BUG_ON(n < 1 || n > 4);
		wbuf_bytes(w, path, n);
		wbuf_bytes(w, "____", 4 - n);
		path += n + (path[n] == '.');
	}
}

void aml_int(struct wbuf *w, uint64_t v)
{
	if (v <= 1) {
		wbuf_u8(w, v ? OP_ONE : OP_ZERO);
	} else if (v <= 0xff) {
		wbuf_u8(w, OP_BYTE);
		wbuf_u8(w, (uint8_t)v);
	} else if (v <= 0xffff) {
		wbuf_u8(w, OP_WORD);
		wbuf_u16(w, (uint16_t)v);
	} else if (v <= 0xffffffff) {
		wbuf_u8(w, OP_DWORD);
		wbuf_u32(w, (uint32_t)v);
	} else {
		wbuf_u8(w, OP_QWORD);
		wbuf_u64(w, v);
	}
}

void aml_string(struct wbuf *w, const char *s)
{
	wbuf_u8(w, OP_STRING);
	wbuf_bytes(w, s, strlen(s) + 1);
}

static uint32_t hex(char c)
{
	return (uint32_t)(c <= '9' ? c - '0' : c - 'A' + 10);
}

/* 19.6.37: three letters of five bits and four hex digits, big-endian. */
void aml_eisa(struct wbuf *w, const char *id)
{
	uint32_t v;

	BUG_ON(strlen(id) != 7);
	v = (uint32_t)(id[0] - '@') << 26 | (uint32_t)(id[1] - '@') << 21 |
	    (uint32_t)(id[2] - '@') << 16 | hex(id[3]) << 12 | hex(id[4]) << 8 | hex(id[5]) << 4 |
	    hex(id[6]);
	wbuf_u8(w, OP_DWORD);
	wbuf_u32(w, __builtin_bswap32(v));
}

void aml_name(struct wbuf *w, const char *path)
{
	wbuf_u8(w, OP_NAME);
	aml_path(w, path);
}

size_t aml_scope(struct wbuf *w, const char *path)
{
	size_t at;

	wbuf_u8(w, OP_SCOPE);
	at = w->len;
	aml_path(w, path);
	return at;
}

size_t aml_device(struct wbuf *w, const char *name)
{
	size_t at;

	wbuf_u8(w, OP_EXT);
	wbuf_u8(w, OP_EXT_DEVICE);
	at = w->len;
	aml_path(w, name);
	return at;
}

size_t aml_method(struct wbuf *w, const char *name, unsigned int args)
{
	size_t at;

	wbuf_u8(w, OP_METHOD);
	at = w->len;
	aml_path(w, name);
	wbuf_u8(w, (uint8_t)(args | 8)); /* serialized */
	return at;
}

size_t aml_package(struct wbuf *w, unsigned int elements)
{
	size_t at;

	wbuf_u8(w, OP_PACKAGE);
	at = w->len;
	wbuf_u8(w, (uint8_t)elements);
	return at;
}

size_t aml_if_arg0_is(struct wbuf *w, uint64_t v)
{
	size_t at;

	wbuf_u8(w, OP_IF);
	at = w->len;
	wbuf_u8(w, OP_LEQUAL);
	wbuf_u8(w, OP_ARG0);
	aml_int(w, v);
	return at;
}

void aml_notify(struct wbuf *w, const char *path, uint64_t v)
{
	wbuf_u8(w, OP_NOTIFY);
	aml_path(w, path);
	aml_int(w, v);
}

/* 20.2.4: PkgLength counts itself. One byte holds up to 63, more bytes 4 + 8 * (n - 1) bits. */
void aml_end(struct wbuf *w, size_t at)
{
	size_t n, len, bytes = 1;
	uint8_t enc[4];

	if (w->bad)
		return;
	n = w->len - at;
	if (n + 1 > 0x3f)
		for (bytes = 2; n + bytes >= (size_t)1 << (4 + 8 * (bytes - 1)); bytes++)
			;
	BUG_ON(bytes > sizeof(enc));
	len = n + bytes;
	if (bytes == 1) {
		enc[0] = (uint8_t)len;
	} else {
		enc[0] = (uint8_t)((bytes - 1) << 6 | (len & 0xf));
		for (size_t i = 1; i < bytes; i++)
			enc[i] = (uint8_t)(len >> (4 + 8 * (i - 1)));
	}
	if (!wbuf_reserve(w, bytes))
		return;
	memmove(w->data + at + bytes, w->data + at, n);
	memcpy(w->data + at, enc, bytes);
}

/* The buffer's size is an integer in front of its bytes: always a word, so that it can be patched.
 */
struct aml_crs aml_crs(struct wbuf *w)
{
	struct aml_crs c;

	aml_name(w, "_CRS");
	wbuf_u8(w, OP_BUFFER);
	c.block = w->len;
	wbuf_u8(w, OP_WORD);
	c.size_at = w->len;
	wbuf_u16(w, 0);
	return c;
}

void aml_crs_end(struct wbuf *w, struct aml_crs c)
{
	size_t n;

	wbuf_u8(w, 0x79); /* end tag, checksum 0: not checked */
	wbuf_u8(w, 0);
	if (w->bad)
		return;
	n = w->len - c.size_at - 2;
	w->data[c.size_at] = (uint8_t)n;
	w->data[c.size_at + 1] = (uint8_t)(n >> 8);
	aml_end(w, c.block);
}

/* 6.4.2.5 */
void aml_res_io(struct wbuf *w, uint16_t base, uint8_t len)
{
	wbuf_u8(w, 0x47);
	wbuf_u8(w, 1); /* decodes 16 bits */
	wbuf_u16(w, base);
	wbuf_u16(w, base);
	wbuf_u8(w, 1);
	wbuf_u8(w, len);
}

/* 6.4.3.6: consumer, edge, active high, exclusive */
void aml_res_irq_edge(struct wbuf *w, uint32_t gsi)
{
	wbuf_u8(w, 0x89);
	wbuf_u16(w, 6);
	wbuf_u8(w, 0x03);
	wbuf_u8(w, 1);
	wbuf_u32(w, gsi);
}

/* 6.4.3.4: fixed, read-write */
void aml_res_memory(struct wbuf *w, uint32_t base, uint32_t len)
{
	wbuf_u8(w, 0x86);
	wbuf_u16(w, 9);
	wbuf_u8(w, 1);
	wbuf_u32(w, base);
	wbuf_u32(w, len);
}

/* 6.4.3.5: address space descriptors, producer, both ends fixed, positive decode */
static void word_window(struct wbuf *w, uint8_t type, uint8_t specific, uint16_t first,
			uint16_t last)
{
	wbuf_u8(w, 0x88);
	wbuf_u16(w, 13);
	wbuf_u8(w, type);
	wbuf_u8(w, 0x0c);
	wbuf_u8(w, specific);
	wbuf_u16(w, 0);
	wbuf_u16(w, first);
	wbuf_u16(w, last);
	wbuf_u16(w, 0);
	wbuf_u16(w, (uint16_t)(last - first + 1));
}

void aml_res_bus_window(struct wbuf *w, uint16_t first, uint16_t last)
{
	word_window(w, 2, 0, first, last);
}

void aml_res_io_window(struct wbuf *w, uint16_t first, uint16_t last)
{
	word_window(w, 1, 3, first, last); /* all of the range is decoded */
}

void aml_res_memory_window(struct wbuf *w, uint32_t first, uint32_t last)
{
	wbuf_u8(w, 0x87);
	wbuf_u16(w, 23);
	wbuf_u8(w, 0);
	wbuf_u8(w, 0x0c);
	wbuf_u8(w, 1); /* read-write, not cacheable */
	wbuf_u32(w, 0);
	wbuf_u32(w, first);
	wbuf_u32(w, last);
	wbuf_u32(w, 0);
	wbuf_u32(w, last - first + 1);
}
