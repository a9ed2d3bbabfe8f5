/* SPDX-License-Identifier: MIT */
/*
 * What requests say of NICs: addresses that are none, lists that are too long, and that what is
 * written is what is read.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "base/util.h"
#include "control/json.h"
#include "control/nic_json.h"

static void test_address__what_is_written_is_read(void **state)
{
	struct nic_address a = { .mac = { 2, 0xc1, 0, 1, 2, 3 },
				 .mtu = 1400,
				 .prefix4 = 20,
				 .ip4 = { 10, 77, 0, 5 },
				 .gw4 = { 10, 77, 0, 1 },
				 .prefix6 = 64,
				 .ip6 = { 0xfd, 1, [15] = 2 },
				 .gw6 = { 0xfe, 0x80, [15] = 1 },
				 .nr_dns = 2,
				 .dns = { { 4, { 192, 0, 2, 2 } }, { 6, { 0x20, 1, [15] = 3 } } },
				 .respond = true };
	cleanup_json json_t *j = nic_identity_to_json("net0", &a);
	struct nic_identity n;
	struct err e;

	(void)state;
	assert_non_null(j);
	if (nic_identity_from_json(j, &n, &e))
		fail_msg("%s", e.msg);
	assert_string_equal(n.id, "net0");
	assert_memory_equal(&n.addr, &a, sizeof(a));
}

static void test_address__nonsense_is_refused_by_name(void **state)
{
	static const struct {
		const char *json, *says;
	} bad[] = {
		{ "{\"ipv4\":\"10.0.0.1\"}", "ipv4" },
		{ "{\"ipv4\":\"10.0.0.1/0\"}", "ipv4" },
		{ "{\"ipv4\":\"10.0.0.1/33\"}", "ipv4" },
		{ "{\"ipv4\":\"10.0.0.1/4294967304\"}", "ipv4" },
		{ "{\"ipv4\":\"10.0.0.1/24x\"}", "ipv4" },
		{ "{\"ipv4\":\"10.0.0/24\"}", "ipv4" },
		{ "{\"ipv6\":\"fd00::1/129\"}", "ipv6" },
		{ "{\"ipv6\":\"10.0.0.1/24\"}", "ipv6" },
		{ "{\"gateway4\":\"fe80::1\"}", "gateway4" },
		{ "{\"gateway6\":\"10.0.0.1\"}", "gateway6" },
		{ "{\"dns\":[\"example.org\"]}", "dns[0]" },
		{ "{\"dns\":[\"1.1.1.1\",7]}", "dns[1]" },
		{ "{\"dns\":[\"1.1.1.1\",\"1.1.1.1\",\"1.1.1.1\",\"1.1.1.1\",\"1.1.1.1\"]}",
		  "dns" },
		{ "{\"mtu\":100}", "mtu" },
		{ "{\"mtu\":70000}", "mtu" },
		{ "{\"colour\":1}", "colour" },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		cleanup_json json_t *j = json_loads(bad[i].json, 0, NULL);
		struct nic_address a = { .mtu = 7 };
		struct err e;

		assert_non_null(j);
		if (!nic_address_from_json(j, &a, &e))
			fail_msg("taken: %s", bad[i].json);
		if (!strstr(e.msg, bad[i].says))
			fail_msg("%s: says %s", bad[i].json, e.msg);
		assert_int_equal(a.mtu, 7); /* unchanged */
	}
}

static void test_mac__of_one_machine_only(void **state)
{
	static const char *const bad[] = {
		"",
		"02:00:00:00:00:0",
		"02:00:00:00:00:000",
		"01:00:00:00:00:01",
		"ff:ff:ff:ff:ff:ff",
		"00:00:00:00:00:00",
		"02-00-00-00-00-01",
		"0g:00:00:00:00:01",
		"02:00:00:00:00:01:",
		"02:00:00:00:00:0\xff",
		"2:0:0:0:0:1",
	};
	char text[MAC_TEXT];
	uint8_t m[NIC_MAC];

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		if (mac_from_text(bad[i], m))
			fail_msg("taken: %s", bad[i]);
	assert_true(mac_from_text("02:aB:cD:eF:90:01", m));
	mac_to_text(m, text);
	assert_string_equal(text, "02:ab:cd:ef:90:01");
}

static void test_list__bounded_and_each_once(void **state)
{
	static const char nic[] = "{\"iface_id\":\"net%d\",\"guest_mac\":\"02:00:00:00:00:01\","
				  "\"address\":{}}";
	struct nic_identity out[NICS_MAX];
	json_t *list = json_array();
	struct err e;
	uint32_t n = 9;

	(void)state;
	assert_int_equal(nics_from_json(NULL, out, &n, &e), 0);
	assert_int_equal(n, 0);
	for (int i = 0; i < NICS_MAX; i++) {
		char text[200];

		snprintf(text, sizeof(text), nic, i);
		json_array_append_new(list, json_loads(text, 0, NULL));
	}
	assert_int_equal(nics_from_json(list, out, &n, &e), 0);
	assert_int_equal(n, NICS_MAX);
	json_array_append(list, json_array_get(list, 0));
	assert_true(nics_from_json(list, out, &n, &e) < 0);
	json_array_remove(list, 1);
	assert_true(nics_from_json(list, out, &n, &e) < 0);
	assert_non_null(strstr(e.msg, "two are of 'net0'"));
	json_decref(list);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_address__what_is_written_is_read),
		cmocka_unit_test(test_address__nonsense_is_refused_by_name),
		cmocka_unit_test(test_mac__of_one_machine_only),
		cmocka_unit_test(test_list__bounded_and_each_once),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
