/* SPDX-License-Identifier: MIT */
/*
 * What the checks of clone doctor share: cmd_doctor.c has the table and the host, doctor_memory.c
 * what the kernel does with memory. Each check looks at one thing and changes nothing. One thread.
 */
#ifndef CLONE_CLI_DOCTOR_H
#define CLONE_CLI_DOCTOR_H

#include <stdbool.h>
#include <stddef.h>

enum status { OK, WARN, FAIL };

struct finding {
	char found[400];
	char advice[400];
};

struct check {
	const char *name;
	enum status (*look)(const struct check *c, struct finding *f);
	const char *arg, *advice; /* look's own; advice is copied when the look gave none */
};

/* Fills in what was found; returns s. */
enum status doctor_say(struct finding *f, enum status s, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
/* The first line of a small file of the kernel's; false when it cannot be read. */
bool doctor_line(const char *path, char *buf, size_t n);

/* arg: the directory of KSM's settings; the mount of cgroup v2; the directory of huge pages'
 * settings; /proc/swaps; the file of the setting. */
enum status look_ksm(const struct check *c, struct finding *f);
enum status look_cgroup(const struct check *c, struct finding *f);
enum status look_quota(const struct check *c, struct finding *f);
enum status look_thp(const struct check *c, struct finding *f);
enum status look_swap(const struct check *c, struct finding *f);
enum status look_overcommit(const struct check *c, struct finding *f);

#endif
