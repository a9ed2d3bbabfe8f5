/* SPDX-License-Identifier: MIT */
/*
 * The host's ports of a VM: each is held by a socket that is bound and never listens, so that
 * nobody else can have it and a taken one is found before anything is made. Packets never come to
 * it: rules send them on to the guest.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/filter.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/util.h"
#include "image/rundir.h"
#include "network/private.h"

static bool same(const struct network_publish *a, const struct network_publish *b)
{
	return a->udp == b->udp && a->host_port == b->host_port;
}

bool publish_owner(const struct network_publish *p, char *vm, size_t n)
{
	char **names = NULL;
	size_t count = 0;
	bool found = false;

	if (netdir_list(&names, &count))
		return false;
	for (size_t i = 0; i < count && !found; i++) {
		struct network nw = { .id = 0 };
		cleanup_free unsigned int *slots = NULL;
		struct netdir d;
		struct lease l;
		size_t nr = 0;

		if (netdir_open(names[i], false, &d, NULL))
			continue;
		lease_slots(d.leases, &slots, &nr, NULL);
		for (size_t k = 0; k < nr && !found; k++) {
			if (!lease_peek(&nw, &d, slots[k], &l))
				continue;
			for (size_t q = 0; q < l.nr_publish && !found; q++)
				found = same(&l.publish[q], p);
			if (found)
				snprintf(vm, n, "%s", l.vm);
		}
		netdir_close(&d);
	}
	network_list_free(names, count);
	return found && *vm;
}

/* Whoever holds it, a VM process that was taken over too, can do nothing else with it: it hears
 * nothing, so that no connection comes about, and of UDP sends nothing. */
static int harmless(int fd, bool udp)
{
	static struct sock_filter nothing[] = { BPF_STMT(BPF_RET | BPF_K, 0) };
	struct sock_fprog prog = { 1, nothing };
	int on = 1;

	if (setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &prog, sizeof(prog)) ||
	    setsockopt(fd, SOL_SOCKET, SO_LOCK_FILTER, &on, sizeof(on)))
		return -errno;
	/* says ENOTCONN, and does it */
	return udp && shutdown(fd, SHUT_RDWR) && errno != ENOTCONN ? -errno : 0;
}

static int bind_one(int family, const struct network_publish *p)
{
	struct sockaddr_in6 a6 = { .sin6_family = AF_INET6, .sin6_port = htons(p->host_port) };
	struct sockaddr_in a4 = { .sin_family = AF_INET, .sin_port = htons(p->host_port) };
	cleanup_close int fd =
		socket(family, (p->udp ? SOCK_DGRAM : SOCK_STREAM) | SOCK_CLOEXEC, 0);
	int on = 1, r;

	if (fd < 0)
		return -errno;
	if (family == AF_INET6) {
		if (setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on)))
			return -errno;
		r = bind(fd, (struct sockaddr *)&a6, sizeof(a6));
	} else {
		r = bind(fd, (struct sockaddr *)&a4, sizeof(a4));
	}
	if (r)
		return -errno;
	r = harmless(fd, p->udp);
	return r ? r : take_fd(&fd);
}

int publish_hold(const struct network_want *w, struct network_port *p, struct err *e)
{
	for (size_t i = 0; i < w->nr_publish; i++) {
		const struct network_publish *pub = &w->publish[i];
		static const int families[] = { AF_INET, AF_INET6 };

		for (size_t k = 0; k < ARRAY_SIZE(families); k++) {
			const char *proto = pub->udp ? "udp" : "tcp";
			char vm[VM_NAME_MAX + 1] = "";
			int fd;

			if (families[k] == AF_INET6 && !host_has_ip6())
				continue;
			fd = bind_one(families[k], pub);
			if (fd == -EADDRINUSE && publish_owner(pub, vm, sizeof(vm)))
				return err_set(e, EADDRINUSE,
					       "port %u/%s of the host is taken by VM %s",
					       pub->host_port, proto, vm);
			if (fd == -EADDRINUSE)
				return err_set(
					e, EADDRINUSE,
					"port %u/%s of the host is taken (ss -lnp shows by whom)",
					pub->host_port, proto);
			if (fd < 0)
				return err_sys(e, -fd, "port %u/%s of the host", pub->host_port,
					       proto);
			p->publish_fd[p->nr_publish_fd++] = fd;
		}
	}
	return 0;
}
