/* SPDX-License-Identifier: MIT */
/*
 * The fd table, indexed by descriptor number. See fdtab.h. Main thread only.
 */
#include "event/fdtab.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/util.h"

struct slot {
	const char *who; /* NULL: free */
	enum fd_fate fate;
};

struct fdtab {
	struct slot *slots;
	int cap;
};

int fdtab_create(struct fdtab **out, struct err *e)
{
	struct fdtab *t = calloc(1, sizeof(*t));

	if (!t)
		return err_set(e, ENOMEM, "fd table: out of memory");
	*out = t;
	return 0;
}

void fdtab_destroy(struct fdtab *t)
{
	if (!t)
		return;
	free(t->slots);
	free(t);
}

void fdtab_add(struct fdtab *t, int fd, enum fd_fate fate, const char *who)
{
	BUG_ON(fd < 0 || !who);
	if (fd >= t->cap) {
		int cap = MAX(fd + 1, MAX(64, t->cap * 2));
		struct slot *s = realloc(t->slots, (size_t)cap * sizeof(*s));

		/* a few bytes a descriptor: a process that cannot have them cannot go on */
		BUG_ON(!s);
		memset(s + t->cap, 0, (size_t)(cap - t->cap) * sizeof(*s));
		t->slots = s;
		t->cap = cap;
	}
	BUG_ON(t->slots[fd].who);
	t->slots[fd] = (struct slot){ .who = who, .fate = fate };
}

void fdtab_set(struct fdtab *t, int fd, enum fd_fate fate)
{
	BUG_ON(fd < 0 || fd >= t->cap || !t->slots[fd].who);
	t->slots[fd].fate = fate;
}

void fdtab_del(struct fdtab *t, int fd)
{
	if (fd >= 0 && fd < t->cap)
		t->slots[fd].who = NULL;
}

void fdtab_close(struct fdtab *t, int *fd)
{
	if (*fd < 0)
		return;
	fdtab_del(t, *fd);
	close(take_fd(fd));
}

void fdtab_child(struct fdtab *t)
{
	unsigned int from = 3;

	for (int fd = 3; fd < t->cap; fd++) {
		if (!t->slots[fd].who)
			continue;
		if (t->slots[fd].fate == FD_CLOSE) {
			t->slots[fd].who = NULL;
			continue;
		}
		if ((unsigned int)fd > from)
			close_range(from, (unsigned int)fd - 1, 0);
		from = (unsigned int)fd + 1;
	}
	close_range(from, ~0u, 0);
}

int fdtab_stale(const struct fdtab *t, struct err *e)
{
	int stale = 0;

	for (int fd = 3; fd < t->cap; fd++)
		if (t->slots[fd].who && fcntl(fd, F_GETFD) < 0 && !stale++)
			err_set(e, EBADF, "descriptor %d (%s) is in the table but closed", fd,
				t->slots[fd].who);
	return stale;
}

int fdtab_unknown(const struct fdtab *t, struct err *e)
{
	long max = sysconf(_SC_OPEN_MAX);
	int unknown = 0;

	for (int fd = 3; fd < MIN(max, 65536L); fd++) {
		if (fcntl(fd, F_GETFD) < 0)
			continue;
		if (fd < t->cap && t->slots[fd].who)
			continue;
		if (!unknown++)
			err_set(e, EBADF, "descriptor %d is open but in no table", fd);
	}
	return unknown;
}
