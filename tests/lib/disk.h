/* SPDX-License-Identifier: MIT */
/*
 * A disk beside a plain array that says what it must hold: random requests go to both, and every
 * read is compared. Used by the block tests, also in forked children, where cmocka's assertions
 * must not run: functions return false and print what differed.
 */
#ifndef CLONE_TESTS_DISK_H
#define CLONE_TESTS_DISK_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "block/blk.h"
#include "event/fdtab.h"
#include "event/loop.h"

struct disk {
	pthread_mutex_t lock;
	struct loop *loop;
	struct fdtab *fds;
	struct blk *blk;
	uint64_t size, base_size, rng, unit; /* unit: what a discard frees whole */
	uint8_t *model;
	int base_fd; /* a second descriptor of the base, for more disks over it; -1 */
};

/* An empty file without a name, opened read-write. */
int disk_file(void);
/* The same file again, read-only. */
int disk_reopen(int fd);
/* A raw file (owned) as a disk's base; -1: NULL. */
struct source *disk_base(int fd);
uint64_t disk_random(struct disk *d, uint64_t below);

/* A disk of size bytes over a random base of base_size bytes (0: none); aborts on failure. */
void disk_open(struct disk *d, uint64_t size, uint64_t base_size, uint64_t seed);
/* A disk over a source (owned) that holds what is in the file `content`. */
void disk_open_over(struct disk *d, struct source *base, const char *content, uint64_t seed);
/* A disk that is written in place: base is NULL for a raw file. All owned but content. */
void disk_open_in(struct disk *d, enum blk_writes writes, struct source *base, int data_fd,
		  const char *content, uint64_t unit, uint64_t seed);
/* Another disk over the same base, not adopted yet; its model is the base. */
void disk_open_again(struct disk *d, const struct disk *other);
void disk_adopt(struct disk *d);
void disk_close(struct disk *d);

/* The disk grows, and so does its model: blk_grow's result. */
int disk_grow(struct disk *d, uint64_t size);

/* One request, waited for; returns its result. buf may be NULL for other than READ and WRITE. */
int disk_do(struct disk *d, enum blk_op op, uint64_t off, void *buf, uint64_t len);
/* Up to n random requests at once, overlapping as they may, then all waited for. */
bool disk_storm(struct disk *d, unsigned int n);
/* Is every byte as the model says? */
bool disk_matches(struct disk *d);
/* In a fork's child: sweep, new loop, adopt with a fresh file. */
bool disk_child(struct disk *d);

#endif
