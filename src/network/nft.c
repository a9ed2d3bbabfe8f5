/* SPDX-License-Identifier: MIT */
/*
 * nft(8): rules go to it as one text, which the kernel takes whole or not at all; what others have
 * is read from its JSON. Whether our own rules are there is asked of the kernel directly
 * (nfnetlink): a fork that takes a TAP from the pool must not wait for a program, and must not come
 * up unguarded after somebody's "flush ruleset" either.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/util.h"
#include "control/json.h"
#include "image/proc.h"
#include "network/private.h"

#define MARK "net_" /* as in rules.c */

int nft_apply(struct wbuf *w, struct err *e)
{
	static const char *const argv[] = { "nft", "-f", "-", NULL };
	struct proc p = { .argv = argv, .log = -1, .keep_fd = -1 };
	int r;

	if (!w->len)
		return 0;
	wbuf_u8(w, 0);
	if (w->bad)
		return err_set(e, ENOMEM, "rules: out of memory");
	p.input = (const char *)w->data;
	r = proc_run(&p, e);
	if (r == -ENOENT)
		return err_set(e, ENOENT, "networks need nft: apt-get install nftables");
	return r ? err_wrap(e, r, "rules") : 0;
}

int nft_json(const char *const *argv, json_t **out, struct err *e)
{
	cleanup_free char *text = NULL;
	int r = proc_capture(argv, &text, e);

	if (r == -ENOENT)
		return err_set(e, ENOENT, "networks need nft: apt-get install nftables");
	if (r)
		return r;
	*out = json_object_from(text, strlen(text), e);
	return *out ? 0 : err_wrap(e, -EBADMSG, "nft");
}

static void begin(struct nl_msg *m, uint16_t type, uint16_t flags)
{
	struct nfgenmsg g = { .nfgen_family = NFPROTO_INET, .version = NFNETLINK_V0 };

	nl_begin(m, (uint16_t)(NFNL_SUBSYS_NFTABLES << 8 | type), flags, &g, sizeof(g));
}

struct marks {
	char mine[16];
	bool found, other;
};

static int see_object(void *arg, const struct nlmsghdr *h, const uint8_t *body, size_t n)
{
	size_t head = NLMSG_ALIGN(sizeof(struct nfgenmsg)), len;
	struct marks *s = arg;
	const char *name;

	if (h->nlmsg_type != (NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWOBJ) || n < head)
		return 0;
	name = (const char *)nl_find(body + head, n - head, NFTA_OBJ_NAME, &len);
	if (!name || !memchr(name, 0, len) || strncmp(name, MARK, strlen(MARK)))
		return 0;
	if (!strcmp(name, s->mine))
		s->found = true;
	else
		s->other = true;
	return 0;
}

static struct marks marks_of(uint16_t id)
{
	cleanup_close int sock = nl_socket(NETLINK_NETFILTER, NULL);
	struct marks s = { .found = false };
	uint8_t buf[256];
	struct nl_msg m;

	snprintf(s.mine, sizeof(s.mine), MARK "%04x", id);
	if (sock < 0)
		return s;
	nl_init(&m, buf, sizeof(buf));
	begin(&m, NFT_MSG_GETOBJ, NLM_F_DUMP);
	nl_str(&m, NFTA_OBJ_TABLE, "clone");
	nl_dump(sock, &m, see_object, &s, NULL);
	return s;
}

bool nft_network_there(uint16_t id)
{
	cleanup_close int sock = nl_socket(NETLINK_NETFILTER, NULL);
	char name[16];
	uint8_t buf[256];
	struct nl_msg m;

	snprintf(name, sizeof(name), MARK "%04x", id);
	nl_init(&m, buf, sizeof(buf));
	begin(&m, NFT_MSG_GETOBJ, NLM_F_ACK);
	nl_str(&m, NFTA_OBJ_TABLE, "clone");
	nl_str(&m, NFTA_OBJ_NAME, name);
	nl_u32(&m, NFTA_OBJ_TYPE, htonl(NFT_OBJECT_COUNTER));
	return sock >= 0 && !nl_run(sock, &m, 0, "rules", NULL);
}

bool nft_tables_there(void)
{
	cleanup_close int sock = nl_socket(NETLINK_NETFILTER, NULL);
	uint8_t buf[256];
	struct nl_msg m;

	nl_init(&m, buf, sizeof(buf));
	begin(&m, NFT_MSG_GETTABLE, NLM_F_ACK);
	nl_str(&m, NFTA_TABLE_NAME, "clone");
	return sock >= 0 && !nl_run(sock, &m, 0, "rules", NULL);
}

bool nft_other_network(uint16_t id)
{
	return marks_of(id).other;
}
