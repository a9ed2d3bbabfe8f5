/* SPDX-License-Identifier: MIT */
/*
 * The records of a state file that are not devices. A file holds, in this order: "machine"
 * (struct machine_cfg), "ram" (extents of the RAM file), "cfg" and "state" records of each device
 * in registry order (the record's name is the class, prefixed "cfg:" for the cfg), "end".
 */
#ifndef CLONE_SNAPSHOT_RECORDS_H
#define CLONE_SNAPSHOT_RECORDS_H

#include "device/field.h"
#include "mem/gmem.h"

/* Each extent is two mappings in every fork: few enough that fork(2) does not notice. */
#define RAM_EXTENTS_MAX 512
/* Gaps of zeroes shorter than this are stored rather than mapped apart. */
#define RAM_MERGE_BYTES (64u << 10)
#define RAM_RECORD_VERSION 1u

struct ram_record {
	uint64_t size_bytes;
	uint32_t nr_extents;
	struct gmem_extent extents[RAM_EXTENTS_MAX];
};
extern const struct field_table ram_record_table;

#endif
