/* SPDX-License-Identifier: MIT */
/*
 * Turns lists of a frame into NULL-terminated vectors in one block of memory: the pointers, then
 * the strings. Called by exec.c on the agent's thread.
 */
#include "args.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct vec {
	char **v;
	size_t n;
	char *text; /* where the next string goes */
};

static size_t list_bytes(struct proto_list l)
{
	struct proto_slice s;
	size_t n = 0;

	while (proto_list_next(&l, &s))
		n += s.len + 1;
	return n;
}

static bool vec_init(struct vec *x, size_t strings, size_t bytes)
{
	x->n = 0;
	x->v = malloc((strings + 1) * sizeof(char *) + bytes);
	if (!x->v)
		return false;
	x->v[0] = NULL;
	x->text = (char *)(x->v + strings + 1);
	return true;
}

static char *vec_text(struct vec *x, struct proto_slice s)
{
	char *t = x->text;

	memcpy(t, s.p, s.len);
	t[s.len] = '\0';
	x->text += s.len + 1;
	return t;
}

static void vec_add(struct vec *x, char *t)
{
	x->v[x->n++] = t;
	x->v[x->n] = NULL;
}

char **args_argv(struct proto_list argv)
{
	struct proto_slice s;
	struct vec x;

	if (!vec_init(&x, argv.count, list_bytes(argv)))
		return NULL;
	while (proto_list_next(&argv, &s))
		vec_add(&x, vec_text(&x, s));
	return x.v;
}

/* Adds KEY=VALUE or puts it in the place of what KEY was. */
static void env_set(struct vec *x, char *t)
{
	size_t key = (size_t)(strchr(t, '=') - t) + 1;

	for (size_t i = 0; i < x->n; i++) {
		if (!strncmp(x->v[i], t, key)) {
			x->v[i] = t;
			return;
		}
	}
	vec_add(x, t);
}

static void env_default(struct vec *x, const char *key, const char *value)
{
	char *t = x->text;

	x->text += sprintf(t, "%s=%s", key, value) + 1;
	vec_add(x, t);
}

char **args_envp(struct proto_list env, const struct user *u, bool tty)
{
	struct proto_slice s;
	struct vec x;

	/* Room for 7 defaults: 4 fields of the user's, and constants far shorter than a field. */
	if (!vec_init(&x, env.count + 7u, list_bytes(env) + 8u * USER_FIELD))
		return NULL;
	env_default(&x, "PATH",
		    u->uid ? "/usr/local/bin:/usr/bin:/bin"
			   : "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
	env_default(&x, "HOME", u->home);
	env_default(&x, "SHELL", u->shell);
	env_default(&x, "LANG", "C.UTF-8");
	if (u->name[0]) {
		env_default(&x, "USER", u->name);
		env_default(&x, "LOGNAME", u->name);
	}
	if (tty)
		env_default(&x, "TERM", "xterm-256color");
	while (proto_list_next(&env, &s))
		env_set(&x, vec_text(&x, s));
	return x.v;
}
