/* SPDX-License-Identifier: MIT */
/*
 * Forwarding, which networks need and a host may not have on: turned on with what that sets besides
 * noted in the host lock's record, and back. Under the host lock.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/util.h"
#include "network/private.h"

#define FORWARD4 "ipv4/ip_forward"
#define FORWARD6 "ipv6/conf/all/forwarding"

static char sysctl_get(const char *name)
{
	cleanup_close int fd = -1;
	char path[128], v = 0;

	snprintf(path, sizeof(path), "/proc/sys/net/%s", name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	return fd >= 0 && read(fd, &v, 1) == 1 ? v : '\0';
}

static int sysctl_set(const char *name, char v, struct err *e)
{
	cleanup_close int fd = -1;
	char path[128];

	snprintf(path, sizeof(path), "/proc/sys/net/%s", name);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	return fd < 0 || write(fd, &v, 1) != 1 ? err_sys(e, errno, "set %s to %c", path, v) : 0;
}

int host_record(struct hostlock *l, const char *key, json_t *value, struct err *e)
{
	/* before the change: what is recorded in vain is undone in vain */
	if (json_object_set_new(l->rec, key, value))
		return err_set(e, ENOMEM, "record of the host's settings: out of memory");
	return hostlock_save(l, e);
}

static int keep_advertisements(struct hostlock *l, struct err *e)
{
	DIR *d = opendir("/proc/sys/net/ipv6/conf");
	json_t *list = json_array();
	struct dirent *de;
	size_t i;
	json_t *v;
	int r = 0;

	while (d && list && (de = readdir(d))) {
		char name[320];

		if (de->d_name[0] == '.' || !strcmp(de->d_name, "all") ||
		    !strcmp(de->d_name, "default") || !if_name_ok(de->d_name) ||
		    !strncmp(de->d_name, TAP_PREFIX, strlen(TAP_PREFIX)))
			continue;
		snprintf(name, sizeof(name), "ipv6/conf/%s/accept_ra", de->d_name);
		if (sysctl_get(name) == '1')
			json_array_append_new(list, json_string(de->d_name));
	}
	if (d)
		closedir(d);
	r = host_record(l, "accept_ra", list, e);
	if (r)
		return r;
	json_array_foreach(list, i, v)
	{
		char name[64];

		snprintf(name, sizeof(name), "ipv6/conf/%s/accept_ra", json_string_value(v));
		sysctl_set(name, '2', NULL); /* an interface may have gone */
	}
	return 0;
}

/* Turning ip_forward on or off sets all of these; what they were comes back with them. */
static const char *const set_by_forwarding[] = { "forwarding", "accept_redirects" };

static int keep_ipv4(struct hostlock *l, struct err *e)
{
	DIR *d = opendir("/proc/sys/net/ipv4/conf");
	json_t *were = json_object();
	struct dirent *de;

	while (d && were && (de = readdir(d))) {
		if (de->d_name[0] == '.' || !if_name_ok(de->d_name) ||
		    !strncmp(de->d_name, TAP_PREFIX, strlen(TAP_PREFIX)))
			continue;
		for (size_t i = 0; i < ARRAY_SIZE(set_by_forwarding); i++) {
			char name[320], value[2] = "";

			snprintf(name, sizeof(name), "ipv4/conf/%s/%s", de->d_name,
				 set_by_forwarding[i]);
			value[0] = (char)MAX(sysctl_get(name), 0);
			json_object_set_new(were, name, json_string(value));
		}
	}
	if (d)
		closedir(d);
	return host_record(l, "ipv4_conf", were, e);
}

static void put_back_ipv4(const struct hostlock *l)
{
	const char *name;
	json_t *v;

	json_object_foreach(json_object_get(l->rec, "ipv4_conf"), name, v)
	{
		const char *s = json_string_value(v);

		if (s && (s[0] == '0' || s[0] == '1') && !strncmp(name, "ipv4/conf/", 10) &&
		    !strstr(name, "..") && sysctl_get(name) != s[0])
			sysctl_set(name, s[0], NULL); /* an interface may have gone */
	}
}

static int turn_on(struct hostlock *l, const char *name, const char *key, struct err *e)
{
	int r;

	if (sysctl_get(name) != '0')
		return 0;
	r = host_record(l, key, json_true(), e);
	return r ? r : sysctl_set(name, '1', e);
}

static int forward6(struct hostlock *l, const struct network *nw, bool publish, struct err *e)
{
	bool useful = publish || (nw->allow & NETWORK_ALLOW_PEERS) ||
		      (nw->mode == NETWORK_NAT && host_has_default6());
	int r;

	if (!nw->prefix6 || !useful || sysctl_get(FORWARD6) != '0' || !host_has_ip6())
		return 0;
	r = keep_advertisements(l, e);
	return r ? r : turn_on(l, FORWARD6, "ipv6_forwarding", e);
}

void forwarding_off(struct hostlock *l)
{
	size_t i;
	json_t *v;

	if (json_object_get(l->rec, "ip_forward") && sysctl_get(FORWARD4) == '1') {
		sysctl_set(FORWARD4, '0', NULL);
		put_back_ipv4(l);
	}
	if (json_object_get(l->rec, "ipv6_forwarding") && sysctl_get(FORWARD6) == '1')
		sysctl_set(FORWARD6, '0', NULL);
	json_array_foreach(json_object_get(l->rec, "accept_ra"), i, v)
	{
		const char *s = json_string_value(v);
		char name[64];

		if (!s || !if_name_ok(s))
			continue;
		snprintf(name, sizeof(name), "ipv6/conf/%s/accept_ra", s);
		if (sysctl_get(name) == '2')
			sysctl_set(name, '1', NULL);
	}
}

int forwarding_on(struct hostlock *l, const struct network *nw, bool publish, struct err *e)
{
	int r = 0;

	if (sysctl_get(FORWARD4) == '0') {
		r = keep_ipv4(l, e);
		if (!r)
			r = turn_on(l, FORWARD4, "ip_forward", e);
	}
	return r ? r : forward6(l, nw, publish, e);
}

bool forwarding_is_on(void)
{
	return sysctl_get(FORWARD4) != '0';
}
