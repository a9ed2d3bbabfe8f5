/* SPDX-License-Identifier: MIT */
/*
 * What the stores hold, and what stands on what: listing, chains, removing. See template.h.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "base/util.h"
#include "snapshot/ram.h"
#include "template/manifest.h"
#include "template/store.h"

_Static_assert(TEMPLATE_CHAIN_MAX == RAM_LAYERS_MAX, "what is stored can be loaded");

static int by_name(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static int add_name(const char *name, char ***v, size_t *n, size_t *cap, struct err *e)
{
	size_t more = *cap * 2 + 16;
	char **w = *n == *cap ? realloc(*v, more * sizeof(**v)) : *v;

	if (!w)
		return err_set(e, ENOMEM, "out of memory");
	if (*n == *cap)
		*cap = more;
	*v = w;
	w[*n] = strdup(name);
	if (!w[*n])
		return err_set(e, ENOMEM, "out of memory");
	++*n;
	return 0;
}

static void free_names(char **v, size_t n)
{
	while (n)
		free(v[--n]);
	free(v);
}

int template_list(enum store where, char ***names, size_t *count, struct err *e)
{
	char path[PATH_MAX];
	int parent = store_open(where, path, sizeof(path), e);
	size_t n = 0, cap = 0;
	struct dirent *de;
	char **v = NULL;
	int ret = 0;
	DIR *list;

	if (parent < 0)
		return parent;
	template_sweep(parent);
	list = fdopendir(parent);
	if (!list) {
		ret = err_sys(e, errno, "%s", path);
		close(parent);
		return ret;
	}
	while (!ret && (de = readdir(list)))
		if (template_name_ok(de->d_name))
			ret = add_name(de->d_name, &v, &n, &cap, e);
	closedir(list);
	if (ret) {
		free_names(v, n);
		return err_wrap(e, ret, "list of %ss", store_word(where));
	}
	if (n)
		qsort(v, n, sizeof(*v), by_name);
	*names = v;
	*count = n;
	return 0;
}

/* The parent of t, which must be the one that was meant. */
static int open_parent(const struct template *t, struct template *out, struct err *e)
{
	const struct template_parent *p = &t->parent;
	int r = template_open(p->store, p->name, out, e);

	if (r == -ENOENT)
		r = err_set(e, EBADMSG, "the %s %s, which it stands on, is gone",
			    store_word(p->store), p->name);
	else if (!r && strcmp(out->sha256, p->sha256))
		r = err_set(e, EBADMSG, "the %s %s is not the one that it stands on",
			    store_word(p->store), p->name);
	return r ? err_wrap(e, r, "%s %s", store_word(t->store), t->name) : 0;
}

int template_chain(const struct template *t, struct template **chain, size_t *n, struct err *e)
{
	struct template *v = NULL, *more;
	size_t len = 0;
	int r = 0;

	/* newest first, then turned round */
	do {
		more = len < TEMPLATE_CHAIN_MAX ? reallocarray(v, len + 1, sizeof(*v)) : NULL;
		if (!more) {
			r = len < TEMPLATE_CHAIN_MAX
				    ? err_set(e, ENOMEM, "out of memory")
				    : err_set(e, E2BIG, "%s %s: a chain of more than %d",
					      store_word(t->store), t->name, TEMPLATE_CHAIN_MAX);
			break;
		}
		v = more;
		if (!len)
			v[0] = *t;
		else
			r = open_parent(&v[len - 1], &v[len], e);
		len += !r;
	} while (!r && v[len - 1].parent.name[0]);
	for (size_t i = 0; !r && i < len / 2; i++) {
		struct template swap = v[i];

		v[i] = v[len - 1 - i];
		v[len - 1 - i] = swap;
	}
	if (r) {
		free(v);
		return r;
	}
	*chain = v;
	*n = len;
	return 0;
}

int template_check_base(const struct template *base, struct err *e)
{
	struct template *chain = NULL;
	size_t n = 0;
	int r = template_chain(base, &chain, &n, e);

	free(chain);
	if (!r && n == TEMPLATE_CHAIN_MAX)
		r = err_set(e, E2BIG,
			    "%s %s is number %d of a chain, and nothing can stand on that: flatten "
			    "it, or store all of the memory",
			    store_word(base->store), base->name, TEMPLATE_CHAIN_MAX);
	return r;
}

/* Appends "word name" of all in a store that stand on where/name. */
static int add_dependents(enum store in, enum store where, const char *name, char *text, size_t cap,
			  struct err *e)
{
	struct template *t = malloc(sizeof(*t));
	char **names = NULL;
	size_t n = 0;
	int r = t ? template_list(in, &names, &n, e) : err_set(e, ENOMEM, "out of memory");

	for (size_t i = 0; i < n && !r; i++) {
		size_t at = strlen(text);

		r = template_open(in, names[i], t, e);
		/* for a moment without memory, jansson reads strings that are too short */
		if (r == -EBADMSG)
			r = template_open(in, names[i], t, e);
		/* a damaged one, or one that just went, stands on nothing any more */
		if (r == -EBADMSG || r == -EPROTONOSUPPORT || r == -ENOENT) {
			r = 0;
			continue;
		}
		if (r || strcmp(t->parent.name, name) || t->parent.store != where)
			continue;
		snprintf(text + at, cap - at, "%s%s %s", at ? ", " : "", store_word(in), names[i]);
	}
	free_names(names, n);
	free(t);
	return r;
}

int store_check_unused(enum store where, const char *name, struct err *e)
{
	char text[400] = "";
	int r = add_dependents(STORE_TEMPLATES, where, name, text, sizeof(text), e);

	if (!r)
		r = add_dependents(STORE_SNAPSHOTS, where, name, text, sizeof(text), e);
	if (!r && text[0])
		r = err_set(e, EBUSY, "%s %s is what others stand on: %s", store_word(where), name,
			    text);
	return r;
}

int template_rm(enum store where, const char *name, struct err *e)
{
	char path[PATH_MAX], gone[sizeof(STAGE_PREFIX) + TEMPLATE_NAME_MAX];
	cleanup_close int parent = -1, lock = -1, dir = -1;
	int r;

	if (!template_name_ok(name))
		return err_set(e, ENOENT, "'%.64s' is not a %s's name", name, store_word(where));
	lock = stores_lock(LOCK_EX, e);
	if (lock < 0)
		return lock;
	parent = store_open(where, path, sizeof(path), e);
	if (parent < 0)
		return parent;
	template_sweep(parent);
	r = store_check_unused(where, name, e);
	if (r)
		return r;
	/* First out of sight in one step: a removal that is cut short leaves only what a sweep
	 * takes. Locked, so that no sweep helps with this one. */
	dir = openat(parent, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	if (dir >= 0)
		(void)flock(dir, LOCK_EX | LOCK_NB);
	snprintf(gone, sizeof(gone), STAGE_PREFIX "%s", name);
	if (renameat2(parent, name, parent, gone, RENAME_NOREPLACE)) {
		if (errno == ENOENT)
			return err_set(e, ENOENT, "no %s is called %s", store_word(where), name);
		if (errno == EEXIST)
			return err_set(e, EBUSY, "%s %s is being replaced right now",
				       store_word(where), name);
		return err_sys(e, errno, "remove %s %s", store_word(where), name);
	}
	return store_remove(parent, gone, e);
}
