/* SPDX-License-Identifier: MIT */
/*
 * NICs get their place on a network. A TAP that waits is taken by locking its lease: no netlink, no
 * nft, no host lock. What asks for more than that, or finds none waiting, is made, all in one go.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/util.h"
#include "image/image.h"
#include "network/private.h"

struct attach {
	const struct network *nw;
	const struct network_want *want;
	size_t n;
	struct network_port *out;
	struct lease *l; /* of each; slot 0: not yet */
	struct netdir d;
	struct up up;
};

void network_port_init(struct network_port *p)
{
	*p = (struct network_port){ .packet_fd = -1, .lease_fd = -1 };
	for (size_t i = 0; i < ARRAY_SIZE(p->tap_fd); i++)
		p->tap_fd[i] = -1;
	for (size_t i = 0; i < ARRAY_SIZE(p->publish_fd); i++)
		p->publish_fd[i] = -1;
}

void network_port_close(struct network_port *p)
{
	for (size_t i = 0; i < ARRAY_SIZE(p->tap_fd); i++)
		if (p->tap_fd[i] >= 0)
			close(p->tap_fd[i]);
	for (size_t i = 0; i < ARRAY_SIZE(p->publish_fd); i++)
		if (p->publish_fd[i] >= 0)
			close(p->publish_fd[i]);
	if (p->packet_fd >= 0)
		close(p->packet_fd);
	/* last: from then on the slot is somebody else's */
	if (p->lease_fd >= 0)
		close(p->lease_fd);
	network_port_init(p);
}

static int check_want(const struct network *nw, const struct network_want *w, struct err *e)
{
	static const uint8_t no_mac[NIC_MAC];

	if (w->vm && !image_name_ok(w->vm))
		return err_set(e, EINVAL, "'%.80s' is no VM's name", w->vm);
	if (w->queues < 1 || w->queues > NETWORK_QUEUES_MAX)
		return err_set(e, EINVAL, "%u queues: must be 1 to %d", w->queues,
			       NETWORK_QUEUES_MAX);
	if (w->mac && (w->mac[0] & 1 || !memcmp(w->mac, no_mac, NIC_MAC)))
		return err_set(e, EINVAL, "a MAC must be that of one machine");
	if (w->nr_publish > NETWORK_PUBLISH_MAX)
		return err_set(e, EINVAL, "%zu published ports: at most %d", w->nr_publish,
			       NETWORK_PUBLISH_MAX);
	if (w->nr_publish && nw->mode == NETWORK_BRIDGE)
		return err_set(e, EINVAL,
			       "ports are not published on a bridge: guests are on its network");
	for (size_t i = 0; i < w->nr_publish; i++)
		if (!w->publish[i].host_port || !w->publish[i].guest_port)
			return err_set(e, EINVAL, "port 0 cannot be published");
	if (w->ip4 && nw->mode != NETWORK_BRIDGE && !slot_of_ip4(nw, w->ip4)) {
		char ip[ADDR_TEXT], net[ADDR_TEXT];

		ip4_text(w->ip4, ip, sizeof(ip));
		ip4_text(nw->subnet4, net, sizeof(net));
		return err_set(e, EINVAL, "%s cannot be a guest's in %s/%u", ip, net, nw->prefix4);
	}
	return 0;
}

/* ---- slots ---- */

static int slot_of_address(struct attach *a, const struct network_want *w, struct lease *l,
			   struct err *e)
{
	unsigned int slot = slot_of_ip4(a->nw, w->ip4);
	int r = lease_lock(&a->d, slot, true, l);
	char ip[ADDR_TEXT];
	struct lease who;

	ip4_text(w->ip4, ip, sizeof(ip));
	if (r != -EAGAIN)
		return r ? err_sys(e, -r, "lease of %s", ip) : 0;
	lease_peek(a->nw, &a->d, slot, &who);
	return err_set(e, EADDRINUSE, "%s is taken%s%s", ip, who.vm[0] ? " by VM " : "", who.vm);
}

static int choose_slot(struct attach *a, const struct network_want *w, struct lease *l,
		       struct err *e)
{
	unsigned int slot = w->vm ? last_slot(&a->d, w->vm) : 0;

	if (w->ip4 && a->nw->mode != NETWORK_BRIDGE)
		return slot_of_address(a, w, l, e);
	if (slot >= SLOT_FIRST && slot <= slot_last(a->nw) && !lease_lock(&a->d, slot, true, l))
		return 0;
	return slot_take(a->nw, &a->d, l, e);
}

/* A slot that waited, or whose last user left something, begins anew. */
static int clear_slot(struct attach *a, struct lease *l, struct err *e)
{
	struct lease old = { .fd = -1 };
	struct wbuf w;
	int r;

	if (l->fresh)
		return 0;
	lease_read(a->nw, &a->d, l->slot, &old);
	ready_take(&a->d, l->slot);
	wbuf_init(&w, RULES_MAX);
	rules_lease_remove(&w, a->nw, &old);
	r = nft_apply(&w, e);
	wbuf_fini(&w);
	tap_delete(old.tap);
	return r;
}

static void fill_lease(struct attach *a, const struct network_want *w, struct lease *l)
{
	lease_defaults(a->nw, l->slot, l);
	if (w->vm)
		snprintf(l->vm, sizeof(l->vm), "%s", w->vm);
	if (w->mac)
		memcpy(l->mac, w->mac, NIC_MAC);
	if (w->ip4)
		memcpy(l->ip4, w->ip4, 4);
	if (w->nr_publish)
		memcpy(l->publish, w->publish, w->nr_publish * sizeof(*w->publish));
	l->nr_publish = w->nr_publish;
}

/* ---- what waits ---- */

static bool is_plain(const struct network_want *w)
{
	return !w->ip4 && !w->mac && w->queues == 1 && !w->nr_publish;
}

/* Takes that slot's TAP, if it waits. */
static bool take_ready(struct attach *a, size_t i, unsigned int slot)
{
	struct network_port *p = &a->out[i];
	struct lease l;

	if (lease_lock(&a->d, slot, false, &l))
		return false;
	if (!ready_take(&a->d, slot)) {
		lease_close(&l);
		return false;
	}
	lease_read(a->nw, &a->d, slot, &l);
	snprintf(l.vm, sizeof(l.vm), "%s", a->want[i].vm ? a->want[i].vm : "");
	/* if somebody removed the TAP, that made one that leads nowhere: left for the sweep */
	if (!tap_open(l.tap, 1, p->tap_fd, NULL) && tap_is_persistent(p->tap_fd[0]) &&
	    !tap_persist(p->tap_fd[0], false, NULL) && !lease_write(&a->d, &l, NULL)) {
		a->l[i] = l;
		return true;
	}
	if (p->tap_fd[0] >= 0)
		close(take_fd(&p->tap_fd[0]));
	lease_close(&l);
	return false;
}

static void take_waiting(struct attach *a)
{
	cleanup_free unsigned int *ready = NULL;
	size_t n = 0, at = 0;

	if (lease_slots(a->d.ready, &ready, &n, NULL))
		return;
	for (size_t i = 0; i < a->n; i++) {
		const struct network_want *w = &a->want[i];
		unsigned int mine = w->vm ? last_slot(&a->d, w->vm) : 0;

		if (!is_plain(w))
			continue;
		/* its own address, if nobody has it, is worth more than a TAP at once */
		if (mine && !lease_held(&a->d, mine)) {
			if (ready_is(&a->d, mine))
				take_ready(a, i, mine);
			continue;
		}
		while (at < n && !take_ready(a, i, ready[at++]))
			;
	}
}

/* ---- what is made ---- */

static int prepare_slow(struct attach *a, size_t i, struct lease *l, struct err *e)
{
	int r = choose_slot(a, &a->want[i], l, e);

	if (r)
		return r;
	r = clear_slot(a, l, e);
	if (!r)
		r = publish_hold(&a->want[i], &a->out[i], e);
	fill_lease(a, &a->want[i], l);
	return r;
}

static bool any_publish(const struct attach *a)
{
	for (size_t i = 0; i < a->n; i++)
		if (a->want[i].nr_publish)
			return true;
	return false;
}

/* Dead VMs of other networks may have the ports that are asked for. */
static void sweep_others(const struct attach *a)
{
	char **names = NULL;
	size_t n = 0;

	if (!any_publish(a) || netdir_list(&names, &n))
		return;
	for (size_t i = 0; i < n; i++) {
		struct netdir d;
		struct up u;

		if (!strcmp(names[i], a->nw->name) || netdir_open(names[i], false, &d, NULL))
			continue;
		if (!up_read(&d, names[i], &u))
			network_sweep_leases(&u.nw, &d, NULL);
		netdir_close(&d);
	}
	network_list_free(names, n);
}

struct slow {
	struct lease *l;
	int (*fd)[NETWORK_QUEUES_MAX];
	unsigned int *queues;
	size_t *of, n; /* of[k]: which of the attach's */
};

static int make_slow(struct attach *a, struct slow *s, struct err *e)
{
	struct making m = { a->nw, &a->d, s->l, s->fd, s->queues, 0 };
	int r = 0;

	for (size_t i = 0; !r && i < a->n; i++) {
		if (a->l[i].slot)
			continue;
		s->l[s->n] = (struct lease){ .fd = -1 };
		s->of[s->n] = i;
		s->queues[s->n] = a->want[i].queues;
		for (size_t k = 0; k < NETWORK_QUEUES_MAX; k++)
			s->fd[s->n][k] = -1;
		r = prepare_slow(a, i, &s->l[s->n++], e);
	}
	m.n = s->n;
	if (!r)
		r = leases_make(&m, e);
	for (size_t k = 0; k < s->n; k++) {
		if (r) {
			lease_close(&s->l[k]);
			continue;
		}
		a->l[s->of[k]] = s->l[k];
		memcpy(a->out[s->of[k]].tap_fd, s->fd[k], sizeof(s->fd[k]));
	}
	return r;
}

static int attach_slow(struct attach *a, struct err *e)
{
	cleanup_hostlock struct hostlock host = { .fd = -1 };
	cleanup_free struct lease *l = calloc(a->n, sizeof(*l));
	cleanup_free unsigned int *queues = calloc(a->n, sizeof(*queues));
	cleanup_free size_t *of = calloc(a->n, sizeof(*of));
	cleanup_free int(*fd)[NETWORK_QUEUES_MAX] = calloc(a->n, sizeof(*fd));
	struct slow s = { l, fd, queues, of, 0 };
	int r;

	if (!l || !queues || !of || !fd)
		return err_set(e, ENOMEM, "out of memory");
	r = hostlock_take(&host, e);
	if (r)
		return r;
	/* who had the lock may have removed it */
	netdir_close(&a->d);
	r = netdir_open(a->nw->name, true, &a->d, e);
	if (!r && !up_read(&a->d, a->nw->name, &a->up))
		r = network_sweep_leases(&a->up.nw, &a->d, e);
	if (!r)
		sweep_others(a);
	if (!r)
		r = network_up(&host, a->nw, &a->d, any_publish(a), &a->up, e);
	if (!r)
		r = make_slow(a, &s, e);
	/* what was begun is a dead lease now */
	if (r)
		network_sweep_one(&host, a->nw->name, &a->d);
	return r;
}

/* ---- both ---- */

static void fill_address(const struct attach *a, const struct lease *l, struct nic_address *to)
{
	const struct network *nw = a->nw;

	memcpy(to->mac, l->mac, NIC_MAC);
	to->mtu = nw->mtu;
	memcpy(to->ip4, l->ip4, 4);
	memcpy(to->ip6, l->ip6, 16);
	if (nw->mode == NETWORK_BRIDGE) {
		if (!bytes_are_zero(l->ip4, 4) && !bridge_prefix(nw->bridge, &to->prefix4, to->gw4))
			to->prefix4 = 32;
		return;
	}
	to->prefix4 = nw->prefix4;
	gateway_ip4(nw, to->gw4);
	if (!bytes_are_zero(l->ip6, 16)) {
		to->prefix6 = 64;
		to->gw6[0] = 0xfe;
		to->gw6[1] = 0x80;
		to->gw6[15] = 1;
	}
	to->nr_dns = a->up.nr_dns;
	memcpy(to->dns, a->up.dns, sizeof(to->dns));
	to->respond = true;
	to->peers = (nw->allow & NETWORK_ALLOW_PEERS) != 0;
}

static int fill_port(struct attach *a, size_t i, struct err *e)
{
	struct network_port *p = &a->out[i];
	struct lease *l = &a->l[i];

	fill_address(a, l, &p->addr);
	snprintf(p->tap, sizeof(p->tap), "%s", l->tap);
	p->packet_fd = tap_packet_socket(l->tap, e);
	if (p->packet_fd < 0)
		return p->packet_fd;
	last_remember(&a->d, l->vm, l->slot);
	return 0;
}

static int attach_all(struct attach *a, struct err *e)
{
	bool all = true;
	int r = netdir_open(a->nw->name, true, &a->d, e);

	if (r)
		return r;
	if (network_is_up(a->nw, &a->d, &a->up))
		take_waiting(a);
	for (size_t i = 0; i < a->n && all; i++)
		all = a->l[i].slot != 0;
	if (!all)
		r = attach_slow(a, e);
	for (size_t i = 0; !r && i < a->n; i++)
		r = fill_port(a, i, e);
	for (size_t i = 0; i < a->n; i++)
		if (a->l[i].slot)
			a->out[i].lease_fd = take_fd(&a->l[i].fd);
	netdir_close(&a->d);
	return r;
}

int network_attach(const struct network *nw, const struct network_want *want, size_t n,
		   struct network_port *out, struct err *e)
{
	cleanup_free struct lease *l = calloc(n ? n : 1, sizeof(*l));
	struct attach a = { .nw = nw, .want = want, .n = n, .out = out, .l = l };
	int r = l ? need_admin(e) : err_set(e, ENOMEM, "out of memory");

	for (size_t i = 0; i < n; i++) {
		network_port_init(&out[i]);
		l[i].fd = -1;
	}
	for (size_t i = 0; !r && i < n; i++)
		r = check_want(nw, &want[i], e);
	netdir_init(&a.d);
	if (!r)
		r = attach_all(&a, e);
	for (size_t i = 0; r && i < n; i++)
		network_port_close(&out[i]);
	return r ? err_wrap(e, r, "network %s", nw->name) : 0;
}
