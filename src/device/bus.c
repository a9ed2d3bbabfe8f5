/* SPDX-License-Identifier: MIT */
/*
 * An address bus: a sorted array of ranges, searched by bisection. See bus.h. Device lock held.
 */
#include "device/bus.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/endian.h"
#include "base/util.h"

struct range {
	uint64_t base, len;
	const struct bus_ops *ops;
	void *arg;
	const char *who;
};

struct bus {
	const char *name;
	struct range *v;
	size_t n, cap;
};

int bus_create(const char *name, struct bus **out, struct err *e)
{
	struct bus *b = calloc(1, sizeof(*b));

	if (!b)
		return err_set(e, ENOMEM, "%s bus: out of memory", name);
	b->name = name;
	*out = b;
	return 0;
}

void bus_destroy(struct bus *b)
{
	if (!b)
		return;
	free(b->v);
	free(b);
}

/* Index of the first range whose end lies beyond addr. */
static size_t lower(const struct bus *b, uint64_t addr)
{
	size_t lo = 0, hi = b->n;

	while (lo < hi) {
		size_t mid = (lo + hi) / 2;

		if (b->v[mid].base + (b->v[mid].len - 1) < addr)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

int bus_add(struct bus *b, const char *who, uint64_t base, uint64_t len, const struct bus_ops *ops,
	    void *arg, struct err *e)
{
	uint64_t end;
	size_t i;

	if (!len || !add_u64(base, len - 1, &end))
		return err_set(e, EINVAL, "%s bus: %s: bad range %#" PRIx64 "+%#" PRIx64, b->name,
			       who, base, len);
	i = lower(b, base);
	if (i < b->n && b->v[i].base <= end)
		return err_set(e, EEXIST, "%s bus: %s at %#" PRIx64 " overlaps %s at %#" PRIx64,
			       b->name, who, base, b->v[i].who, b->v[i].base);
	if (b->n == b->cap) {
		size_t cap = MAX(b->cap * 2, (size_t)16);
		struct range *v = realloc(b->v, cap * sizeof(*v));

		if (!v)
			return err_set(e, ENOMEM, "%s bus: out of memory", b->name);
		b->v = v;
		b->cap = cap;
	}
	memmove(b->v + i + 1, b->v + i, (b->n - i) * sizeof(*b->v));
	b->v[i] = (struct range){ .base = base, .len = len, .ops = ops, .arg = arg, .who = who };
	b->n++;
	return 0;
}

void bus_del(struct bus *b, uint64_t base)
{
	size_t i = lower(b, base);

	if (i == b->n || b->v[i].base != base)
		return;
	memmove(b->v + i, b->v + i + 1, (b->n - i - 1) * sizeof(*b->v));
	b->n--;
}

static struct range *find(struct bus *b, uint64_t addr, unsigned int len)
{
	size_t i = lower(b, addr);

	if (i == b->n || addr < b->v[i].base || !range_ok(addr - b->v[i].base, len, b->v[i].len))
		return NULL;
	return &b->v[i];
}

void bus_read(struct bus *b, uint64_t addr, void *data, unsigned int len)
{
	struct range *r = find(b, addr, len);

	memset(data, 0xff, len);
	if (r)
		r->ops->read(r->arg, addr - r->base, data, len);
}

void bus_write(struct bus *b, uint64_t addr, const void *data, unsigned int len)
{
	struct range *r = find(b, addr, len);

	if (r)
		r->ops->write(r->arg, addr - r->base, data, len);
}

uint64_t bus_get(const void *data, unsigned int len)
{
	uint64_t v = 0;

	BUG_ON(len > sizeof(v));
	memcpy(&v, data, len);
	return le64toh(v);
}

void bus_put(void *data, unsigned int len, uint64_t v)
{
	BUG_ON(len > sizeof(v));
	v = htole64(v);
	memcpy(data, &v, len);
}
