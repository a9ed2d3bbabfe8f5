/* SPDX-License-Identifier: MIT */
/*
 * Small files of the kernel's.
 */
#ifndef CLONE_AGENT_PROCFS_H
#define CLONE_AGENT_PROCFS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The file's beginning, NUL-terminated; false if it cannot be read. */
bool procfs_read(const char *path, char *buf, size_t cap);
/* False if it cannot be written. */
bool procfs_write(const char *path, const char *value);
/* A value of /proc/meminfo ("MemFree") in bytes; 0 if unknown. */
uint64_t procfs_mem(const char *key);

struct procfs_want {
	const char *key;
	uint64_t *value;
};
/* The numbers of a file of lines "KEY NUMBER" or "KEY: NUMBER" for n keys, added to what is there;
 * false if it cannot be read. */
bool procfs_numbers(const char *path, const struct procfs_want *want, size_t n);
/* Ticks of all CPUs since boot. Waiting for a disk is work that will be done, so busy; what the
 * host's other guests steal is no work of this one's and does not count at all. */
bool procfs_cpu(uint64_t *total, uint64_t *idle);

#endif
