/* SPDX-License-Identifier: MIT */
/*
 * Grants: a bounded list of named descriptors. See grants.h. Main thread only.
 */
#include "event/grants.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/util.h"

struct grant {
	char *name;
	int fd;
	const void *owner; /* NULL: nobody's */
};

struct grants {
	struct fdtab *fds;
	struct grant *v;
	size_t n, cap;
};

int grants_create(struct fdtab *fds, struct grants **out, struct err *e)
{
	struct grants *g = calloc(1, sizeof(*g));

	if (!g)
		return err_set(e, ENOMEM, "grants: out of memory");
	g->fds = fds;
	*out = g;
	return 0;
}

static struct grant *find(struct grants *g, const char *name)
{
	for (size_t i = 0; i < g->n; i++)
		if (!strcmp(g->v[i].name, name))
			return &g->v[i];
	return NULL;
}

static size_t owned(const struct grants *g)
{
	size_t n = 0;

	for (size_t i = 0; i < g->n; i++)
		n += g->v[i].owner != NULL;
	return n;
}

static void forget(struct grants *g, struct grant *x)
{
	free(x->name);
	*x = g->v[--g->n];
}

void grants_destroy(struct grants *g)
{
	if (!g)
		return;
	grants_drop(g, "");
	free(g->v);
	free(g);
}

int grants_put_of(struct grants *g, const char *name, int fd, const void *owner, struct err *e)
{
	char *copy = NULL;
	int ret;

	if (strlen(name) > GRANT_NAME_MAX) {
		ret = err_set(e, EINVAL, "grant: name longer than %d bytes", GRANT_NAME_MAX);
		goto fail;
	}
	if (find(g, name)) {
		ret = err_set(e, EEXIST, "grant: '%s' was passed twice", name);
		goto fail;
	}
	if (owner && owned(g) >= GRANTS_MAX) {
		ret = err_set(e, ENOSPC, "grant: more than %d descriptors wait", GRANTS_MAX);
		goto fail;
	}
	if (g->n == g->cap) {
		size_t cap = MAX(g->cap * 2, (size_t)16);
		struct grant *v = realloc(g->v, cap * sizeof(*v));

		if (!v) {
			ret = err_set(e, ENOMEM, "grant: out of memory");
			goto fail;
		}
		g->v = v;
		g->cap = cap;
	}
	copy = strdup(name);
	if (!copy) {
		ret = err_set(e, ENOMEM, "grant: out of memory");
		goto fail;
	}
	g->v[g->n++] = (struct grant){ .name = copy, .fd = fd, .owner = owner };
	fdtab_add(g->fds, fd, FD_CLOSE, "grant");
	return 0;
fail:
	close(fd);
	return ret;
}

int grants_put(struct grants *g, const char *name, int fd, struct err *e)
{
	return grants_put_of(g, name, fd, NULL, e);
}

int grants_take(struct grants *g, const char *name, struct err *e)
{
	struct grant *x = find(g, name);
	int fd;

	if (!x)
		return err_set(e, ENOENT, "no descriptor was passed for '%s'", name);
	fd = x->fd;
	forget(g, x);
	return fd;
}

int grants_peek(struct grants *g, const char *name)
{
	struct grant *x = find(g, name);

	return x ? x->fd : -1;
}

static void drop(struct grants *g, struct grant *x)
{
	fdtab_del(g->fds, x->fd);
	close(x->fd);
	forget(g, x);
}

void grants_drop(struct grants *g, const char *prefix)
{
	size_t len = strlen(prefix);

	for (size_t i = g->n; i-- > 0;)
		if (!strncmp(g->v[i].name, prefix, len))
			drop(g, &g->v[i]);
}

void grants_drop_of(struct grants *g, const void *owner)
{
	for (size_t i = g->n; i-- > 0;)
		if (g->v[i].owner == owner)
			drop(g, &g->v[i]);
}

void grants_each(const struct grants *g, const char *prefix,
		 bool (*fn)(void *arg, const char *rest, int fd), void *arg)
{
	size_t len = strlen(prefix);

	for (size_t i = 0; i < g->n; i++)
		if (!strncmp(g->v[i].name, prefix, len) && !fn(arg, g->v[i].name + len, g->v[i].fd))
			return;
}

void grants_child(struct grants *g, const char *prefix)
{
	size_t len = prefix ? strlen(prefix) : 0, kept = 0;

	/* The fd table's sweep closes the others. Their names stay: to free one is to have a copy
	 * of its page, and each of the parent's living children may have left one. */
	for (size_t i = 0; i < g->n; i++) {
		struct grant x = g->v[i];

		if (!prefix || strncmp(x.name, prefix, len) != 0)
			continue;
		memmove(x.name, x.name + len, strlen(x.name + len) + 1);
		x.owner = NULL; /* the parent's connection does not exist here */
		fdtab_set(g->fds, x.fd, FD_KEEP);
		g->v[kept++] = x;
	}
	g->n = kept;
}
