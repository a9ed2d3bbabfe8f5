/* SPDX-License-Identifier: MIT */
/*
 * RUN/networks/NAME: who has which slot. The truth is the lock of a lease file, which the kernel
 * drops with the last descriptor of it, in whatever process; what is written there only says which
 * TAP and addresses that means. See private.h for the files.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/util.h"
#include "image/image.h"
#include "image/rundir.h"
#include "network/private.h"

static int by_name(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static int by_slot(const void *a, const void *b)
{
	unsigned int x = *(const unsigned int *)a, y = *(const unsigned int *)b;

	return (x > y) - (x < y);
}

void netdir_init(struct netdir *d)
{
	*d = (struct netdir){ -1, -1, -1, -1, -1 };
}

void netdir_close(struct netdir *d)
{
	int *fds[] = { &d->fd, &d->leases, &d->given, &d->ready, &d->last };

	for (size_t i = 0; i < ARRAY_SIZE(fds); i++)
		if (*fds[i] >= 0)
			close(take_fd(fds[i]));
}

static int sub_open(int parent, const char *name, bool make)
{
	int fd;

	if (make && mkdirat(parent, name, 0700) && errno != EEXIST)
		return -errno;
	fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	return fd < 0 ? -errno : fd;
}

/* RUN/networks, without making RUN when only looking. */
static int networks_open(bool make, struct err *e)
{
	cleanup_close int run = -1;
	char path[PATH_MAX];
	int r;

	if (make) {
		run = run_open(e);
	} else {
		r = run_path(path, sizeof(path), e);
		if (r)
			return r;
		run = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (run < 0)
			return err_sys(e, errno, "%s", path);
	}
	if (run < 0)
		return run;
	r = sub_open(run, "networks", make);
	return r < 0 ? err_sys(e, -r, "run directory: networks") : r;
}

int netdir_open(const char *name, bool make, struct netdir *d, struct err *e)
{
	cleanup_close int nets = networks_open(make, e);
	int r = 0;

	netdir_init(d);
	if (nets < 0)
		return nets;
	d->fd = sub_open(nets, name, make);
	r = MIN(d->fd, 0);
	if (!r)
		r = MIN(d->leases = sub_open(d->fd, "leases", make), 0);
	if (!r)
		r = MIN(d->given = sub_open(d->fd, "given", make), 0);
	if (!r)
		r = MIN(d->ready = sub_open(d->fd, "ready", make), 0);
	if (!r)
		r = MIN(d->last = sub_open(d->fd, "last", make), 0);
	if (!r)
		return 0;
	netdir_close(d);
	return err_sys(e, -r, "run directory of network %s", name);
}

/* Calls see(arg, name) for all in a directory but what begins with a dot. */
static int each_name(int dir, int (*see)(void *arg, const char *name), void *arg)
{
	int fd = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), r = 0;
	DIR *list = fd >= 0 ? fdopendir(fd) : NULL;
	struct dirent *de;

	if (!list) {
		r = -errno;
		if (fd >= 0)
			close(fd);
		return r;
	}
	while (!r && (de = readdir(list)))
		if (de->d_name[0] != '.')
			r = see(arg, de->d_name);
	closedir(list);
	return r;
}

struct names {
	char **v;
	size_t n;
};

static int add_name(void *arg, const char *name)
{
	struct names *s = arg;
	char **v;

	if (!image_name_ok(name) || strlen(name) > NETWORK_NAME_MAX)
		return 0;
	v = reallocarray(s->v, s->n + 1, sizeof(*v));
	if (!v)
		return -ENOMEM;
	s->v = v;
	v[s->n] = strdup(name);
	return v[s->n] ? (s->n++, 0) : -ENOMEM;
}

int netdir_list(char ***names, size_t *n)
{
	cleanup_close int nets = networks_open(false, NULL);
	struct names s = { 0 };
	int r = nets < 0 ? (nets == -ENOENT ? 0 : nets) : each_name(nets, add_name, &s);

	if (s.n)
		qsort(s.v, s.n, sizeof(*s.v), by_name);
	*names = s.v;
	*n = s.n;
	return r;
}

static void empty_dir(int dir)
{
	int fd = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *list = fd >= 0 ? fdopendir(fd) : NULL;
	struct dirent *de;

	while (list && (de = readdir(list)))
		if (strcmp(de->d_name, ".") && strcmp(de->d_name, ".."))
			unlinkat(dir, de->d_name, 0);
	if (list)
		closedir(list);
	else if (fd >= 0)
		close(fd);
}

void netdir_remove(const char *name)
{
	static const char *const sub[] = { "leases", "given", "ready", "last" };
	cleanup_close int nets = networks_open(false, NULL);
	struct netdir d;

	if (nets < 0 || netdir_open(name, false, &d, NULL))
		return;
	/* what is locked was taken by somebody who did not wait for the host lock: not ours */
	empty_dir(d.ready);
	if (unlinkat(d.fd, "leases", AT_REMOVEDIR) == 0)
		empty_dir(d.given);
	empty_dir(d.last);
	for (size_t i = 0; i < ARRAY_SIZE(sub); i++)
		unlinkat(d.fd, sub[i], AT_REMOVEDIR);
	empty_dir(d.fd);
	unlinkat(nets, name, AT_REMOVEDIR);
	netdir_close(&d);
}

/* ---- leases ---- */

void slot_name(unsigned int slot, char buf[8])
{
	snprintf(buf, 8, "%04x", slot & 0xffffu);
}

struct slots {
	unsigned int *v;
	size_t n;
};

static int add_slot(void *arg, const char *name)
{
	struct slots *s = arg;
	unsigned int *v, slot;
	char text[8];

	slot = (unsigned int)strtoul(name, NULL, 16);
	slot_name(slot, text);
	if (strcmp(text, name))
		return 0;
	v = s->n & (s->n - 1) ? s->v : reallocarray(s->v, s->n ? 2 * s->n : 1, sizeof(*v));
	if (!v)
		return -ENOMEM;
	s->v = v;
	v[s->n++] = slot;
	return 0;
}

int lease_slots(int dir, unsigned int **slots, size_t *n, struct err *e)
{
	struct slots s = { 0 };
	int r = each_name(dir, add_slot, &s);

	if (r) {
		free(s.v);
		return err_sys(e, -r, "leases");
	}
	if (s.n)
		qsort(s.v, s.n, sizeof(*s.v), by_slot);
	*slots = s.v;
	*n = s.n;
	return 0;
}

int lease_lock(const struct netdir *d, unsigned int slot, bool make, struct lease *l)
{
	struct flock fl = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
	cleanup_close int fd = -1;
	struct stat st;
	char name[8];

	slot_name(slot, name);
	for (;;) {
		bool fresh = false;

		fd = openat(d->leases, name, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
		if (fd < 0 && errno == ENOENT && make) {
			fresh = true;
			fd = openat(d->leases, name,
				    O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
			if (fd < 0 && errno == EEXIST)
				continue;
		}
		if (fd < 0)
			return -errno;
		if (fcntl(fd, F_OFD_SETLK, &fl))
			return errno == EACCES ? -EAGAIN : -errno;
		/* whoever dropped it meanwhile had the lock until just now */
		if (!fstat(fd, &st) && st.st_nlink) {
			*l = (struct lease){ .slot = slot, .fd = take_fd(&fd), .fresh = fresh };
			return 0;
		}
		close(take_fd(&fd));
	}
}

bool lease_peek(const struct network *nw, const struct netdir *d, unsigned int slot,
		struct lease *l)
{
	struct flock fl = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
	cleanup_close int fd = -1;
	char name[8];

	slot_name(slot, name);
	fd = openat(d->leases, name, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
	*l = (struct lease){ .slot = slot, .fd = -1 };
	if (fd >= 0)
		lease_read(nw, d, slot, l);
	return fd >= 0 && !fcntl(fd, F_OFD_GETLK, &fl) && fl.l_type != F_UNLCK;
}

bool lease_held(const struct netdir *d, unsigned int slot)
{
	struct flock fl = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
	cleanup_close int fd = -1;
	char name[8];

	slot_name(slot, name);
	fd = openat(d->leases, name, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
	return fd >= 0 && !fcntl(fd, F_OFD_GETLK, &fl) && fl.l_type != F_UNLCK;
}

void lease_close(struct lease *l)
{
	if (l->fd >= 0)
		close(take_fd(&l->fd));
}

void lease_drop(const struct netdir *d, struct lease *l)
{
	char name[8];

	slot_name(l->slot, name);
	unlinkat(d->ready, name, 0);
	unlinkat(d->given, name, 0);
	unlinkat(d->leases, name, 0);
	lease_close(l);
}

bool ready_is(const struct netdir *d, unsigned int slot)
{
	char name[8];

	slot_name(slot, name);
	return !faccessat(d->ready, name, F_OK, AT_SYMLINK_NOFOLLOW);
}

bool ready_take(const struct netdir *d, unsigned int slot)
{
	char name[8];

	slot_name(slot, name);
	return !unlinkat(d->ready, name, 0);
}

int ready_put(const struct netdir *d, unsigned int slot, struct err *e)
{
	cleanup_close int fd = -1;
	char name[8];

	slot_name(slot, name);
	fd = openat(d->ready, name, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	return fd < 0 ? err_sys(e, errno, "ready/%s", name) : 0;
}

/* ---- who had what ---- */

static unsigned int link_slot(const struct netdir *d, const char *vm)
{
	char text[8] = "";

	return readlinkat(d->last, vm, text, sizeof(text) - 1) > 0
		       ? (unsigned int)strtoul(text, NULL, 16)
		       : 0;
}

unsigned int last_slot(const struct netdir *d, const char *vm)
{
	return *vm ? link_slot(d, vm) : 0;
}

/* One name a slot and one slot a name, so that this never grows beyond the subnet. */
void last_remember(const struct netdir *d, const char *vm, unsigned int slot)
{
	char name[8], dot[16], old[VM_NAME_MAX + 1] = "";
	unsigned int before = last_slot(d, vm);

	if (!*vm || before == slot)
		return;
	slot_name(slot, name);
	snprintf(dot, sizeof(dot), ".%s", name);
	if (readlinkat(d->last, dot, old, sizeof(old) - 1) > 0 && image_name_ok(old) &&
	    link_slot(d, old) == slot)
		unlinkat(d->last, old, 0);
	if (before) {
		char was[8], was_dot[16];

		slot_name(before, was);
		snprintf(was_dot, sizeof(was_dot), ".%s", was);
		unlinkat(d->last, was_dot, 0);
		unlinkat(d->last, vm, 0);
	}
	unlinkat(d->last, dot, 0);
	/* a help, not a duty: without it the VM gets another address */
	if (!symlinkat(name, d->last, vm))
		(void)!symlinkat(vm, d->last, dot);
}

unsigned int next_slot(const struct netdir *d)
{
	char text[16] = "";
	ssize_t n = readlinkat(d->fd, "next", text, sizeof(text) - 1);

	return n > 0 ? (unsigned int)strtoul(text, NULL, 16) : 0;
}

void next_set(const struct netdir *d, unsigned int slot)
{
	char name[8];

	slot_name(slot, name);
	unlinkat(d->fd, "next", 0);
	(void)!symlinkat(name, d->fd, "next");
}
