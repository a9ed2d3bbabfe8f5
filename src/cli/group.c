/* SPDX-License-Identifier: MIT */
/* See group.h. */
#include "cli/group.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/util.h"
#include "cgroup/cgroup.h"
#include "control/json.h"

#define LINK "group"
#define RECORD "killed.json"
#define RECORD_MAX 4096
#define SHARED "shared" /* of seeds, and of their forks without a quota */
#define PREFIX "clone-"
#define FORGET_TRIES 25

int group_ready(struct err *e)
{
	char base[PATH_MAX];
	int r = cgroup_find(&cgroup_host_files, base, e);

	return r ? r : cgroup_prepare(base, e);
}

bool group_path(const struct vmdir *d, char path[PATH_MAX])
{
	ssize_t n = readlinkat(d->fd, LINK, path, PATH_MAX - 1);
	const char *slash;

	if (n <= 0)
		return false;
	path[n] = '\0';
	slash = strrchr(path, '/');
	/* nothing else is ever removed by that name */
	return *path == '/' && !strncmp(slash + 1, PREFIX, strlen(PREFIX));
}

int group_make(const struct vmdir *d, uint64_t quota_bytes, uint64_t guest_bytes, int *events,
	       struct err *e)
{
	char base[PATH_MAX], path[PATH_MAX];
	unsigned int tag;
	int r = cgroup_find(&cgroup_host_files, base, e);

	if (!r)
		r = cgroup_prepare(base, e);
	if (r)
		return err_wrap(e, r, "memory quota");
	/* names are one run directory's, groups are the host's */
	if (getrandom(&tag, sizeof(tag), 0) != sizeof(tag))
		return err_sys(e, errno, "getrandom");
	if (snprintf(path, sizeof(path), "%s/" PREFIX "%s-%08x", base, d->name, tag) >=
	    (int)sizeof(path))
		return err_set(e, ENAMETOOLONG, "memory quota: path too long");
	if (symlinkat(path, d->fd, LINK))
		return err_sys(e, errno, "%s: " LINK, d->name);
	r = cgroup_create(path, quota_bytes, guest_bytes, e);
	*events = !r && quota_bytes ? cgroup_open(path, "memory.events", O_RDONLY, e) : -1;
	if (!r && quota_bytes)
		r = MIN(*events, 0);
	if (!r)
		return 0;
	/* one that was there already is another's: the tag is a number like any other */
	if (r == -EEXIST || !cgroup_remove(path, NULL))
		unlinkat(d->fd, LINK, 0);
	return err_wrap(e, r, "memory quota");
}

/* Why it ended, as far as the kernel knows. */
static void keep_record(const struct vmdir *d, const char *path)
{
	cleanup_close int fd = cgroup_open(path, "memory.events.local", O_RDONLY, NULL);
	cleanup_json json_t *info = NULL, *rec = NULL;
	struct cgroup_events ev;
	uint64_t max;

	if (fd < 0 || cgroup_events_read(fd, &ev) || !ev.oom_kill)
		return;
	vmdir_info(d, &info, NULL); /* not of one that was never made */
	rec = json_pack("{s:s, s:O*}", "by", ev.oom ? "quota" : "host", "memory_quota_bytes",
			json_object_get(info, "memory_quota_bytes"));
	if (rec && cgroup_number(path, "memory.max", &max) && max == UINT64_MAX)
		json_object_set_new(rec, "memory_quota_bytes", json_integer(0));
	if (rec)
		(void)json_write_file(d->fd, RECORD, 0600, rec, NULL);
}

int group_settle(const struct vmdir *d, struct err *e)
{
	char path[PATH_MAX];
	int r;

	if (!group_path(d, path))
		return 0;
	keep_record(d, path);
	r = cgroup_remove(path, e);
	if (!r)
		unlinkat(d->fd, LINK, 0);
	return r;
}

void group_forget(const struct vmdir *d)
{
	char path[PATH_MAX];
	int r = -1;

	if (!group_path(d, path))
		return;
	/* the dying are in it for a while */
	for (unsigned int i = 0; r && i < FORGET_TRIES; i++) {
		r = rmdir(path) && errno != ENOENT ? -errno : 0;
		if (r)
			usleep(2000);
	}
	if (r)
		fprintf(stderr, "clone: the group %s of %s is left: %s\n", path, d->name,
			strerrordesc_np(-r));
	unlinkat(d->fd, LINK, 0);
}

bool group_end_text(const struct vmdir *d, char *buf, size_t n)
{
	cleanup_json json_t *rec = NULL;
	const json_t *limit;
	const char *by;
	char size[24] = "";
	uint64_t quota;

	if (json_read_file(d->fd, RECORD, RECORD_MAX, &rec, NULL))
		return false;
	by = json_string_value(json_object_get(rec, "by"));
	limit = json_object_get(rec, "memory_quota_bytes");
	quota = (uint64_t)json_integer_value(limit);
	if (quota && quota % GIB(1) == 0) /* as one says it */
		snprintf(size, sizeof(size), "%" PRIu64 "G", quota >> 30);
	else if (quota)
		snprintf(size, sizeof(size), "%" PRIu64 "M", quota >> 20);
	if (by && !strcmp(by, "quota"))
		snprintf(buf, n, "killed by its memory quota (%s%s%s)", d->name,
			 size[0] ? ", " : "", size);
	else
		snprintf(buf, n,
			 "killed because the host, or the group that VMs are in, was out of "
			 "memory (%s %s%s%s)",
			 d->name, limit && !quota ? "has no quota" : "was within its quota",
			 size[0] ? " of " : "", size);
	return true;
}

void group_add_seed(pid_t pid)
{
	char base[PATH_MAX], path[PATH_MAX];

	if (cgroup_find(&cgroup_host_files, base, NULL) || !cgroup_prepared(base) ||
	    snprintf(path, sizeof(path), "%s/" SHARED, base) >= (int)sizeof(path))
		return;
	if (!mkdir(path, 0755) || errno == EEXIST)
		(void)cgroup_add(path, pid, NULL);
}

static void add_number(json_t *v, const char *key, const char *path, const char *file)
{
	uint64_t n;

	if (cgroup_number(path, file, &n) && n <= INT64_MAX)
		json_object_set_new(v, key, json_integer((json_int_t)n));
}

json_t *group_view(const struct vmdir *d)
{
	cleanup_close int fd = -1;
	struct cgroup_events ev;
	char path[PATH_MAX];
	json_t *v;

	if (!group_path(d, path))
		return NULL;
	v = json_pack("{s:s}", "path", path);
	if (!v)
		return NULL;
	add_number(v, "current_bytes", path, "memory.current");
	add_number(v, "high_bytes", path, "memory.high");
	add_number(v, "max_bytes", path, "memory.max");
	fd = cgroup_open(path, "memory.events", O_RDONLY, NULL);
	if (fd >= 0 && !cgroup_events_read(fd, &ev))
		json_object_set_new(v, "events",
				    json_pack("{s:I, s:I, s:I, s:I}", "high", (json_int_t)ev.high,
					      "max", (json_int_t)ev.max, "oom", (json_int_t)ev.oom,
					      "oom_kill", (json_int_t)ev.oom_kill));
	return v;
}
