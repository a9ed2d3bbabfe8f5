/* SPDX-License-Identifier: MIT */
/*
 * Table-driven reading of JSON objects, and JSON files. See json.h.
 */
#include "control/json.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/fd.h"
#include "base/util.h"

#define TEXT_MAX (64u << 20)

json_t *json_number(uint64_t v)
{
	return json_integer(v > INT64_MAX ? INT64_MAX : (json_int_t)v);
}

bool json_id_ok(const char *s, size_t max)
{
	size_t n = strspn(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_");

	return n >= 1 && n <= max && !s[n];
}

json_t *json_object_from(const char *text, size_t n, struct err *e)
{
	json_error_t je;
	json_t *j = json_loadb(text, n, JSON_REJECT_DUPLICATES, &je);

	if (!j) {
		/* The reason may quote the input: keep our answers printable. */
		for (char *p = je.text; *p; p++)
			if (*p < ' ' || *p > '~')
				*p = '?';
		/* jansson has no words for it when it has no memory */
		err_set(e, EINVAL, "invalid JSON at line %d: %s", je.line,
			je.text[0] ? je.text : "out of memory");
		return NULL;
	}
	if (!json_is_object(j)) {
		json_decref(j);
		err_set(e, EINVAL, "the body must be a JSON object");
		return NULL;
	}
	return j;
}

static const char *want_text(enum json_want w)
{
	switch (w) {
	case WANT_BOOL:
		return "true or false";
	case WANT_UINT:
		return "a whole number";
	case WANT_STRING:
	case WANT_ID:
		return "a string";
	case WANT_ARRAY:
		return "an array";
	case WANT_OBJECT:
		return "an object";
	}
	return "something else";
}

static bool type_ok(enum json_want w, const json_t *v)
{
	switch (w) {
	case WANT_BOOL:
		return json_is_boolean(v);
	case WANT_UINT:
		return json_is_integer(v);
	case WANT_STRING:
	case WANT_ID:
		return json_is_string(v);
	case WANT_ARRAY:
		return json_is_array(v);
	case WANT_OBJECT:
		return json_is_object(v);
	}
	return false;
}

static int take_uint(const struct json_field *f, const json_t *v, void *to, struct err *e)
{
	json_int_t i = json_integer_value(v);

	if (i < 0 || (uint64_t)i < f->min || (uint64_t)i > f->max)
		return err_set(e, EINVAL, "%s: %lld is not in %llu..%llu", f->name, (long long)i,
			       (unsigned long long)f->min, (unsigned long long)f->max);
	*(uint64_t *)to = (uint64_t)i;
	return 0;
}

static int take_string(const struct json_field *f, const json_t *v, void *to, struct err *e)
{
	size_t n = json_string_length(v);

	if (n < f->min || n > f->max)
		return err_set(e, EINVAL, "%s: %zu bytes, must be %llu to %llu", f->name, n,
			       (unsigned long long)f->min, (unsigned long long)f->max);
	if (f->want == WANT_ID && !json_id_ok(json_string_value(v), f->max))
		return err_set(e, EINVAL, "%s: only letters, digits and _ are allowed", f->name);
	*(const char **)to = json_string_value(v);
	return 0;
}

static int take(const struct json_field *f, json_t *v, char *out, struct err *e)
{
	void *to = out + f->offset;
	size_t n;

	if (!type_ok(f->want, v))
		return err_set(e, EINVAL, "%s: must be %s", f->name, want_text(f->want));
	switch (f->want) {
	case WANT_BOOL:
		*(bool *)to = json_is_true(v);
		return 0;
	case WANT_UINT:
		return take_uint(f, v, to, e);
	case WANT_STRING:
	case WANT_ID:
		return take_string(f, v, to, e);
	case WANT_ARRAY:
		n = json_array_size(v);
		if (n < f->min || n > f->max)
			return err_set(e, EINVAL, "%s: %zu elements, must be %llu to %llu", f->name,
				       n, (unsigned long long)f->min, (unsigned long long)f->max);
		*(json_t **)to = v;
		return 0;
	case WANT_OBJECT:
		*(json_t **)to = v;
		return 0;
	}
	return -EINVAL;
}

int json_fields(const json_t *obj, const struct json_field *tab, size_t n, void *out, struct err *e)
{
	const char *key;
	json_t *v;

	if (!json_is_object(obj))
		return err_set(e, EINVAL, "must be an object");
	json_object_foreach((json_t *)(uintptr_t)obj, key, v)
	{
		const struct json_field *f = NULL;
		int r;

		for (size_t i = 0; i < n && !f; i++)
			if (!strcmp(key, tab[i].name))
				f = &tab[i];
		if (!f)
			return err_set(e, EINVAL, "unknown field `%.40s`", key);
		if (json_is_null(v))
			continue;
		r = take(f, v, out, e);
		if (r)
			return r;
	}
	for (size_t i = 0; i < n; i++) {
		v = json_object_get(obj, tab[i].name);
		if (tab[i].required && (!v || json_is_null(v)))
			return err_set(e, EINVAL, "missing field `%s`", tab[i].name);
	}
	return 0;
}

int json_read_file(int dirfd, const char *name, size_t max, json_t **out, struct err *e)
{
	cleanup_close int fd = openat(dirfd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	cleanup_free char *text = NULL;
	struct stat st;
	json_t *j;
	int r;

	if (fd < 0 || fstat(fd, &st))
		return err_sys(e, errno, "%s", name);
	if (!S_ISREG(st.st_mode) || (uint64_t)st.st_size > max)
		return err_set(e, EBADMSG, "%s: not a file of at most %zu bytes", name, max);
	text = malloc((size_t)st.st_size + 1);
	if (!text)
		return err_set(e, ENOMEM, "%s: out of memory", name);
	r = fd_read_full(fd, text, (size_t)st.st_size);
	if (r)
		return err_sys(e, -r, "%s", name);
	j = json_object_from(text, (size_t)st.st_size, e);
	if (!j)
		return err_wrap(e, -EBADMSG, "%s", name);
	*out = j;
	return 0;
}

static int append(const char *text, size_t n, void *arg)
{
	struct wbuf *w = arg;

	wbuf_bytes(w, text, n);
	return w->bad ? -1 : 0;
}

char *json_text(const json_t *j, size_t flags)
{
	struct wbuf w;

	wbuf_init(&w, TEXT_MAX);
	if (!j || json_dump_callback(j, append, &w, flags))
		w.bad = true;
	wbuf_u8(&w, 0);
	if (w.bad) {
		wbuf_fini(&w);
		return NULL;
	}
	return (char *)w.data;
}

int json_write_file(int dirfd, const char *name, unsigned int mode, const json_t *obj,
		    struct err *e)
{
	cleanup_free char *text = json_text(obj, JSON_INDENT(2) | JSON_SORT_KEYS);
	cleanup_close int fd = -1;
	char tmp[256];
	int r;

	if (!text)
		return err_set(e, ENOMEM, "%s: out of memory", name);
	snprintf(tmp, sizeof(tmp), ".%s.new", name);
	unlinkat(dirfd, tmp, 0);
	fd = openat(dirfd, tmp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, mode);
	if (fd < 0)
		return err_sys(e, errno, "create %s", name);
	r = fd_write_full(fd, text, strlen(text));
	if (!r)
		r = fd_write_full(fd, "\n", 1);
	if (!r && fsync(fd))
		r = -errno;
	if (!r && renameat(dirfd, tmp, dirfd, name))
		r = -errno;
	if (r) {
		unlinkat(dirfd, tmp, 0);
		return err_sys(e, -r, "write %s", name);
	}
	return 0;
}
