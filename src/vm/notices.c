/* SPDX-License-Identifier: MIT */
/* See notices.h. */
#include "vm/notices.h"

#include <stdio.h>
#include <string.h>

#include "base/time.h"
#include "base/util.h"

static struct notice *find(struct notices *s, const char *kind, const char *who)
{
	struct notice *oldest = &s->n[0];

	for (unsigned int i = 0; i < NOTICES_MAX; i++) {
		struct notice *n = &s->n[i];

		if (n->count && !strcmp(n->kind, kind) && !strcmp(n->who, who))
			return n;
		if (n->number < oldest->number)
			oldest = n;
	}
	memset(oldest, 0, sizeof(*oldest));
	return oldest;
}

void notices_add(struct notices *s, const char *kind, const char *who, const char *detail)
{
	struct notice *n = find(s, kind, who);

	n->last_ms = time_real_ns() / NS_PER_MS;
	if (!n->count++) {
		n->first_ms = n->last_ms;
		snprintf(n->kind, sizeof(n->kind), "%s", kind);
		snprintf(n->who, sizeof(n->who), "%s", who);
	}
	n->number = ++s->number;
	snprintf(n->detail, sizeof(n->detail), "%s", detail);
	log_guest(&s->log, "%s: %s: %s", who, kind, detail);
}

void notices_clear(struct notices *s)
{
	memset(s, 0, sizeof(*s));
}
