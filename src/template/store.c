/* SPDX-License-Identifier: MIT */
/*
 * The template store: opening, listing, removing. See template.h.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/log.h"
#include "base/util.h"
#include "control/json.h"
#include "image/image.h"
#include "template/manifest.h"
#include "template/store.h"

const char *store_word(enum store s)
{
	return s == STORE_TEMPLATES ? "template" : "snapshot";
}

/* STATE, made when missing; its length. */
static int state_dir(char *buf, size_t n, struct err *e)
{
	int r = image_state_dir(buf, n, e);

	if (r)
		return r;
	if (mkdir(buf, 0755) && errno != EEXIST)
		return err_sys(e, errno, "make %s", buf);
	return (int)strlen(buf);
}

int template_dir(enum store where, char *buf, size_t n, struct err *e)
{
	int len = state_dir(buf, n - sizeof("/templates"), e);

	if (len < 0)
		return len;
	snprintf(buf + len, n - (size_t)len, "/%ss", store_word(where));
	if (mkdir(buf, 0700) && errno != EEXIST)
		return err_sys(e, errno, "make %s", buf);
	return 0;
}

int store_open(enum store where, char *path, size_t n, struct err *e)
{
	int fd, r = template_dir(where, path, n, e);

	if (r)
		return r;
	fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return fd < 0 ? err_sys(e, errno, "%s", path) : fd;
}

int stores_lock(int how, struct err *e)
{
	cleanup_close int fd = -1;
	char path[PATH_MAX];
	int len = state_dir(path, sizeof(path) - sizeof("/.stores"), e);

	if (len < 0)
		return len;
	memcpy(path + len, "/.stores", sizeof("/.stores"));
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return err_sys(e, errno, "%s", path);
	while (flock(fd, how))
		if (errno != EINTR)
			return err_sys(e, errno, "lock %s", path);
	return take_fd(&fd);
}

int template_file_open(const struct template *t, size_t index, struct err *e)
{
	char path[PATH_MAX + 64];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", t->dir, t->files[index].name);
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	return fd < 0 ? err_sys(e, errno, "%s %s: %s", store_word(t->store), t->name,
				t->files[index].name)
		      : fd;
}

/* A part that is not there, or not a file: the thing is damaged. What else there may be (no memory,
 * no descriptors) says nothing about it. */
static int part_error(const char *name, struct err *e)
{
	if (errno == ENOENT || errno == ENOTDIR || errno == ELOOP)
		return err_set(e, EBADMSG, "%s: %s", name, strerrordesc_np(errno));
	return err_sys(e, errno, "%s", name);
}

/* The whole of a small file; NUL-terminated, free it. */
static int read_text(int dir, const char *name, size_t max, char **out, size_t *n, struct err *e)
{
	cleanup_close int fd = openat(dir, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	cleanup_free char *text = NULL;
	struct stat st;
	int r;

	if (fd < 0 || fstat(fd, &st))
		return part_error(name, e);
	if (!S_ISREG(st.st_mode) || (uint64_t)st.st_size > max)
		return err_set(e, EBADMSG, "%s: not a file of at most %zu bytes", name, max);
	text = malloc((size_t)st.st_size + 1);
	if (!text)
		return err_set(e, ENOMEM, "out of memory");
	r = fd_read_full(fd, text, (size_t)st.st_size);
	if (r)
		return err_sys(e, -r, "%s", name);
	text[st.st_size] = '\0';
	*n = (size_t)st.st_size;
	*out = take_ptr(text);
	return 0;
}

/* The manifest with its digest compared before a byte of it is believed. */
static int read_manifest(int dir, struct template *t, struct err *e)
{
	cleanup_free char *text = NULL, *digest = NULL;
	cleanup_json json_t *j = NULL;
	json_error_t why;
	size_t n, dn;
	int r = read_text(dir, "manifest.json", MANIFEST_MAX, &text, &n, e);

	if (!r)
		r = read_text(dir, "digest", DIGEST_HEX + 1, &digest, &dn, e);
	if (r)
		return r;
	digest_bytes(text, n, t->sha256);
	if (dn != DIGEST_HEX + 1 || digest[DIGEST_HEX] != '\n' ||
	    memcmp(digest, t->sha256, DIGEST_HEX))
		return err_set(e, EBADMSG,
			       "manifest.json is not what was written (its digest differs)");
	errno = 0;
	j = json_loadb(text, n, JSON_REJECT_DUPLICATES, &why);
	if (!j && errno == ENOMEM) /* to jansson it is a syntax error */
		return err_set(e, ENOMEM, "manifest.json: out of memory");
	if (!j)
		return err_set(e, EBADMSG, "manifest.json: invalid JSON at line %d", why.line);
	return manifest_from_json(j, t, e);
}

static int check_sizes(int dir, const struct template *t, struct err *e)
{
	for (size_t i = 0; i < t->nfiles; i++) {
		const struct template_file *f = &t->files[i];
		struct stat st;

		if (fstatat(dir, f->name, &st, AT_SYMLINK_NOFOLLOW))
			return part_error(f->name, e);
		if (!S_ISREG(st.st_mode) || (uint64_t)st.st_size != f->size_bytes)
			return err_set(
				e, EBADMSG, "%s has %lld bytes, not %llu: truncated or replaced",
				f->name, (long long)st.st_size, (unsigned long long)f->size_bytes);
	}
	return 0;
}

static int open_in(int dir, struct template *t, struct err *e)
{
	char name[TEMPLATE_NAME_MAX + 1];
	int r;

	memcpy(name, t->name, sizeof(name));
	r = read_manifest(dir, t, e);
	if (r)
		return r;
	if (strcmp(name, t->name))
		return err_set(e, EBADMSG, "it is the %s %s under another name",
			       store_word(t->store), t->name);
	return check_sizes(dir, t, e);
}

int template_open(enum store where, const char *name, struct template *t, struct err *e)
{
	const char *word = store_word(where);
	cleanup_close int parent = -1;
	cleanup_close int dir = -1;
	char path[PATH_MAX - 80];
	int r;

	memset(t, 0, sizeof(*t));
	t->store = where;
	if (!template_name_ok(name))
		return err_set(e, ENOENT, "'%.64s' is not a %s's name", name, word);
	parent = store_open(where, path, sizeof(path), e);
	if (parent < 0)
		return parent;
	dir = openat(parent, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	if (dir < 0 && errno == ENOENT)
		return err_set(e, ENOENT, "no %s is called %s: see `clone %s ls`", word, name,
			       word);
	if (dir < 0)
		return err_sys(e, errno, "%s %s", word, name);
	snprintf(t->name, sizeof(t->name), "%s", name);
	r = open_in(dir, t, e);
	if (r)
		return err_wrap(e, r, "%s %s", word, name);
	snprintf(t->dir, sizeof(t->dir), "%s/%s", path, name);
	return 0;
}

int template_unchanged(const struct template *t, struct err *e)
{
	struct template *now = malloc(sizeof(*now));
	int r = now ? template_open(t->store, t->name, now, e)
		    : err_set(e, ENOMEM, "out of memory");

	if (r == -ENOENT || (!r && strcmp(now->sha256, t->sha256)))
		r = err_set(e, EBADMSG, "%s %s was removed or replaced meanwhile",
			    store_word(t->store), t->name);
	free(now);
	return r;
}

uint64_t template_used_bytes(const struct template *t)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < t->nfiles; i++) {
		char path[PATH_MAX + 64];
		struct stat st;

		snprintf(path, sizeof(path), "%s/%s", t->dir, t->files[i].name);
		if (!lstat(path, &st))
			sum += (uint64_t)st.st_blocks * 512;
	}
	return sum;
}

int store_remove(int parent, const char *name, struct err *e)
{
	int dir = openat(parent, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	DIR *list = dir >= 0 ? fdopendir(dir) : NULL;
	struct dirent *de;

	if (!list) {
		int r = errno;

		if (dir >= 0)
			close(dir);
		return err_sys(e, r, "remove %s", name);
	}
	fchmod(dir, 0700);
	while ((de = readdir(list)))
		if (strcmp(de->d_name, ".") && strcmp(de->d_name, ".."))
			unlinkat(dir, de->d_name, 0);
	closedir(list);
	if (unlinkat(parent, name, AT_REMOVEDIR))
		return err_sys(e, errno, "remove %s", name);
	return 0;
}

bool store_is(int parent, const char *name, int dir)
{
	struct stat a, b;

	return !fstat(dir, &a) && !fstatat(parent, name, &b, AT_SYMLINK_NOFOLLOW) &&
	       a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

void template_sweep(int parent)
{
	int fd = openat(parent, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *list = fd >= 0 ? fdopendir(fd) : NULL;
	struct dirent *de;

	if (!list && fd >= 0)
		close(fd);
	while (list && (de = readdir(list))) {
		cleanup_close int dir = -1;

		if (strncmp(de->d_name, STAGE_PREFIX, strlen(STAGE_PREFIX)))
			continue;
		dir = openat(parent, de->d_name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
		if (dir >= 0 && !flock(dir, LOCK_EX | LOCK_NB))
			store_remove(parent, de->d_name, NULL);
	}
	if (list)
		closedir(list);
}
