/* SPDX-License-Identifier: MIT */
/*
 * Making a template: staged under a name that nobody uses, published by one rename. See template.h.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/time.h"
#include "base/util.h"
#include "control/json.h"
#include "template/base.h"
#include "template/manifest.h"
#include "template/store.h"

#define WRITER_GONE_NS (5 * NS_PER_SEC) /* it ends as we look */
#define WRITER_POLL_US 1000

static void stage_path(const char *name, char *buf, size_t n)
{
	snprintf(buf, n, STAGE_PREFIX "%s", name);
}

/* A new directory, locked and in its place: a sweep may be quicker than our lock. -errno. */
static int make_dir(int parent, const char *staged)
{
	for (;;) {
		cleanup_close int dir = -1;
		int r;

		if (mkdirat(parent, staged, 0700))
			return -errno;
		dir = openat(parent, staged, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
		if (dir < 0 && errno == ENOENT)
			continue;
		if (dir < 0 || flock(dir, LOCK_EX)) {
			r = -errno;
			unlinkat(parent, staged, AT_REMOVEDIR);
			return r;
		}
		if (store_is(parent, staged, dir))
			return take_fd(&dir);
	}
}

static int begin(enum store where, const char *name, const char *over, struct template_stage *s,
		 struct err *e)
{
	const char *word = store_word(where);
	cleanup_close int parent = -1;
	char path[PATH_MAX], staged[96];
	int dir;

	*s = (struct template_stage){ .store = where, .dir = -1, .parent = -1 };
	if (!template_name_ok(name))
		return err_set(e, EINVAL, "'%.64s' is not a %s's name", name, word);
	parent = store_open(where, path, sizeof(path), e);
	if (parent < 0)
		return parent;
	template_sweep(parent);
	if (!over[0] && !faccessat(parent, name, F_OK, AT_SYMLINK_NOFOLLOW))
		return err_set(e, EEXIST, "%s %s already exists: `clone %s rm %s` first", word,
			       name, word, name);
	stage_path(name, staged, sizeof(staged));
	dir = make_dir(parent, staged);
	if (dir < 0)
		return dir == -EEXIST
			       ? err_set(e, EBUSY, "%s %s is being made right now", word, name)
			       : err_sys(e, -dir, "%s %s", word, name);
	snprintf(s->name, sizeof(s->name), "%s", name);
	snprintf(s->over, sizeof(s->over), "%s", over);
	s->dir = dir;
	s->parent = take_fd(&parent);
	return 0;
}

int template_stage_begin(enum store where, const char *name, struct template_stage *s,
			 struct err *e)
{
	return begin(where, name, "", s, e);
}

int template_stage_begin_over(const struct template *old, struct template_stage *s, struct err *e)
{
	return begin(old->store, old->name, old->sha256, s, e);
}

int template_stage_file(struct template_stage *s, const char *name, struct err *e)
{
	int fd = openat(s->dir, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);

	return fd < 0 ? err_sys(e, errno, "%s %s: %s", store_word(s->store), s->name, name) : fd;
}

int template_stage_link(struct template_stage *s, const struct template *t, size_t index,
			struct err *e)
{
	char from[PATH_MAX + 64];

	snprintf(from, sizeof(from), "%s/%s", t->dir, t->files[index].name);
	if (linkat(AT_FDCWD, from, s->dir, t->files[index].name, 0))
		return err_sys(e, errno, "%s %s: %s", store_word(s->store), s->name,
			       t->files[index].name);
	return 0;
}

/*
 * What a VM was given to write it may keep open, and modes do not bind open descriptors: a digest
 * says nothing while anybody can still write. A read lease is only given of a file that nobody has
 * open for writing, and nobody can open it again (it is ours, where no VM sees it). Where the file
 * system has no leases, that cannot be known, and the VM that wrote is trusted as far as the guest
 * it was.
 */
static int check_no_writer(int fd, struct err *e)
{
	uint64_t deadline = time_mono_ns() + WRITER_GONE_NS;

	while (fcntl(fd, F_SETLEASE, F_RDLCK)) {
		if (errno == EINVAL || errno == EOPNOTSUPP || errno == ENOLCK)
			return 0;
		if (errno != EAGAIN && errno != EINTR)
			return err_sys(e, errno, "lease");
		if (time_mono_ns() >= deadline)
			return err_set(e, EBUSY, "the VM that wrote it does not let go of it");
		usleep(WRITER_POLL_US);
	}
	fcntl(fd, F_SETLEASE, F_UNLCK);
	return 0;
}

static int seal_file(struct template_stage *s, struct template_file *f, struct err *e)
{
	cleanup_close int fd = openat(s->dir, f->name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	struct stat st;
	int r;

	if (fd < 0 || fchmod(fd, 0400))
		return err_sys(e, errno, "%s", f->name);
	r = check_no_writer(fd, e);
	if (r)
		return err_wrap(e, r, "%s", f->name);
	if (fsync(fd) || fstat(fd, &st))
		return err_sys(e, errno, "%s", f->name);
	f->size_bytes = (uint64_t)st.st_size;
	r = digest_sparse(fd, f->sha256, e);
	return r ? err_wrap(e, r, "%s", f->name) : 0;
}

/* Small files: whole, synced, read-only. */
static int write_file(struct template_stage *s, const char *name, const char *text, size_t n,
		      struct err *e)
{
	cleanup_close int fd = template_stage_file(s, name, e);
	int r;

	if (fd < 0)
		return fd;
	r = fd_write_full(fd, text, n);
	if (!r && (fchmod(fd, 0400) || fsync(fd)))
		r = -errno;
	return r ? err_sys(e, -r, "%s", name) : 0;
}

static int write_manifest(struct template_stage *s, struct template *t, struct err *e)
{
	cleanup_json json_t *j = manifest_to_json(t);
	cleanup_free char *text = j ? json_text(j, JSON_INDENT(2)) : NULL;
	char digest[DIGEST_HEX + 2];
	int r;

	if (!text)
		return err_set(e, ENOMEM, "manifest: out of memory, or a value is not valid UTF-8");
	if (strlen(text) > MANIFEST_MAX)
		return err_set(e, E2BIG, "manifest: more than %u bytes", MANIFEST_MAX);
	digest_bytes(text, strlen(text), t->sha256);
	snprintf(digest, sizeof(digest), "%s\n", t->sha256);
	r = write_file(s, "manifest.json", text, strlen(text), e);
	return r ? r : write_file(s, "digest", digest, strlen(digest), e);
}

/* What it stands on is there, and stays while we hold the lock. */
static int check_parent(const struct template *t, struct err *e)
{
	struct template *chain = NULL;
	size_t n;
	int r = t->parent.name[0] ? template_chain(t, &chain, &n, e) : 0;

	free(chain);
	return r;
}

/* The one whose place is taken is the one that was meant, and nothing stands on it. All locks are
 * held. */
static int check_old(const struct template_stage *s, struct err *e)
{
	struct template *old = calloc(1, sizeof(*old));
	int r;

	if (!old)
		return err_set(e, ENOMEM, "out of memory");
	old->store = s->store;
	memcpy(old->name, s->name, sizeof(old->name));
	memcpy(old->sha256, s->over, sizeof(old->sha256));
	r = template_unchanged(old, e);
	free(old);
	return r ? r : store_check_unused(s->store, s->name, e);
}

/* The old one is the stage then, locked as the new one was, and goes with it. */
static int exchange(struct template_stage *s, const char *staged, struct err *e)
{
	cleanup_close int old =
		openat(s->parent, s->name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);

	if (old < 0 || flock(old, LOCK_EX) ||
	    renameat2(s->parent, staged, s->parent, s->name, RENAME_EXCHANGE))
		return err_sys(e, errno, "%s %s", store_word(s->store), s->name);
	fsync(s->parent);
	close(take_fd(&s->dir));
	s->dir = take_fd(&old);
	return 0;
}

int template_stage_publish(struct template_stage *s, struct template *t, struct err *e)
{
	const char *word = store_word(s->store);
	cleanup_close int lock = -1;
	char staged[96];
	int r = 0;

	snprintf(t->name, sizeof(t->name), "%s", s->name);
	t->store = s->store;
	for (size_t i = 0; i < t->nfiles && !r; i++)
		r = seal_file(s, &t->files[i], e);
	for (size_t i = 0; i < t->nbases && !r; i++)
		r = base_note(&t->bases[i], e);
	if (!r)
		r = write_manifest(s, t, e);
	if (r)
		return err_wrap(e, r, "%s %s", word, s->name);
	if (fsync(s->dir) || fchmod(s->dir, 0500))
		return err_sys(e, errno, "%s %s", word, s->name);
	lock = stores_lock(s->over[0] ? LOCK_EX : LOCK_SH, e);
	r = lock < 0 ? lock : check_parent(t, e);
	if (!r && s->over[0])
		r = check_old(s, e);
	if (r)
		return r;
	stage_path(s->name, staged, sizeof(staged));
	if (s->over[0])
		return exchange(s, staged, e);
	if (renameat2(s->parent, staged, s->parent, s->name, RENAME_NOREPLACE))
		return errno == EEXIST ? err_set(e, EEXIST, "%s %s already exists", word, s->name)
				       : err_sys(e, errno, "%s %s", word, s->name);
	fsync(s->parent);
	/* published: nothing is left to remove */
	close(take_fd(&s->dir));
	return 0;
}

void template_stage_end(struct template_stage *s)
{
	char staged[96];

	if (s->dir >= 0) {
		stage_path(s->name, staged, sizeof(staged));
		if (store_is(s->parent, staged, s->dir))
			store_remove(s->parent, staged, NULL);
		close(take_fd(&s->dir));
	}
	if (s->parent >= 0)
		close(take_fd(&s->parent));
}
