/* SPDX-License-Identifier: MIT */
/*
 * The container of a snapshot's state file: a header, then records, then an end record.
 *
 *   header   8 bytes "CLONEVM\0", u32 format version, u32 zero
 *   record   u32 magic "RECD", u8 name length, name, u8 id length, id, u32 version, u32 payload
 * length, payload, u32 CRC-32C of all of the record before it end      a record named "end" whose
 * payload is the u32 count of the records before it
 *
 * Little-endian. Nothing may follow the end. Any thread; hostile input.
 */
#ifndef CLONE_SNAPSHOT_FORMAT_H
#define CLONE_SNAPSHOT_FORMAT_H

#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"

#define SNAP_FORMAT_VERSION 1u
#define SNAP_NAME_MAX 32
#define SNAP_FILE_MAX (64u << 20)
#define SNAP_RECORDS_MAX 256

struct snap_writer {
	struct wbuf w;
	uint32_t records;
	size_t begin, len_at; /* of the open record */
	bool open;
};

void snap_writer_init(struct snap_writer *s);
void snap_writer_fini(struct snap_writer *s);
/* Opens a record; the payload is written to the returned buffer until snap_end. */
struct wbuf *snap_begin(struct snap_writer *s, const char *name, const char *id, uint32_t version);
void snap_end(struct snap_writer *s);
/* Closes the container and writes it to fd at offset 0. -ENOMEM, -EFBIG, or the write's error. */
int snap_finish(struct snap_writer *s, int fd, struct err *e);

struct snap_record {
	char name[SNAP_NAME_MAX + 1], id[SNAP_NAME_MAX + 1];
	uint32_t version;
	struct rbuf payload; /* into the file's bytes */
};

struct snap_file {
	void *data;		 /* owned */
	struct snap_record *rec; /* owned */
	size_t n;
};

/* Reads and checks the whole container: structure, CRCs, end. -EINVAL says what is wrong where;
 * -EPROTONOSUPPORT for another format version. */
int snap_open(int fd, struct snap_file *out, struct err *e);
/* The same for bytes in memory (borrowed). */
int snap_parse(const void *data, size_t len, struct snap_file *out, struct err *e);
void snap_close(struct snap_file *f);
/* The one record of that name and id; -ENOENT names it. The reader starts at its beginning. */
int snap_find(const struct snap_file *f, const char *name, const char *id, uint32_t version,
	      struct rbuf *out, struct err *e);

#endif
