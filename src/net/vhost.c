/* SPDX-License-Identifier: MIT */
/*
 * See vhost.h. The order of VHOST_SET_* is the kernel's: owner, memory and features before rings,
 * backends last, because a ring with a backend runs.
 */
#include "net/vhost.h"

#include <errno.h>
#include <linux/vhost.h>
#include <stdlib.h>
#include <sys/ioctl.h>

#include "base/util.h"
#include "mem/gmem.h"

static int call(int fd, unsigned long request, const void *arg, const char *what, struct err *e)
{
	if (ioctl(fd, request, arg) < 0)
		return err_sys(e, errno, "vhost-net: %s", what);
	return 0;
}

int vhost_claim(int fd, struct gmem *gm, uint64_t *features, struct err *e)
{
	struct gmem_region r[GMEM_MAX_REGIONS];
	size_t n = gmem_regions(gm, r);
	cleanup_free struct vhost_memory *mem =
		calloc(1, sizeof(*mem) + n * sizeof(mem->regions[0]));
	int ret;

	if (!mem)
		return err_set(e, ENOMEM, "vhost-net: out of memory");
	mem->nregions = (uint32_t)n;
	for (size_t i = 0; i < n; i++)
		mem->regions[i] = (struct vhost_memory_region){
			.guest_phys_addr = r[i].gpa,
			.memory_size = r[i].size_bytes,
			.userspace_addr = (uintptr_t)r[i].hva,
		};
	ret = call(fd, VHOST_SET_OWNER, NULL, "taking possession", e);
	if (!ret)
		ret = call(fd, VHOST_GET_FEATURES, features, "asking for its features", e);
	if (!ret)
		ret = call(fd, VHOST_SET_MEM_TABLE, mem, "guest memory", e);
	return ret;
}

static int set_ring(int fd, unsigned int index, const struct vhost_ring *r, struct err *e)
{
	struct vhost_vring_state size = { index, r->size }, base = { index, r->last_avail };
	struct vhost_vring_addr addr = { .index = index,
					 .desc_user_addr = (uintptr_t)r->desc,
					 .avail_user_addr = (uintptr_t)r->avail,
					 .used_user_addr = (uintptr_t)r->used };
	struct vhost_vring_file kick = { index, r->kick_fd }, irq = { index, r->call_fd },
				bad = { index, r->err_fd };
	int ret = call(fd, VHOST_SET_VRING_NUM, &size, "ring size", e);

	if (!ret)
		ret = call(fd, VHOST_SET_VRING_BASE, &base, "ring position", e);
	if (!ret)
		ret = call(fd, VHOST_SET_VRING_ADDR, &addr, "ring addresses", e);
	if (!ret)
		ret = call(fd, VHOST_SET_VRING_ERR, &bad, "error eventfd", e);
	if (!ret)
		ret = call(fd, VHOST_SET_VRING_CALL, &irq, "interrupt eventfd", e);
	if (!ret)
		ret = call(fd, VHOST_SET_VRING_KICK, &kick, "kick eventfd", e);
	return ret;
}

static int set_backend(int fd, unsigned int index, int tap_fd, struct err *e)
{
	struct vhost_vring_file f = { index, tap_fd };

	return call(fd, VHOST_NET_SET_BACKEND, &f, "TAP", e);
}

static uint16_t position(int fd, unsigned int index)
{
	struct vhost_vring_state s = { .index = index };

	BUG_ON(call(fd, VHOST_GET_VRING_BASE, &s, "ring position", NULL));
	return (uint16_t)s.num;
}

int vhost_start(int fd, int tap_fd, uint64_t features, struct vhost_ring ring[2], struct err *e)
{
	int ret = call(fd, VHOST_SET_FEATURES, &features, "features", e);

	for (unsigned int i = 0; i < 2 && !ret; i++) {
		ret = set_ring(fd, i, &ring[i], e);
		if (ret)
			return err_wrap(e, ret, i ? "transmit queue" : "receive queue");
	}
	for (unsigned int i = 0; i < 2 && !ret; i++) {
		ret = set_backend(fd, i, tap_fd, e);
		if (ret && i) {
			BUG_ON(set_backend(fd, 0, -1, NULL));
			ring[0].last_avail = position(fd, 0); /* it ran */
		}
	}
	return ret;
}

void vhost_stop(int fd, uint16_t last_avail[2])
{
	/* the kernel returns from this when its worker has let go of the ring */
	for (unsigned int i = 0; i < 2; i++)
		BUG_ON(set_backend(fd, i, -1, NULL));
	for (unsigned int i = 0; i < 2; i++)
		last_avail[i] = position(fd, i);
}
