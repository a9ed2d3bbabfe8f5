/* SPDX-License-Identifier: MIT */
/*
 * image.json, the manifest of an image. A table describes the fields once, for reading and writing.
 * What it says is checked against the parts beside it. Called by store.c; any one thread.
 *
 *     { "format": 1, "name": "...", "distribution": "debian", "release": "bookworm",
 *       "created": "2025-06-01T12:00:00Z", "kernel_version": "...", "cmdline": "...",
 *       "root_device": "/dev/vda", "root_fstype": "ext4", "init": "/sbin/init",
 *       "size_bytes": N, "used_bytes": N,
 *       "sha256": { "rootfs.ext4": "...", "vmlinuz": "..." } }
 */
#include <errno.h>
#include <jansson.h>
#include <string.h>
#include <sys/stat.h>

#include "base/util.h"
#include "control/json.h"
#include "image/store.h"
#include "image/tree.h"

#define MANIFEST_FORMAT 1
#define MANIFEST_MAX KIB(64)

struct field {
	const char *key;
	size_t off, size; /* size 0: a uint64_t */
};

#define TEXT(f)                                                                                    \
	{                                                                                          \
#f, offsetof(struct image, f), sizeof(((struct image *)0)->f)                      \
	}
#define NUMBER(f)                                                                                  \
	{                                                                                          \
#f, offsetof(struct image, f), 0                                                   \
	}

static const struct field fields[] = {
	TEXT(name),	      TEXT(distribution), TEXT(release),      TEXT(created),
	TEXT(kernel_version), TEXT(cmdline),	  TEXT(root_device),  TEXT(root_fstype),
	TEXT(init),	      NUMBER(size_bytes), NUMBER(used_bytes),
};

static const struct field digests[] = {
	{ "rootfs.ext4", offsetof(struct image, rootfs_sha256), IMAGE_DIGEST_LEN + 1 },
	{ "vmlinuz", offsetof(struct image, kernel_sha256), IMAGE_DIGEST_LEN + 1 },
};

int image_set_paths(struct image *img, const char *store, const char *name, struct err *e)
{
	int r = tree_path(img->dir, sizeof(img->dir), e, "%s/%s", store, name);

	if (!r)
		r = tree_path(img->rootfs, sizeof(img->rootfs), e, "%s/%s/rootfs.ext4", store,
			      name);
	if (!r)
		r = tree_path(img->kernel, sizeof(img->kernel), e, "%s/%s/vmlinuz", store, name);
	if (!r)
		r = tree_path(img->modules, sizeof(img->modules), e, "%s/%s/modules", store, name);
	return r;
}

static int get_text(json_t *v, const struct field *f, struct image *img, struct err *e)
{
	const char *s = json_string_value(v);

	if (!s)
		return err_set(e, EBADMSG, "image.json: '%s' is missing or no text", f->key);
	if (json_string_length(v) >= f->size)
		return err_set(e, EBADMSG, "image.json: '%s' is longer than %zu", f->key,
			       f->size - 1);
	for (const char *p = s; *p; p++)
		if ((unsigned char)*p < ' ' || *p == 127)
			return err_set(e, EBADMSG, "image.json: '%s' holds control characters",
				       f->key);
	memcpy((char *)img + f->off, s, strlen(s) + 1);
	return 0;
}

static int get_number(json_t *v, const struct field *f, struct image *img, struct err *e)
{
	uint64_t n;

	if (!json_is_integer(v) || json_integer_value(v) < 0)
		return err_set(e, EBADMSG, "image.json: '%s' is missing or no number", f->key);
	n = (uint64_t)json_integer_value(v);
	memcpy((char *)img + f->off, &n, sizeof(n));
	return 0;
}

static int get_all(json_t *j, const struct field *f, size_t count, struct image *img, struct err *e)
{
	int r = 0;

	for (size_t i = 0; !r && i < count; i++) {
		json_t *v = json_object_get(j, f[i].key);

		r = f[i].size ? get_text(v, &f[i], img, e) : get_number(v, &f[i], img, e);
	}
	return r;
}

static bool hex_ok(const char *s)
{
	return strlen(s) == IMAGE_DIGEST_LEN && strspn(s, "0123456789abcdef") == IMAGE_DIGEST_LEN;
}

static int parse(const char *text, struct image *img, struct err *e)
{
	json_error_t je;
	json_t *j = json_loads(text, JSON_REJECT_DUPLICATES, &je);
	int r;

	if (!j)
		return err_set(e, EBADMSG, "image.json: line %d: %s", je.line,
			       je.text[0] ? je.text : "out of memory");
	if (json_integer_value(json_object_get(j, "format")) != MANIFEST_FORMAT)
		r = err_set(e, EBADMSG,
			    "image.json: not of format %d: made by another version of clone",
			    MANIFEST_FORMAT);
	else if (!(r = get_all(j, fields, ARRAY_SIZE(fields), img, e)) &&
		 !(r = get_all(json_object_get(j, "sha256"), digests, ARRAY_SIZE(digests), img,
			       e)) &&
		 (!hex_ok(img->rootfs_sha256) || !hex_ok(img->kernel_sha256)))
		r = err_set(e, EBADMSG, "image.json: a digest is not %d hex digits",
			    IMAGE_DIGEST_LEN);
	json_decref(j);
	return r;
}

static int check_part(const char *path, bool dir, const uint64_t *size, struct err *e)
{
	struct stat st;

	if (stat(path, &st))
		return err_set(e, EBADMSG, "%s: %s", path, strerrordesc_np(errno));
	if (dir ? !S_ISDIR(st.st_mode) : !S_ISREG(st.st_mode))
		return err_set(e, EBADMSG, "%s is no %s", path, dir ? "directory" : "regular file");
	if (size && (uint64_t)st.st_size != *size)
		return err_set(e, EBADMSG, "%s has %lld bytes, image.json says %llu", path,
			       (long long)st.st_size, (unsigned long long)*size);
	return 0;
}

int manifest_read(const char *store, const char *name, struct image *img, struct err *e)
{
	cleanup_free char *text = NULL;
	char path[PATH_MAX];
	struct stat st;
	int r;

	memset(img, 0, sizeof(*img));
	r = image_set_paths(img, store, name, e);
	if (r)
		return r;
	if (stat(img->dir, &st))
		return errno == ENOENT ? err_set(e, ENOENT, "no such image in %s", store)
				       : err_sys(e, errno, "%s", img->dir);
	r = tree_path(path, sizeof(path), e, "%s/image.json", img->dir);
	if (!r)
		r = tree_read_text(path, MANIFEST_MAX, &text, e);
	if (r == -ENOENT)
		return -EBADMSG; /* the image is there, its manifest is not */
	if (!r)
		r = parse(text, img, e);
	if (r)
		return r;
	if (strcmp(img->name, name))
		return err_set(e, EBADMSG, "image.json: is for '%s'", img->name);
	r = check_part(img->rootfs, false, &img->size_bytes, e);
	if (!r)
		r = check_part(img->kernel, false, NULL, e);
	return r ? r : check_part(img->modules, true, NULL, e);
}

static int put_all(json_t *j, const struct field *f, size_t count, const struct image *img)
{
	int r = j ? 0 : -1;

	for (size_t i = 0; !r && i < count; i++) {
		const char *at = (const char *)img + f[i].off;
		uint64_t n;

		if (f[i].size) {
			r = json_object_set_new(j, f[i].key, json_string(at));
		} else {
			memcpy(&n, at, sizeof(n));
			r = json_object_set_new(j, f[i].key, json_integer((json_int_t)n));
		}
	}
	return r;
}

int manifest_write(const char *dir, const struct image *img, struct err *e)
{
	json_t *j = json_object(), *d = json_object();
	cleanup_free char *text = NULL;
	int r = -ENOMEM;

	if (j && !json_object_set_new(j, "format", json_integer(MANIFEST_FORMAT)) &&
	    !put_all(j, fields, ARRAY_SIZE(fields), img) &&
	    !put_all(d, digests, ARRAY_SIZE(digests), img) && !json_object_set(j, "sha256", d))
		text = json_text(j, JSON_INDENT(2));
	json_decref(d);
	json_decref(j);
	if (text)
		r = tree_write(dir, "image.json", 0644, text, strlen(text), e);
	else
		err_set(e, ENOMEM, "image.json: out of memory, or a text that is not UTF-8");
	return r;
}
