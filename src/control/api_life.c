/* SPDX-License-Identifier: MIT */
/*
 * The resources that start, pause and end a VM, and its counters. See doc/control.md. Main
 * thread.
 */
#include <errno.h>
#include <string.h>

#include "block/blk.h"
#include "control/api.h"
#include "control/nic_json.h"
#include "vm/notices.h"
#include "virtio/net.h"
#include "vm/vm.h"

struct action_body {
	const char *action_type;
};

int api_put_actions(struct api_call *call, json_t **reply, struct err *e)
{
	static const struct json_field tab[] = {
		JSON_FIELD(struct action_body, action_type, WANT_STRING, true, 1, 32),
	};
	struct action_body b = { 0 };
	int r = json_fields(call->body, tab, ARRAY_SIZE(tab), &b, e);

	(void)reply;
	if (r)
		return r;
	if (!strcmp(b.action_type, "InstanceStart"))
		return vm_start(call->vm, e);
	if (!strcmp(b.action_type, "SendCtrlAltDel"))
		return vm_power_button(call->vm, e);
	if (!strcmp(b.action_type, "Kill")) {
		/* Answered first: the loop ends with the VM. */
		api_answer(call->rq, NULL);
		vm_end(call->vm, VM_END_KILLED, "asked for over the control socket");
		return API_LATER;
	}
	return err_set(e, EINVAL, "action_type: must be InstanceStart, SendCtrlAltDel or Kill");
}

struct vm_body {
	const char *state;
};

int api_patch_vm(struct api_call *call, json_t **reply, struct err *e)
{
	static const struct json_field tab[] = {
		JSON_FIELD(struct vm_body, state, WANT_STRING, true, 1, 32),
	};
	struct vm_body b = { 0 };
	int r = json_fields(call->body, tab, ARRAY_SIZE(tab), &b, e);

	(void)reply;
	if (r)
		return r;
	if (!strcmp(b.state, "Paused"))
		return vm_pause(call->vm, e);
	if (!strcmp(b.state, "Resumed"))
		return vm_resume(call->vm, e);
	return err_set(e, EINVAL, "state: must be Paused or Resumed");
}

static json_t *disks_json(struct vm *vm)
{
	json_t *list = json_array();
	struct vm_disk_view v;
	struct blk_stats s;

	for (unsigned int i = 0; list && vm_disk_stats(vm, i, &v, &s); i++)
		json_array_append_new(
			list,
			json_pack(
				"{s:s, s:I, s:b, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}",
				"id", v.id, "size_bytes", (json_int_t)v.bytes, "seen", v.seen,
				"reads", (json_int_t)s.reads, "writes", (json_int_t)s.writes,
				"flushes", (json_int_t)s.flushes, "read_bytes",
				(json_int_t)s.read_bytes, "written_bytes",
				(json_int_t)s.written_bytes, "own_bytes", (json_int_t)s.own_bytes,
				"overlay_bytes", (json_int_t)s.overlay_bytes, "layers",
				(json_int_t)s.layers, "errors", (json_int_t)s.errors, "no_space",
				(json_int_t)s.no_space));
	return list;
}

static json_t *nics_json(struct vm *vm)
{
	json_t *list = json_array();
	struct virtio_net_view v;
	char mac[MAC_TEXT];
	const char *id;

	for (unsigned int i = 0; list && vm_nic_view(vm, i, &id, &v); i++) {
		mac_to_text(v.mac, mac);
		json_array_append_new(list, json_pack("{s:s, s:s, s:s, s:b, s:b, s:I, s:I, s:I}",
						      "id", id, "backend", v.backend, "mac", mac,
						      "network", v.network, "link", v.link,
						      "rx_packets", (json_int_t)v.rx_packets,
						      "tx_packets", (json_int_t)v.tx_packets,
						      "dropped", (json_int_t)v.dropped));
	}
	return list;
}

int api_get_stats(struct api_call *call, json_t **reply, struct err *e)
{
	struct vm_stats s;
	json_t *j;

	vm_stats(call->vm, &s);
	j = json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "uptime_ns",
		      (json_int_t)s.uptime_ns, "exits_total", (json_int_t)s.exits_total,
		      "exits_mmio", (json_int_t)s.exits_mmio, "exits_pio", (json_int_t)s.exits_pio,
		      "forks", (json_int_t)s.forks, "last_pause_ns", (json_int_t)s.last_pause_ns,
		      "last_forks", (json_int_t)s.last_forks, "last_fork_ns",
		      (json_int_t)s.last_fork_ns, "fork_depth", (json_int_t)s.fork_depth);
	if (j)
		json_object_set_new(j, "parked_bytes", json_integer((json_int_t)s.parked_bytes));
	*reply = j ? json_pack("{s:o, s:o, s:o, s:{s:I, s:I, s:I, s:I, s:I}}", "vm", j, "disks",
			       disks_json(call->vm), "networks", nics_json(call->vm), "clocks",
			       "forked_ns", (json_int_t)s.forked_ns, "adopted_ns",
			       (json_int_t)s.adopted_ns, "entered_ns", (json_int_t)s.entered_ns,
			       "first_exit_ns", (json_int_t)s.first_exit_ns, "ready_ns",
			       (json_int_t)s.ready_ns)
		   : NULL;
	return *reply ? 0 : err_set(e, ENOMEM, "out of memory");
}

int api_get_events(struct api_call *call, json_t **reply, struct err *e)
{
	json_t *list = json_array();
	const struct notice *n;

	for (unsigned int i = 0; list && (n = vm_notice_at(call->vm, i)); i++)
		json_array_append_new(list, json_pack("{s:I, s:s, s:s, s:s, s:I, s:I, s:I}",
						      "number", (json_int_t)n->number, "kind",
						      n->kind, "device", n->who, "detail",
						      n->detail, "count", (json_int_t)n->count,
						      "first_ms", (json_int_t)n->first_ms,
						      "last_ms", (json_int_t)n->last_ms));
	*reply = list ? json_pack("{s:o}", "events", list) : NULL;
	return *reply ? 0 : err_set(e, ENOMEM, "out of memory");
}
