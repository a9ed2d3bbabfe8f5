/* SPDX-License-Identifier: MIT */
/*
 * An operation again and again, each time in a process of its own: its first call fails, then its
 * second, until it had none left to fail. Every time it must end in an error with a story or in
 * success, and leave no descriptor and (under AddressSanitizer) no memory behind.
 */
#ifndef CLONE_TESTS_SWEEP_H
#define CLONE_TESTS_SWEEP_H

#include <stdint.h>

#include "base/err.h"
#include "tests/inject/inject.h"

struct sweep_op {
	const char *name;
	/* Before anything fails. NULL: nothing to do. */
	void (*setup)(void *arg);
	/* Armed. 0, or -errno with e filled. */
	int (*run)(void *arg, struct err *e);
	/* Not armed any more: what must still hold after that result (exits by sweep_fail), and the
	 * end of what setup and run left. NULL: nothing to do. */
	void (*after)(void *arg, int ret);
	/* The operation arms itself (a part of it, or a child). */
	bool arms;
	/* At least so many calls can fail: a sweep that reaches nothing is no test. */
	unsigned int min;
};

/* Where an operation that arms itself reports to, and which call it is to make fail. */
struct sweep_now {
	unsigned int nth;
	struct injected injected;
	int ret;
	bool hit, done;
	char msg[ERR_MSG_MAX];
	char why[ERR_MSG_MAX]; /* from sweep_fail */
};
extern struct sweep_now *sweep_now;

/* arg is copied by fork(2), so that every run finds it as it was. Fails the cmocka test. */
void sweep(const struct sweep_op *op, void *arg);
/* The run at hand has failed: says why, and ends its process. */
_Noreturn void sweep_fail(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

#endif
