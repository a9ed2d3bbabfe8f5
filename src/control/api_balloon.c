/* SPDX-License-Identifier: MIT */
/*
 * The resource /balloon: before a VM starts and while it runs, in Firecracker's words. See
 * doc/control.md. Main thread.
 */
#include <errno.h>

#include "base/time.h"
#include "control/api.h"
#include "virtio/balloon.h"
#include "vm/vm.h"

#define AMOUNT_MAX_MIB (1u << 20) /* as of RAM */
#define INTERVAL_MAX_S 86400u
#define MS_PER_S 1000u

struct balloon_body {
	uint64_t amount_mib, stats_polling_interval_s;
	bool deflate_on_oom, free_page_reporting, free_page_hinting;
};

int api_get_balloon(struct api_call *call, json_t **reply, struct err *e)
{
	struct vm_balloon b;
	int r = vm_get_balloon(call->vm, &b, e);

	if (r)
		return r;
	*reply = json_pack("{s:I, s:b, s:i, s:b, s:b}", "amount_mib",
			   (json_int_t)(b.target_bytes >> 20), "deflate_on_oom", b.deflate_on_oom,
			   "stats_polling_interval_s", (int)(b.stats_ms / MS_PER_S),
			   "free_page_reporting", 1, "free_page_hinting", 1);
	return *reply ? 0 : err_set(e, ENOMEM, "out of memory");
}

int api_put_balloon(struct api_call *call, json_t **reply, struct err *e)
{
	static const struct json_field tab[] = {
		JSON_FIELD(struct balloon_body, amount_mib, WANT_UINT, true, 0, AMOUNT_MAX_MIB),
		JSON_FIELD(struct balloon_body, deflate_on_oom, WANT_BOOL, true, 0, 0),
		JSON_FIELD(struct balloon_body, stats_polling_interval_s, WANT_UINT, false, 0,
			   INTERVAL_MAX_S),
		JSON_FIELD(struct balloon_body, free_page_reporting, WANT_BOOL, false, 0, 0),
		JSON_FIELD(struct balloon_body, free_page_hinting, WANT_BOOL, false, 0, 0),
	};
	struct balloon_body b = { .free_page_reporting = true, .free_page_hinting = true };
	struct vm_balloon vb;
	int r = json_fields(call->body, tab, ARRAY_SIZE(tab), &b, e);

	(void)reply;
	if (r)
		return r;
	if (!b.free_page_reporting || !b.free_page_hinting)
		return err_set(
			e, EINVAL,
			"%s: every balloon offers it, and its driver need not take it; leave "
			"it true",
			b.free_page_reporting ? "free_page_hinting" : "free_page_reporting");
	vb = (struct vm_balloon){ .deflate_on_oom = b.deflate_on_oom,
				  .target_bytes = b.amount_mib << 20,
				  .stats_ms = (uint32_t)b.stats_polling_interval_s * MS_PER_S };
	return vm_set_balloon(call->vm, &vb, e);
}

int api_patch_balloon(struct api_call *call, json_t **reply, struct err *e)
{
	static const struct json_field tab[] = {
		JSON_FIELD(struct balloon_body, amount_mib, WANT_UINT, true, 0, AMOUNT_MAX_MIB),
	};
	struct balloon_body b = { 0 };
	int r = json_fields(call->body, tab, ARRAY_SIZE(tab), &b, e);

	(void)reply;
	if (!r && b.amount_mib << 20 > vm_mem_bytes(call->vm))
		r = err_set(e, EINVAL, "amount_mib: %llu is more than the VM's memory, %llu",
			    (unsigned long long)b.amount_mib,
			    (unsigned long long)vm_mem_bytes(call->vm) >> 20);
	return r ? r : vm_balloon_set_target(call->vm, b.amount_mib << 20, e);
}

/* By number: virtio 1.2 section 5.5.6.4, and what Linux has added to it. */
static const char *const stat_names[VIRTIO_BALLOON_STATS] = {
	"swap_in",	    "swap_out",	   "major_faults",
	"minor_faults",	    "free_memory", "total_memory",
	"available_memory", "disk_caches", "hugetlb_allocations",
	"hugetlb_failures", "oom_kill",	   "alloc_stall",
	"async_scan",	    "direct_scan", "async_reclaim",
	"direct_reclaim",
};

/* Only what the driver has said: what is missing is not zero. */
static int add_stats(const struct virtio_balloon_view *v, json_t *j)
{
	int r = 0;

	for (unsigned int i = 0; i < VIRTIO_BALLOON_STATS && !r; i++)
		if (v->stats_known & 1u << i)
			r = json_object_set_new(j, stat_names[i], json_number(v->stat[i]));
	if (!r && v->stats_ns)
		r = json_object_set_new(j, "stats_age_ms",
					json_number((time_mono_ns() - v->stats_ns) / NS_PER_MS));
	return r;
}

int api_get_balloon_stats(struct api_call *call, json_t **reply, struct err *e)
{
	struct virtio_balloon_view v;
	bool hinting;
	int r = vm_balloon_view(call->vm, &v, &hinting, e);
	uint64_t told;
	json_t *j;

	if (r)
		return r;
	told = v.inflated_bytes + v.reported_bytes + v.hinted_bytes;
	j = json_pack("{s:b, s:b, s:I, s:I, s:I, s:I, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "driver",
		      v.driver, "hinting", hinting, "target_pages",
		      (json_int_t)(v.target_bytes >> 12), "actual_pages",
		      (json_int_t)(v.actual_bytes >> 12), "target_mib",
		      (json_int_t)(v.target_bytes >> 20), "actual_mib",
		      (json_int_t)(v.actual_bytes >> 20), "target_bytes",
		      json_number(v.target_bytes), "actual_bytes", json_number(v.actual_bytes),
		      "inflated_bytes", json_number(v.inflated_bytes), "reported_bytes",
		      json_number(v.reported_bytes), "hinted_bytes", json_number(v.hinted_bytes),
		      "kept_bytes", json_number(v.kept_bytes), "given_back_bytes",
		      json_number(told - MIN(told, v.kept_bytes)));
	if (j && !add_stats(&v, j)) {
		*reply = j;
		return 0;
	}
	json_decref(j);
	return err_set(e, ENOMEM, "out of memory");
}

int api_patch_balloon_stats(struct api_call *call, json_t **reply, struct err *e)
{
	static const struct json_field tab[] = {
		JSON_FIELD(struct balloon_body, stats_polling_interval_s, WANT_UINT, true, 0,
			   INTERVAL_MAX_S),
	};
	struct balloon_body b = { 0 };
	int r = json_fields(call->body, tab, ARRAY_SIZE(tab), &b, e);

	(void)reply;
	if (r)
		return r;
	return vm_balloon_poll_stats(call->vm, (uint32_t)b.stats_polling_interval_s * MS_PER_S, e);
}

int api_get_balloon_hinting(struct api_call *call, json_t **reply, struct err *e)
{
	struct virtio_balloon_view v;
	bool hinting;
	int r = vm_balloon_view(call->vm, &v, &hinting, e);

	if (r)
		return r;
	*reply = json_pack("{s:b, s:o}", "hinting", hinting, "hinted_bytes",
			   json_number(v.hinted_bytes));
	return *reply ? 0 : err_set(e, ENOMEM, "out of memory");
}

int api_patch_balloon_hinting(struct api_call *call, json_t **reply, struct err *e)
{
	int r = json_fields(call->body, NULL, 0, NULL, e);

	(void)reply;
	return r ? r : vm_balloon_hint(call->vm, e);
}
