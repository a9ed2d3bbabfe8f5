/* SPDX-License-Identifier: MIT */
/*
 * /proc/self/maps against what is known. See maps.h and proc(5). Main thread.
 */
#include "event/maps.h"

#include <errno.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"

struct mapping {
	uint64_t from, to;
	char perms[5];
	char path[256]; /* "" or in brackets: no file */
};

static bool parse(const char *line, struct mapping *m)
{
	int at = 0;

	if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %4s %*x %*s %*u %n", &m->from, &m->to, m->perms,
		   &at) != 3 ||
	    !at)
		return false;
	snprintf(m->path, sizeof(m->path), "%s", line + at);
	m->path[strcspn(m->path, "\n")] = '\0';
	return true;
}

/* Programs and libraries are mapped in parts, and one of them is code. */
static bool is_program(FILE *maps, const char *path)
{
	long here = ftell(maps);
	bool found = false;
	struct mapping m;
	char line[512];

#ifdef __SANITIZE_THREAD__
	/* how the sanitizer marks constants */
	if (!strncmp(path, "/tmp/tsan.rodata.", 17))
		return true;
#endif
	rewind(maps);
	while (!found && fgets(line, sizeof(line), maps))
		found = parse(line, &m) && m.perms[2] == 'x' && !strcmp(m.path, path);
	fseek(maps, here, SEEK_SET);
	return found;
}

/* NULL: nothing is wrong with it. */
static const char *complaint(FILE *maps, const struct mapping *m, const struct map_range *known,
			     size_t n, const char **who)
{
	bool shared = m->perms[3] == 's';

	*who = m->path[0] ? m->path : "anonymous";
	for (size_t i = 0; i < n; i++) {
		uint64_t at = (uintptr_t)known[i].at, end = at + known[i].len;

		if (m->to <= at || m->from >= end)
			continue;
		*who = known[i].who;
		if (m->from < at || m->to > end)
			return "reaches beyond its range";
		return shared && !known[i].shared ? "is shared" : NULL;
	}
	if (shared)
		return "is shared, and in no table";
	if (m->path[0] && m->path[0] != '[' && !is_program(maps, m->path))
		return "is a file's, and in no table";
	return NULL;
}

int maps_unknown(const struct map_range *known, size_t n, struct err *e)
{
	FILE *maps = fopen("/proc/self/maps", "re");
	char line[512];
	int unknown = 0;

	if (!maps)
		return err_sys(e, errno, "/proc/self/maps");
	while (fgets(line, sizeof(line), maps)) {
		const char *what, *who;
		struct mapping m;

		if (!parse(line, &m))
			continue;
		what = complaint(maps, &m, known, n, &who);
		if (what && !unknown++)
			err_set(e, EBADF, "mapping %#" PRIx64 "-%#" PRIx64 " (%s) %s", m.from, m.to,
				who, what);
	}
	fclose(maps);
	return unknown;
}
