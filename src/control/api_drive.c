/* SPDX-License-Identifier: MIT */
/*
 * The resource /drives/{id}: a VM's disks, before it starts and while it runs. See doc/control.md.
 * Main thread.
 */
#include <errno.h>
#include <string.h>

#include "block/source.h"
#include "control/api.h"
#include "control/rate.h"
#include "event/grants.h"
#include "virtio/blk.h"
#include "vm/vm.h"

struct drive_body {
	const char *drive_id, *path_on_host, *format, *serial;
	json_t *backing, *rate_limiter;
	uint64_t quota_bytes, size_bytes;
	bool is_root_device, is_read_only, persistent, direct;
};

struct backing_body {
	const char *path_on_host, *format;
};

static int take_format(const char *format, bool *qcow2, struct err *e)
{
	*qcow2 = !strcmp(format, "qcow2");
	return *qcow2 || !strcmp(format, "raw")
		       ? 0
		       : err_set(e, EINVAL, "format: '%s' is neither raw nor qcow2", format);
}

static int take_backing(const json_t *j, struct vm_disk_file *f, struct err *e)
{
	static const struct json_field tab[] = {
		JSON_FIELD(struct backing_body, path_on_host, WANT_STRING, true, 1, GRANT_NAME_MAX),
		JSON_FIELD(struct backing_body, format, WANT_STRING, true, 1, 8),
	};
	struct backing_body b = { 0 };
	int r = json_fields(j, tab, ARRAY_SIZE(tab), &b, e);

	if (r)
		return r;
	f->path = b.path_on_host;
	return take_format(b.format, &f->qcow2, e);
}

/* Of both requests: what a disk is made of. Firecracker lacks what is after rate_limiter. */
#define DRIVE_FIELDS(path_least)                                                                   \
	JSON_FIELD(struct drive_body, drive_id, WANT_ID, true, 1, DEVICE_ID_MAX - 1),              \
		JSON_FIELD(struct drive_body, path_on_host, WANT_STRING, false, path_least,        \
			   GRANT_NAME_MAX),                                                        \
		JSON_FIELD(struct drive_body, is_root_device, WANT_BOOL, false, 0, 0),             \
		JSON_FIELD(struct drive_body, is_read_only, WANT_BOOL, false, 0, 0),               \
		JSON_FIELD(struct drive_body, rate_limiter, WANT_OBJECT, false, 0, 0),             \
		JSON_FIELD(struct drive_body, format, WANT_STRING, false, 1, 8),                   \
		JSON_FIELD(struct drive_body, backing, WANT_ARRAY, false, 0, SOURCE_FILES - 1),    \
		JSON_FIELD(struct drive_body, quota_bytes, WANT_UINT, false, 0, BLK_MAX_BYTES),    \
		JSON_FIELD(struct drive_body, direct, WANT_BOOL, false, 0, 0),                     \
		JSON_FIELD(struct drive_body, persistent, WANT_BOOL, false, 0, 0),                 \
		JSON_FIELD(struct drive_body, serial, WANT_STRING, false, 0,                       \
			   VIRTIO_BLK_SERIAL_MAX)

struct drive {
	struct vm_disk disk;
	struct vm_disk_file files[SOURCE_FILES];
	struct virtio_blk_rate rate;
};

/* d->disk points into d and at the call's body. */
static int take_drive(const struct api_call *call, const struct drive_body *b, struct drive *d,
		      struct err *e)
{
	int r = 0;

	if (strcmp(b->drive_id, call->id))
		return err_set(e, EINVAL, "drive_id: %s is not the id in the path, %s", b->drive_id,
			       call->id);
	d->disk = (struct vm_disk){ .id = b->drive_id,
				    .serial = b->serial,
				    .files = d->files,
				    .read_only = b->is_read_only,
				    .persistent = b->persistent,
				    .direct = b->direct,
				    .quota_bytes = b->quota_bytes,
				    .rate = b->rate_limiter ? &d->rate : NULL };
	if (b->path_on_host) {
		d->files[0].path = b->path_on_host;
		r = take_format(b->format ? b->format : "raw", &d->files[0].qcow2, e);
		d->disk.nr_files = 1 + (unsigned int)json_array_size(b->backing);
	} else if (b->format || b->backing) {
		r = err_set(e, EINVAL, "path_on_host: missing");
	}
	for (unsigned int i = 1; i < d->disk.nr_files && !r; i++) {
		r = take_backing(json_array_get(b->backing, i - 1), &d->files[i], e);
		if (r)
			err_wrap(e, r, "backing[%u]", i - 1);
	}
	if (!r && b->rate_limiter) {
		r = rate_from_json(b->rate_limiter, &d->rate.bytes, &d->rate.ops, e);
		if (r)
			err_wrap(e, r, "rate_limiter");
	}
	return r;
}

int api_put_drive(struct api_call *call, json_t **reply, struct err *e)
{
	static const struct json_field tab[] = { DRIVE_FIELDS(1) };
	struct drive_body b = { 0 };
	struct drive d = { 0 };
	int r = json_fields(call->body, tab, ARRAY_SIZE(tab), &b, e);

	(void)reply;
	if (!r)
		r = take_drive(call, &b, &d, e);
	return r ? r : vm_add_disk(call->vm, &d.disk, e);
}

/* One thing a request: a disk for a bay (or out of it: path ""), another size, other limits. */
int api_patch_drive(struct api_call *call, json_t **reply, struct err *e)
{
	static const struct json_field tab[] = {
		DRIVE_FIELDS(0),
		JSON_FIELD(struct drive_body, size_bytes, WANT_UINT, false, BLK_SECTOR,
			   BLK_MAX_BYTES),
	};
	struct drive_body b = { 0 };
	struct drive d = { 0 };
	int r = json_fields(call->body, tab, ARRAY_SIZE(tab), &b, e);

	(void)reply;
	if (!r)
		r = take_drive(call, &b, &d, e);
	if (r)
		return r;
	if ((b.size_bytes || (b.path_on_host && !b.path_on_host[0])) &&
	    json_object_size(call->body) > 2)
		return err_set(e, EINVAL, "%s: say nothing else beside it",
			       b.size_bytes ? "size_bytes" : "an empty path_on_host");
	if (b.size_bytes)
		return vm_grow_disk(call->vm, b.drive_id, b.size_bytes, e);
	if (b.path_on_host && !b.path_on_host[0])
		return vm_eject_disk(call->vm, b.drive_id, e);
	if (b.path_on_host)
		return vm_insert_disk(call->vm, &d.disk, e);
	if (b.rate_limiter)
		return vm_set_disk_rate(call->vm, b.drive_id, &d.rate, e);
	return err_set(e, EINVAL,
		       "path_on_host, size_bytes or rate_limiter: one of them is needed");
}
