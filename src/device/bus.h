/* SPDX-License-Identifier: MIT */
/*
 * PIO and MMIO buses: which range of addresses is whose. Lookups happen on vCPU threads with the
 * device lock held; so do the handlers. Reads of nothing return all ones, writes go nowhere.
 */
#ifndef CLONE_DEVICE_BUS_H
#define CLONE_DEVICE_BUS_H

#include <stdint.h>

#include "base/err.h"

struct bus;

struct bus_ops {
	/* len is 1, 2, 4 or 8; off is relative to the range and off+len lies inside it. `data` is
	 * little-endian as on the bus. */
	void (*read)(void *arg, uint64_t off, void *data, unsigned int len);
	void (*write)(void *arg, uint64_t off, const void *data, unsigned int len);
};

int bus_create(const char *name, struct bus **out, struct err *e);
void bus_destroy(struct bus *b);
/* -EEXIST when it overlaps; who is a string literal or outlives the range. */
int bus_add(struct bus *b, const char *who, uint64_t base, uint64_t len, const struct bus_ops *ops,
	    void *arg, struct err *e);
void bus_del(struct bus *b, uint64_t base);
void bus_read(struct bus *b, uint64_t addr, void *data, unsigned int len);
void bus_write(struct bus *b, uint64_t addr, const void *data, unsigned int len);

/* Little-endian helpers for handlers: value of up to 8 bytes. */
uint64_t bus_get(const void *data, unsigned int len);
void bus_put(void *data, unsigned int len, uint64_t v);

#endif
