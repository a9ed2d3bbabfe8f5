/* SPDX-License-Identifier: MIT */
/*
 * qcow2's header, table entries and compressed clusters: see qcow2.h. Called by the command that
 * opens an image, and by source.c in the VM process.
 */
#include "block/qcow2.h"

#include <errno.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>

#include "base/buf.h"
#include "base/fd.h"
#include "base/util.h"
#include "block/blk.h"

#define V2_HEAD_BYTES 72u
#define V3_HEAD_BYTES 104u
#define HEAD_MAX 65536u /* header, extensions and the backing file's name must lie within */
#define EXT_END 0u
#define EXT_BITMAPS 0x23852875u
#define OFFSET_MASK 0x00fffffffffffe00ull
#define ENTRY_RESERVED 0x3f00000000000000ull
#define ENTRY_PACKED (1ull << 62)
#define ENTRY_ZERO 1ull

static int unsupported(const struct qcow2_head *h, uint32_t crypt, struct err *e)
{
	uint64_t unknown = h->incompatible & ~(QCOW2_DIRTY | QCOW2_CORRUPT | QCOW2_COMPRESSION);

	if (crypt)
		return err_set(e, ENOTSUP, "qcow2: encrypted (%s), which is not supported",
			       crypt == 1   ? "AES"
			       : crypt == 2 ? "LUKS"
					    : "in an unknown way");
	if (unknown & QCOW2_DATA_FILE)
		return err_set(e, ENOTSUP,
			       "qcow2: its data is in an external file, which is not supported");
	if (unknown & QCOW2_EXTENDED_L2)
		return err_set(e, ENOTSUP,
			       "qcow2: has extended L2 entries (subclusters), which "
			       "are not supported");
	if (unknown)
		return err_set(e, ENOTSUP, "qcow2: needs unknown features 0x%llx",
			       (unsigned long long)unknown);
	if (h->incompatible & QCOW2_CORRUPT)
		return err_set(e, EINVAL,
			       "qcow2: marked corrupt; repair it: qemu-img check -r all FILE");
	return 0;
}

static int check_tables(const struct qcow2_head *h, uint64_t file_bytes, struct err *e)
{
	uint64_t cluster = qcow2_cluster_bytes(h), reach;

	if (!h->size_bytes || h->size_bytes > BLK_MAX_BYTES)
		return err_set(e, EINVAL, "qcow2: a disk of %llu bytes: 1 to 16 TiB",
			       (unsigned long long)h->size_bytes);
	if (h->l1_entries > QCOW2_L1_MAX_BYTES / 8)
		return err_set(e, EINVAL, "qcow2: an L1 table of %u entries: %u at most",
			       h->l1_entries, QCOW2_L1_MAX_BYTES / 8);
	if (!mul_u64((uint64_t)h->l1_entries << h->cluster_bits, qcow2_l2_entries(h), &reach))
		reach = UINT64_MAX;
	if (reach < h->size_bytes)
		return err_set(e, EINVAL,
			       "qcow2: an L1 table of %u entries is too short for %llu bytes",
			       h->l1_entries, (unsigned long long)h->size_bytes);
	if (!h->l1_off || h->l1_off % cluster ||
	    !range_ok(h->l1_off, (uint64_t)h->l1_entries * 8, file_bytes))
		return err_set(e, EINVAL,
			       "qcow2: L1 table at %llu is out of place in a file of %llu bytes",
			       (unsigned long long)h->l1_off, (unsigned long long)file_bytes);
	return 0;
}

/* The extensions from `at` to the backing file's name or the first cluster's end. */
static int read_extensions(struct qcow2_head *h, const uint8_t *raw, uint64_t at, uint64_t end,
			   struct err *e)
{
	while (at < end) {
		uint32_t type, len;
		struct rbuf r;
		const void *p;

		rbuf_init(&r, raw + at, (size_t)(end - at));
		type = rbuf_be32(&r);
		len = rbuf_be32(&r);
		if (!r.bad && type == EXT_END)
			return 0;
		p = rbuf_view(&r, len);
		if (r.bad)
			return err_set(e, EINVAL,
				       "qcow2: a header extension of %u bytes at %llu "
				       "leaves the header",
				       len, (unsigned long long)at);
		if (type == QCOW2_EXT_BACKING_FORMAT) {
			if (len >= sizeof(h->backing_format))
				return err_set(e, EINVAL,
					       "qcow2: a backing format's name of %u bytes", len);
			memcpy(h->backing_format, p, len);
			h->backing_format[len] = '\0';
		}
		h->bitmaps |= type == EXT_BITMAPS;
		at += 8 + ROUND_UP((uint64_t)len, 8);
	}
	return 0;
}

static int read_backing(struct qcow2_head *h, const uint8_t *raw, size_t n, uint64_t off,
			uint32_t len, struct err *e)
{
	if (!off)
		return 0;
	if (!len || len >= QCOW2_NAME_MAX || !range_ok(off, len, n))
		return err_set(e, EINVAL, "qcow2: a backing file's name of %u bytes at %llu", len,
			       (unsigned long long)off);
	memcpy(h->backing, raw + off, len);
	h->backing[len] = '\0';
	if (strlen(h->backing) != len)
		return err_set(e, EINVAL, "qcow2: the backing file's name has a zero byte in it");
	return 0;
}

static int parse(struct qcow2_head *h, const uint8_t *raw, size_t n, uint64_t file_bytes,
		 struct err *e)
{
	uint32_t magic, backing_len, crypt, order = 4;
	uint64_t backing_off, end;
	uint8_t compression = 0;
	struct rbuf r;
	int ret;

	rbuf_init(&r, raw, n);
	magic = rbuf_be32(&r);
	h->version = rbuf_be32(&r);
	backing_off = rbuf_be64(&r);
	backing_len = rbuf_be32(&r);
	h->cluster_bits = rbuf_be32(&r);
	h->size_bytes = rbuf_be64(&r);
	crypt = rbuf_be32(&r);
	h->l1_entries = rbuf_be32(&r);
	h->l1_off = rbuf_be64(&r);
	h->refcount_off = rbuf_be64(&r);
	h->refcount_clusters = rbuf_be32(&r);
	h->nr_snapshots = rbuf_be32(&r);
	rbuf_be64(&r); /* the snapshot table */
	h->head_bytes = V2_HEAD_BYTES;
	if (magic != QCOW2_MAGIC)
		return err_set(e, EINVAL, "not a qcow2 image; is it format=raw?");
	if (h->version == 3) {
		h->incompatible = rbuf_be64(&r);
		h->compatible = rbuf_be64(&r);
		h->autoclear = rbuf_be64(&r);
		order = rbuf_be32(&r);
		h->head_bytes = rbuf_be32(&r);
		if (h->head_bytes > V3_HEAD_BYTES)
			compression = rbuf_u8(&r);
	}
	if (r.bad)
		return err_set(e, EINVAL, "qcow2: cut short at %zu bytes", n);
	if (h->version != 2 && h->version != 3)
		return err_set(e, ENOTSUP, "qcow2: version %u: 2 and 3 are supported", h->version);
	if (h->cluster_bits < QCOW2_CLUSTER_BITS_MIN || h->cluster_bits > QCOW2_CLUSTER_BITS_MAX)
		return err_set(e, EINVAL, "qcow2: cluster_bits is %u: %u to %u", h->cluster_bits,
			       QCOW2_CLUSTER_BITS_MIN, QCOW2_CLUSTER_BITS_MAX);
	ret = unsupported(h, crypt, e);
	if (ret)
		return ret;
	end = MIN(qcow2_cluster_bytes(h), (uint64_t)n);
	if (order > 6 || h->head_bytes < (h->version == 3 ? V3_HEAD_BYTES : V2_HEAD_BYTES) ||
	    h->head_bytes % 8 || h->head_bytes > end)
		return err_set(e, EINVAL, "qcow2: header of %u bytes, refcounts of 2^%u bits",
			       h->head_bytes, order);
	h->refcount_bits = 1u << order;
	if (compression > 1 || !compression == !!(h->incompatible & QCOW2_COMPRESSION))
		return err_set(e, EINVAL, "qcow2: compression type %u", compression);
	h->zstd = compression == 1;
	ret = read_backing(h, raw, (size_t)end, backing_off, backing_len, e);
	if (!ret)
		ret = read_extensions(h, raw, h->head_bytes,
				      backing_off > h->head_bytes ? MIN(backing_off, end) : end, e);
	return ret ? ret : check_tables(h, file_bytes, e);
}

int qcow2_read_head(int fd, uint64_t file_bytes, struct qcow2_head *out, struct err *e)
{
	size_t n = (size_t)MIN(file_bytes, (uint64_t)HEAD_MAX);
	cleanup_free uint8_t *raw = calloc(1, HEAD_MAX);
	struct qcow2_head h;
	int r;

	if (!raw)
		return err_set(e, ENOMEM, "no memory for a qcow2 header");
	r = fd_pread_full(fd, raw, n, 0);
	if (r)
		return err_sys(e, -r, "read the qcow2 header");
	memset(&h, 0, sizeof(h));
	r = parse(&h, raw, n, file_bytes, e);
	if (!r)
		*out = h;
	return r;
}

struct qcow2_cluster qcow2_decode(const struct qcow2_head *h, uint64_t entry)
{
	struct qcow2_cluster c = { .kind = QCOW2_BAD };
	unsigned int bits = 62 - (h->cluster_bits - 8);

	if (entry & ENTRY_PACKED) {
		uint64_t sectors = (entry & (ENTRY_PACKED - 1)) >> bits;

		c.kind = QCOW2_PACKED;
		c.off = entry & ((1ull << bits) - 1);
		c.packed_bytes = (uint32_t)((sectors + 1) * 512 - c.off % 512);
		return c;
	}
	if (entry & ENTRY_RESERVED || (entry & ENTRY_ZERO && h->version < 3))
		return c;
	c.off = entry & OFFSET_MASK;
	if (c.off % qcow2_cluster_bytes(h))
		return c;
	c.kind = entry & ENTRY_ZERO ? QCOW2_ZERO : c.off ? QCOW2_DATA : QCOW2_NONE;
	return c;
}

int qcow2_l2_offset(const struct qcow2_head *h, uint64_t entry, uint64_t *off)
{
	uint64_t at = entry & OFFSET_MASK;

	if (at % qcow2_cluster_bytes(h))
		return -EINVAL;
	*off = at;
	return at != 0;
}

static int inflate_cluster(const void *in, uint32_t n, void *out, uint32_t bytes)
{
	z_stream z = { .next_in = (Bytef *)(uintptr_t)in,
		       .avail_in = n,
		       .next_out = out,
		       .avail_out = bytes };
	int r;

	/* Raw deflate with a window of 4 KiB. */
	r = inflateInit2(&z, -12);
	if (r != Z_OK)
		return r == Z_MEM_ERROR ? -ENOMEM : -EINVAL;
	r = inflate(&z, Z_FINISH);
	inflateEnd(&z);
	return (r == Z_STREAM_END || r == Z_BUF_ERROR) && !z.avail_out ? 0 : -EINVAL;
}

static int unzstd_cluster(const void *in, uint32_t n, void *out, uint32_t bytes)
{
	ZSTD_inBuffer from = { .src = in, .size = n };
	ZSTD_outBuffer to = { .dst = out, .size = bytes };
	ZSTD_DCtx *z = ZSTD_createDCtx();
	size_t r = 0;

	if (!z)
		return -ENOMEM;
	/* A hostile frame may ask for a window of gigabytes; a cluster needs no more than itself.
	 */
	ZSTD_DCtx_setParameter(z, ZSTD_d_windowLogMax, (int)QCOW2_CLUSTER_BITS_MAX + 2);
	while (to.pos < to.size && !ZSTD_isError(r)) {
		size_t in_pos = from.pos, out_pos = to.pos;

		r = ZSTD_decompressStream(z, &to, &from);
		if (from.pos == in_pos && to.pos == out_pos)
			break;
	}
	ZSTD_freeDCtx(z);
	return ZSTD_isError(r) || to.pos < to.size ? -EINVAL : 0;
}

int qcow2_unpack(bool zstd, const void *in, uint32_t n, void *out, uint32_t bytes)
{
	return zstd ? unzstd_cluster(in, n, out, bytes) : inflate_cluster(in, n, out, bytes);
}
