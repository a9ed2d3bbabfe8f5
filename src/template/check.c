/* SPDX-License-Identifier: MIT */
/*
 * Is a template what was written? Digests of its files and bases, and the stamps that spare a big
 * RAM file a second reading in one boot of the host. See template.h.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/time.h"
#include "base/util.h"
#include "template/base.h"

static uint64_t ns_of(struct timespec t)
{
	return (uint64_t)t.tv_sec * NS_PER_SEC + (uint64_t)t.tv_nsec;
}

static int base_open(const struct template_base *b, struct stat *st, struct err *e)
{
	cleanup_close int fd = open(b->path, O_RDONLY | O_CLOEXEC);

	if (fd < 0 || fstat(fd, st))
		return err_set(e, EBADMSG, "its base %s: %s", b->path, strerrordesc_np(errno));
	return take_fd(&fd);
}

int base_note(struct template_base *b, struct err *e)
{
	struct stat st;
	cleanup_close int fd = base_open(b, &st, e);

	if (fd < 0)
		return fd;
	b->bytes = (uint64_t)st.st_size;
	b->dev = st.st_dev;
	b->ino = st.st_ino;
	b->mtime_ns = ns_of(st.st_mtim);
	return b->sha256[0] ? 0 : digest_plain(fd, b->sha256, e);
}

int base_check(const struct template_base *b, bool again, struct err *e)
{
	struct stat st;
	cleanup_close int fd = base_open(b, &st, e);
	char hex[DIGEST_HEX + 1];
	int r;

	if (fd < 0)
		return fd;
	if ((uint64_t)st.st_size != b->bytes)
		return err_set(e, EBADMSG, "its base %s has another size than it had", b->path);
	if (!again && st.st_dev == b->dev && st.st_ino == b->ino &&
	    ns_of(st.st_mtim) == b->mtime_ns)
		return 0;
	r = digest_plain(fd, hex, e);
	if (r)
		return err_wrap(e, r, "%s", b->path);
	if (strcmp(hex, b->sha256))
		return err_set(e, EBADMSG, "its base %s is not what it was (the digest differs)",
			       b->path);
	return 0;
}

static int check_file(const struct template *t, size_t i, struct err *e)
{
	cleanup_close int fd = template_file_open(t, i, e);
	char hex[DIGEST_HEX + 1];
	int r;

	if (fd < 0)
		return fd;
	r = digest_sparse(fd, hex, e);
	if (r)
		return err_wrap(e, r, "%s %s: %s", store_word(t->store), t->name, t->files[i].name);
	if (strcmp(hex, t->files[i].sha256))
		return err_set(e, EBADMSG,
			       "%s %s: %s is damaged or was tampered with (the digest differs)",
			       store_word(t->store), t->name, t->files[i].name);
	return 0;
}

/* All that identifies a file's content as long as nobody tricks the kernel. */
static int stamp_text(const struct template *t, char *buf, size_t n, struct err *e)
{
	cleanup_close int fd = template_file_open(t, TEMPLATE_RAM, e);
	struct stat st;

	if (fd < 0)
		return fd;
	if (fstat(fd, &st))
		return err_sys(e, errno, "%s %s: ram", store_word(t->store), t->name);
	snprintf(buf, n, "%s %llu %llu %llu %llu %llu\n", t->sha256, (unsigned long long)st.st_dev,
		 (unsigned long long)st.st_ino, (unsigned long long)st.st_size,
		 (unsigned long long)ns_of(st.st_mtim), (unsigned long long)ns_of(st.st_ctim));
	return 0;
}

static bool stamp_matches(int dir, const char *name, const char *text)
{
	cleanup_close int fd = openat(dir, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	char have[256];
	ssize_t n = fd < 0 ? -1 : read(fd, have, sizeof(have));

	return n >= 0 && (size_t)n == strlen(text) && !memcmp(have, text, (size_t)n);
}

/* Best effort: without the stamp the next use reads the file again. */
static void stamp_write(int dir, const char *name, const char *text)
{
	char tmp[TEMPLATE_NAME_MAX + 32];
	int fd;

	snprintf(tmp, sizeof(tmp), ".%s.%d", name, (int)getpid());
	fd = openat(dir, tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return;
	if (fd_write_full(fd, text, strlen(text)) || renameat(dir, tmp, dir, name))
		unlinkat(dir, tmp, 0);
	close(fd);
}

int template_check(const struct template *t, int verified_dir, struct err *e)
{
	char stamp[256], name[TEMPLATE_NAME_MAX + 16];
	int r = stamp_text(t, stamp, sizeof(stamp), e);

	snprintf(name, sizeof(name), "%s%s", t->name,
		 t->store == STORE_TEMPLATES ? "" : "~snapshot");
	for (size_t i = 0; i < t->nbases && !r; i++) {
		r = base_check(&t->bases[i], false, e);
		if (r)
			err_wrap(e, r, "%s %s", store_word(t->store), t->name);
	}
	for (size_t i = 0; i < t->nfiles && !r; i++)
		if (i != TEMPLATE_RAM)
			r = check_file(t, i, e);
	if (r || (verified_dir >= 0 && stamp_matches(verified_dir, name, stamp)))
		return r;
	r = check_file(t, TEMPLATE_RAM, e);
	if (!r && verified_dir >= 0)
		stamp_write(verified_dir, name, stamp);
	return r;
}

int template_verify(const struct template *t, struct err *e)
{
	int r = 0;

	for (size_t i = 0; i < t->nfiles && !r; i++)
		r = check_file(t, i, e);
	for (size_t i = 0; i < t->nbases && !r; i++) {
		r = base_check(&t->bases[i], true, e);
		if (r)
			err_wrap(e, r, "%s %s", store_word(t->store), t->name);
	}
	return r;
}
