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

#endif
