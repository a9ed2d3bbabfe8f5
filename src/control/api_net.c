/* SPDX-License-Identifier: MIT */
/*
 * The resource /network-interfaces/{id}: a VM's NICs, before it starts and while it runs. See
 * doc/control.md. Main thread.
 */
#include <errno.h>
#include <string.h>

#include "control/api.h"
#include "control/nic_json.h"
#include "control/rate.h"
#include "event/grants.h"
#include "virtio/net.h"
#include "vm/vm.h"

struct nic_body {
	const char *iface_id, *host_dev_name, *guest_mac;
	json_t *rx_rate_limiter, *tx_rate_limiter, *address;
	uint64_t mtu, queue_pairs;
};

/* Of both requests. */
#define NIC_FIELDS                                                                                 \
	JSON_FIELD(struct nic_body, iface_id, WANT_ID, true, 1, DEVICE_ID_MAX - 1),                \
		JSON_FIELD(struct nic_body, rx_rate_limiter, WANT_OBJECT, false, 0, 0),            \
		JSON_FIELD(struct nic_body, tx_rate_limiter, WANT_OBJECT, false, 0, 0)

static int take_rates(const struct api_call *call, const struct nic_body *b,
		      struct virtio_net_rate *rate, struct err *e)
{
	int r = 0;

	if (strcmp(b->iface_id, call->id))
		return err_set(e, EINVAL, "iface_id: %s is not the id in the path, %s", b->iface_id,
			       call->id);
	if (b->rx_rate_limiter)
		r = rate_from_json(b->rx_rate_limiter, &rate->rx_bytes, &rate->rx_ops, e);
	if (r)
		return err_wrap(e, r, "rx_rate_limiter");
	if (b->tx_rate_limiter)
		r = rate_from_json(b->tx_rate_limiter, &rate->tx_bytes, &rate->tx_ops, e);
	return r ? err_wrap(e, r, "tx_rate_limiter") : 0;
}

int api_put_nic(struct api_call *call, json_t **reply, struct err *e)
{
	static const struct json_field tab[] = {
		NIC_FIELDS,
		JSON_FIELD(struct nic_body, host_dev_name, WANT_STRING, false, 0, 15),
		JSON_FIELD(struct nic_body, guest_mac, WANT_STRING, true, 1, MAC_TEXT),
		JSON_FIELD(struct nic_body, address, WANT_OBJECT, false, 0, 0),
		JSON_FIELD(struct nic_body, mtu, WANT_UINT, false, NIC_MTU_MIN, NIC_MTU_MAX),
		JSON_FIELD(struct nic_body, queue_pairs, WANT_UINT, false, 1, VIRTIO_NET_PAIRS_MAX),
	};
	struct nic_body b = { .queue_pairs = 1 };
	struct virtio_net_rate rate = { 0 };
	struct nic_address addr = { 0 };
	struct vm_nic nic;
	int r = json_fields(call->body, tab, ARRAY_SIZE(tab), &b, e);

	(void)reply;
	if (!r)
		r = take_rates(call, &b, &rate, e);
	if (!r && !mac_from_text(b.guest_mac, addr.mac))
		r = err_set(e, EINVAL, "guest_mac: '%s' is no MAC of one machine", b.guest_mac);
	if (!r && b.address) {
		r = nic_address_from_json(b.address, &addr, e);
		if (r)
			err_wrap(e, r, "address");
	}
	if (r)
		return r;
	nic = (struct vm_nic){ .id = b.iface_id,
			       .queue_pairs = (unsigned int)b.queue_pairs,
			       .mtu = (uint16_t)b.mtu,
			       .rate = &rate,
			       .addr = &addr };
	return vm_add_nic(call->vm, &nic, e);
}

/* Other limits: of a direction that is not named, none. */
int api_patch_nic(struct api_call *call, json_t **reply, struct err *e)
{
	static const struct json_field tab[] = { NIC_FIELDS };
	struct nic_body b = { 0 };
	struct virtio_net_rate rate = { 0 };
	int r = json_fields(call->body, tab, ARRAY_SIZE(tab), &b, e);

	(void)reply;
	if (!r)
		r = take_rates(call, &b, &rate, e);
	return r ? r : vm_set_nic_rate(call->vm, b.iface_id, &rate, e);
}
