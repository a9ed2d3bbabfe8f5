/* SPDX-License-Identifier: MIT */
/*
 * TAPs made ahead: whole, with addresses, routes and rules, kept by the kernel without anybody who
 * has them open, until an attach makes them its own. Run in the background by whoever took some.
 */
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/util.h"
#include "network/private.h"

/* More than that is another command's turn: the host lock is held meanwhile. */
#define REFILL_MAX 64u

static bool is_used(const struct netdir *d)
{
	cleanup_free unsigned int *slots = NULL;
	size_t n = 0;

	if (hold_is(d))
		return true;
	if (lease_slots(d->leases, &slots, &n, NULL))
		return false;
	for (size_t i = 0; i < n; i++)
		if (lease_held(d, slots[i]))
			return true;
	return false;
}

static size_t count_ready(const struct netdir *d)
{
	cleanup_free unsigned int *slots = NULL;
	size_t n = 0;

	return lease_slots(d->ready, &slots, &n, NULL) ? REFILL_MAX : n;
}

/* Slots that nobody has used: to remember whose a slot was is worth more than one TAP ahead. */
static int take_slots(const struct network *nw, const struct netdir *d, struct making *m,
		      size_t want, struct err *e)
{
	while (m->n < want) {
		struct lease *l = &m->l[m->n];
		int r = slot_take(nw, d, l, e);

		if (r == -ENOSPC)
			return 0;
		if (r)
			return r;
		if (!l->fresh) {
			lease_close(l);
			return 0;
		}
		lease_defaults(nw, l->slot, l);
		m->queues[m->n++] = 1;
	}
	return 0;
}

static int make_ready(const struct making *m, struct err *e)
{
	int r = leases_make(m, e);

	for (size_t i = 0; !r && i < m->n; i++) {
		r = tap_persist(m->fd[i][0], true, e);
		if (!r)
			r = ready_put(m->d, m->l[i].slot, e);
	}
	for (size_t i = 0; i < m->n; i++) {
		if (m->fd[i][0] >= 0)
			close(take_fd(&m->fd[i][0]));
		lease_close(&m->l[i]);
	}
	return r;
}

static int refill(struct hostlock *host, const struct network *nw, const struct netdir *d,
		  unsigned int spare, struct err *e)
{
	struct lease l[REFILL_MAX];
	int fd[REFILL_MAX][NETWORK_QUEUES_MAX];
	unsigned int queues[REFILL_MAX];
	struct making m = { nw, d, l, fd, queues, 0 };
	size_t have = count_ready(d);
	struct up up;
	int r;

	for (size_t i = 0; i < REFILL_MAX; i++)
		for (size_t k = 0; k < NETWORK_QUEUES_MAX; k++)
			fd[i][k] = -1;
	if (have >= spare || !is_used(d))
		return 0;
	r = network_up(host, nw, d, false, &up, e);
	if (r)
		return r;
	r = take_slots(nw, d, &m, MIN(spare - have, REFILL_MAX), e);
	if (!r)
		return make_ready(&m, e);
	for (size_t i = 0; i < m.n; i++)
		lease_close(&l[i]);
	return r;
}

int network_refill(const struct network *nw, unsigned int spare, struct err *e)
{
	cleanup_hostlock struct hostlock host = { .fd = -1 };
	struct netdir d;
	int r = need_admin(e);

	if (!r)
		r = hostlock_take(&host, e);
	if (r)
		return r;
	r = netdir_open(nw->name, true, &d, e);
	if (r)
		return r;
	r = refill(&host, nw, &d, spare, e);
	if (r)
		network_sweep_one(&host, nw->name, &d);
	netdir_close(&d);
	return r ? err_wrap(e, r, "network %s", nw->name) : 0;
}
