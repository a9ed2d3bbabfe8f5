/* SPDX-License-Identifier: MIT */
/*
 * What a disk reads of raw and qcow2 files: images made by qemu-img and qemu-io in every shape,
 * read by us and compared with what qemu-img says is in them; damaged and hostile ones refused.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/endian.h"
#include "base/fd.h"
#include "base/util.h"
#include "block/source.h"
#include "tests/lib/qcow2.h"
#include "tests/lib/scratch.h"

#define sh(...) free(scratch_sh(__VA_ARGS__))

static struct source *open_chain(const char *dir, const char *const *name,
				 const enum source_format *format, unsigned int n, int *result,
				 struct err *e)
{
	struct source_file files[SOURCE_FILES];
	struct source *s = NULL;

	for (unsigned int i = 0; i < n; i++) {
		files[i].format = format[i];
		files[i].fd = open(scratch_path(dir, name[i]), O_RDONLY | O_CLOEXEC);
		assert_true(files[i].fd >= 0);
	}
	*result = source_open(files, n, &s, e);
	assert_true(!*result == !!s);
	return s;
}

/* Is the source what dir/name holds, read in random pieces and then whole? */
static void assert_reads(struct source *s, const char *dir, const char *name)
{
	int fd = open(scratch_path(dir, name), O_RDONLY);
	struct stat st;
	uint8_t *want, *got;
	uint64_t size;

	assert_true(fd >= 0);
	assert_int_equal(fstat(fd, &st), 0);
	size = (uint64_t)st.st_size;
	assert_int_equal(source_bytes(s), size);
	want = malloc(size);
	got = malloc(size);
	assert_true(want && got);
	assert_int_equal(fd_pread_full(fd, want, size, 0), 0);
	for (unsigned int i = 0; i < 200; i++) {
		uint64_t off = qcow2_random(size),
			 n = 1 + qcow2_random(MIN(size - off, (uint64_t)300000));

		memset(got, 0xa5, n);
		assert_int_equal(source_pread(s, got, n, off), 0);
		assert_memory_equal(got, want + off, n);
	}
	assert_int_equal(source_pread(s, got, size, 0), 0);
	assert_memory_equal(got, want, size);
	free(want);
	free(got);
	close(fd);
}

static void check_shape(const char *dir, const char *options, bool packed)
{
	static const char *const name[] = { "a.qcow2" };
	static const enum source_format format[] = { SOURCE_QCOW2 };
	struct source *s;
	struct err e;
	int r;

	sh("qemu-img convert -f raw -O qcow2 %s -o %s %s %s", packed ? "-c" : "", options,
	   scratch_path(dir, "raw"), scratch_path(dir, "a.qcow2"));
	s = open_chain(dir, name, format, 1, &r, &e);
	if (r)
		fail_msg("%s: %s", options, e.msg);
	assert_reads(s, dir, "raw");
	source_close(s, NULL);
}

static void test_source__every_shape_of_qcow2_reads_as_qemu_wrote_it(void **state)
{
	static const char *const cluster[] = { "512", "4096", "65536", "2097152" };
	static const char *const version[] = { "compat=0.10", "compat=1.1",
					       "compat=1.1,refcount_bits=1",
					       "compat=1.1,lazy_refcounts=on,refcount_bits=64" };
	char *dir = scratch_make(), options[160];

	(void)state;
	qcow2_make_raw(dir, "raw", MIB(9) + 512 * 3);
	for (unsigned int c = 0; c < ARRAY_SIZE(cluster); c++) {
		for (unsigned int v = 0; v < ARRAY_SIZE(version); v++) {
			snprintf(options, sizeof(options), "%s,cluster_size=%s", version[v],
				 cluster[c]);
			check_shape(dir, options, false);
		}
		snprintf(options, sizeof(options), "compat=0.10,cluster_size=%s", cluster[c]);
		check_shape(dir, options, true);
		snprintf(options, sizeof(options), "compression_type=zstd,cluster_size=%s",
			 cluster[c]);
		check_shape(dir, options, true);
		snprintf(options, sizeof(options), "preallocation=metadata,cluster_size=%s",
			 cluster[c]);
		check_shape(dir, options, false);
	}
	scratch_remove(dir);
}

static void test_source__raw_file_is_read_as_it_is(void **state)
{
	static const char *const name[] = { "raw" };
	static const enum source_format format[] = { SOURCE_RAW };
	char *dir = scratch_make();
	struct source *s;
	struct err e;
	int r;

	(void)state;
	qcow2_make_raw(dir, "raw", MIB(3) + 512);
	s = open_chain(dir, name, format, 1, &r, &e);
	assert_int_equal(r, 0);
	assert_reads(s, dir, "raw");
	source_close(s, NULL);
	scratch_remove(dir);
}

static void test_source__chain_reads_as_qemu_reads_it(void **state)
{
	char *dir = scratch_make();

	(void)state;
	for (unsigned int packed = 0; packed < 2; packed++) {
		qcow2_chain_make(dir, packed);
		for (unsigned int n = 1; n <= QCOW2_CHAIN; n++) {
			struct source *s = qcow2_chain_open(dir, n);

			qcow2_chain_content(dir, n, "all");
			assert_reads(s, dir, "all");
			source_close(s, NULL);
		}
	}
	scratch_remove(dir);
}

static void test_source__chain_is_only_what_was_passed(void **state)
{
	static const char *const two[] = { "top", "base" }, *const raw[] = { "base", "base" };
	static const enum source_format q[] = { SOURCE_QCOW2, SOURCE_RAW },
					r2[] = { SOURCE_RAW, SOURCE_RAW };
	char *dir = scratch_make();
	struct err e;
	int r;

	(void)state;
	qcow2_make_raw(dir, "base", MIB(1));
	sh("qemu-img create -q -f qcow2 -b /etc/shadow -F raw -u %s 1M", scratch_path(dir, "top"));
	open_chain(dir, two, q, 1, &r, &e);
	assert_int_equal(r, -EINVAL);
	assert_string_equal(
		e.msg, "qcow2: it stands on backing file '/etc/shadow', which was not allowed");
	sh("qemu-img create -q -f qcow2 %s 1M", scratch_path(dir, "top"));
	open_chain(dir, two, q, 2, &r, &e);
	assert_int_equal(r, -EINVAL);
	open_chain(dir, raw, r2, 2, &r, &e);
	assert_int_equal(r, -EINVAL);
	open_chain(dir, raw, q, 1, &r, &e);
	assert_int_equal(r, -EINVAL);
	assert_string_equal(e.msg, "not a qcow2 image; is it format=raw?");
	scratch_remove(dir);
}

/* ---- hostile images ---- */

struct patch {
	uint64_t off;
	unsigned int bytes;
	uint64_t value;
};

static void apply(const char *path, const struct patch *p)
{
	int fd = open(path, O_RDWR);
	be64 v = be64_put(p->value << (64 - 8 * p->bytes));

	assert_true(fd >= 0);
	assert_int_equal(fd_pwrite_full(fd, v.b, p->bytes, p->off), 0);
	close(fd);
}

static void test_source__damaged_header_is_refused_with_its_reason(void **state)
{
	static const struct {
		struct patch p;
		int result;
		const char *why;
	} bad[] = {
		{ { 4, 4, 4 }, -ENOTSUP, "qcow2: version 4: 2 and 3 are supported" },
		{ { 20, 4, 63 }, -EINVAL, "qcow2: cluster_bits is 63: 9 to 21" },
		{ { 20, 4, 8 }, -EINVAL, "qcow2: cluster_bits is 8: 9 to 21" },
		{ { 32, 4, 1 }, -ENOTSUP, "qcow2: encrypted (AES), which is not supported" },
		{ { 32, 4, 2 }, -ENOTSUP, "qcow2: encrypted (LUKS), which is not supported" },
		{ { 72, 8, 2 },
		  -EINVAL,
		  "qcow2: marked corrupt; repair it: qemu-img check -r all FILE" },
		{ { 72, 8, 4 },
		  -ENOTSUP,
		  "qcow2: its data is in an external file, which is not supported" },
		{ { 72, 8, 16 },
		  -ENOTSUP,
		  "qcow2: has extended L2 entries (subclusters), which are not supported" },
		{ { 72, 8, 1ull << 40 }, -ENOTSUP, "qcow2: needs unknown features 0x10000000000" },
		{ { 72, 8, 8 }, -EINVAL, "qcow2: compression type 0" },
		{ { 104, 1, 1 }, -EINVAL, "qcow2: compression type 1" },
		{ { 24, 8, 0 }, -EINVAL, "qcow2: a disk of 0 bytes: 1 to 16 TiB" },
		{ { 24, 8, 1ull << 50 },
		  -EINVAL,
		  "qcow2: a disk of 1125899906842624 bytes: 1 to 16 TiB" },
		{ { 24, 8, 1ull << 40 },
		  -EINVAL,
		  "qcow2: an L1 table of 1 entries is too short for 1099511627776 bytes" },
		{ { 36, 4, 1u << 30 },
		  -EINVAL,
		  "qcow2: an L1 table of 1073741824 entries: 4194304 at most" },
		{ { 40, 8, 1ull << 40 },
		  -EINVAL,
		  "qcow2: L1 table at 1099511627776 is out of place in a file of 262144 bytes" },
		{ { 40, 8, 0x30100 },
		  -EINVAL,
		  "qcow2: L1 table at 196864 is out of place in a file of 262144 bytes" },
		{ { 40, 8, 0 },
		  -EINVAL,
		  "qcow2: L1 table at 0 is out of place in a file of 262144 bytes" },
		{ { 100, 4, 0xfffffff8 },
		  -EINVAL,
		  "qcow2: header of 4294967288 bytes, refcounts of 2^4 bits" },
		{ { 96, 4, 7 }, -EINVAL, "qcow2: header of 112 bytes, refcounts of 2^7 bits" },
		{ { 8, 8, 0x1000000 },
		  -EINVAL,
		  "qcow2: a backing file's name of 0 bytes at 16777216" },
		{ { 116, 4, 0xffffff00 },
		  -EINVAL,
		  "qcow2: a header extension of 4294967040 bytes at 112 leaves the header" },
	};
	static const char *const name[] = { "a" };
	static const enum source_format q[] = { SOURCE_QCOW2 };
	char *dir = scratch_make();
	struct err e;
	int r;

	(void)state;
	for (unsigned int i = 0; i < ARRAY_SIZE(bad); i++) {
		sh("qemu-img create -q -f qcow2 %s 1M && truncate -s 256K %s",
		   scratch_path(dir, "a"), scratch_path(dir, "a"));
		apply(scratch_path(dir, "a"), &bad[i].p);
		open_chain(dir, name, q, 1, &r, &e);
		assert_int_equal(r, bad[i].result);
		assert_string_equal(e.msg, bad[i].why);
	}
	for (unsigned int n = 0; n < 112; n++) {
		sh("qemu-img create -q -f qcow2 %s 1M && truncate -s %u %s", scratch_path(dir, "a"),
		   n, scratch_path(dir, "a"));
		open_chain(dir, name, q, 1, &r, &e);
		assert_int_equal(r, -EINVAL);
	}
	scratch_remove(dir);
}

/* L1 at 0x30000 names the L2 table at 0x40000, whose entries name clusters from 0x50000 on. */
static void test_source__damaged_tables_fail_the_read_and_no_other(void **state)
{
	static const struct patch bad[] = {
		{ 0x30000, 8, 0x40200 },		 /* no cluster's offset */
		{ 0x30000, 8, 1ull << 50 },		 /* beyond the file */
		{ 0x40000, 8, 0x50200 },		 /* data that is not aligned */
		{ 0x40000, 8, 0x50000 | 1ull << 57 },	 /* reserved bits */
		{ 0x40000, 8, 1ull << 62 | 1ull << 55 }, /* compressed, beyond the file */
		{ 0x40000, 8, 1ull << 62 | 0x50000 },	 /* no compressed cluster */
	};
	static const char *const name[] = { "a" };
	static const enum source_format q[] = { SOURCE_QCOW2 };
	uint8_t buf[4096], want[4096];
	char *dir = scratch_make();
	struct source *s;
	struct err e;
	int r;

	(void)state;
	memset(want, 7, sizeof(want));
	for (unsigned int i = 0; i < ARRAY_SIZE(bad); i++) {
		bool table = bad[i].off == 0x30000;

		sh("qemu-img create -q -f qcow2 %s 1M && qemu-io -f qcow2 -c 'write -P 7 0 128k' "
		   "%s >/dev/null",
		   scratch_path(dir, "a"), scratch_path(dir, "a"));
		apply(scratch_path(dir, "a"), &bad[i]);
		s = open_chain(dir, name, q, 1, &r, &e);
		assert_int_equal(r, 0);
		assert_int_equal(source_pread(s, buf, sizeof(buf), 0), -EIO);
		assert_int_equal(source_pread(s, buf, sizeof(buf), 65536), table ? -EIO : 0);
		if (!table)
			assert_memory_equal(buf, want, sizeof(buf));
		source_close(s, NULL);
	}
	scratch_remove(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_source__raw_file_is_read_as_it_is),
		cmocka_unit_test(test_source__every_shape_of_qcow2_reads_as_qemu_wrote_it),
		cmocka_unit_test(test_source__chain_reads_as_qemu_reads_it),
		cmocka_unit_test(test_source__chain_is_only_what_was_passed),
		cmocka_unit_test(test_source__damaged_header_is_refused_with_its_reason),
		cmocka_unit_test(test_source__damaged_tables_fail_the_read_and_no_other),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
