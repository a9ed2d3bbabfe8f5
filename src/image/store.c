/* SPDX-License-Identifier: MIT */
/*
 * The image store as its users see it: names, opening, listing, verifying, removal. Called by the
 * CLI; any one thread.
 */
#include "image/store.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/log.h"
#include "base/util.h"
#include "image/tree.h"

bool image_name_ok(const char *name)
{
	static const char first[] = "0123456789abcdefghijklmnopqrstuvwxyz"
				    "ABCDEFGHIJKLMNOPQRSTUVWXYZ";
	size_t n = strlen(name);

	if (!n || n > IMAGE_NAME_MAX || !strchr(first, name[0]))
		return false;
	return n ==
	       strspn(name, "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_.-");
}

int image_check_name(const char *name, struct err *e)
{
	if (name && image_name_ok(name))
		return 0;
	return err_set(e, EINVAL,
		       "'%.80s' cannot be an image's name: 1 to %d letters, digits, '_', "
		       "'.', '-', beginning with a letter or digit",
		       name ? name : "", IMAGE_NAME_MAX);
}

int image_state_dir(char *buf, size_t n, struct err *e)
{
	const char *dir = getenv("CLONE_STATE_DIR"), *below = "", *var = "CLONE_STATE_DIR";

	if (!dir || !*dir) {
		if (!geteuid())
			return tree_path(buf, n, e, "/var/lib/clone");
		dir = getenv(var = "XDG_DATA_HOME");
		below = "/clone";
	}
	if (!dir || !*dir) {
		dir = getenv(var = "HOME");
		below = "/.local/share/clone";
	}
	if (!dir || dir[0] != '/')
		return err_set(e, EINVAL, "where is the state directory? %s is %s", var,
			       dir ? "not an absolute path" : "not set");
	if ((size_t)snprintf(buf, n, "%s%s", dir, below) >= n)
		return err_set(e, ENAMETOOLONG, "%s is too long", var);
	return 0;
}

int store_dir(char *buf, size_t n, struct err *e)
{
	char state[PATH_MAX];
	int r = image_state_dir(state, sizeof(state), e);

	return r ? r : tree_path(buf, n, e, "%s/images", state);
}

int image_open(const char *name, struct image *img, struct err *e)
{
	char store[PATH_MAX];
	struct image tmp;
	int r = image_check_name(name, e);

	if (!r)
		r = store_dir(store, sizeof(store), e);
	if (r)
		return r;
	r = manifest_read(store, name, &tmp, e);
	if (r)
		return err_wrap(e, r, "image %s", name);
	*img = tmp;
	return 0;
}

static int by_name(const void *a, const void *b)
{
	return strcmp(((const struct image *)a)->name, ((const struct image *)b)->name);
}

static int read_all(const char *store, DIR *d, struct image **out, size_t *count, struct err *e)
{
	struct dirent *de;
	struct err why;

	while ((de = readdir(d))) {
		struct image *p;

		if (!image_name_ok(de->d_name))
			continue;
		p = reallocarray(*out, *count + 1, sizeof(*p));
		if (!p)
			return err_sys(e, ENOMEM, "list of images");
		*out = p;
		switch (manifest_read(store, de->d_name, &p[*count], &why)) {
		case 0:
			++*count;
			break;
		case -ENOENT: /* removed meanwhile */
			break;
		default:
			log_warn("image %s: %s", de->d_name, why.msg);
		}
	}
	return 0;
}

int image_list(struct image **out, size_t *count, struct err *e)
{
	cleanup_close int lock = -1;
	char store[PATH_MAX];
	struct image *list = NULL;
	size_t n = 0;
	DIR *d;
	int r = store_dir(store, sizeof(store), e);

	if (r)
		return r;
	d = opendir(store);
	if (!d && errno != ENOENT)
		return err_sys(e, errno, "%s", store);
	if (d && !store_lock(store, &lock, NULL))
		store_sweep(store); /* those who may only read do not clean */
	if (d) {
		r = read_all(store, d, &list, &n, e);
		closedir(d);
	}
	if (r) {
		free(list);
		return r;
	}
	if (n)
		qsort(list, n, sizeof(*list), by_name);
	*out = list;
	*count = n;
	return 0;
}

int image_rm(const char *name, struct err *e)
{
	cleanup_close int lock = -1;
	char store[PATH_MAX], path[PATH_MAX], gone[PATH_MAX];
	struct stat st;
	int r = image_check_name(name, e);

	if (!r)
		r = store_dir(store, sizeof(store), e);
	if (!r)
		r = tree_path(path, sizeof(path), e, "%s/%s", store, name);
	if (!r)
		r = tree_path(gone, sizeof(gone), e, "%s/%s%s", store, STORE_RM_PREFIX, name);
	if (r)
		return r;
	if (lstat(path, &st) && errno == ENOENT)
		return err_set(e, ENOENT, "image %s: no such image in %s", name, store);
	r = store_lock(store, &lock, e);
	if (r)
		return err_wrap(e, r, "remove image %s", name);
	store_sweep(store);
	/* Out of sight first: a half-removed image is never seen. */
	if (rename(path, gone))
		return err_sys(e, errno, "remove image %s", name);
	r = tree_remove(gone, e);
	return r ? err_wrap(e, r, "remove image %s", name) : 0;
}

int image_verify(const struct image *img, struct err *e)
{
	const char *const part[] = { img->rootfs, img->kernel };
	const char *const want[] = { img->rootfs_sha256, img->kernel_sha256 };
	char hex[IMAGE_DIGEST_LEN + 1];

	for (size_t i = 0; i < ARRAY_SIZE(part); i++) {
		int r = tree_sha256(part[i], hex, e);

		if (r)
			return err_wrap(e, r, "image %s", img->name);
		if (strcmp(hex, want[i]))
			return err_set(e, EBADMSG,
				       "image %s: %s was changed: its SHA-256 begins %.16s, "
				       "image.json says %.16s",
				       img->name, part[i], hex, want[i]);
	}
	return 0;
}
