/* SPDX-License-Identifier: MIT */
/*
 * What unit tests of a tiny guest's VM process (tiny_seed.h) have in common. What is not said to
 * return -errno fails the test itself. One thread.
 */
#ifndef CLONE_TESTS_TINY_WORLD_H
#define CLONE_TESTS_TINY_WORLD_H

#include "tests/lib/tiny_seed.h"

struct ram_layer;

/* A VM named "tiny" with what it is made of, in a $CLONE_RUN_DIR of its own. */
struct tiny_world {
	char *dir;
	int kernel;
	struct tiny_snapshot f;
	struct vmproc p;
};

/* cmocka's, before and after a test: the VM counts. */
int tiny_world_setup(void **state);
int tiny_world_teardown(void **state);

/* GET of its API: the reply is the caller's. */
json_t *tiny_get(struct vmproc *p, const char *path);
/* A request with this JSON as its body. -errno as vmproc_request. */
int tiny_send(struct vmproc *p, const char *method, const char *path, const char *text,
	      struct err *e);

/* RAM as one snapshot has it, or one of a chain: for ram_layer_close. */
void tiny_ram_open(const struct tiny_snapshot *s, struct ram_layer *l);

/* Kills and reaps all children; of a subreaper, also whom they leave to it. */
void tiny_end_children(void);

#endif
