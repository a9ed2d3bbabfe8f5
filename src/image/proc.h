/* SPDX-License-Identifier: MIT */
/*
 * Runs the programs an image build is made of (mmdebstrap, apt-get, mke2fs, ...), without a shell,
 * with a clean environment, and so that they do not outlive the build. Privileged side only.
 */
#ifndef CLONE_IMAGE_PROC_H
#define CLONE_IMAGE_PROC_H

#include <stdbool.h>

#include "base/err.h"

/*
 * Runs argv to its end with stdin from /dev/null (or `input`) and C locale; env (NULL-terminated
 * "K=V", or NULL) is added to a minimal environment. Each line of stdout and stderr goes to the log
 * file and to line(arg, text). argv[0] is looked up in PATH and the sbin directories. log: open for
 * appending, or -1. -ENOENT when the program is not installed, -EIO when it fails: the story then
 * holds its last lines.
 */
struct proc {
	const char *const *argv;
	const char *const *env;
	const char *cwd;   /* NULL: ours */
	const char *input; /* its stdin; NULL: nothing */
	int log;
	void (*line)(void *arg, const char *text); /* NULL: not told */
	void *arg;
	bool own_mounts; /* whatever it mounts disappears with it; needs root */
	int keep_fd;	 /* stays open in the program and what it starts (a lock); -1: none */
};

int proc_run(const struct proc *p, struct err *e);

/* Runs argv and returns its stdout as a string (at most 1 MiB), freed by the caller. */
int proc_capture(const char *const *argv, char **out, struct err *e);

/* 0 when `program` is installed, else -ENOENT with the Debian package that has it in the story. */
int proc_have(const char *program, const char *package, struct err *e);

#endif
