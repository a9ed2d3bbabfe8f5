/* SPDX-License-Identifier: MIT */
/*
 * An error is an errno and a story. The first to know says what, with numbers; each caller puts
 * what it was doing in front: "restore vda: queue 0: size 300 exceeds 256". Whoever handles the
 * error prints it, once. Buffers are fixed, so that reporting "out of memory" needs none.
 */
#ifndef CLONE_BASE_ERR_H
#define CLONE_BASE_ERR_H

#define ERR_MSG_MAX 512

struct err {
	char msg[ERR_MSG_MAX];
};

/*
 * Start the story; returns -errnum so that `return err_set(e, EINVAL, ...)` reads well. e may be
 * NULL (the caller only wants the number).
 */
int err_set(struct err *e, int errnum, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* As err_set, with ": <strerror(errnum)>" appended: for failures of system calls. */
int err_sys(struct err *e, int errnum, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* Put what the caller was doing in front ("doing: story"); returns ret unchanged. */
int err_wrap(struct err *e, int ret, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

#endif
