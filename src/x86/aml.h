/* SPDX-License-Identifier: MIT */
/*
 * A writer of ACPI Machine Language (ACPI 6.5, chapter 20; resource descriptors: chapter 6.4). It
 * appends to a wbuf, which turns bad without memory. Blocks whose length comes first are opened by
 * a call that returns where they began and closed by aml_end.
 */
#ifndef CLONE_X86_AML_H
#define CLONE_X86_AML_H

#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"

/* A name or path: "_HID", "\\_SB_.PCI0"; segments are padded with underscores. */
void aml_path(struct wbuf *w, const char *path);
void aml_int(struct wbuf *w, uint64_t v);
void aml_string(struct wbuf *w, const char *s);
/* EISA id as the integer it is compressed to: "PNP0A08". */
void aml_eisa(struct wbuf *w, const char *id);

/* Name (path, ...): the object follows. */
void aml_name(struct wbuf *w, const char *path);
static inline void aml_name_int(struct wbuf *w, const char *path, uint64_t v)
{
	aml_name(w, path);
	aml_int(w, v);
}
static inline void aml_name_string(struct wbuf *w, const char *path, const char *s)
{
	aml_name(w, path);
	aml_string(w, s);
}
static inline void aml_name_eisa(struct wbuf *w, const char *path, const char *id)
{
	aml_name(w, path);
	aml_eisa(w, id);
}

size_t aml_scope(struct wbuf *w, const char *path);
size_t aml_device(struct wbuf *w, const char *name);
size_t aml_method(struct wbuf *w, const char *name, unsigned int args);
size_t aml_package(struct wbuf *w, unsigned int elements);
/* If (Arg0 == v) */
size_t aml_if_arg0_is(struct wbuf *w, uint64_t v);
void aml_notify(struct wbuf *w, const char *path, uint64_t v);
void aml_end(struct wbuf *w, size_t at);

/* Name (_CRS, ResourceTemplate ...): descriptors follow, then aml_crs_end. */
struct aml_crs {
	size_t block, size_at;
};
struct aml_crs aml_crs(struct wbuf *w);
void aml_crs_end(struct wbuf *w, struct aml_crs c);
void aml_res_io(struct wbuf *w, uint16_t base, uint8_t len);
void aml_res_irq_edge(struct wbuf *w, uint32_t gsi);
void aml_res_memory(struct wbuf *w, uint32_t base, uint32_t len);
/* Windows of a bridge, last address included. */
void aml_res_bus_window(struct wbuf *w, uint16_t first, uint16_t last);
void aml_res_io_window(struct wbuf *w, uint16_t first, uint16_t last);
void aml_res_memory_window(struct wbuf *w, uint32_t first, uint32_t last);

#endif
