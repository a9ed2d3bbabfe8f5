/* SPDX-License-Identifier: MIT */
/*
 * All run directories: listing, and the sweep that removes what dead processes left. See state.h.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "base/time.h"
#include "base/util.h"
#include "cli/cli.h"
#include "cli/group.h"
#include "cli/procid.h"
#include "cli/state_private.h"
#include "control/client.h"
#include "control/json.h"
#include "network/network.h"

#define KILL_MS 5000

static int by_name(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Names in a directory that could be ours, sorted. */
static int names_in(int dir, char ***out, size_t *count, struct err *e)
{
	int fd = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *list = fd >= 0 ? fdopendir(fd) : NULL;
	size_t n = 0, cap = 0;
	struct dirent *de;
	char **v = NULL;

	if (!list) {
		if (fd >= 0)
			close(fd);
		return err_sys(e, errno, "run directory");
	}
	while ((de = readdir(list))) {
		if (!cli_name_ok(de->d_name))
			continue;
		if (n == cap) {
			char **w = realloc(v, (cap = cap * 2 + 16) * sizeof(*v));

			if (!w)
				goto nomem;
			v = w;
		}
		v[n] = strdup(de->d_name);
		if (!v[n])
			goto nomem;
		n++;
	}
	closedir(list);
	if (n)
		qsort(v, n, sizeof(*v), by_name);
	*out = v;
	*count = n;
	return 0;
nomem:
	closedir(list);
	vmdir_list_free(v, n);
	return err_set(e, ENOMEM, "out of memory");
}

void vmdir_list_free(char **names, size_t n)
{
	for (size_t i = 0; i < n; i++)
		free(names[i]);
	free(names);
}

/* A VM process whose maker died before it was made: nobody will ever ask for it. */
static void kill_orphan(const struct vmdir *d)
{
	cleanup_json json_t *kill = json_pack("{s:s}", "action_type", "Kill");
	struct client *c;

	if (client_open(d->fd, &c, NULL))
		return;
	client_request(c, "PUT", "/actions", kill, KILL_MS, NULL, NULL);
	client_close(c);
	vmdir_wait_end(d, KILL_MS, -1, NULL);
}

/* Its owner was killed, who would have removed it. */
static bool was_abandoned(const struct vmdir *d)
{
	cleanup_json json_t *info = NULL;

	return !faccessat(d->fd, "creator", F_OK, 0) && !dir_locked(d->fd, "creator") &&
	       !vmdir_info(d, &info, NULL) && json_is_true(json_object_get(info, "owned"));
}

static bool wants_removal(const struct vmdir *d)
{
	cleanup_json json_t *info = NULL;

	if (d->place == PLACE_SEED)
		return true;
	return !vmdir_info(d, &info, NULL) && json_is_true(json_object_get(info, "rm"));
}

/* Looks at one directory without the run lock, then removes it under it, looking again. */
static void sweep_one(int run, enum place place, const char *name)
{
	struct vmdir d;

	if (vmdir_open(place, name, &d, NULL))
		return;
	if (faccessat(d.fd, "vm.json", F_OK, 0)) {
		cleanup_close int lock = -1;

		/* its maker publishes vm.json before letting go of `creator` */
		if (dir_locked(d.fd, "creator") || !faccessat(d.fd, "vm.json", F_OK, 0))
			goto out;
		/* it may be slow to end: nobody else is to wait for that; nor is it asked if it has
		 * a group, by which it ends */
		if (dir_locked(d.fd, "lock"))
			(void)group_settle(&d, NULL);
		if (dir_locked(d.fd, "lock"))
			kill_orphan(&d);
		if (dir_locked(d.fd, "lock") || group_settle(&d, NULL) == -EBUSY)
			goto out;
		lock = run_lock(run, NULL);
		if (!dir_locked(d.fd, "lock"))
			remove_dir(run, place, name, d.fd);
	} else if (was_abandoned(&d)) {
		if (!dir_locked(d.fd, "lock") || !vm_kill(&d, -1, NULL))
			vmdir_remove(&d, NULL);
	} else if (!dir_locked(d.fd, "lock")) {
		(void)group_settle(&d, NULL);
		if (wants_removal(&d))
			vmdir_remove(&d, NULL);
	}
out:
	vmdir_close(&d);
}

/* Does any directory of this place run under uid? */
static bool uid_used(int run, enum place place, uint32_t uid)
{
	cleanup_close int dir = place_open(run, place, NULL);
	bool used = false;
	char **v = NULL;
	size_t n = 0;

	/* when in doubt, a uid is not free */
	if (dir < 0 || names_in(dir, &v, &n, NULL))
		return true;
	for (size_t i = 0; i < n && !used; i++) {
		struct stat st;

		used = !fstatat(dir, v[i], &st, AT_SYMLINK_NOFOLLOW) && st.st_gid == uid;
	}
	vmdir_list_free(v, n);
	return used;
}

void release_uid(int run, uint32_t uid)
{
	char path[32];

	if (uid < UID_FIRST || uid - UID_FIRST >= UID_COUNT || uid_used(run, PLACE_VM, uid) ||
	    uid_used(run, PLACE_SEED, uid))
		return;
	snprintf(path, sizeof(path), "uids/%u", uid);
	unlinkat(run, path, 0);
}

/* uids whose VM has no directory any more (its remover was killed half-way). */
static void sweep_uids(int run)
{
	cleanup_close int lock = run_lock(run, NULL);
	cleanup_close int uids = openat(run, "uids", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	cleanup_close int vms = place_open(run, PLACE_VM, NULL);
	char **v = NULL;
	size_t n = 0;

	if (lock < 0 || uids < 0 || vms < 0 || names_in(uids, &v, &n, NULL))
		return;
	for (size_t i = 0; i < n; i++) {
		uint32_t uid = (uint32_t)strtoul(v[i], NULL, 10);
		char name[128] = "";
		struct stat st;

		if (readlinkat(uids, v[i], name, sizeof(name) - 1) < 0 || !cli_name_ok(name))
			continue;
		/* the usual case, without looking at all others */
		if (!fstatat(vms, name, &st, AT_SYMLINK_NOFOLLOW) && st.st_gid == uid)
			continue;
		release_uid(run, uid);
	}
	vmdir_list_free(v, n);
}

static int sweep_place(int run, enum place place, char ***names, size_t *n, struct err *e)
{
	cleanup_close int dir = place_open(run, place, e);
	size_t kept = 0;
	int r = dir < 0 ? dir : names_in(dir, names, n, e);

	if (r)
		return r;
	for (size_t i = 0; i < *n; i++) {
		char *name = (*names)[i];
		struct stat st;

		if (!fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) && S_ISDIR(st.st_mode)) {
			sweep_one(run, place, name);
			if (!fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW)) {
				(*names)[kept++] = name;
				continue;
			}
		}
		free(name);
	}
	*n = kept;
	return 0;
}

int vmdir_list(enum place place, char ***names, size_t *n, struct err *e)
{
	cleanup_close int run = run_open(e);

	*names = NULL;
	*n = 0;
	if (run < 0)
		return run;
	network_sweep();
	return sweep_place(run, place, names, n, e);
}

void state_sweep(void)
{
	static const enum place all[] = { PLACE_VM, PLACE_SEED };
	cleanup_close int run = run_open(NULL);

	if (run < 0)
		return;
	for (size_t i = 0; i < ARRAY_SIZE(all); i++) {
		char **v = NULL;
		size_t n = 0;

		if (!sweep_place(run, all[i], &v, &n, NULL))
			vmdir_list_free(v, n);
	}
	sweep_uids(run);
	network_sweep();
}
