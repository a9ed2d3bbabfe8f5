/* SPDX-License-Identifier: MIT */
/*
 * The name servers of IDENTITY, into /etc/resolv.conf. A link there belongs to a service that
 * writes the file itself (systemd-resolved, resolvconf): that is not ours to change. Agent's
 * thread.
 */
#include "net.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include "procfs.h"

#define RESOLV "/etc/resolv.conf"
#define MARK "# by clone"
#define SERVER "nameserver"
#define FILE_MAX 8192

/* A whole line, or nothing of it. */
static void add(char *text, size_t *n, const char *line, size_t len)
{
	if (len + 1 >= FILE_MAX - *n)
		return;
	memcpy(text + *n, line, len);
	*n += len;
	text[(*n)++] = '\n';
}

static void add_servers(char *text, size_t *n, const struct proto_nic *c)
{
	for (size_t i = 0; i < c->ndns; i++) {
		char addr[INET6_ADDRSTRLEN] = "", line[sizeof(SERVER) + sizeof(addr) + 1];
		int family = c->dns[i].family == 4 ? AF_INET : AF_INET6;

		inet_ntop(family, c->dns[i].addr, addr, sizeof(addr));
		snprintf(line, sizeof(line), SERVER " %s", addr);
		add(text, n, line, strlen(line));
	}
}

/* What else stood there, such as search and options, goes on to. */
static void add_others(char *text, size_t *n, const char *old)
{
	while (*old) {
		size_t len = strcspn(old, "\n");
		bool ours = len == strlen(MARK) && !strncmp(old, MARK, len);

		if (len && !ours && strncmp(old, SERVER, strlen(SERVER)) != 0)
			add(text, n, old, len);
		old += len + (old[len] == '\n');
	}
}

void resolv_apply(struct identity *id, const struct proto_identity *x)
{
	char path[PATH_MAX], link[64], old[FILE_MAX], text[FILE_MAX];
	size_t n = 0, servers = 0;
	ssize_t len;
	int r;

	for (size_t i = 0; i < x->nnics; i++)
		servers += x->nics[i].ndns;
	if (!servers)
		return;
	identity_path(id->agent, path, RESOLV);
	len = readlink(path, link, sizeof(link) - 1);
	if (len >= 0) {
		link[len] = '\0';
		identity_remark(id, RESOLV " is a link to %s: no name servers written", link);
		return;
	}
	add(text, &n, MARK, strlen(MARK));
	for (size_t i = 0; i < x->nnics; i++)
		add_servers(text, &n, &x->nics[i]);
	procfs_read(path, old, sizeof(old));
	add_others(text, &n, old);
	if (strlen(old) == n && !memcmp(old, text, n))
		return;
	r = identity_write(path, text, n, O_CREAT | O_NOFOLLOW, 0644);
	if (r)
		identity_remark(id, RESOLV ": %s", strerror(-r));
}
