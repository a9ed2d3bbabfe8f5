/* SPDX-License-Identifier: MIT */
/*
 * Failing the Nth call. A program linked with inject.o has its own malloc, open, ioctl and so on in
 * front of the C library's, also for what libraries call (libevent, jansson, liburing and the C
 * library itself). They only count, and make one call of the process fail, while armed; KVM_RUN is
 * left alone.
 */
#ifndef CLONE_TESTS_INJECT_H
#define CLONE_TESTS_INJECT_H

#include <stdbool.h>

#define INJECT_FRAMES 12

/* What was made to fail. */
struct injected {
	const char *call;  /* "malloc"; NULL: nothing */
	unsigned long arg; /* the ioctl's number, the size asked for, else 0 */
	void *frames[INJECT_FRAMES];
	int nr_frames;
};

/* Before the first fork of the test: whatever finds and symbolises frames is loaded. */
void inject_init(void);

/*
 * The nth call from now on fails, on whichever thread. `out` (shared memory: it outlives a crash)
 * says which it was. A process that forks meanwhile goes on armed; its child is not.
 */
void inject_arm(unsigned int nth, struct injected *out);
/* The next child of this process is armed so, from fork(2)'s return on; this process is not. */
void inject_arm_child(unsigned int nth, struct injected *out);
/* No call fails any more. true: one did. */
bool inject_disarm(void);
/* What this thread calls from here on does not count: the test's own calls. Nests. */
void inject_hold(void);
void inject_release(void);

#endif
