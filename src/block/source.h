/* SPDX-License-Identifier: MIT */
/*
 * Where a disk's content comes from when nobody wrote it: a chain of read-only files, the topmost
 * first, each raw or qcow2, each shorter or longer than the next. All files are open before; no
 * name in them is followed. Every byte of them is hostile.
 *
 * A source does no I/O of its own after it was opened: source_find answers from memory, and when
 * it cannot, a fetch says which bytes to read from which file. Whoever has a source reads them, at
 * once or on a ring.
 *
 * The map is kept in chunks, each resolved through the whole chain, so that a read costs the same
 * however long the chain is. Chunks come and go within a fixed bound.
 *
 * One thread at a time. In a fork's child a source goes on as it is.
 */
#ifndef CLONE_BLOCK_SOURCE_H
#define CLONE_BLOCK_SOURCE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

#define SOURCE_FILES 256 /* in a chain */

struct source;
struct fdtab;

enum source_format { SOURCE_RAW, SOURCE_QCOW2 };

struct source_file {
	int fd; /* opened read-only, cached */
	enum source_format format;
};

/*
 * files[0] is what the disk reads, files[n-1] the end of the chain; raw ones have nothing behind
 * them. The descriptors are owned from now on, also on failure. Reads headers and L1 tables.
 * -EINVAL, -ENOTSUP as qcow2_read_head; -EINVAL also when a file in the midst is raw, when the last
 * one names a backing file, or when one that is not the last names none.
 */
int source_open(const struct source_file *files, unsigned int n, struct source **out,
		struct err *e);
/* How many bytes the disk in a file (which stays the caller's) has. Errors as source_open. */
int source_file_bytes(int fd, enum source_format format, uint64_t *bytes, struct err *e);
/* Accepts NULL. */
void source_close(struct source *s, struct fdtab *fds);
/* Of the disk, as the topmost file says. */
uint64_t source_bytes(const struct source *s);
/* How long the disk is that the topmost file stands on; 0: it stands on none. */
uint64_t source_behind_bytes(const struct source *s);
/* Is fd (which stays the caller's) the topmost file? */
bool source_is_top(const struct source *s, int fd);
/* The topmost file's descriptor once more, the caller's; -errno. */
int source_dup_top(const struct source *s);
/* Records the files with what a fork's child does with them: it keeps them. */
void source_record(struct source *s, struct fdtab *fds);

enum source_kind { SOURCE_ZERO, SOURCE_FILE, SOURCE_MEMORY };

/* A run of bytes of the disk that lie in one place. */
struct source_piece {
	enum source_kind kind;
	uint64_t len;
	int fd;		   /* SOURCE_FILE */
	bool top;	   /* SOURCE_FILE: it is the topmost */
	uint64_t off;	   /* in that file, which has all of them */
	const uint8_t *at; /* SOURCE_MEMORY: valid until the next fetch is begun or moved on */
};

/* What lies at off (below source_bytes), at most max bytes: 1; 0 when it must be fetched first;
 * -EIO when the image is damaged there. */
int source_find(struct source *s, uint64_t off, uint64_t max, struct source_piece *p);

/* Where a byte of the disk lies, whether or not it can be read now; for who writes to file 0. */
enum source_origin { SOURCE_IN_NONE, SOURCE_IN_FILE, SOURCE_IN_PACKED, SOURCE_IN_ZERO };
struct source_where {
	enum source_origin origin; /* NONE: no valid one */
	unsigned int file;
	uint64_t off;	 /* in the file; of PACKED the compressed bytes'; of ZERO 0, or what is kept
			  * allocated for it */
	uint64_t len;	 /* of the disk from here on, in one place */
	uint32_t packed; /* of PACKED: how many bytes */
};
/* 1 and *w; 0 when it must be fetched first. */
int source_where(const struct source *s, uint64_t off, struct source_where *w);

struct source_fetch;
struct source_read {
	int fd;
	uint64_t off;
	void *buf;
	uint32_t len;
};

/* Begins to fetch what source_find missed at off. -ENOMEM. */
int source_fetch_begin(struct source *s, uint64_t off, struct source_fetch **out);
/* Does f bring what source_find missed at off? */
bool source_fetch_brings(const struct source_fetch *f, uint64_t off);
/* What to read next: 1 and *rd, to be read whole before the next call; 0: source_find knows now;
 * -errno: it will not. Each call but the first says that the one before was read. */
int source_fetch_next(struct source_fetch *f, struct source_read *rd);
void source_fetch_end(struct source_fetch *f);

/* All of it at once, for tools: n bytes from off (source_bytes bounds them) into buf. */
int source_pread(struct source *s, void *buf, uint64_t n, uint64_t off);

#endif
