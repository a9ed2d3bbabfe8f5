/* SPDX-License-Identifier: MIT */
/*
 * A model of vhost-net, in the place of net/vhost.c: include it in exactly one file of a test
 * program. It works on the rings through the addresses that it is given, when it
 * is kicked, and tells nobody but its caller how far it came. One descriptor a packet. One thread.
 */
#ifndef TESTS_LIB_VHOST_MODEL_H
#define TESTS_LIB_VHOST_MODEL_H

#include <errno.h>
#include <linux/virtio_ring.h>
#include <string.h>
#include <unistd.h>

#include "base/util.h"
#include "net/vhost.h"
#include "tests/lib/vnic.h"

struct stand_in {
	int fd, tap;
	bool owned, running;
	struct vhost_ring ring[2];
	uint16_t used[2];
};

static struct {
	struct stand_in v[VNIC_PAIRS + 1];
	unsigned int nr, claims, starts, stops, signals;
	uint64_t features, wanted;
	int fail_claim, fail_start; /* fail_start: of the descriptor */
	bool ran_before;	    /* it fails after a moment, in which a buffer was used */
	struct gmem_region ram;
} world;

static struct stand_in *of(int fd)
{
	for (unsigned int i = 0; i < world.nr; i++)
		if (world.v[i].fd == fd)
			return &world.v[i];
	BUG_ON(true);
}

int vhost_claim(int fd, struct gmem *gm, uint64_t *features, struct err *e)
{
	struct gmem_region r[GMEM_MAX_REGIONS];

	world.claims++;
	if (world.fail_claim)
		return err_set(e, EBUSY, "somebody else's");
	BUG_ON(world.nr == ARRAY_SIZE(world.v) || gmem_regions(gm, r) != 1);
	world.ram = r[0];
	world.v[world.nr++] = (struct stand_in){ .fd = fd, .owned = true };
	*features = world.features;
	return 0;
}

static uint16_t *word(void *area, size_t off)
{
	return (uint16_t *)((uint8_t *)area + off);
}

int vhost_start(int fd, int tap_fd, uint64_t features, struct vhost_ring ring[2], struct err *e)
{
	struct stand_in *v = of(fd);

	BUG_ON(v->running);
	world.starts++;
	world.wanted = features;
	if (fd == world.fail_start) {
		if (world.ran_before)
			*word(ring[0].used, 2) = ++ring[0].last_avail;
		return err_set(e, EIO, "it does not want to");
	}
	memcpy(v->ring, ring, sizeof(v->ring));
	v->tap = tap_fd;
	v->running = true;
	for (unsigned int i = 0; i < 2; i++)
		v->used[i] = *word(ring[i].used, 2); /* as the kernel does */
	return 0;
}

void vhost_stop(int fd, uint16_t last_avail[2])
{
	struct stand_in *v = of(fd);

	BUG_ON(!v->running);
	world.stops++;
	v->running = false;
	for (unsigned int i = 0; i < 2; i++)
		last_avail[i] = v->ring[i].last_avail;
}

/* The next chain, and how long it is; NULL: there is none, and kicks are wanted. */
static uint8_t *next(struct vhost_ring *r, uint32_t *len, uint16_t *head)
{
	struct vring_desc *d = r->desc;

	if (*word(r->avail, 2) == r->last_avail) {
		*word(r->used, 4 + 8ul * r->size) = r->last_avail;
		return NULL;
	}
	*head = *word(r->avail, 4 + 2ul * (r->last_avail++ % r->size));
	BUG_ON(*head >= r->size || d[*head].flags & ~VRING_DESC_F_WRITE);
	*len = d[*head].len;
	return (uint8_t *)world.ram.hva + d[*head].addr;
}

static void done(struct stand_in *v, unsigned int i, uint16_t head, uint32_t len)
{
	struct vhost_ring *r = &v->ring[i];
	struct vring_used_elem *u =
		(struct vring_used_elem *)((uint8_t *)r->used + 4) + v->used[i] % r->size;
	const uint64_t one = 1;

	*u = (struct vring_used_elem){ .id = head, .len = len };
	*word(r->used, 2) = ++v->used[i];
	world.signals++;
	BUG_ON(r->call_fd >= 0 && write(r->call_fd, &one, sizeof(one)) != sizeof(one));
}

static bool kicked(const struct vhost_ring *r)
{
	uint64_t n;

	return read(r->kick_fd, &n, sizeof(n)) == sizeof(n);
}

static void work_on(struct stand_in *v)
{
	uint8_t p[VNIC_BUF], *at;
	uint32_t len;
	uint16_t head;
	ssize_t n;

	if (kicked(&v->ring[1]))
		while ((at = next(&v->ring[1], &len, &head))) {
			BUG_ON(write(v->tap, at, len) != (ssize_t)len);
			done(v, 1, head, 0);
		}
	kicked(&v->ring[0]);
	while (*word(v->ring[0].avail, 2) != v->ring[0].last_avail &&
	       (n = read(v->tap, p, sizeof(p))) > 0) {
		at = next(&v->ring[0], &len, &head);
		BUG_ON((uint32_t)n > len);
		memcpy(at, p, (size_t)n);
		at[10] = 1;
		done(v, 0, head, (uint32_t)n);
	}
}

static inline void work(struct vnic_rig *g)
{
	vnic_settle(g);
	for (unsigned int i = 0; i < world.nr; i++)
		if (world.v[i].running)
			work_on(&world.v[i]);
	vnic_settle(g);
}

static inline unsigned int running(void)
{
	unsigned int n = 0;

	for (unsigned int i = 0; i < world.nr; i++)
		n += world.v[i].running;
	return n;
}

#endif
