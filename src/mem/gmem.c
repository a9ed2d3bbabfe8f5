/* SPDX-License-Identifier: MIT */
/*
 * Guest RAM: the mapping, the bounds-checked copies and the borrows. See gmem.h.
 */
#include "mem/gmem.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/util.h"
#include "mem/gmem_private.h"

/* Reserves size bytes, 2 MiB aligned, between two PROT_NONE guards of 2 MiB. */
static int map_region(struct gmem_map *r, uint64_t size, struct err *e)
{
	uint64_t total = size + 3 * MIB(2);
	char *p, *ram;

	p = mmap(NULL, total, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (p == MAP_FAILED)
		return err_sys(e, errno, "guest memory: reserving %" PRIu64 " MiB", size >> 20);
	ram = (char *)ROUND_UP((uintptr_t)p + MIB(2), MIB(2));
	r->map = p;
	r->map_len = total;
	r->pub.size_bytes = size;
	r->pub.hva = ram;
	if (mmap(ram, size, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == MAP_FAILED) {
		int err = errno;

		munmap(p, total);
		return err_sys(e, err,
			       "guest memory: %" PRIu64 " MiB refused by the host "
			       "(vm.overcommit_memory=2 or a memory limit?)",
			       size >> 20);
	}
	return 0;
}

int gmem_create(uint64_t size_bytes, struct gmem **out, struct err *e)
{
	struct gmem *gm;
	uint64_t low;
	int ret;

	if (size_bytes < GMEM_MIN_BYTES || size_bytes > GMEM_MAX_BYTES || size_bytes % MIB(2))
		return err_set(e, EINVAL,
			       "guest memory: %" PRIu64 " bytes is not a multiple of 2 MiB from "
			       "64 MiB to 1 TiB",
			       size_bytes);
	gm = calloc(1, sizeof(*gm));
	if (!gm)
		return err_set(e, ENOMEM, "guest memory: out of memory");
	gm->size = size_bytes;
	low = MIN(size_bytes, GMEM_HOLE_START);
	ret = map_region(&gm->r[0], low, e);
	if (ret)
		goto fail;
	gm->n = 1;
	if (size_bytes > low) {
		ret = map_region(&gm->r[1], size_bytes - low, e);
		if (ret)
			goto fail;
		gm->r[1].pub.gpa = GMEM_HOLE_END;
		gm->r[1].pub.offset = low;
		gm->n = 2;
	}
	*out = gm;
	return 0;
fail:
	gmem_destroy(gm);
	return ret;
}

void gmem_destroy(struct gmem *gm)
{
	if (!gm)
		return;
	for (size_t i = 0; i < gm->n; i++)
		munmap(gm->r[i].map, gm->r[i].map_len);
	gmem_huge_end(gm);
	free(gm->dirty);
	free(gm->filed);
	free(gm);
}

uint64_t gmem_size(const struct gmem *gm)
{
	return gm->size;
}

size_t gmem_regions(const struct gmem *gm, struct gmem_region out[GMEM_MAX_REGIONS])
{
	for (size_t i = 0; i < gm->n; i++)
		out[i] = gm->r[i].pub;
	return gm->n;
}

/* The one place where a guest physical address becomes a pointer. */
static char *translate(const struct gmem *gm, gpa_t gpa, uint64_t n, uint64_t *offset)
{
	BUG_ON(gm->out); /* it is not there */
	for (size_t i = 0; i < gm->n; i++) {
		const struct gmem_region *r = &gm->r[i].pub;

		if (gpa >= r->gpa && range_ok(gpa - r->gpa, n, r->size_bytes)) {
			if (offset)
				*offset = r->offset + (gpa - r->gpa);
			return (char *)r->hva + (gpa - r->gpa);
		}
	}
	return NULL;
}

bool gmem_valid(const struct gmem *gm, gpa_t gpa, uint64_t n)
{
	return translate(gm, gpa, n, NULL) != NULL;
}

int gmem_read(struct gmem *gm, gpa_t gpa, void *dst, size_t n)
{
	const char *p = translate(gm, gpa, n, NULL);

	if (!p)
		return -EFAULT;
	memcpy(dst, p, n);
	return 0;
}

int gmem_write(struct gmem *gm, gpa_t gpa, const void *src, size_t n)
{
	uint64_t off;
	char *p = translate(gm, gpa, n, &off);

	if (!p)
		return -EFAULT;
	memcpy(p, src, n);
	gmem_mark_dirty(gm, off, n);
	return 0;
}

int gmem_load16(struct gmem *gm, gpa_t gpa, uint16_t *out)
{
	const char *p = translate(gm, gpa, 2, NULL);

	if (!p || gpa % 2)
		return -EFAULT;
	*out = __atomic_load_n((const uint16_t *)(const void *)p, __ATOMIC_ACQUIRE);
	return 0;
}

int gmem_store16(struct gmem *gm, gpa_t gpa, uint16_t v)
{
	uint64_t off;
	char *p = translate(gm, gpa, 2, &off);

	if (!p || gpa % 2)
		return -EFAULT;
	__atomic_store_n((uint16_t *)(void *)p, v, __ATOMIC_RELEASE);
	gmem_mark_dirty(gm, off, 2);
	return 0;
}

void *gmem_pin(struct gmem *gm, gpa_t gpa, size_t n, bool write)
{
	char *p = translate(gm, gpa, n, NULL);

	(void)write;
	if (p)
		__atomic_add_fetch(&gm->pins, 1, __ATOMIC_RELAXED);
	return p;
}

void gmem_unpin(struct gmem *gm, gpa_t gpa, size_t n, bool write)
{
	uint64_t off;

	BUG_ON(!translate(gm, gpa, n, &off));
	if (write)
		gmem_mark_dirty(gm, off, n);
	BUG_ON(__atomic_fetch_sub(&gm->pins, 1, __ATOMIC_RELAXED) == 0);
}

unsigned int gmem_pins(const struct gmem *gm)
{
	return __atomic_load_n(&gm->pins, __ATOMIC_RELAXED);
}

char *gmem_offset_ptr(const struct gmem *gm, uint64_t offset, uint64_t n)
{
	for (size_t i = 0; i < gm->n; i++) {
		const struct gmem_region *r = &gm->r[i].pub;

		if (offset >= r->offset && range_ok(offset - r->offset, n, r->size_bytes))
			return (char *)r->hva + (offset - r->offset);
	}
	return NULL;
}

int gmem_read_offset(struct gmem *gm, uint64_t offset, void *dst, size_t n)
{
	const char *p = gmem_offset_ptr(gm, offset, n);

	if (!p)
		return -EFAULT;
	memcpy(dst, p, n);
	return 0;
}

const void *gmem_at_offset(struct gmem *gm, uint64_t offset, size_t n)
{
	return gmem_offset_ptr(gm, offset, n);
}

void *gmem_fill(struct gmem *gm, uint64_t offset, size_t n)
{
	return gmem_offset_ptr(gm, offset, n);
}

int gmem_dirty_start(struct gmem *gm, struct err *e)
{
	uint64_t *bits = calloc(gm->size / GMEM_PAGE / 64 + 1, sizeof(*bits));

	if (!bits)
		return err_set(e, ENOMEM, "dirty bitmap: out of memory");
	free(gm->dirty);
	__atomic_store_n(&gm->dirty, bits, __ATOMIC_RELEASE);
	return 0;
}

void gmem_dirty_stop(struct gmem *gm)
{
	free(gm->dirty);
	gm->dirty = NULL;
}

void gmem_mark_dirty(struct gmem *gm, uint64_t offset, uint64_t n)
{
	uint64_t *bits = __atomic_load_n(&gm->dirty, __ATOMIC_ACQUIRE);

	if (!bits || !n)
		return;
	for (uint64_t page = offset / GMEM_PAGE; page <= (offset + n - 1) / GMEM_PAGE; page++)
		__atomic_or_fetch(&bits[page / 64], 1ull << (page % 64), __ATOMIC_RELAXED);
}

bool gmem_dirty_tracked(const struct gmem *gm)
{
	return __atomic_load_n(&gm->dirty, __ATOMIC_ACQUIRE) != NULL;
}

bool gmem_dirty_test(struct gmem *gm, uint64_t offset)
{
	uint64_t page = offset / GMEM_PAGE, bit = 1ull << (page % 64);

	BUG_ON(!gm->dirty || offset >= gm->size);
	return __atomic_fetch_and(&gm->dirty[page / 64], ~bit, __ATOMIC_RELAXED) & bit;
}

void gmem_dirty_add(struct gmem *gm, uint64_t *pages)
{
	BUG_ON(!gm->dirty);
	for (uint64_t i = 0; i < gm->size / GMEM_PAGE / 64; i++)
		if (__atomic_load_n(&gm->dirty[i], __ATOMIC_RELAXED))
			pages[i] |= __atomic_exchange_n(&gm->dirty[i], 0, __ATOMIC_RELAXED);
}

int gmem_merge(struct gmem *gm, bool on, struct err *e)
{
	for (size_t k = 0; k < gm->n; k++) {
		const struct gmem_region *r = &gm->r[k].pub;

		if (!madvise(r->hva, r->size_bytes, on ? MADV_MERGEABLE : MADV_UNMERGEABLE))
			continue;
		if (errno != EINVAL)
			return err_sys(e, errno, "guest memory: %s",
				       on ? "letting KSM merge it" : "taking it out of KSM");
		if (on)
			return err_set(e, EOPNOTSUPP,
				       "guest memory: this kernel has no KSM (CONFIG_KSM)");
	}
	return 0;
}

int gmem_discard(struct gmem *gm, gpa_t gpa, uint64_t n)
{
	uint64_t off;
	char *p = translate(gm, gpa, n, &off);

	if (!p || gpa % GMEM_PAGE || n % GMEM_PAGE)
		return -EFAULT;
	if (n && madvise(p, n, MADV_DONTNEED) < 0)
		return -errno;
	gmem_mark_dirty(gm, off, n);
	return 0;
}

int gmem_discard_zero(struct gmem *gm, gpa_t gpa, uint64_t n, uint64_t *given)
{
	uint64_t off;
	int ret = 0;

	*given = 0;
	if (!translate(gm, gpa, n, &off) || gpa % GMEM_PAGE || n % GMEM_PAGE)
		return -EFAULT;
	for (uint64_t at = 0, end; at < n && !ret; at = end) {
		bool filed = gmem_filed(gm, off + at);

		for (end = at + GMEM_PAGE; end < n && gmem_filed(gm, off + end) == filed;)
			end += GMEM_PAGE;
		if (!filed)
			ret = gmem_discard(gm, gpa + at, end - at);
		*given += filed || ret ? 0 : end - at;
	}
	return ret;
}
