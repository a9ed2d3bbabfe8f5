/* SPDX-License-Identifier: MIT */
/*
 * The ACPI power button, for guests in which nobody else listens to it. The kernel announces it to
 * a multicast group of the generic netlink family "acpi_event"; family and group are looked up by
 * name first. Event handlers of the agent's thread.
 */
#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <linux/genetlink.h>
#include <linux/netlink.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "agent.h"
#include "procfs.h"

/* Not in the kernel's exported headers: drivers/acpi/event.c. */
#define ACPI_FAMILY "acpi_event"
#define ACPI_GROUP "acpi_mc_group"
#define ACPI_ATTR_EVENT 1u
#define ACPI_CLASS_BYTES 20u

struct button {
	struct agent *agent;
	struct watch watch;
	uint16_t family; /* 0: not known yet */
};

struct attrs {
	const uint8_t *p;
	size_t left;
};

/* The next attribute; false at the end, which a broken one is too. */
static bool attr_next(struct attrs *a, unsigned int *type, struct attrs *body)
{
	struct nlattr h;
	size_t step;

	if (a->left < sizeof(h))
		return false;
	memcpy(&h, a->p, sizeof(h));
	if (h.nla_len < sizeof(h) || h.nla_len > a->left)
		return false;
	*type = h.nla_type & (unsigned int)NLA_TYPE_MASK;
	*body = (struct attrs){ a->p + sizeof(h), h.nla_len - sizeof(h) };
	step = NLA_ALIGN(h.nla_len);
	step = step > a->left ? a->left : step;
	a->p += step;
	a->left -= step;
	return true;
}

static uint32_t attr_int(struct attrs a, size_t bytes)
{
	uint32_t v = 0;

	if (a.left >= bytes)
		memcpy(&v, a.p, bytes); /* netlink is in host order, and that is little-endian */
	return v;
}

static bool attr_is(struct attrs a, const char *s)
{
	return a.left == strlen(s) + 1 && !memcmp(a.p, s, a.left);
}

/* The id of the group we want, out of the list of groups; 0 if it is not there. */
static uint32_t find_group(struct attrs groups)
{
	struct attrs group, body;
	unsigned int type;

	while (attr_next(&groups, &type, &group)) {
		uint32_t id = 0;
		bool ours = false;

		while (attr_next(&group, &type, &body)) {
			if (type == CTRL_ATTR_MCAST_GRP_NAME)
				ours = attr_is(body, ACPI_GROUP);
			else if (type == CTRL_ATTR_MCAST_GRP_ID)
				id = attr_int(body, 4);
		}
		if (ours)
			return id;
	}
	return 0;
}

static void learn_family(struct button *b, struct attrs a)
{
	uint32_t family = 0, group = 0;
	struct attrs body;
	unsigned int type;

	while (attr_next(&a, &type, &body)) {
		if (type == CTRL_ATTR_FAMILY_ID)
			family = attr_int(body, 2);
		else if (type == CTRL_ATTR_MCAST_GROUPS)
			group = find_group(body);
	}
	if (!family || !group)
		return;
	if (setsockopt(b->watch.fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &group, sizeof(group))) {
		agent_log("power button: %s", strerror(errno));
		return;
	}
	b->family = (uint16_t)family;
}

/* True if the process is systemd-logind with an input device open: then the button is its business.
 */
static bool is_watching_logind(const char *pid)
{
	char path[PATH_MAX], comm[32], target[64];
	struct dirent *e;
	bool found = false;
	ssize_t n;
	DIR *d;

	snprintf(path, sizeof(path), "/proc/%.20s/comm", pid);
	if (!procfs_read(path, comm, sizeof(comm)) || strcmp(comm, "systemd-logind\n") != 0)
		return false;
	snprintf(path, sizeof(path), "/proc/%.20s/fd", pid);
	d = opendir(path);
	while (d && !found && (e = readdir(d))) {
		n = readlinkat(dirfd(d), e->d_name, target, sizeof(target) - 1);
		target[n < 0 ? 0 : n] = '\0';
		found = !strncmp(target, "/dev/input/event", 16);
	}
	if (d)
		closedir(d);
	return found;
}

static bool somebody_else(void)
{
	struct dirent *e;
	bool found = false;
	DIR *d = opendir("/proc");

	while (d && !found && (e = readdir(d)))
		found = e->d_name[0] >= '1' && e->d_name[0] <= '9' && is_watching_logind(e->d_name);
	if (d)
		closedir(d);
	return found;
}

static void on_acpi_event(struct button *b, struct attrs a)
{
	struct attrs body;
	unsigned int type;

	while (attr_next(&a, &type, &body)) {
		char class[ACPI_CLASS_BYTES + 1] = "";

		if (type != ACPI_ATTR_EVENT || body.left < ACPI_CLASS_BYTES)
			continue;
		memcpy(class, body.p, ACPI_CLASS_BYTES);
		if (strncmp(class, "button/power", 12) != 0)
			continue;
		if (somebody_else()) {
			agent_log("power button: left to systemd-logind");
			continue;
		}
		agent_log("power button: shutting down");
		power_begin(b->agent, NULL, PROTO_SHUTDOWN_POWEROFF, 0);
	}
}

static void on_event(struct watch *w, uint32_t events)
{
	struct button *b = container_of(w, struct button, watch);
	struct nlmsghdr h;
	uint8_t buf[8192];
	ssize_t n = recv(w->fd, buf, sizeof(buf), 0);
	size_t head = NLMSG_HDRLEN + GENL_HDRLEN;

	(void)events;
	if (n < (ssize_t)head)
		return;
	memcpy(&h, buf, sizeof(h));
	if (h.nlmsg_len < head || h.nlmsg_len > (size_t)n) {
		return;
	} else if (h.nlmsg_type == GENL_ID_CTRL) {
		learn_family(b, (struct attrs){ buf + head, h.nlmsg_len - head });
	} else if (b->family && h.nlmsg_type == b->family) {
		on_acpi_event(b, (struct attrs){ buf + head, h.nlmsg_len - head });
	} else if (h.nlmsg_type == NLMSG_ERROR && !b->family) {
		agent_log("power button: this kernel does not announce it");
	}
}

static bool ask_family(int fd)
{
	struct {
		struct nlmsghdr h;
		struct genlmsghdr g;
		struct nlattr a;
		char name[12];
	} q = { .h = { .nlmsg_type = GENL_ID_CTRL, .nlmsg_flags = NLM_F_REQUEST },
		.g = { .cmd = CTRL_CMD_GETFAMILY, .version = 1 },
		.a = { .nla_len = sizeof(struct nlattr) + sizeof(ACPI_FAMILY),
		       .nla_type = CTRL_ATTR_FAMILY_NAME },
		.name = ACPI_FAMILY };

	_Static_assert(sizeof(ACPI_FAMILY) <= sizeof(q.name), "name fits");
	q.h.nlmsg_len = sizeof(q);
	return send(fd, &q, sizeof(q), MSG_NOSIGNAL) == (ssize_t)sizeof(q);
}

void button_open(struct agent *a)
{
	struct sockaddr_nl addr = { .nl_family = AF_NETLINK };
	struct button *b = calloc(1, sizeof(*b)); /* lives as long as the agent */
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_GENERIC);

	if (!b || fd < 0 || bind(fd, (struct sockaddr *)&addr, sizeof(addr)) || !ask_family(fd)) {
		agent_log("power button: %s", strerror(errno));
		if (fd >= 0)
			close(fd);
		free(b);
		return;
	}
	b->agent = a;
	b->watch = (struct watch){ .fd = fd, .fn = on_event };
	loop_watch(&a->loop, &b->watch, EPOLLIN);
}
