/* SPDX-License-Identifier: MIT */
/*
 * A bzImage of a few instructions: counts in guest memory and writes a port on each turn. Runs on
 * any /dev/kvm, even one that only emulates.
 */
#ifndef TESTS_LIB_TINY_KERNEL_H
#define TESTS_LIB_TINY_KERNEL_H

#include <stddef.h>
#include <stdint.h>

struct vm;
struct err;

#define TINY_COUNTER_GPA 0x2000000ull /* u64, incremented before each port write */
#define TINY_PORT 0x80

/* A memfd with a bzImage whose 64-bit entry runs `code` (the caller closes it). */
int tiny_kernel_code(const void *code, size_t n);
/* The counting guest. */
int tiny_kernel_counter(void);

/* A guest with memory to save: fills this much with one word before it counts. */
#define TINY_LARGE_GPA 0x4000000ull
#define TINY_LARGE_BYTES (16ull << 20)
#define TINY_LARGE_WORD 0x12345678ull
int tiny_kernel_large(void);

/* The disk "root", raw, which was granted as "base". As vm_add_disk. */
int tiny_add_disk(struct vm *vm, struct err *e);

#endif
