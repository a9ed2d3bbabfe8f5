/* SPDX-License-Identifier: MIT */
/*
 * See disk_live.h. vm.json is written before a disk is put in and after one is taken out: a fork or
 * snapshot that reads it in between grants a file too many, which is dropped. One that had read it
 * before an attach grants one too few: the VM refuses it, says which, and goes on.
 */
#include "cli/disk_live.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "base/util.h"
#include "cli/imageboot.h"
#include "control/json.h"

#define SEEN_MS 5000 /* for a guest that takes its time, or does not care */
#define SEEN_POLL_MS 5

static int empty_bay(struct vmproc *p, char *id, size_t n, struct err *e)
{
	cleanup_json json_t *stats = NULL;
	const json_t *disk;
	size_t i;
	int r = vmproc_request(p, "GET", "/stats", NULL, LAUNCH_MS, &stats, e);

	if (r)
		return r;
	json_array_foreach(json_object_get(stats, "disks"), i, disk)
	{
		const char *name = json_string_value(json_object_get(disk, "id"));

		/* it becomes part of files' names, and a VM is not to be believed */
		if (!name || !json_id_ok(name, n - 1) ||
		    json_integer_value(json_object_get(disk, "size_bytes")))
			continue;
		snprintf(id, n, "%s", name);
		return 0;
	}
	return err_set(e, ENOSPC,
		       "%s has no empty bay for a disk: they are made when a VM or template is "
		       "(--bays N)",
		       p->dir.name);
}

/* vm.json without the disk `id`, and with `add` (given away) if that is not NULL. */
static int rewrite(const struct vmdir *d, const char *id, json_t *add, struct err *e)
{
	cleanup_json json_t *info = NULL, *added = add;
	int r = vmdir_info(d, &info, e);
	json_t *disks, *disk;
	size_t i;

	if (r)
		return r;
	disks = json_object_get(info, "disks");
	for (i = json_array_size(disks); i--;) {
		disk = json_array_get(disks, i);
		if (!strcmp(json_string_value(json_object_get(disk, "id")) ?: "", id))
			json_array_remove(disks, i);
	}
	if (added && json_array_append(disks, added))
		return err_set(e, ENOMEM, "out of memory");
	return vmdir_rewrite(d, info, e);
}

int disk_live_attach(struct vmproc *p, struct launch_disk *d, struct err *e)
{
	struct disk_files f = { 0 };
	struct err ignored;
	int r;

	if (d->read_only || d->serial)
		return err_set(e, EINVAL,
			       "%s: %s is for disks that a VM starts with: the guest of a bay was "
			       "told that already",
			       d->path, d->read_only ? "readonly" : "serial=");
	/* one at a time: the bay, and vm.json */
	if (flock(p->dir.fd, LOCK_EX))
		return err_sys(e, errno, "%s: lock", p->dir.name);
	r = empty_bay(p, d->id, sizeof(d->id), e);
	if (!r)
		r = disk_files_open(d->path, d->qcow2, d->backing_dir, &f, e);
	if (!r)
		r = rewrite(&p->dir, d->id, launch_disk_info(d, &f), e);
	if (!r) {
		r = launch_put_disk(p, "PATCH", d, &f, e);
		if (r)
			rewrite(&p->dir, d->id, NULL, &ignored);
	}
	disk_files_close(&f);
	flock(p->dir.fd, LOCK_UN);
	return r;
}

static int patch(struct vmproc *p, const char *id, json_t *body, struct err *e)
{
	cleanup_json json_t *owned = body;
	char path[80];

	if (!body || strlen(id) > 32)
		return err_set(e, EINVAL, "'%.40s' is no disk's id", id);
	snprintf(path, sizeof(path), "/drives/%s", id);
	return vmproc_request(p, "PATCH", path, body, LAUNCH_MS, NULL, e);
}

/* Whether the VM says that this disk is a bay. */
static bool is_out(struct vmproc *p, const char *id)
{
	cleanup_json json_t *stats = NULL;
	const json_t *disk;
	size_t i;

	if (vmproc_request(p, "GET", "/stats", NULL, LAUNCH_MS, &stats, NULL))
		return false;
	json_array_foreach(json_object_get(stats, "disks"), i, disk)
	{
		if (!strcmp(json_string_value(json_object_get(disk, "id")) ?: "", id))
			return !json_integer_value(json_object_get(disk, "size_bytes"));
	}
	return false;
}

int disk_live_detach(struct vmproc *p, const char *id, struct err *e)
{
	struct err ignored;
	int r;

	if (flock(p->dir.fd, LOCK_EX))
		return err_sys(e, errno, "%s: lock", p->dir.name);
	r = patch(p, id, json_pack("{s:s, s:s}", "drive_id", id, "path_on_host", ""), e);
	if (!r)
		r = rewrite(&p->dir, id, NULL, e);
	else if (is_out(p, id))
		rewrite(&p->dir, id, NULL, &ignored); /* though not as it should be */
	flock(p->dir.fd, LOCK_UN);
	return r;
}

int disk_live_resize(struct vmproc *p, const char *id, uint64_t bytes, struct err *e)
{
	return patch(p, id,
		     json_pack("{s:s, s:I}", "drive_id", id, "size_bytes", (json_int_t)bytes), e);
}

static bool all_seen(struct vmproc *p)
{
	cleanup_json json_t *stats = NULL;
	const json_t *disk;
	size_t i;

	if (vmproc_request(p, "GET", "/stats", NULL, LAUNCH_MS, &stats, NULL))
		return true; /* it has ended, which others say */
	json_array_foreach(json_object_get(stats, "disks"), i, disk)
	{
		if (json_is_false(json_object_get(disk, "seen")))
			return false;
	}
	return true;
}

void disk_live_until_seen(struct vmproc *p)
{
	cleanup_json json_t *vm = NULL;
	const char *state;

	if (vmproc_request(p, "GET", "/", NULL, LAUNCH_MS, &vm, NULL))
		return;
	state = json_string_value(json_object_get(vm, "state"));
	if (!state || strcmp(state, "Running") != 0)
		return;
	for (unsigned int i = 0; i < SEEN_MS / SEEN_POLL_MS && !all_seen(p); i++)
		usleep(SEEN_POLL_MS * 1000);
}
