/* SPDX-License-Identifier: MIT */
/*
 * Small things read of a process, shared by proc.c and about.c. Private to src/account.
 */
#ifndef CLONE_ACCOUNT_PROC_INT_H
#define CLONE_ACCOUNT_PROC_INT_H

#include "account/account.h"

/* The line "Key: N kB" of /proc/PID/name in bytes, or ACCOUNT_UNKNOWN. */
uint64_t proc_kb(const struct account_proc *p, const char *name, const char *key);
/* What the kernel charges p's control group for itself, if p is alone in it; else
 * ACCOUNT_UNKNOWN. */
uint64_t proc_cgroup_kernel(const struct account_proc *p);
/* Bytes of what is mapped of a file, by p among others, that are in the page cache; ACCOUNT_UNKNOWN
 * when it cannot be looked at, or is larger than any machine's. */
uint64_t proc_cached(struct account_proc *p, const struct account_file *f);

#endif
