/* SPDX-License-Identifier: MIT */
/*
 * qcow2 images as QEMU's tools make them, for tests that read or write such. Everything asserts.
 */
#ifndef CLONE_TESTS_QCOW2_H
#define CLONE_TESTS_QCOW2_H

#include <stdbool.h>
#include <stdint.h>

#define QCOW2_CHAIN 6u /* files of the chain */

struct disk;
struct source;

/* Below `below`; the same sequence in every run. */
uint64_t qcow2_random(uint64_t below);
/* dir/name: runs of random bytes, of one byte, and of nothing. */
void qcow2_make_raw(const char *dir, const char *name, uint64_t bytes);
/* Changes a qcow2 file by QEMU's hand: writes, zeroes, discards. */
void qcow2_scribble(const char *path, uint64_t bytes, unsigned int times);

/* Files dir/0 to dir/5, each standing on the one before, of all cluster sizes, shorter and longer
 * than what they stand on. dir/0 is raw, or a compressed qcow2. */
void qcow2_chain_make(const char *dir, bool packed);
/* The chain of the first n of them. */
struct source *qcow2_chain_open(const char *dir, unsigned int n);
/* What QEMU reads there, as the raw file dir/name. */
void qcow2_chain_content(const char *dir, unsigned int n, const char *name);

/* The disk that writes to dir/top, which stands on dir/below if `below`; what is in it is left as
 * dir/all. */
void qcow2_top_open(struct disk *d, const char *dir, bool below, uint64_t unit, uint64_t seed);
/* Closes it; QEMU must find it whole, and in it what the model says. */
void qcow2_top_close(struct disk *d, const char *dir);

#endif
