/* SPDX-License-Identifier: MIT */
/*
 * What is looked at by every command that makes or lists VMs: did somebody die, or flush our rules?
 * Only then the host lock is taken.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/util.h"
#include "network/private.h"

#define HOLD_FILE "hold"

int leases_add(struct leases *s, const struct lease *l, struct err *e)
{
	struct lease *v =
		s->n & (s->n - 1) ? s->v : reallocarray(s->v, s->n ? 2 * s->n : 1, sizeof(*v));

	if (!v)
		return err_set(e, ENOMEM, "leases: out of memory");
	s->v = v;
	v[s->n++] = *l;
	return 0;
}

bool hold_is(const struct netdir *d)
{
	struct flock fl = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
	cleanup_close int fd = openat(d->fd, HOLD_FILE, O_RDWR | O_CLOEXEC | O_NOFOLLOW);

	return fd >= 0 && !fcntl(fd, F_OFD_GETLK, &fl) && fl.l_type != F_UNLCK;
}

int network_hold(const struct network *nw, struct err *e)
{
	struct flock fl = { .l_type = F_RDLCK, .l_whence = SEEK_SET };

	for (;;) {
		cleanup_close int fd = -1;
		struct netdir d;
		struct stat st;
		int r = netdir_open(nw->name, true, &d, e);

		if (r)
			return r;
		fd = openat(d.fd, HOLD_FILE, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
		r = fd < 0 ? -errno : 0;
		netdir_close(&d);
		if (r == -ENOENT) /* it was just taken down */
			continue;
		if (r || fcntl(fd, F_OFD_SETLK, &fl) || fstat(fd, &st))
			return err_sys(e, r ? -r : errno, "network %s: hold", nw->name);
		if (st.st_nlink)
			return take_fd(&fd);
	}
}

static bool is_dirty(const struct netdir *d)
{
	cleanup_free unsigned int *slots = NULL;
	bool live = false;
	size_t n = 0;

	if (lease_slots(d->leases, &slots, &n, NULL))
		return false;
	for (size_t i = 0; i < n; i++) {
		if (lease_held(d, slots[i]))
			live = true;
		else if (!ready_is(d, slots[i]))
			return true;
	}
	return !live && !hold_is(d);
}

/* It has users and its rules are gone: somebody flushed them, and since then all is open. */
static bool is_flushed(const struct netdir *d, const char *name, struct up *u)
{
	return !up_read(d, name, u) && !nft_network_there(u->nw.id);
}

static void look_after(struct hostlock *host, const char *name, const struct netdir *d)
{
	struct up u, now;
	bool dirty = is_dirty(d), flushed = is_flushed(d, name, &u);

	if ((!dirty && !flushed) || (host->fd < 0 && hostlock_take(host, NULL)))
		return;
	if (dirty)
		network_sweep_one(host, name, d);
	/* unless that was the end of it */
	if (flushed && is_flushed(d, name, &u))
		network_up(host, &u.nw, d, false, &now, NULL);
}

void network_sweep(void)
{
	struct hostlock host = { .fd = -1 };
	char **names = NULL;
	size_t n = 0;

	if (netdir_list(&names, &n) || !n || !may_admin()) {
		network_list_free(names, n);
		return;
	}
	for (size_t i = 0; i < n; i++) {
		struct netdir d;

		if (netdir_open(names[i], false, &d, NULL))
			continue;
		look_after(&host, names[i], &d);
		netdir_close(&d);
	}
	hostlock_drop(&host);
	network_list_free(names, n);
}
