/* SPDX-License-Identifier: MIT */
/*
 * What a network gives a NIC, as JSON: in requests, in vm.json. Both directions. Any thread.
 *
 *   {"ipv4":"10.77.0.5/20","gateway4":"10.77.0.1","ipv6":"fd00:...::2/64","gateway6":"fe80::1",
 *    "dns":["10.0.0.1"],"mtu":1500,"respond":true,"peers":false}
 */
#ifndef CLONE_CONTROL_NIC_JSON_H
#define CLONE_CONTROL_NIC_JSON_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "device/device.h"

/* All but the MAC, which requests say on its own. -EINVAL. */
int nic_address_from_json(const json_t *j, struct nic_address *a, struct err *e);
/* The caller's; NULL: no memory. */
json_t *nic_address_to_json(const struct nic_address *a);

/* {"iface_id","guest_mac","address"}, what a fork's or a restored machine's NIC gets; driver_mac is
 * zero. -EINVAL. */
int nic_identity_from_json(const json_t *j, struct nic_identity *n, struct err *e);
json_t *nic_identity_to_json(const char *id, const struct nic_address *a);
/* A list of them, at most NICS_MAX; NULL is none. */
int nics_from_json(const json_t *list, struct nic_identity *nics, uint32_t *n, struct err *e);

#endif
