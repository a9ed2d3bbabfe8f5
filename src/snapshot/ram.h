/* SPDX-License-Identifier: MIT */
/*
 * Guest RAM in a file. The index, which is the "ram" record of the state file, says which pages the
 * RAM file holds; a file may be a layer over others (an incremental snapshot): what its index does
 * not name is what the layers below it say, and zero when none does. Two encodings:
 *
 *   raw    a page lies at its own offset in a sparse file, so that it can be mapped
 *   zstd   one zstd frame for each window of RAM (1 MiB, aligned) of which the file holds anything:
 *          the pages of the window that are held, one after another. Frames follow each other in
 *          ascending order of windows.
 *
 * Everything read is hostile: a file may come from anywhere. Blocking; any one thread.
 */
#ifndef CLONE_SNAPSHOT_RAM_H
#define CLONE_SNAPSHOT_RAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "base/util.h"

struct gmem;

#define RAM_RECORD_VERSION 2u
#define RAM_WINDOW MIB(1)
/* Of so many extents on a writer makes one of each window that it stores anything of: the index of
 * 1 TiB fits into a state file however RAM is scattered (1M + 1M extents, 1M frames: 38 MiB). */
#define RAM_EXTENTS_FINE (1u << 20)
#define RAM_LAYERS_MAX 16 /* of a chain, from the flat one to the newest */

enum ram_encoding { RAM_RAW, RAM_ZSTD };

/* Whole pages; zero: the file holds none of them, they are zero whatever lies below. */
struct ram_extent {
	uint64_t offset, len;
	bool zero;
};

struct ram_index {
	uint64_t size_bytes; /* of RAM */
	enum ram_encoding encoding;
	struct ram_extent *ext; /* owned; ascending, apart or of different kinds */
	size_t n, cap;
	uint32_t *frames; /* owned; zstd: the bytes of each frame */
	size_t nr_frames, cap_frames;
};

void ram_index_fini(struct ram_index *ix);
/* Appends; joins what continues the last extent. -ENOMEM. */
int ram_index_add(struct ram_index *ix, uint64_t offset, uint64_t len, bool zero);
int ram_index_add_frame(struct ram_index *ix, uint32_t bytes);
void ram_index_encode(const struct ram_index *ix, struct wbuf *w);
/* Owned by the caller on success only. -EINVAL says what is wrong. */
int ram_index_decode(struct rbuf *r, struct ram_index *ix, struct err *e);
/* The first extent that ends after offset (n when none does). */
size_t ram_index_find(const struct ram_index *ix, uint64_t offset);
/* Bytes of RAM that the file holds. */
uint64_t ram_index_data(const struct ram_index *ix);

/* A RAM file, open for reading. */
struct ram_layer {
	struct ram_index ix; /* owned */
	int fd;		     /* owned */
	uint64_t *window;    /* zstd: of each frame, by number, and where it begins in the file */
	uint64_t *at;
	uint8_t *packed; /* zstd: room for a frame and what is in it */
	uint8_t *plain;
};

/* Takes over ix and fd, also on failure. Compares the index with the file. */
int ram_layer_open(struct ram_layer *l, struct ram_index *ix, int fd, struct err *e);
void ram_layer_close(struct ram_layer *l);
/* What the layer says of a window (an offset, a multiple of RAM_WINDOW) goes over what is in buf
 * (RAM_WINDOW bytes, or what is left of RAM). */
int ram_layer_apply(struct ram_layer *l, uint64_t window, uint8_t *buf, struct err *e);
/* All of a window, as the chain l[0..n) has it, l[0] the lowest. n 0: zeroes. */
int ram_chain_read(struct ram_layer *l, size_t n, uint64_t window, uint8_t *buf, struct err *e);
/* RAM becomes what the chain says. RAM must be new. Raw files are mapped where that is worth a
 * mapping and must not change while any machine lives; the rest is copied. */
int ram_chain_load(struct ram_layer *l, size_t n, struct gmem *gm, struct err *e);

struct ram_write {
	struct gmem *gm;
	int fd; /* empty */
	enum ram_encoding encoding;
	struct ram_layer *base; /* what to differ from, lowest first; NULL: store all */
	size_t nr_base;
	size_t fine; /* extents before they get coarse; 0: RAM_EXTENTS_FINE */
	/* In a process that only writes: RAM is given back behind the writer, so that what the
	 * parent changes meanwhile costs memory only until it is written. */
	bool give_back;
	/* Bytes of RAM that are dealt with. May be NULL. */
	void (*progress)(void *arg, uint64_t done);
	void *arg;
};

/* Writes RAM, which must not change meanwhile; ix (zeroed) is the caller's, also on failure. */
int ram_write(const struct ram_write *w, struct ram_index *ix, struct err *e);

#endif
