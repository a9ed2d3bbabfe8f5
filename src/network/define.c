/* SPDX-License-Identifier: MIT */
/*
 * Definitions of networks: STATE/networks/NAME.json. What a network is never changes; what of it is
 * on the host is in RUN.
 */
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/util.h"
#include "control/json.h"
#include "image/image.h"
#include "image/store.h"
#include "image/tree.h"
#include "network/private.h"

#define FILE_MAX (16u << 10)

static int check_name(const char *name, struct err *e)
{
	if (name && image_name_ok(name) && strlen(name) <= NETWORK_NAME_MAX && strcmp(name, "none"))
		return 0;
	return err_set(e, EINVAL,
		       "'%.80s' cannot be a network's name: 1 to %d letters, digits, '_', '.', "
		       "'-', beginning with a letter or digit, and not 'none'",
		       name ? name : "", NETWORK_NAME_MAX);
}

static int networks_dir(char *buf, size_t n, struct err *e)
{
	char state[PATH_MAX];
	int r = image_state_dir(state, sizeof(state), e);

	return r ? r : tree_path(buf, n, e, "%s/networks", state);
}

static int open_dir(int *out, struct err *e)
{
	char path[PATH_MAX];
	int r = networks_dir(path, sizeof(path), e);

	if (r)
		return r;
	*out = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return *out < 0 ? err_sys(e, errno, "%s", path) : 0;
}

static int read_in(int dir, const char *name, struct network *out, struct err *e)
{
	cleanup_json json_t *j = NULL;
	char file[NETWORK_NAME_MAX + 8];
	int r;

	snprintf(file, sizeof(file), "%s.json", name);
	r = json_read_file(dir, file, FILE_MAX, &j, e);
	return r ? r : network_from_json(j, name, out, e);
}

/* ---- listing ---- */

static int by_name(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static int add_name(char ***names, size_t *n, const char *file)
{
	size_t len = strlen(file);
	char name[NETWORK_NAME_MAX + 1];
	char **v;

	if (len < 6 || len - 5 > NETWORK_NAME_MAX || strcmp(file + len - 5, ".json"))
		return 0;
	snprintf(name, sizeof(name), "%.*s", (int)(len - 5), file);
	if (check_name(name, NULL))
		return 0;
	v = reallocarray(*names, *n + 1, sizeof(*v));
	if (!v)
		return -ENOMEM;
	*names = v;
	v[*n] = strdup(name);
	return v[*n] ? (++*n, 0) : -ENOMEM;
}

int network_list(char ***names, size_t *n, struct err *e)
{
	char path[PATH_MAX];
	int r = networks_dir(path, sizeof(path), e);
	DIR *d = r ? NULL : opendir(path);
	struct dirent *de;

	*names = NULL;
	*n = 0;
	if (!d)
		return r ? r : errno == ENOENT ? 0 : err_sys(e, errno, "%s", path);
	while (!r && (de = readdir(d)))
		r = add_name(names, n, de->d_name);
	closedir(d);
	if (r) {
		network_list_free(*names, *n);
		*names = NULL;
		*n = 0;
		return err_sys(e, -r, "%s", path);
	}
	if (*n)
		qsort(*names, *n, sizeof(**names), by_name);
	return 0;
}

void network_list_free(char **names, size_t n)
{
	for (size_t i = 0; i < n; i++)
		free(names[i]);
	free(names);
}

/* All that can be read. */
static int read_all(int dir, struct network **out, size_t *n, struct err *e)
{
	struct network *v = NULL;
	char **names = NULL;
	size_t count = 0, have = 0;
	int r = network_list(&names, &count, e);

	if (!r && count) {
		v = calloc(count, sizeof(*v));
		r = v ? 0 : err_set(e, ENOMEM, "out of memory");
	}
	for (size_t i = 0; !r && i < count; i++)
		if (!read_in(dir, names[i], &v[have], NULL))
			have++;
	network_list_free(names, count);
	*out = v;
	*n = have;
	return r;
}

/* ---- making ---- */

static int draw_id(struct network *nw, const struct network *others, size_t n, struct err *e)
{
	for (unsigned int tries = 0; tries < 1000; tries++) {
		bool free_id = true;

		if (getrandom(&nw->id, sizeof(nw->id), 0) != sizeof(nw->id))
			return err_sys(e, errno, "getrandom");
		for (size_t i = 0; i < n && free_id; i++)
			free_id = others[i].id != nw->id;
		if (free_id && !nft_network_there(nw->id))
			return 0;
	}
	return err_set(e, ENOSPC, "too many networks");
}

static int options_of(const struct network_options *o, struct network *nw, struct err *e)
{
	unsigned int mtu = 1500;
	int r = 0;

	nw->mode = o->mode;
	nw->allow = o->allow;
	if (o->mode == NETWORK_BRIDGE) {
		if (!o->bridge)
			return err_set(e, EINVAL, "which bridge? give --bridge IF");
		if (o->subnet4 || o->subnet6 || o->dns ||
		    (o->allow | NETWORK_ALLOW_PEERS) != NETWORK_ALLOW_PEERS)
			return err_set(e, EINVAL,
				       "a bridge has its own subnet, resolvers and neighbours: of "
				       "all options only --mtu and --allow peers make sense");
		r = bridge_check(o->bridge, &mtu, e);
		if (r)
			return r;
		snprintf(nw->bridge, sizeof(nw->bridge), "%s", o->bridge);
	} else if (o->bridge) {
		return err_set(e, EINVAL, "--bridge is for --mode bridge");
	}
	if (o->mode == NETWORK_ISOLATED && (o->allow & NETWORK_ALLOW_METADATA))
		return err_set(e, EINVAL, "metadata services are outside of an isolated network");
	/* a port with less would lower the bridge's for everybody on it */
	if (o->bridge && o->mtu && o->mtu < mtu)
		return err_set(e, EINVAL, "MTU %u: bridge %s has %u, and would get that too",
			       o->mtu, o->bridge, mtu);
	if (o->mtu)
		mtu = o->mtu;
	if (mtu < NIC_MTU_MIN || mtu > NIC_MTU_MAX)
		return err_set(e, EINVAL, "an MTU must be %u to %u", NIC_MTU_MIN, NIC_MTU_MAX);
	nw->mtu = (uint16_t)mtu;
	return o->dns ? dns_parse(o->dns, nw->dns, &nw->nr_dns, e) : 0;
}

static int create_locked(int dir, struct network *nw, const struct network_options *o,
			 struct err *e)
{
	cleanup_free struct network *others = NULL;
	cleanup_json json_t *j = NULL;
	char file[NETWORK_NAME_MAX + 8];
	size_t n = 0;
	int r;

	snprintf(file, sizeof(file), "%s.json", nw->name);
	if (!faccessat(dir, file, F_OK, AT_SYMLINK_NOFOLLOW))
		return err_set(e, EEXIST, "there is a network %s already", nw->name);
	r = options_of(o, nw, e);
	if (!r)
		r = read_all(dir, &others, &n, e);
	if (!r && nw->mode != NETWORK_BRIDGE)
		r = subnets_choose(nw, o, others, n, e);
	if (!r)
		r = draw_id(nw, others, n, e);
	if (r)
		return r;
	j = network_json(nw);
	return j ? json_write_file(dir, file, 0644, j, e) : err_set(e, ENOMEM, "out of memory");
}

static int definitions_lock(int *dir, int *lock, struct err *e)
{
	char path[PATH_MAX], file[PATH_MAX];
	int r = networks_dir(path, sizeof(path), e);

	if (!r)
		r = tree_mkdirs(path, 0755, e);
	if (!r)
		r = tree_path(file, sizeof(file), e, "%s/.lock", path);
	if (!r)
		r = store_lock_file(file, true, lock, e);
	return r ? r : open_dir(dir, e);
}

int network_create(const char *name, const struct network_options *o, struct network *out,
		   struct err *e)
{
	cleanup_close int lock = -1, dir = -1;
	struct network nw = { .mtu = 0 };
	int r = check_name(name, e);

	if (r)
		return r;
	snprintf(nw.name, sizeof(nw.name), "%s", name);
	r = definitions_lock(&dir, &lock, e);
	if (!r)
		r = create_locked(dir, &nw, o, e);
	if (r)
		return r == -EEXIST ? r : err_wrap(e, r, "network %s", name);
	if (out)
		*out = nw;
	return 0;
}

int network_open(const char *name, struct network *out, struct err *e)
{
	static const struct network_options nat = { .mode = NETWORK_NAT };
	cleanup_close int dir = -1;
	int r = check_name(name, e);

	if (r)
		return r;
	r = open_dir(&dir, e);
	if (!r)
		r = read_in(dir, name, out, e);
	if (r == -ENOENT && !strcmp(name, NETWORK_DEFAULT)) {
		r = network_create(name, &nat, out, e);
		/* another process was faster */
		if (r != -EEXIST)
			return r;
		r = dir < 0 ? open_dir(&dir, e) : 0;
		return r ? r : read_in(dir, name, out, e);
	}
	if (r == -ENOENT)
		return err_set(e, ENOENT, "no network is called %s: see `clone network ls`", name);
	return r;
}

int network_remove(const char *name, struct err *e)
{
	cleanup_hostlock struct hostlock host = { .fd = -1 };
	cleanup_close int lock = -1, dir = -1;
	struct network nw;
	struct netdir d;
	char file[NETWORK_NAME_MAX + 8];
	int r = check_name(name, e);

	if (!r)
		r = definitions_lock(&dir, &lock, e);
	if (r)
		return r;
	r = read_in(dir, name, &nw, e);
	if (r)
		return r == -ENOENT
			       ? err_set(e, ENOENT,
					 "no network is called %s: see `clone network ls`", name)
			       : r;
	if (!netdir_open(name, false, &d, NULL)) {
		r = need_admin(e);
		if (!r)
			r = hostlock_take(&host, e);
		if (!r)
			r = network_down(&host, &nw, &d, e);
		netdir_close(&d);
		if (r)
			return err_wrap(e, r, "network %s", name);
	}
	snprintf(file, sizeof(file), "%s.json", name);
	return unlinkat(dir, file, 0) ? err_sys(e, errno, "remove network %s", name) : 0;
}
