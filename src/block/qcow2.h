/* SPDX-License-Identifier: MIT */
/*
 * The qcow2 format, versions 2 and 3, as QEMU's docs/interop/qcow2.txt specifies it: its header and
 * the entries of its tables. Every byte is hostile. Pure but for reading the header; any thread.
 */
#ifndef CLONE_BLOCK_QCOW2_H
#define CLONE_BLOCK_QCOW2_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

#define QCOW2_MAGIC 0x514649fbu
#define QCOW2_EXT_BACKING_FORMAT 0xe2792acau
#define QCOW2_CLUSTER_BITS_MIN 9u
#define QCOW2_CLUSTER_BITS_MAX 21u
#define QCOW2_L1_MAX_BYTES (32u << 20) /* as QEMU bounds it */
#define QCOW2_NAME_MAX 1024u	       /* of a backing file, with its end */

#define QCOW2_DIRTY (1ull << 0) /* incompatible features */
#define QCOW2_CORRUPT (1ull << 1)
#define QCOW2_DATA_FILE (1ull << 2)
#define QCOW2_COMPRESSION (1ull << 3)
#define QCOW2_EXTENDED_L2 (1ull << 4)
#define QCOW2_LAZY_REFCOUNTS (1ull << 0) /* compatible features */
#define QCOW2_BITMAPS (1ull << 0)	 /* autoclear features */

struct qcow2_head {
	uint32_t version;
	unsigned int cluster_bits, refcount_bits;
	uint64_t size_bytes;
	uint64_t l1_off, refcount_off; /* bytes into the file, cluster-aligned */
	uint32_t l1_entries, refcount_clusters;
	uint32_t nr_snapshots;
	uint64_t incompatible, compatible, autoclear;
	uint32_t head_bytes;	      /* of the fixed part; extensions follow */
	bool zstd;		      /* compressed clusters are zstd, else raw deflate */
	bool bitmaps;		      /* has the extension of persistent dirty bitmaps */
	char backing[QCOW2_NAME_MAX]; /* "": none; a name as it stands there, hostile */
	char backing_format[16];      /* "": not said */
};

/*
 * Reads and checks the header of the file (file_bytes long; stays the caller's). -EINVAL: no qcow2,
 * or damaged; -ENOTSUP: it needs what we do not have (named: encryption, an external data file,
 * extended L2 entries, features nobody has heard of). What only writers must know (the refcount
 * table, snapshots) is not looked at.
 */
int qcow2_read_head(int fd, uint64_t file_bytes, struct qcow2_head *h, struct err *e);

enum qcow2_kind {
	QCOW2_NONE, /* the backing file's */
	QCOW2_ZERO,
	QCOW2_DATA,
	QCOW2_PACKED, /* compressed */
	QCOW2_BAD,    /* no valid entry: a read of it fails */
};

struct qcow2_cluster {
	enum qcow2_kind kind;
	uint64_t off; /* of DATA and PACKED: bytes into the file, not checked against its end */
	uint32_t packed_bytes; /* what the compressed cluster takes at most */
};

/* An L2 entry that no image has: decodes to QCOW2_BAD. */
#define QCOW2_BAD_ENTRY (~0ull >> 2)
struct qcow2_cluster qcow2_decode(const struct qcow2_head *h, uint64_t entry);

/* The L2 table behind an L1 entry: 1 and its offset, 0 for none, -EINVAL when it is no offset. */
int qcow2_l2_offset(const struct qcow2_head *h, uint64_t entry, uint64_t *off);

static inline uint64_t qcow2_cluster_bytes(const struct qcow2_head *h)
{
	return 1ull << h->cluster_bits;
}
/* Entries of one L2 table. */
static inline uint64_t qcow2_l2_entries(const struct qcow2_head *h)
{
	return 1ull << (h->cluster_bits - 3);
}

/*
 * Decompresses one cluster: n bytes from in (more than there are, usually) to exactly bytes at out.
 * -EINVAL when they are not a whole compressed cluster; out is undefined then.
 */
int qcow2_unpack(bool zstd, const void *in, uint32_t n, void *out, uint32_t bytes);

#endif
