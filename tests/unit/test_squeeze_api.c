/* SPDX-License-Identifier: MIT */
/*
 * The balloon's policy as people and programs set it: the options' words, the resource
 * /balloon/policy, and that both mean the same thresholds. The handlers are called as the control
 * socket calls them.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "cli/squeezeopt.h"
#include "control/api.h"
#include "vm/vm_private.h"

static int setup(void **state)
{
	struct err e;
	struct vm *vm;

	assert_int_equal(vm_create("one", &vm, &e), 0);
	vm->cfg.has_balloon = 1;
	*state = vm;
	return 0;
}

static int teardown(void **state)
{
	vm_destroy(*state);
	return 0;
}

static int put(struct vm *vm, const char *text, struct err *e)
{
	json_t *reply = NULL, *body = json_loads(text, 0, NULL);
	struct api_call call = { .vm = vm, .body = body };
	int r;

	assert_non_null(body);
	r = api_put_policy(&call, &reply, e);
	assert_null(reply);
	json_decref(body);
	return r;
}

static json_t *get(struct vm *vm)
{
	struct api_call call = { .vm = vm };
	json_t *reply = NULL;
	struct err e;

	assert_int_equal(api_get_policy(&call, &reply, &e), 0);
	return reply;
}

static void test_policy_api__shows_what_it_is_and_what_was_decided(void **state)
{
	struct vm *vm = *state;
	json_t *j = get(vm), *moved;
	char *text;

	text = json_dumps(j, JSON_COMPACT | JSON_SORT_KEYS);
	assert_string_equal(
		text,
		"{\"cool_s\":60,\"cpu_percent\":10,\"floor_mib\":64,\"floor_percent\":10,"
		"\"gave_back\":0,\"high_percent\":150,\"hold_s\":60,\"idle_s\":30,\"last\":null,"
		"\"low_percent\":50,\"mode\":\"manual\",\"moved\":null,\"period_s\":5,"
		"\"psi_full\":20,\"psi_some\":5,\"state\":\"off\",\"step_percent\":10,"
		"\"step_s\":5,\"steps\":0}");
	free(text);
	json_decref(j);
	assert_int_equal(put(vm, "{\"mode\":\"auto\",\"idle_s\":7,\"floor_percent\":0}", NULL), 0);
	vm->squeeze.s.state = SQUEEZE_COOLING;
	vm->squeeze.s.gave_back = 3;
	vm->squeeze.s.moved = (struct squeeze_decision){ 1, SQUEEZE_WHY_SWAP, MIB(9), MIB(4) };
	j = get(vm);
	assert_string_equal(json_string_value(json_object_get(j, "mode")), "auto");
	assert_string_equal(json_string_value(json_object_get(j, "state")), "cooling");
	assert_int_equal(json_integer_value(json_object_get(j, "idle_s")), 7);
	assert_int_equal(json_integer_value(json_object_get(j, "floor_percent")), 0);
	assert_int_equal(json_integer_value(json_object_get(j, "cool_s")), 60);
	assert_int_equal(json_integer_value(json_object_get(j, "gave_back")), 3);
	moved = json_object_get(j, "moved");
	assert_string_equal(json_string_value(json_object_get(moved, "reason")), "swapping");
	assert_int_equal(json_integer_value(json_object_get(moved, "from_bytes")), MIB(9));
	assert_int_equal(json_integer_value(json_object_get(moved, "to_bytes")), MIB(4));
	json_decref(j);
}

static void test_policy_api__what_is_not_said_is_the_default(void **state)
{
	struct vm *vm = *state;

	assert_int_equal(put(vm, "{\"mode\":\"auto\",\"idle_s\":7}", NULL), 0);
	assert_true(vm->squeeze.on);
	assert_int_equal(vm->squeeze.cfg.idle_s, 7);
	assert_int_equal(put(vm, "{\"mode\":\"manual\"}", NULL), 0);
	assert_false(vm->squeeze.on);
	assert_memory_equal(&vm->squeeze.cfg, &squeeze_defaults, sizeof(squeeze_defaults));
}

static void test_policy_api__limits_and_unknown_words_are_refused(void **state)
{
	static const char *const bad[] = {
		"{}",
		"{\"mode\":\"off\"}",
		"{\"mode\":1}",
		"{\"mode\":\"auto\",\"idle\":1}",
		"{\"mode\":\"auto\",\"idle_s\":\"1\"}",
		"{\"mode\":\"auto\",\"idle_s\":-1}",
	};
	struct vm *vm = *state;
	char text[96];
	struct err e;

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(put(vm, bad[i], &e), -EINVAL);
	for (size_t i = 0; i < SQUEEZE_LIMITS; i++) {
		const struct squeeze_limit *l = &squeeze_limits[i];
		static const char form[] = "{\"mode\":\"auto\",\"%s\":%lld}";

		snprintf(text, sizeof(text), form, l->name, (long long)l->max + 1);
		assert_int_equal(put(vm, text, &e), -EINVAL);
		assert_non_null(strstr(e.msg, l->name));
		snprintf(text, sizeof(text), form, l->name, (long long)l->max);
		assert_int_equal(put(vm, text, &e), 0);
		snprintf(text, sizeof(text), form, l->name, (long long)l->min - 1);
		assert_int_equal(put(vm, text, &e), -EINVAL);
		snprintf(text, sizeof(text), form, l->name, (long long)l->min);
		assert_int_equal(put(vm, text, &e), 0);
	}
	vm->cfg.has_balloon = 0;
	assert_int_equal(put(vm, "{\"mode\":\"auto\"}", &e), -ENOENT);
	assert_non_null(strstr(e.msg, "VM one has no balloon"));
	assert_int_equal(put(vm, "{\"mode\":\"manual\"}", &e), 0);
}

static void assert_option(const char *spec, const char *want)
{
	char buf[256], *text;
	json_t *j = NULL;
	struct err e;

	snprintf(buf, sizeof(buf), "%s", spec);
	if (squeeze_option("auto", buf, &j, &e))
		fail_msg("%s: %s", spec, e.msg);
	text = json_dumps(j, JSON_COMPACT | JSON_SORT_KEYS);
	assert_string_equal(text, want);
	free(text);
	json_decref(j);
}

static void test_squeeze_option__words_become_thresholds(void **state)
{
	(void)state;
	assert_option("", "{\"mode\":\"auto\"}");
	assert_option("idle=2m,step=25%,every=1,psi=7,full=30%,cpu=50,cool=90s,period=10,hold=1h",
		      "{\"cool_s\":90,\"cpu_percent\":50,\"hold_s\":3600,\"idle_s\":120,"
		      "\"mode\":\"auto\",\"period_s\":10,\"psi_full\":30,\"psi_some\":7,"
		      "\"step_percent\":25,\"step_s\":1}");
	assert_option("low=40%,high=200%,low=30%",
		      "{\"high_percent\":200,\"low_percent\":30,\"mode\":\"auto\"}");
}

static void test_squeeze_option__a_floor_in_bytes_is_not_one_of_ram(void **state)
{
	(void)state;
	assert_option("floor=96M", "{\"floor_mib\":96,\"floor_percent\":0,\"mode\":\"auto\"}");
	assert_option("floor=1G,floor=5%",
		      "{\"floor_mib\":1024,\"floor_percent\":5,\"mode\":\"auto\"}");
	assert_option("floor=5%,floor=1G",
		      "{\"floor_mib\":1024,\"floor_percent\":5,\"mode\":\"auto\"}");
	assert_option("floor=20%", "{\"floor_percent\":20,\"mode\":\"auto\"}");
}

static void test_squeeze_option__nonsense_is_named(void **state)
{
	static const struct {
		const char *spec, *story;
	} bad[] = {
		{ "idle", "auto: idle: it is none of idle=D" },
		{ "fast=1", "auto: fast: it is none of idle=D" },
		{ "idle=", "auto: idle: '' is not a duration" },
		{ "idle=0", "auto: idle: '0' is not in 1ms..24h" },
		{ "idle=1500ms", "auto: idle: '1500ms' is not a number of whole seconds" },
		{ "step=0%", "auto: step: 0 is not in 1..100" },
		{ "step=101", "auto: step: 101 is not in 1..100" },
		{ "step=%", "auto: step: '' is not a number" },
		{ "step=1%%", "auto: step: '1%' is not a number" },
		{ "step=100000000000000000000%", "auto: step: '1000000" },
		{ "floor=15M", "auto: floor: 15 is not in 16..1048576" },
		{ "floor=17000K", "auto: floor: '17000K' is not a number of whole MiB" },
		{ "floor=64", "auto: floor: '64' is not a size with a unit" },
		{ "floor=", "auto: floor: '' is not a size" },
		{ "high=99%", "auto: high: 99 is not in 100..1000" },
		{ "period=2h", "auto: period: 7200 is not in 1..3600" },
	};
	char buf[64];
	struct err e;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		json_t *j = NULL;

		snprintf(buf, sizeof(buf), "%s", bad[i].spec);
		assert_int_equal(squeeze_option("auto", buf, &j, &e), -EINVAL);
		assert_null(j);
		if (strncmp(e.msg, bad[i].story, strlen(bad[i].story)) != 0)
			fail_msg("%s: %s", bad[i].spec, e.msg);
	}
}

/* Every word is one that the resource knows, and the other way round. */
static void test_squeeze_option__reaches_every_threshold(void **state)
{
	char spec[] = "idle=2,step=2,every=2,floor=32M,floor=2%,low=2,high=102,psi=2,full=2,cpu=2,"
		      "cool=2,period=2,hold=2";
	struct vm *vm = *state;
	json_t *j = NULL;
	char *text;
	struct err e;

	assert_int_equal(squeeze_option("auto", spec, &j, &e), 0);
	text = json_dumps(j, 0);
	assert_int_equal(put(vm, text, &e), 0);
	for (size_t i = 0; i < SQUEEZE_LIMITS; i++) {
		uint32_t v, was;

		assert_non_null(json_object_get(j, squeeze_limits[i].name));
		memcpy(&v, (char *)&vm->squeeze.cfg + squeeze_limits[i].offset, sizeof(v));
		memcpy(&was, (const char *)&squeeze_defaults + squeeze_limits[i].offset,
		       sizeof(was));
		assert_int_not_equal(v, was);
	}
	free(text);
	json_decref(j);
}

static void test_squeeze_option__manual_goes_alone(void **state)
{
	char none[] = "", some[] = "idle=3";
	json_t *j = NULL;
	struct vm *vm = *state;
	struct err e;
	char *text;

	assert_int_equal(squeeze_option_manual("manual", some, &j, &e), -EINVAL);
	assert_string_equal(e.msg, "manual goes alone, without idle=3");
	assert_int_equal(squeeze_option_manual("manual", none, &j, &e), 0);
	text = json_dumps(j, 0);
	assert_int_equal(put(vm, "{\"mode\":\"auto\"}", &e), 0);
	assert_int_equal(put(vm, text, &e), 0);
	assert_false(vm->squeeze.on);
	free(text);
	json_decref(j);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_policy_api__shows_what_it_is_and_what_was_decided),
		T(test_policy_api__what_is_not_said_is_the_default),
		T(test_policy_api__limits_and_unknown_words_are_refused),
		T(test_squeeze_option__words_become_thresholds),
		T(test_squeeze_option__a_floor_in_bytes_is_not_one_of_ram),
		T(test_squeeze_option__nonsense_is_named),
		T(test_squeeze_option__reaches_every_threshold),
		T(test_squeeze_option__manual_goes_alone),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
