/* SPDX-License-Identifier: MIT */
/*
 * Mappings accounted for: what a fork's child may have, and each kind that it may not.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/util.h"
#include "event/maps.h"
#include "mem/gmem.h"

#define BYTES (16 * 4096u)

static void *map(int flags, int fd)
{
	void *p = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, flags, fd, 0);

	assert_true(p != MAP_FAILED);
	return p;
}

static void none_unknown(const struct map_range *r, size_t n)
{
	struct err e = { "" };

	if (maps_unknown(r, n, &e))
		fail_msg("%s", e.msg);
}

/* One, and what it says after the address. */
static void one_unknown(const struct map_range *r, size_t n, const char *says)
{
	struct err e = { "" };
	const char *at;

	assert_int_equal(maps_unknown(r, n, &e), 1);
	at = strchr(e.msg, '(');
	assert_non_null(at);
	assert_string_equal(at, says);
}

static void test_maps__a_program_and_its_memory_are_known(void **state)
{
	void *heap = malloc(8 << 20), *anon = map(MAP_PRIVATE | MAP_ANONYMOUS, -1);

	(void)state;
	none_unknown(NULL, 0);
	munmap(anon, BYTES);
	free(heap);
}

static void test_maps__shared_memory_must_be_known(void **state)
{
	void *p = map(MAP_SHARED | MAP_ANONYMOUS, -1);
	struct map_range known = { p, BYTES, true, "scene" };

	(void)state;
	one_unknown(NULL, 0, "(/dev/zero (deleted)) is shared, and in no table");
	none_unknown(&known, 1);
	known.shared = false;
	one_unknown(&known, 1, "(scene) is shared");
	known.len -= 4096;
	one_unknown(&known, 1, "(scene) reaches beyond its range");
	munmap(p, BYTES);
}

static void test_maps__a_files_private_memory_must_be_known(void **state)
{
	int fd = memfd_create("template", MFD_CLOEXEC);
	struct map_range known;
	void *p;

	(void)state;
	assert_int_equal(ftruncate(fd, BYTES), 0);
	p = map(MAP_PRIVATE, fd);
	known = (struct map_range){ p, BYTES, false, "guest RAM" };
	one_unknown(NULL, 0, "(/memfd:template (deleted)) is a file's, and in no table");
	none_unknown(&known, 1);
	munmap(p, BYTES);
	close(fd);
}

static void test_maps__guest_ram_is_private(void **state)
{
	struct gmem_region r[GMEM_MAX_REGIONS];
	struct map_range known;
	struct gmem *gm;
	struct err e;

	(void)state;
	assert_int_equal(gmem_create(MIB(64), &gm, &e), 0);
	assert_int_equal(gmem_regions(gm, r), 1);
	known = (struct map_range){ r[0].hva, r[0].size_bytes, false, "guest RAM" };
	none_unknown(&known, 1);
	assert_true(mmap((char *)r[0].hva + MIB(2), BYTES, PROT_READ | PROT_WRITE,
			 MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != MAP_FAILED);
	one_unknown(&known, 1, "(guest RAM) is shared");
	gmem_destroy(gm);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_maps__a_program_and_its_memory_are_known),
		cmocka_unit_test(test_maps__shared_memory_must_be_known),
		cmocka_unit_test(test_maps__a_files_private_memory_must_be_known),
		cmocka_unit_test(test_maps__guest_ram_is_private),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
