/* SPDX-License-Identifier: MIT */
/*
 * The module index: parses depmod's text files into one sorted table and walks it depth first.
 * Called by initrd.c on the privileged side; one thread per struct.
 */
#include "image/modules.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "image/tree.h"

#define MODULE_NAME_MAX 64
#define MODULES_MAX 65536	/* ten times what a distribution ships */
#define INDEX_FILE_MAX MIB(16)	/* modules.dep of a full kernel has 0.6 MiB */
#define MODULES_DEPTH_MAX 64	/* of the walk; real ones stay below ten */
#define MODULES_LOADED_MAX 1024 /* in one list */
#define SOFT_FILE_MAX KIB(256)	/* modules.softdep: read once for every module in the list */
#define ALIAS_LOOKUPS_MAX 256	/* each reads modules.alias */

enum mark { MARK_NEW, MARK_BUSY, MARK_DONE };

struct module {
	char name[MODULE_NAME_MAX];
	const char *path; /* relative to the directory; NULL: built in */
	char *deps;	  /* what followed the colon, in modules.dep's own buffer */
	unsigned line;
	enum mark mark;
};

struct modules {
	char *dir;
	char *dep, *builtin, *softdep, *alias; /* the files; the last two may be NULL */
	struct module *ent;		       /* sorted by name */
	size_t count, cap;
};

bool module_name(const char *path, char *buf, size_t n)
{
	const char *base = strrchr(path, '/'), *end;
	size_t len;

	base = base ? base + 1 : path;
	end = strstr(base, ".ko");
	if (!end || end == base || (end[3] && end[3] != '.'))
		return false;
	len = (size_t)(end - base);
	if (len >= n)
		return false;
	for (size_t i = 0; i < len; i++)
		buf[i] = (char)(base[i] == '-' ? '_' : base[i]);
	buf[len] = '\0';
	return true;
}

/* `name` as module_name would give it; false when it cannot be one. */
static bool canonical(const char *name, char *buf)
{
	size_t len = strlen(name);

	if (!len || len >= MODULE_NAME_MAX || strchr(name, '/'))
		return false;
	for (size_t i = 0; i <= len; i++)
		buf[i] = (char)(name[i] == '-' ? '_' : name[i]);
	return true;
}

/* A path out of an index that stays inside the directory. */
static bool path_inside(const char *path)
{
	size_t n = strlen(path);

	return path[0] && path[0] != '/' && strcmp(path, "..") && strncmp(path, "../", 3) &&
	       !strstr(path, "/../") && !(n >= 3 && !strcmp(path + n - 3, "/.."));
}

static int by_name(const void *a, const void *b)
{
	return strcmp(((const struct module *)a)->name, ((const struct module *)b)->name);
}

static struct module *find(const struct modules *m, const char *name)
{
	struct module key;

	if (!m->count || !canonical(name, key.name))
		return NULL;
	return bsearch(&key, m->ent, m->count, sizeof(*m->ent), by_name);
}

static int add(struct modules *m, const char *file, unsigned line, char *path, char *deps,
	       bool builtin, struct err *e)
{
	struct module *x;

	if (m->count == m->cap) {
		size_t cap = MAX(m->cap * 2, (size_t)1024);

		if (m->count >= MODULES_MAX)
			return err_set(e, EBADMSG, "%s/%s: more than %d modules", m->dir, file,
				       MODULES_MAX);
		x = reallocarray(m->ent, cap, sizeof(*x));
		if (!x)
			return err_sys(e, ENOMEM, "%s/%s", m->dir, file);
		m->ent = x;
		m->cap = cap;
	}
	x = &m->ent[m->count];
	if (!path_inside(path) || !module_name(path, x->name, sizeof(x->name)))
		return err_set(e, EBADMSG, "%s/%s: line %u: '%.80s' is no path of a module", m->dir,
			       file, line, path);
	x->path = builtin ? NULL : path;
	x->deps = deps;
	x->line = line;
	x->mark = MARK_NEW;
	m->count++;
	return 0;
}

static int parse_dep(struct modules *m, struct err *e)
{
	unsigned line = 0;
	char *rest = m->dep, *s, *colon;
	int r;

	while ((s = strsep(&rest, "\n"))) {
		line++;
		if (!*s || *s == '#')
			continue;
		colon = strchr(s, ':');
		if (!colon)
			return err_set(e, EBADMSG, "%s/modules.dep: line %u: no colon in '%.80s'",
				       m->dir, line, s);
		*colon = '\0';
		r = add(m, "modules.dep", line, s, colon + 1, false, e);
		if (r)
			return r;
	}
	return 0;
}

static int parse_builtin(struct modules *m, struct err *e)
{
	unsigned line = 0;
	char *rest = m->builtin, *s;
	int r;

	while ((s = strsep(&rest, "\n"))) {
		line++;
		r = *s ? add(m, "modules.builtin", line, s, NULL, true, e) : 0;
		if (r)
			return r;
	}
	return 0;
}

/* Sorted, and no name twice; a module of its own wins over a built-in one of the same name. */
static int sort_index(struct modules *m, struct err *e)
{
	size_t n = 0;

	if (!m->count)
		return 0;
	qsort(m->ent, m->count, sizeof(*m->ent), by_name);
	for (size_t i = 1; i < m->count; i++) {
		struct module *last = &m->ent[n], *x = &m->ent[i];

		if (strcmp(last->name, x->name)) {
			m->ent[++n] = *x;
		} else if (last->path && x->path) {
			return err_set(e, EBADMSG,
				       "%s/modules.dep: lines %u and %u are both for %s", m->dir,
				       MIN(last->line, x->line), MAX(last->line, x->line), x->name);
		} else if (x->path) {
			*last = *x;
		}
	}
	m->count = n + 1;
	return 0;
}

/* Reads one index file as a string; a missing one is *out = NULL unless it is required. */
static int read_index(const struct modules *m, const char *file, bool required, size_t max,
		      char **out, struct err *e)
{
	cleanup_free char *path = NULL;
	int r;

	if (asprintf(&path, "%s/%s", m->dir, file) < 0) {
		path = NULL;
		return err_sys(e, ENOMEM, "%s", file);
	}
	r = tree_read_text(path, max, out, e);
	if (r == -ENOENT && !required)
		return 0;
	if (r == -ENOENT)
		err_wrap(e, r, "no module index (depmod writes it)");
	return r;
}

int modules_open(const char *dir, struct modules **out, struct err *e)
{
	struct modules *m = calloc(1, sizeof(*m));
	int r = -ENOMEM;

	if (!m || !(m->dir = strdup(dir)))
		err_sys(e, ENOMEM, "%s", dir);
	else if (!(r = read_index(m, "modules.dep", true, INDEX_FILE_MAX, &m->dep, e)) &&
		 !(r = read_index(m, "modules.builtin", false, INDEX_FILE_MAX, &m->builtin, e)) &&
		 !(r = read_index(m, "modules.softdep", false, SOFT_FILE_MAX, &m->softdep, e)) &&
		 !(r = read_index(m, "modules.alias", false, INDEX_FILE_MAX, &m->alias, e)) &&
		 !(r = parse_dep(m, e)) && !(r = parse_builtin(m, e)))
		r = sort_index(m, e);
	if (r) {
		modules_close(m);
		return r;
	}
	*out = m;
	return 0;
}

void modules_close(struct modules *m)
{
	if (!m)
		return;
	free(m->dir);
	free(m->dep);
	free(m->builtin);
	free(m->softdep);
	free(m->alias);
	free(m->ent);
	free(m);
}

const char *modules_dir(const struct modules *m)
{
	return m->dir;
}

bool modules_has(const struct modules *m, const char *name)
{
	return find(m, name);
}

void module_list_init(struct module_list *l, struct modules *m)
{
	*l = (struct module_list){ .of = m };
	for (size_t i = 0; i < m->count; i++)
		m->ent[i].mark = MARK_NEW;
}

void module_list_fini(struct module_list *l)
{
	free(l->path);
	l->path = NULL;
	l->count = 0;
}

static int append(struct module_list *l, struct module *x, struct err *e)
{
	if (l->count >= MODULES_LOADED_MAX)
		return err_set(e, EBADMSG, "%s/modules.dep: more than %d modules to load",
			       l->of->dir, MODULES_LOADED_MAX);
	if (x->path) {
		const char **p = reallocarray(l->path, l->count + 1, sizeof(*p));

		if (!p)
			return err_sys(e, ENOMEM, "list of modules");
		l->path = p;
		l->path[l->count++] = x->path;
	}
	x->mark = MARK_DONE;
	return 0;
}

static int walk(struct module_list *l, struct module *x, unsigned depth, struct err *e);

/*
 * A soft dependency may be an alias ("crypto-crc32c"); every module that offers it is wanted then,
 * as modprobe does it. It is a hint: what cannot be found, or is being loaded already, is left out.
 */
static int walk_soft_name(struct module_list *l, const char *name, unsigned depth, struct err *e)
{
	struct module *x = find(l->of, name);
	char want[MODULE_NAME_MAX], have[MODULE_NAME_MAX];
	int r;

	if (x)
		return x->mark == MARK_NEW ? walk(l, x, depth, e) : 0;
	if (!l->of->alias || !canonical(name, want) || l->lookups++ >= ALIAS_LOOKUPS_MAX)
		return 0;
	for (const char *s = l->of->alias; s; s = strchr(s, '\n')) {
		char alias[MODULE_NAME_MAX], target[MODULE_NAME_MAX];

		s += *s == '\n';
		if (sscanf(s, "alias %63[^ \n] %63[^ \n]", alias, target) != 2 ||
		    !canonical(alias, have) || strcmp(want, have))
			continue;
		x = find(l->of, target);
		r = x && x->mark == MARK_NEW ? walk(l, x, depth, e) : 0;
		if (r)
			return r;
	}
	return 0;
}

/* Follows the lines "softdep NAME pre: A B post: C" of x, those before or those after it. */
static int walk_soft(struct module_list *l, const struct module *x, const char *when,
		     unsigned depth, struct err *e)
{
	const char *s = l->of->softdep;

	for (; s; s = strchr(s, '\n')) {
		cleanup_free char *copy = NULL;
		char *rest, *word, name[MODULE_NAME_MAX];
		bool on = false;

		s += *s == '\n';
		if (strncmp(s, "softdep ", 8))
			continue;
		copy = strndup(s + 8, strcspn(s + 8, "\n"));
		if (!copy)
			return err_sys(e, ENOMEM, "modules.softdep");
		rest = copy;
		word = strsep(&rest, " ");
		if (!canonical(word, name) || strcmp(name, x->name))
			continue;
		while ((word = strsep(&rest, " "))) {
			size_t n = strlen(word);
			int r = 0;

			if (n && word[n - 1] == ':')
				on = !strcmp(word, when);
			else if (n && on)
				r = walk_soft_name(l, word, depth, e);
			if (r)
				return r;
		}
	}
	return 0;
}

/* modules.dep names what a module needs with the first to load last. */
static int walk_hard(struct module_list *l, const struct module *x, unsigned depth, struct err *e)
{
	size_t end = strlen(x->deps), start;
	int r;

	for (; end; end = start) {
		char path[512], name[MODULE_NAME_MAX];
		struct module *dep;

		for (start = end; start && x->deps[start - 1] != ' ';)
			start--;
		if (start == end) {
			start--;
			continue;
		}
		snprintf(path, sizeof(path), "%.*s", (int)MIN(end - start, sizeof(path)),
			 x->deps + start);
		dep = module_name(path, name, sizeof(name)) ? find(l->of, name) : NULL;
		if (!dep)
			return err_set(e, EBADMSG,
				       "%s/modules.dep: line %u: %s needs '%.80s', which has "
				       "no line of its own",
				       l->of->dir, x->line, x->name, path);
		r = walk(l, dep, depth, e);
		if (r)
			return r;
	}
	return 0;
}

static int walk(struct module_list *l, struct module *x, unsigned depth, struct err *e)
{
	int r;

	if (x->mark == MARK_DONE)
		return 0;
	if (x->mark == MARK_BUSY || depth >= MODULES_DEPTH_MAX)
		return err_set(e, ELOOP, "%s/modules.dep: line %u: %s needs itself in the end",
			       l->of->dir, x->line, x->name);
	if (!x->path)
		return append(l, x, e);
	x->mark = MARK_BUSY;
	r = walk_soft(l, x, "pre:", depth + 1, e);
	if (!r)
		r = walk_hard(l, x, depth + 1, e);
	if (!r)
		r = append(l, x, e);
	return r ? r : walk_soft(l, x, "post:", depth + 1, e);
}

int module_list_add(struct module_list *l, const char *name, struct err *e)
{
	struct module *x = find(l->of, name);

	if (!x)
		return err_set(e, ENOENT, "no module %s in %s, and it is not built in", name,
			       l->of->dir);
	return walk(l, x, 0, e);
}
