/* SPDX-License-Identifier: MIT */
/*
 * The network's part of clone-agent's IDENTITY against a kernel that is a model: what it is asked,
 * in how many goes, and what comes of answers that the kernel which runs the tests does not give
 * (a NIC that does not change its MAC while it is up, a kernel without tcp_diag).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "guest/agent/net.c"
#include "guest/agent/netlook.c"
#define room tcp_room
#include "guest/agent/tcp.c"
#undef room

#include <fcntl.h>

static const uint8_t mac_a[6] = { 2, 0, 0, 0, 0, 0xa }, mac_b[6] = { 2, 0, 0, 0, 0, 0xb };

struct model {
	char asked[1024]; /* words for messages, '|' after each batch */
	char remarks[1024];
	bool fixed_mac; /* EBUSY while the interface is up */
	bool up;
	int diag;		/* the socket of sock_diag(7) */
	int diag_dump, destroy; /* -errno of each */
	bool held;
};

/* The functions under test have no argument for it. */
static struct model *model;

/* What the route socket is asked for; a number means another thing on the other socket. */
static const char *word(const struct nlmsghdr *h, const uint8_t *p, size_t n)
{
	struct ifinfomsg link;
	uint32_t mtu;

	switch (h->nlmsg_type) {
	case RTM_NEWLINK:
		memcpy(&link, p, sizeof(link));
		assert_int_equal(link.ifi_index, 2);
		if (link.ifi_change)
			return link.ifi_flags & IFF_UP ? "up" : "down";
		return nl_get(p + sizeof(link), n - sizeof(link), IFLA_MTU, &mtu, 4) ? "mtu"
										     : "mac";
	case RTM_NEWADDR:
		return p[0] == AF_INET ? "addr4" : "addr6";
	case RTM_DELADDR:
		return p[0] == AF_INET ? "-addr4" : "-addr6";
	case RTM_NEWROUTE:
		return p[0] == AF_INET ? "route4" : "route6";
	case RTM_DELROUTE:
		return p[0] == AF_INET ? "-route4" : "-route6";
	default:
		return "?";
	}
}

int netsock_open(int protocol)
{
	int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);

	if (protocol == NETLINK_SOCK_DIAG)
		model->diag = fd;
	return fd;
}

int netsock_batch(int fd, const struct nl_msg *m, int *result)
{
	const uint8_t *p = m->buf, *body;
	size_t left = m->len, n;
	struct nlmsghdr h;

	assert_true(nl_done(m));
	while (nl_next(&p, &left, &h, &body, &n)) {
		const char *w = fd == model->diag ? "destroy" : word(&h, body, n);
		int *r = &result[h.nlmsg_seq - 1];

		assert_true(h.nlmsg_flags & NLM_F_ACK);
		snprintf(model->asked + strlen(model->asked), 32, "%s ", w);
		*r = 0;
		if (!strcmp(w, "mac") && model->fixed_mac && model->up)
			*r = -EBUSY;
		if (!strcmp(w, "up") || !strcmp(w, "down"))
			model->up = !strcmp(w, "up");
		if (!strcmp(w, "destroy"))
			*r = model->destroy;
	}
	strcat(model->asked, "|");
	return 0;
}

/* lo; a VLAN, which has its interface's MAC; that interface, up, with one address; a connection. */
int netsock_dump(int fd, const struct nl_msg *m, void (*fn)(void *arg, const uint8_t *p, size_t n),
		 void *arg)
{
	static const uint8_t ip[4] = { 10, 1, 0, 1 };
	struct ifinfomsg lo = { .ifi_index = 1, .ifi_flags = IFF_LOOPBACK | IFF_UP },
			 vlan = { .ifi_index = 3, .ifi_flags = IFF_UP },
			 link = { .ifi_index = 2, .ifi_flags = IFF_UP };
	struct ifaddrmsg addr = { .ifa_family = AF_INET, .ifa_prefixlen = 24, .ifa_index = 2 };
	struct inet_diag_msg sock = { .idiag_family = AF_INET, .idiag_inode = model->held };
	const size_t head = sizeof(struct nlmsghdr);
	struct nlmsghdr h;
	uint8_t buf[256];
	struct nl_msg a;

	memcpy(&h, m->buf, sizeof(h));
	nl_init(&a, buf, sizeof(buf));
	switch (h.nlmsg_type) {
	case RTM_GETLINK:
		fn(arg, (uint8_t *)&lo, sizeof(lo));
		nl_begin(&a, RTM_NEWLINK, 0, &vlan, sizeof(vlan));
		nl_attr(&a, IFLA_ADDRESS, mac_a, 6);
		fn(arg, buf + head, a.len - head);
		nl_init(&a, buf, sizeof(buf));
		nl_begin(&a, RTM_NEWLINK, 0, &link, sizeof(link));
		nl_str(&a, IFLA_IFNAME, "eth0");
		nl_attr(&a, IFLA_ADDRESS, mac_a, 6);
		nl_attr(&a, IFLA_PERM_ADDRESS, mac_a, 6);
		break;
	case RTM_GETADDR:
		nl_begin(&a, RTM_NEWADDR, 0, &addr, sizeof(addr));
		nl_attr(&a, IFA_LOCAL, ip, 4);
		break;
	default:
		if (m->buf[head] == AF_INET6)
			return model->diag_dump;
		memcpy(sock.id.idiag_src, ip, 4);
		nl_begin(&a, SOCK_DIAG_BY_FAMILY, 0, &sock, sizeof(sock));
	}
	fn(arg, buf + head, a.len - head);
	return fd == model->diag ? model->diag_dump : 0;
}

void identity_remark(struct identity *id, const char *fmt, ...)
{
	va_list ap;

	(void)id;
	va_start(ap, fmt);
	vsnprintf(model->remarks, sizeof(model->remarks), fmt, ap);
	va_end(ap);
}

void resolv_apply(struct identity *id, const struct proto_identity *x)
{
	(void)id;
	(void)x;
}

static void apply(struct model *m, const char *asked, const char *remarks)
{
	struct proto_identity x = { .nnics = 1 };
	struct proto_nic *c = &x.nics[0];
	struct identity id = { .fork = true };

	memcpy(c->driver_mac, mac_a, 6);
	memcpy(c->mac, mac_b, 6);
	c->prefix4 = 24;
	memcpy(c->ip4, (uint8_t[]){ 10, 2, 0, 1 }, 4);
	memcpy(c->gw4, (uint8_t[]){ 10, 2, 0, 254 }, 4);
	m->up = true;
	model = m;
	assert_int_equal(net_apply(&id, &x), 0);
	assert_string_equal(m->asked, asked);
	assert_string_equal(m->remarks, remarks);
}

static void test_net_model__an_interface_is_one_go(void **state)
{
	struct model m = { 0 };

	(void)state;
	apply(&m, "destroy |mac -addr4 addr4 route4 |", "");
}

static void test_net_model__a_mac_that_is_refused_is_set_while_it_is_down(void **state)
{
	struct model m = { .fixed_mac = true };

	(void)state;
	apply(&m,
	      "destroy |mac -addr4 addr4 route4 |"
	      "down mac -addr4 up addr4 route4 |",
	      "");
	assert_true(m.up);
}

static void test_net_model__no_tcp_diag_is_a_remark(void **state)
{
	struct model m = { .diag_dump = -ENOENT };

	(void)state;
	/* What was seen before it failed is ended all the same. */
	apply(&m, "destroy |mac -addr4 addr4 route4 |",
	      "inherited TCP connections cannot be looked for: the kernel has no tcp_diag");
}

static void test_net_model__a_connection_that_lives_on_is_a_remark(void **state)
{
	struct model held = { .destroy = -EOPNOTSUPP, .held = true }, left = held;

	(void)state;
	apply(&held, "destroy |mac -addr4 addr4 route4 |",
	      "1 inherited TCP connections cannot be ended: Operation not supported");
	left.held = false; /* no program waits for it */
	apply(&left, "destroy |mac -addr4 addr4 route4 |", "");
	left = (struct model){ .destroy = -ENOENT, .held = true }; /* ended by itself */
	apply(&left, "destroy |mac -addr4 addr4 route4 |", "");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_net_model__an_interface_is_one_go),
		cmocka_unit_test(test_net_model__a_mac_that_is_refused_is_set_while_it_is_down),
		cmocka_unit_test(test_net_model__no_tcp_diag_is_a_remark),
		cmocka_unit_test(test_net_model__a_connection_that_lives_on_is_a_remark),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
