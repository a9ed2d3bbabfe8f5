/* SPDX-License-Identifier: MIT */
/*
 * Leases become TAPs: one run of nft and one batch of netlink for all. Rules come first, so that no
 * guest ever has a TAP without them.
 */
#include <unistd.h>

#include "base/util.h"
#include "network/private.h"

static int put_rules(const struct making *m, struct err *e)
{
	struct wbuf w;
	int r;

	wbuf_init(&w, RULES_MAX);
	for (size_t i = 0; i < m->n; i++)
		rules_lease(&w, RULES_ADD, m->nw, &m->l[i]);
	r = nft_apply(&w, e);
	wbuf_fini(&w);
	return r;
}

int leases_make(const struct making *m, struct err *e)
{
	int r = 0;

	if (!m->n)
		return 0;
	/* before the rules: whoever sweeps must know which to remove */
	for (size_t i = 0; !r && i < m->n; i++)
		r = lease_write(m->d, &m->l[i], e);
	if (!r)
		r = put_rules(m, e);
	for (size_t i = 0; !r && i < m->n; i++)
		r = tap_open(m->l[i].tap, m->queues[i], m->fd[i], e);
	if (!r)
		r = taps_setup(m->nw, m->l, m->n, e);
	for (size_t i = 0; r && i < m->n; i++)
		for (size_t k = 0; k < NETWORK_QUEUES_MAX; k++)
			if (m->fd[i][k] >= 0)
				close(take_fd(&m->fd[i][k]));
	return r;
}
