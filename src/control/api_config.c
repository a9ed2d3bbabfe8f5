/* SPDX-License-Identifier: MIT */
/*
 * The resources that configure a VM before it starts, and those that say what it is. See
 * doc/control.md. Main thread.
 */
#include <errno.h>

#include "control/api.h"
#include "event/grants.h"
#include "vm/quota.h"
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
	case VM_PARKED:
		return "Parked";
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
	*reply = json_pack("{s:i, s:I, s:b, s:b, s:b, s:I}", "vcpu_count", (int)vm_vcpus(call->vm),
			   "mem_size_mib", (json_int_t)(vm_mem_bytes(call->vm) >> 20), "smt", 0,
			   "track_dirty_pages", 0, "mergeable", vm_mergeable(call->vm),
			   "quota_bytes", (json_int_t)vm_quota_bytes(call->vm));
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

struct quota_body {
	uint64_t quota_bytes;
};

int api_put_quota(struct api_call *call, json_t **reply, struct err *e)
{
	static const struct json_field tab[] = {
		JSON_FIELD(struct quota_body, quota_bytes, WANT_UINT, true, 0, INT64_MAX),
	};
	struct quota_body b = { 0 };
	int r = json_fields(call->body, tab, ARRAY_SIZE(tab), &b, e);

	(void)reply;
	return r ? r : vm_set_quota(call->vm, b.quota_bytes, e);
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
