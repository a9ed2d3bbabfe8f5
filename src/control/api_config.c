/* SPDX-License-Identifier: MIT */
/*
 * The resources that configure a VM before it starts, and those that say what it is. See
 * doc/control.md. Main thread.
 */
#include <errno.h>
#include <string.h>

#include "block/source.h"
#include "control/api.h"
#include "event/grants.h"
#include "virtio/blk.h"
#include "vm/vm.h"

const char *api_state_text(const struct vm *vm)
{
	switch (vm_state(vm)) {
	case VM_CONFIGURING:
		return "Not started";
	case VM_RUNNING:
		return "Running";
	case VM_PAUSED:
		return "Paused";
	case VM_SEED:
		return "Seed";
	case VM_ENDED:
		return "Ended";
	}
	return "Ended";
}

int api_get_root(struct api_call *call, json_t **reply, struct err *e)
{
	*reply = json_pack("{s:s, s:s, s:s, s:s}", "id", vm_identity(call->vm)->name, "state",
			   api_state_text(call->vm), "vmm_version", CLONE_VERSION, "app_name",
			   "clone");
	return *reply ? 0 : err_set(e, ENOMEM, "out of memory");
}

int api_get_version(struct api_call *call, json_t **reply, struct err *e)
{
	(void)call;
	*reply = json_pack("{s:s}", "clone_version", CLONE_VERSION);
	return *reply ? 0 : err_set(e, ENOMEM, "out of memory");
}

int api_get_machine(struct api_call *call, json_t **reply, struct err *e)
{
	*reply = json_pack("{s:i, s:I, s:b, s:b}", "vcpu_count", (int)vm_vcpus(call->vm),
			   "mem_size_mib", (json_int_t)(vm_mem_bytes(call->vm) >> 20), "smt", 0,
			   "track_dirty_pages", 0);
	return *reply ? 0 : err_set(e, ENOMEM, "out of memory");
}

struct machine_body {
	uint64_t vcpu_count, mem_size_mib;
	bool smt, track_dirty_pages;
};

int api_put_machine(struct api_call *call, json_t **reply, struct err *e)
{
	static const struct json_field tab[] = {
		JSON_FIELD(struct machine_body, vcpu_count, WANT_UINT, true, 1, 64),
		JSON_FIELD(struct machine_body, mem_size_mib, WANT_UINT, true, 1, 1 << 20),
		JSON_FIELD(struct machine_body, smt, WANT_BOOL, false, 0, 0),
		JSON_FIELD(struct machine_body, track_dirty_pages, WANT_BOOL, false, 0, 0),
	};
	struct machine_body b = { 0 };
	int r = json_fields(call->body, tab, ARRAY_SIZE(tab), &b, e);

	(void)reply;
	if (r)
		return r;
	if (b.smt)
		return err_set(e, EINVAL, "smt: every vCPU is a core here; leave it false");
	return vm_set_machine(call->vm, (unsigned int)b.vcpu_count, b.mem_size_mib << 20, e);
}

struct boot_body {
	const char *kernel_image_path, *initrd_path, *boot_args;
};

int api_put_boot(struct api_call *call, json_t **reply, struct err *e)
{
	static const struct json_field tab[] = {
		JSON_FIELD(struct boot_body, kernel_image_path, WANT_STRING, true, 1,
			   GRANT_NAME_MAX),
		JSON_FIELD(struct boot_body, initrd_path, WANT_STRING, false, 1, GRANT_NAME_MAX),
		JSON_FIELD(struct boot_body, boot_args, WANT_STRING, false, 0, VM_CMDLINE_MAX - 1),
	};
	struct boot_body b = { .boot_args = "console=ttyS0 panic=-1" };
	int r = json_fields(call->body, tab, ARRAY_SIZE(tab), &b, e);

	(void)reply;
	if (r)
		return r;
	return vm_set_boot(call->vm, b.kernel_image_path, b.initrd_path, b.boot_args, e);
}

struct drive_body {
	const char *drive_id, *path_on_host, *format, *serial;
	json_t *backing, *rate_limiter;
	uint64_t quota_bytes;
	bool is_root_device, is_read_only, persistent;
};

struct bucket_body {
	uint64_t size, one_time_burst, refill_time;
};

/* Firecracker's words: refill_time in milliseconds. */
static int take_bucket(const json_t *j, struct rate_bucket *out, struct err *e)
{
	static const struct json_field tab[] = {
		JSON_FIELD(struct bucket_body, size, WANT_UINT, true, 0, RATE_SIZE_MAX),
		JSON_FIELD(struct bucket_body, one_time_burst, WANT_UINT, false, 0, RATE_SIZE_MAX),
		JSON_FIELD(struct bucket_body, refill_time, WANT_UINT, true, 0, RATE_REFILL_MAX_MS),
	};
	struct bucket_body b = { 0 };
	int r = json_fields(j, tab, ARRAY_SIZE(tab), &b, e);

	if (r || !b.size || !b.refill_time)
		return r; /* as there: no limit */
	*out = (struct rate_bucket){ .size = b.size,
				     .refill_ms = b.refill_time,
				     .burst = b.one_time_burst };
	return 0;
}

struct rate_body {
	json_t *bandwidth, *ops;
};

static int take_rate(const json_t *j, struct virtio_blk_rate *out, struct err *e)
{
	static const struct json_field tab[] = {
		JSON_FIELD(struct rate_body, bandwidth, WANT_OBJECT, false, 0, 0),
		JSON_FIELD(struct rate_body, ops, WANT_OBJECT, false, 0, 0),
	};
	struct rate_body b = { 0 };
	int r = json_fields(j, tab, ARRAY_SIZE(tab), &b, e);

	if (!r && b.bandwidth)
		r = take_bucket(b.bandwidth, &out->bytes, e);
	if (!r && b.ops)
		r = take_bucket(b.ops, &out->ops, e);
	return r ? err_wrap(e, r, "rate_limiter") : 0;
}

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

int api_put_drive(struct api_call *call, json_t **reply, struct err *e)
{
	static const struct json_field tab[] = {
		JSON_FIELD(struct drive_body, drive_id, WANT_ID, true, 1, DEVICE_ID_MAX - 1),
		JSON_FIELD(struct drive_body, path_on_host, WANT_STRING, true, 1, GRANT_NAME_MAX),
		JSON_FIELD(struct drive_body, is_root_device, WANT_BOOL, true, 0, 0),
		JSON_FIELD(struct drive_body, is_read_only, WANT_BOOL, false, 0, 0),
		JSON_FIELD(struct drive_body, rate_limiter, WANT_OBJECT, false, 0, 0),
		/* what Firecracker lacks */
		JSON_FIELD(struct drive_body, format, WANT_STRING, false, 1, 8),
		JSON_FIELD(struct drive_body, backing, WANT_ARRAY, false, 0, SOURCE_FILES - 1),
		JSON_FIELD(struct drive_body, quota_bytes, WANT_UINT, false, 0, BLK_MAX_BYTES),
		JSON_FIELD(struct drive_body, persistent, WANT_BOOL, false, 0, 0),
		JSON_FIELD(struct drive_body, serial, WANT_STRING, false, 0, VIRTIO_BLK_SERIAL_MAX),
	};
	struct drive_body b = { .format = "raw" };
	struct vm_disk_file files[SOURCE_FILES];
	struct virtio_blk_rate rate = { 0 };
	struct vm_disk disk = { .files = files, .rate = &rate };
	int r = json_fields(call->body, tab, ARRAY_SIZE(tab), &b, e);

	(void)reply;
	if (r)
		return r;
	if (strcmp(b.drive_id, call->id))
		return err_set(e, EINVAL, "drive_id: %s is not the id in the path, %s", b.drive_id,
			       call->id);
	files[0].path = b.path_on_host;
	r = take_format(b.format, &files[0].qcow2, e);
	disk.nr_files = 1 + (unsigned int)json_array_size(b.backing);
	for (unsigned int i = 1; i < disk.nr_files && !r; i++) {
		r = take_backing(json_array_get(b.backing, i - 1), &files[i], e);
		if (r)
			err_wrap(e, r, "backing[%u]", i - 1);
	}
	if (!r && b.rate_limiter)
		r = take_rate(b.rate_limiter, &rate, e);
	if (r)
		return r;
	disk.id = b.drive_id;
	disk.serial = b.serial;
	disk.read_only = b.is_read_only;
	disk.persistent = b.persistent;
	disk.quota_bytes = b.quota_bytes;
	return vm_add_disk(call->vm, &disk, e);
}

int api_patch_drive(struct api_call *call, json_t **reply, struct err *e)
{
	static const struct json_field tab[] = {
		JSON_FIELD(struct drive_body, drive_id, WANT_ID, true, 1, DEVICE_ID_MAX - 1),
		JSON_FIELD(struct drive_body, rate_limiter, WANT_OBJECT, true, 0, 0),
	};
	struct virtio_blk_rate rate = { 0 };
	struct drive_body b = { 0 };
	int r = json_fields(call->body, tab, ARRAY_SIZE(tab), &b, e);

	(void)reply;
	if (!r && strcmp(b.drive_id, call->id))
		r = err_set(e, EINVAL, "drive_id: %s is not the id in the path, %s", b.drive_id,
			    call->id);
	if (!r)
		r = take_rate(b.rate_limiter, &rate, e);
	return r ? r : vm_set_disk_rate(call->vm, b.drive_id, &rate, e);
}

struct vsock_body {
	uint64_t guest_cid;
	const char *uds_path, *vsock_id;
};

int api_put_vsock(struct api_call *call, json_t **reply, struct err *e)
{
	static const struct json_field tab[] = {
		JSON_FIELD(struct vsock_body, guest_cid, WANT_UINT, true, 3, UINT32_MAX - 1),
		JSON_FIELD(struct vsock_body, uds_path, WANT_STRING, true, 1, GRANT_NAME_MAX),
		JSON_FIELD(struct vsock_body, vsock_id, WANT_ID, false, 1, DEVICE_ID_MAX - 1),
	};
	struct vsock_body b = { 0 };
	int r = json_fields(call->body, tab, ARRAY_SIZE(tab), &b, e);

	(void)reply;
	if (r)
		return r;
	/* The socket is the one that the process was given at its start. */
	return vm_set_vsock(call->vm, (uint32_t)b.guest_cid, e);
}

int api_put_entropy(struct api_call *call, json_t **reply, struct err *e)
{
	int r = json_fields(call->body, NULL, 0, NULL, e);

	(void)reply;
	return r ? r : vm_set_entropy(call->vm, e);
}
