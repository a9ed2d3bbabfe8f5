/* SPDX-License-Identifier: MIT */
/*
 * The text of GET /metrics, of made-up machines: read back by a parser that is as strict as the
 * format's description (Prometheus exposition format 0.0.4).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "control/metrics.h"

static const struct metrics_vcpu vcpus[] = { { "0", 1500000000 }, { "1", 7 } };
static const struct metrics_disk disks[] = {
	{ "root", 4096, { .reads = 11, .written_bytes = UINT64_MAX, .no_space = 3 } },
	{ "we\"ird\\one\n", 0, { .layers = 5 } },
};
static const struct metrics_nic nics[] = {
	{ "eth0", { .backend = "user", .rx_packets = 21, .tx_packets = 22, .dropped = 23 }, 1 },
};
static const struct virtio_balloon_view balloon = { .target_bytes = 31,
						    .actual_bytes = 32,
						    .inflated_bytes = 33,
						    .reported_bytes = 34,
						    .hinted_bytes = 35,
						    .kept_bytes = 36 };

static struct metrics full(void)
{
	return (struct metrics){
		.name = "a\\b\"c\nd",
		.state = "Running",
		.stats = { .uptime_ns = 61000000001,
			   .exits_total = 9,
			   .exits_mmio = 2,
			   .exits_pio = 1,
			   .forks = 4,
			   .last_pause_ns = 5,
			   .fork_depth = 6,
			   .parked_bytes = 77 },
		.vcpus = 2,
		.ram_bytes = 1ull << 40,
		.user_ns = 2000000000,
		.system_ns = 12,
		.peak_bytes = 13,
		.minor_faults = 14,
		.major_faults = 15,
		.vcpu = vcpus,
		.disk = disks,
		.nic = nics,
		.nr_vcpus = ARRAY_SIZE(vcpus),
		.nr_disks = ARRAY_SIZE(disks),
		.nr_nics = ARRAY_SIZE(nics),
		.balloon = &balloon,
	};
}

static char *text_of(const struct metrics *m)
{
	size_t n = 0;
	char *text = metrics_text(m, &n);

	assert_non_null(text);
	assert_int_equal(strlen(text), n);
	return text;
}

static void has(const char *text, const char *line)
{
	cleanup_free char *whole = calloc(1, strlen(line) + 3);

	sprintf(whole, "\n%s\n", line);
	if (!strstr(text, whole))
		fail_msg("there is no line %s in\n%s", line, text);
}

static size_t name_length(const char *p)
{
	size_t n = 0;

	while (isalnum((unsigned char)p[n]) || p[n] == '_' || p[n] == ':')
		n++;
	return isdigit((unsigned char)*p) ? 0 : n;
}

/* {name="value",...}: behind it, or NULL. */
static const char *labels(const char *p)
{
	while (*p != '}') {
		size_t n = name_length(p);

		if (!n || p[n] != '=' || p[n + 1] != '"')
			return NULL;
		for (p += n + 2; *p != '"'; p++) {
			if (*p == '\n' || !*p)
				return NULL;
			if (*p == '\\' && *++p != '\\' && *p != '"' && *p != 'n')
				return NULL;
		}
		p++;
		if (*p == ',')
			p++;
		else if (*p != '}')
			return NULL;
	}
	return p + 1;
}

/* A line that is a sample of `family`. */
static bool is_sample(const char *p, const char *family)
{
	size_t n = name_length(p);
	char *end;

	if (n != strlen(family) || strncmp(p, family, n))
		return false;
	p += n;
	if (*p == '{')
		p = labels(p + 1);
	if (!p || *p != ' ' || !isdigit((unsigned char)p[1]))
		return false;
	(void)strtod(p + 1, &end);
	return *end == '\n';
}

/* Families as HELP, TYPE, samples; each once, its samples together. How many there are. */
static unsigned int parse(const char *text)
{
	char family[80] = "", seen[8192] = " ", word[90];
	unsigned int families = 0, samples = 1;

	for (const char *p = text; *p; p = strchr(p, '\n') + 1) {
		char type[16];

		assert_non_null(strchr(p, '\n'));
		if (!strncmp(p, "# HELP ", 7)) {
			assert_true(samples > 0);
			assert_int_equal(sscanf(p, "# HELP %79s", family), 1);
			assert_int_equal(name_length(family), strlen(family));
			snprintf(word, sizeof(word), " %s ", family);
			if (strstr(seen, word))
				fail_msg("%s comes twice", family);
			strcat(seen, word + 1);
			p = strchr(p, '\n') + 1;
			snprintf(word, sizeof(word), "# TYPE %s ", family);
			assert_int_equal(strncmp(p, word, strlen(word)), 0);
			assert_int_equal(sscanf(p + strlen(word), "%15s", type), 1);
			assert_true(!strcmp(type, "gauge") || !strcmp(type, "counter"));
			/* the names of counters end so, and of nothing else */
			assert_int_equal(!strcmp(type, "counter"),
					 !strcmp(family + strlen(family) - 6, "_total"));
			families++;
			samples = 0;
			continue;
		}
		if (!is_sample(p, family))
			fail_msg("no sample of %s: %.80s", family, p);
		samples++;
	}
	assert_true(samples > 0);
	return families;
}

static void test_metrics__numbers_are_the_machines(void **state)
{
	struct metrics m = full();
	cleanup_free char *t = text_of(&m);

	(void)state;
	has(t, "clone_vm_uptime_seconds 61.000000001");
	has(t, "clone_vm_vcpus 2");
	has(t, "clone_vm_ram_bytes 1099511627776");
	has(t, "clone_vm_exits_total 9");
	has(t, "clone_vm_exits_mmio_total 2");
	has(t, "clone_vm_exits_pio_total 1");
	has(t, "clone_vm_forks_total 4");
	has(t, "clone_vm_last_pause_seconds 0.000000005");
	has(t, "clone_vm_fork_depth 6");
	has(t, "clone_vm_parked_bytes 77");
	has(t, "clone_process_user_seconds_total 2.000000000");
	has(t, "clone_process_system_seconds_total 0.000000012");
	has(t, "clone_process_resident_peak_bytes 13");
	has(t, "clone_process_minor_faults_total 14");
	has(t, "clone_process_major_faults_total 15");
	has(t, "clone_vcpu_seconds_total{vcpu=\"0\"} 1.500000000");
	has(t, "clone_vcpu_seconds_total{vcpu=\"1\"} 0.000000007");
	has(t, "clone_disk_size_bytes{disk=\"root\"} 4096");
	has(t, "clone_disk_reads_total{disk=\"root\"} 11");
	has(t, "clone_disk_written_bytes_total{disk=\"root\"} 18446744073709551615");
	has(t, "clone_disk_no_space_total{disk=\"root\"} 3");
	has(t, "clone_net_info{nic=\"eth0\",backend=\"user\"} 1");
	has(t, "clone_net_link_up{nic=\"eth0\"} 1");
	has(t, "clone_net_receive_packets_total{nic=\"eth0\"} 21");
	has(t, "clone_net_transmit_packets_total{nic=\"eth0\"} 22");
	has(t, "clone_net_dropped_total{nic=\"eth0\"} 23");
	has(t, "clone_balloon_target_bytes 31");
	has(t, "clone_balloon_actual_bytes 32");
	has(t, "clone_balloon_inflated_bytes_total 33");
	has(t, "clone_balloon_reported_bytes_total 34");
	has(t, "clone_balloon_hinted_bytes_total 35");
	has(t, "clone_balloon_kept_bytes_total 36");
}

static void test_metrics__labels_are_escaped(void **state)
{
	struct metrics m = full();
	cleanup_free char *t = text_of(&m);

	(void)state;
	has(t, "clone_vm_info{name=\"a\\\\b\\\"c\\nd\",state=\"Running\",version=\"" CLONE_VERSION
	       "\"} 1");
	has(t, "clone_disk_layers{disk=\"we\\\"ird\\\\one\\n\"} 5");
}

static void test_metrics__form_is_what_a_strict_reader_wants(void **state)
{
	struct metrics m = full();
	cleanup_free char *t = text_of(&m);

	(void)state;
	/* 2 infos, 14 of the machine, 1 of vCPUs, 11 of disks, 4 of NICs, 6 of the balloon */
	assert_int_equal(parse(t), 39);
}

static void test_metrics__what_is_not_there_has_no_family(void **state)
{
	struct metrics m = full();
	cleanup_free char *t = NULL;

	(void)state;
	m.nr_vcpus = m.nr_disks = m.nr_nics = 0;
	m.balloon = NULL;
	t = text_of(&m);
	assert_int_equal(parse(t), 16);
	assert_null(strstr(t, "balloon"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_metrics__numbers_are_the_machines),
		cmocka_unit_test(test_metrics__labels_are_escaped),
		cmocka_unit_test(test_metrics__form_is_what_a_strict_reader_wants),
		cmocka_unit_test(test_metrics__what_is_not_there_has_no_family),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
