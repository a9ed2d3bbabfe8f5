/* SPDX-License-Identifier: MIT */
/*
 * The guest's CPUID out of made-up hosts: topology, what is hidden, and what a restore says when
 * features are missing.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/util.h"
#include "x86/cpuid.h"

static void add(struct cpuid_table *t, uint32_t f, uint32_t index, uint32_t a, uint32_t b,
		uint32_t c, uint32_t d)
{
	static const uint32_t indexed[] = { 4, 7, 0xb, 0xd, 0x8000001d };
	struct kvm_cpuid_entry2 *e = &t->e[t->n++];

	*e = (struct kvm_cpuid_entry2){
		.function = f, .index = index, .eax = a, .ebx = b, .ecx = c, .edx = d
	};
	for (size_t i = 0; i < ARRAY_SIZE(indexed); i++)
		if (indexed[i] == f)
			e->flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
}

/* Everything on: a bit that we hide must be hidden from such a host too. */
static void host_make(struct cpuid_table *t, uint32_t max)
{
	memset(t, 0, sizeof(*t));
	add(t, 0, 0, max, 0x756e6547, 0x6c65746e, 0x49656e69); /* GenuineIntel */
	add(t, 1, 0, 0x000806f8, 0x07400800, ~0u, ~0u);
	add(t, 2, 0, 0x00feff01, 0xf0, 0, 0);
	add(t, 4, 0, 0x7c004121, 0x01c0003f, 63, 0);
	add(t, 4, 1, 0x7c004122, 0x01c0003f, 63, 0);
	add(t, 4, 3, 0x7c0fc163, 0x02c0003f, 0x7fff, 4);
	add(t, 6, 0, ~0u, ~0u, ~0u, ~0u);
	add(t, 7, 0, 1, ~0u, ~0u, ~0u);
	add(t, 7, 1, ~0u, 0, 0, ~0u);
	add(t, 0xa, 0, 0x08300805, 0, 0, 0x603);
	add(t, 0xb, 0, 1, 2, 0x100, 7);
	add(t, 0xd, 0, 0x602e7, 0x2b00, 0x2b00, 0);
	add(t, 0xd, 1, 0x1f, 0x2b00, 0x1900, 0);
	add(t, 0xd, 2, 256, 576, 0, 0);
	add(t, 0xd, 5, 64, 1088, 0, 0);
	add(t, 0xd, 6, 512, 1152, 0, 0);
	add(t, 0xd, 7, 1024, 1664, 0, 0);
	add(t, 0xd, 9, 8, 2688, 0, 0);
	add(t, 0xd, 17, 64, 2752, 2, 0);
	add(t, 0xd, 18, 8192, 2816, 6, 0);
	add(t, 0x14, 0, 1, 0xf, 7, 0);
	add(t, 0x1d, 0, 1, 0, 0, 0);
	add(t, 0x40000000, 0, 0x40000001, 0x4b4d564b, 0x564b4d56, 0x4d);
	add(t, 0x40000001, 0, ~0u, 0, 0, ~0u);
	add(t, 0x80000000, 0, 0x80000030, 0x756e6547, 0x6c65746e, 0x49656e69);
	add(t, 0x80000001, 0, 0, 0, ~0u, ~0u);
	add(t, 0x80000007, 0, 0, 0, 0, 0x100);
	add(t, 0x80000008, 0, 0x3934, 0, 0, 0);
	add(t, 0x8000000a, 0, 1, 0x8000, 0, ~0u);
	add(t, 0x80000022, 0, 1, 0, 0, 0);
}

static const struct kvm_cpuid_entry2 *get(const struct cpuid_table *t, uint32_t f, uint32_t index)
{
	for (uint32_t i = 0; i < t->n; i++)
		if (t->e[i].function == f && t->e[i].index == index)
			return &t->e[i];
	return NULL;
}

static void test_cpuid__topology_of_1_to_64(void **st)
{
	static const struct {
		uint32_t nr, bits;
	} cases[] = { { 1, 0 }, { 2, 1 }, { 3, 2 }, { 4, 2 }, { 5, 3 }, { 33, 6 }, { 64, 6 } };
	static struct cpuid_table host, t;

	(void)st;
	host_make(&host, 0x1f);
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		for (uint32_t v = 0; v < cases[i].nr; v++) {
			cpuid_build(&host, v, cases[i].nr, &t);
			assert_int_equal(get(&t, 1, 0)->ebx >> 24, v);
			assert_int_equal((get(&t, 1, 0)->edx >> 28) & 1, cases[i].nr > 1);
			for (uint32_t leaf = 0xb; leaf <= 0x1f; leaf += 0x1f - 0xb) {
				assert_int_equal(get(&t, leaf, 0)->eax, 0);
				assert_int_equal(get(&t, leaf, 0)->ebx, 1);
				assert_int_equal(get(&t, leaf, 0)->ecx, 0x100);
				assert_int_equal(get(&t, leaf, 1)->eax, cases[i].bits);
				assert_int_equal(get(&t, leaf, 1)->ebx, cases[i].nr);
				assert_int_equal(get(&t, leaf, 1)->ecx, 0x201);
				assert_int_equal(get(&t, leaf, 2)->ebx, 0);
				assert_int_equal(get(&t, leaf, 1)->edx, v);
			}
			/* First-level caches are one core's, the last one everybody's. */
			assert_int_equal((get(&t, 4, 0)->eax >> 14) & 0xfff, 0);
			assert_int_equal((get(&t, 4, 3)->eax >> 14) & 0xfff,
					 (1u << cases[i].bits) - 1);
			assert_int_equal(get(&t, 4, 0)->eax >> 26, (1u << cases[i].bits) - 1);
		}
	}
}

static void test_cpuid__hides_what_does_not_survive(void **st)
{
	static struct cpuid_table host, t;

	(void)st;
	host_make(&host, 0x20);
	cpuid_build(&host, 0, 2, &t);
	assert_int_equal(get(&t, 0, 0)->eax, 0x1f);
	assert_int_equal(get(&t, 1, 0)->ecx & (1u << 5), 0);	     /* VMX */
	assert_int_equal(get(&t, 1, 0)->ecx & (1u << 3), 0);	     /* MONITOR */
	assert_int_equal(get(&t, 1, 0)->ecx & (1u << 15), 0);	     /* PDCM */
	assert_int_equal(get(&t, 1, 0)->edx & (1u << 7), 0);	     /* MCE */
	assert_null(get(&t, 0xa, 0));				     /* PMU */
	assert_null(get(&t, 0x14, 0));				     /* processor trace */
	assert_null(get(&t, 0x1d, 0));				     /* AMX */
	assert_null(get(&t, 0x8000000a, 0));			     /* SVM */
	assert_null(get(&t, 0x80000007, 0));			     /* invariant TSC */
	assert_int_equal(get(&t, 7, 0)->edx & (7u << 22), 1u << 23); /* AMX out, FP16 in */
	assert_int_equal(get(&t, 7, 0)->ecx & (1u << 7), 0);	     /* shadow stacks */
	assert_int_equal(get(&t, 0x80000001, 0)->ecx & (1u << 2), 0);
	assert_int_equal(get(&t, 0x40000001, 0)->eax & ((1u << 4) | (1u << 14) | 1u), 0);
	assert_true(get(&t, 0x40000001, 0)->eax & (1u << 3)); /* kvmclock */
	/* And has what the in-kernel LAPIC gives. */
	assert_true(get(&t, 1, 0)->ecx & (1u << 24));
	assert_true(get(&t, 1, 0)->ecx & (1u << 21));
	assert_true(get(&t, 1, 0)->ecx & (1u << 31));
}

/* What KVM_GET_XSAVE cannot hold must not be there, and the size is of what is left. */
static void test_cpuid__xsave_fits_in_4096_bytes(void **st)
{
	static struct cpuid_table host, t;

	(void)st;
	host_make(&host, 0x20);
	cpuid_build(&host, 0, 1, &t);
	assert_int_equal(get(&t, 0xd, 0)->eax, 0x2e7);
	assert_int_equal(get(&t, 0xd, 0)->ecx, 2696);
	assert_null(get(&t, 0xd, 17));
	assert_null(get(&t, 0xd, 18));
	assert_int_equal(get(&t, 0xd, 1)->ecx, 0);
	assert_int_equal(get(&t, 0xd, 1)->eax, 0xf);
}

static void test_cpuid__same_host_takes_it_back(void **st)
{
	static struct cpuid_table host, t;
	struct err e;

	(void)st;
	host_make(&host, 0x20);
	for (uint32_t v = 0; v < 5; v++) {
		cpuid_build(&host, v, 5, &t);
		assert_int_equal(cpuid_check(&t, &host, v, 5, &e), 0);
	}
}

static struct kvm_cpuid_entry2 *edit(struct cpuid_table *t, uint32_t f, uint32_t index)
{
	return (struct kvm_cpuid_entry2 *)(uintptr_t)get(t, f, index);
}

static void test_cpuid__missing_features_are_named(void **st)
{
	static struct cpuid_table host, t;
	struct err e;

	(void)st;
	host_make(&host, 0x20);
	cpuid_build(&host, 0, 1, &t);
	edit(&host, 7, 0)->ebx &= ~(1u << 5);
	assert_int_equal(cpuid_check(&t, &host, 0, 1, &e), -EOPNOTSUPP);
	assert_string_equal(e.msg, "the saved guest needs avx2, which this host lacks");
	edit(&host, 7, 0)->ebx &= ~(1u << 16);
	edit(&host, 1, 0)->ecx &= ~(1u << 12);
	assert_int_equal(cpuid_check(&t, &host, 0, 1, &e), -EOPNOTSUPP);
	assert_string_equal(e.msg,
			    "the saved guest needs fma, avx2, avx512f, which this host lacks");
	edit(&host, 7, 0)->ebx = 0;
	edit(&host, 7, 0)->ecx = 0;
	assert_int_equal(cpuid_check(&t, &host, 0, 1, &e), -EOPNOTSUPP);
	assert_non_null(strstr(e.msg, " more CPU features, which this host lacks"));
	/* The other way round nothing is missing. */
	cpuid_build(&host, 0, 1, &t);
	host_make(&host, 0x20);
	assert_int_equal(cpuid_check(&t, &host, 0, 1, &e), 0);
}

static void test_cpuid__other_machines_are_refused(void **st)
{
	static struct cpuid_table host, t;
	struct err e;

	(void)st;
	host_make(&host, 0x20);
	cpuid_build(&host, 3, 4, &t);
	assert_int_equal(cpuid_check(&t, &host, 2, 4, &e), -EINVAL);
	assert_string_equal(e.msg, "vCPU 2 was saved with APIC id 3");
	edit(&t, 0x80000008, 0)->eax = 0x3a3a;
	assert_int_equal(cpuid_check(&t, &host, 3, 4, &e), -EOPNOTSUPP);
	assert_string_equal(e.msg, "the saved guest has 58 physical address bits, this host 52");
	cpuid_build(&host, 0, 1, &t);
	edit(&t, 0, 0)->ebx = 0x68747541;
	edit(&t, 0, 0)->edx = 0x69746e65;
	edit(&t, 0, 0)->ecx = 0x0a444d41; /* a line feed is not let through */
	assert_int_equal(cpuid_check(&t, &host, 0, 1, &e), -EOPNOTSUPP);
	assert_string_equal(e.msg,
			    "the saved guest's CPU is made by \"AuthentiAMD.\", this host's by "
			    "\"GenuineIntel\"");
	cpuid_build(&host, 0, 1, &t);
	add(&t, 0x12, 0, 1, 0, 0, 0);
	assert_int_equal(cpuid_check(&t, &host, 0, 1, &e), -EINVAL);
	assert_string_equal(e.msg, "CPUID leaf 0x12 is none that we give a guest");
	memset(&t, 0, sizeof(t));
	assert_true(cpuid_check(&t, &host, 0, 1, &e) < 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_cpuid__topology_of_1_to_64),
		cmocka_unit_test(test_cpuid__hides_what_does_not_survive),
		cmocka_unit_test(test_cpuid__xsave_fits_in_4096_bytes),
		cmocka_unit_test(test_cpuid__same_host_takes_it_back),
		cmocka_unit_test(test_cpuid__missing_features_are_named),
		cmocka_unit_test(test_cpuid__other_machines_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
