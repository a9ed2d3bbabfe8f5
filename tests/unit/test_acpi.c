/* SPDX-License-Identifier: MIT */
/*
 * The ACPI tables as a guest finds them: from the RSDP on, every checksum, the addresses that the
 * devices implement; and the AML as iasl understands it, where iasl is installed.
 */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/util.h"
#include "mem/gmem.h"
#include "x86/acpi.h"
#include "x86/aml.h"
#include "x86/platform.h"

static struct gmem *mem;

static uint64_t peek(gpa_t gpa, size_t n)
{
	uint64_t v = 0;

	assert_int_equal(gmem_read(mem, gpa, &v, n), 0);
	return v;
}

static uint8_t sum(gpa_t gpa, uint64_t n)
{
	uint8_t s = 0;

	while (n--)
		s = (uint8_t)(s + peek(gpa++, 1));
	return s;
}

static gpa_t build(unsigned int nr_vcpus)
{
	gpa_t rsdp = 0;
	struct err e;

	assert_int_equal(gmem_create(GMEM_MIN_BYTES, &mem, &e), 0);
	assert_int_equal(acpi_build(mem, nr_vcpus, &rsdp, &e), 0);
	assert_int_equal(rsdp, PLAT_ACPI);
	return rsdp;
}

/* Address of a table by its signature, its checksum verified. */
static gpa_t table(gpa_t rsdp, const char *signature)
{
	gpa_t xsdt = peek(rsdp + 24, 8), found = 0;
	uint64_t n = (peek(xsdt + 4, 4) - 36) / 8;

	assert_int_equal(peek(rsdp, 8), 0x2052545020445352); /* "RSD PTR " */
	assert_int_equal(sum(rsdp, 20), 0);
	assert_int_equal(sum(rsdp, 36), 0);
	assert_int_equal(sum(xsdt, peek(xsdt + 4, 4)), 0);
	for (uint64_t i = 0; i < n; i++) {
		gpa_t t = peek(xsdt + 36 + i * 8, 8);
		uint32_t sig = (uint32_t)peek(t, 4);

		assert_true(t >= PLAT_ACPI && t + peek(t + 4, 4) <= PLAT_ACPI_END);
		assert_int_equal(sum(t, peek(t + 4, 4)), 0);
		if (!memcmp(&sig, signature, 4))
			found = t;
	}
	assert_int_not_equal(found, 0);
	return found;
}

static void test_acpi__fadt_is_hardware_reduced_with_our_ports(void **st)
{
	gpa_t f, d;

	(void)st;
	f = table(build(1), "FACP");
	assert_int_equal(peek(f + 4, 4), 276);
	assert_true(peek(f + 112, 4) & (1u << 20));	/* HW_REDUCED_ACPI */
	assert_true(peek(f + 112, 4) & (1u << 10));	/* RESET_REG_SUP */
	assert_int_equal(peek(f + 116, 4), 0x01000801); /* an 8-bit port */
	assert_int_equal(peek(f + 120, 8), PLAT_RESET_PORT);
	assert_int_equal(peek(f + 128, 1), PLAT_RESET_VALUE);
	assert_int_equal(peek(f + 248, 8), PLAT_SLEEP_CONTROL_PORT);
	assert_int_equal(peek(f + 260, 8), PLAT_SLEEP_STATUS_PORT);
	assert_int_equal(peek(f + 108, 1), PLAT_RTC_CENTURY);
	d = peek(f + 140, 8);
	assert_int_equal(peek(f + 40, 4), d);
	assert_int_equal(peek(d, 4), 0x54445344); /* "DSDT" */
	assert_int_equal(sum(d, peek(d + 4, 4)), 0);
	gmem_destroy(mem);
}

static void test_acpi__madt_lists_each_cpu_once(void **st)
{
	static const unsigned int counts[] = { 1, 2, 7, 64 };

	(void)st;
	for (size_t c = 0; c < ARRAY_SIZE(counts); c++) {
		gpa_t m = table(build(counts[c]), "APIC"), p = m + 44;
		unsigned int cpus = 0, ioapics = 0;

		assert_int_equal(peek(m + 36, 4), PLAT_LAPIC);
		while (p < m + peek(m + 4, 4)) {
			uint64_t type = peek(p, 1), len = peek(p + 1, 1);

			assert_true(len >= 6);
			if (type == 0) {
				assert_int_equal(peek(p + 2, 1), cpus);
				assert_int_equal(peek(p + 3, 1), cpus);
				assert_int_equal(peek(p + 4, 4), 1);
				cpus++;
			} else if (type == 1) {
				assert_int_equal(peek(p + 4, 4), PLAT_IOAPIC);
				assert_int_equal(peek(p + 8, 4), 0);
				ioapics++;
			}
			p += len;
		}
		assert_int_equal(p, m + peek(m + 4, 4));
		assert_int_equal(cpus, counts[c]);
		assert_int_equal(ioapics, 1);
		gmem_destroy(mem);
	}
}

static void test_acpi__mcfg_is_bus_0(void **st)
{
	gpa_t m;

	(void)st;
	m = table(build(1), "MCFG");
	assert_int_equal(peek(m + 44, 8), PLAT_ECAM_BASE);
	assert_int_equal(peek(m + 52, 4), 0); /* segment 0, buses 0 to 0 */
	gmem_destroy(mem);
}

/* PkgLength in its four sizes, against values worked out by hand. */
static void test_aml__block_lengths(void **st)
{
	static const struct {
		size_t content;
		uint8_t want[4];
		size_t n;
	} cases[] = {
		{ 62 - 4, { 0x3f }, 1 },
		{ 63 - 4, { 0x41, 0x04 }, 2 },
		{ 0xffd - 4, { 0x4f, 0xff }, 2 },
		{ 0xffe - 4, { 0x81, 0x00, 0x01 }, 3 },
		{ 0xffffc - 4, { 0x8f, 0xff, 0xff }, 3 },
		{ 0xffffd - 4, { 0xc1, 0x00, 0x00, 0x01 }, 4 },
	};

	(void)st;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct wbuf w;
		size_t at;

		wbuf_init(&w, 4 << 20);
		at = aml_scope(&w, "ABCD");
		wbuf_reserve(&w, cases[i].content);
		aml_end(&w, at);
		assert_false(w.bad);
		assert_int_equal(w.len, 1 + cases[i].n + 4 + cases[i].content);
		assert_memory_equal(w.data + 1, cases[i].want, cases[i].n);
		assert_memory_equal(w.data + 1 + cases[i].n, "ABCD", 4);
		wbuf_fini(&w);
	}
}

static void run(const char *cmd)
{
	if (system(cmd) != 0)
		fail_msg("%s", cmd);
}

static void test_acpi__iasl_finds_nothing_wrong(void **st)
{
	char dir[] = "/tmp/test_acpi.XXXXXX", path[64], cmd[512], out[4096] = { 0 };
	gpa_t d;
	int fd;

	(void)st;
	if (system("command -v iasl >/dev/null") != 0)
		skip();
	assert_non_null(mkdtemp(dir));
	d = peek(table(build(64), "FACP") + 140, 8);
	snprintf(path, sizeof(path), "%s/dsdt.dat", dir);
	fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	for (uint64_t i = 0; i < peek(d + 4, 4); i++) {
		uint8_t c = (uint8_t)peek(d + i, 1);

		assert_int_equal(write(fd, &c, 1), 1);
	}
	close(fd);
	snprintf(cmd, sizeof(cmd),
		 "cd %s && iasl -d dsdt.dat >d.log 2>&1 && iasl dsdt.dsl >c.log 2>&1", dir);
	run(cmd);
	snprintf(path, sizeof(path), "%s/c.log", dir);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	assert_true(read(fd, out, sizeof(out) - 1) > 0);
	close(fd);
	assert_non_null(strstr(out, "0 Errors, 0 Warnings, 0 Remarks"));
	snprintf(cmd, sizeof(cmd),
		 "grep -q 'Method (_EVT, 1, Serialized)' %s/dsdt.dsl && "
		 "grep -q 'EisaId (\"PNP0A08\")' %s/dsdt.dsl && "
		 "grep -q 'VM_Gen_Counter' %s/dsdt.dsl && rm -r %s",
		 dir, dir, dir, dir);
	run(cmd);
	gmem_destroy(mem);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_acpi__fadt_is_hardware_reduced_with_our_ports),
		cmocka_unit_test(test_acpi__madt_lists_each_cpu_once),
		cmocka_unit_test(test_acpi__mcfg_is_bus_0),
		cmocka_unit_test(test_aml__block_lengths),
		cmocka_unit_test(test_acpi__iasl_finds_nothing_wrong),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
