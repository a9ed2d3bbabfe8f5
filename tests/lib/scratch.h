/* SPDX-License-Identifier: MIT */
/*
 * A scratch directory for a test and the files in it. Everything asserts: a test that cannot make
 * its own files fails.
 */
#ifndef CLONE_TESTS_SCRATCH_H
#define CLONE_TESTS_SCRATCH_H

#include <stddef.h>

/* Makes a fresh directory; its path is the caller's to pass to scratch_remove. */
char *scratch_make(void);
/* Removes it with all that is in it, and frees the path. */
void scratch_remove(char *dir);

/* cmocka's, before and after: *state is one that is $CLONE_STATE_DIR. */
int scratch_state_setup(void **state);
int scratch_state_teardown(void **state);

/* dir/name; valid until the eighth call after. */
const char *scratch_path(const char *dir, const char *name);

/* Writes dir/name with its parents. */
void scratch_write(const char *dir, const char *name, const void *data, size_t n);
void scratch_text(const char *dir, const char *name, const char *text);

/* Runs a shell command that must succeed; returns its stdout (free it). */
char *scratch_sh(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

#endif
