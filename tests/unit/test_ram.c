/* SPDX-License-Identifier: MIT */
/*
 * RAM files: what is written is what is loaded, alone and as a chain of any encodings, and a flat
 * one and a chain give the same bytes; damaged indexes and files are refused.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/util.h"
#include "mem/gmem.h"
#include "snapshot/format.h"
#include "snapshot/ram.h"

#define RAM MIB(64)

static struct gmem *make(void)
{
	struct gmem *gm;
	struct err e;

	if (gmem_create(RAM, &gm, &e))
		fail_msg("%s", e.msg);
	return gm;
}

/* Deterministic, and different for each `salt`. */
static void fill(struct gmem *gm, uint64_t offset, uint64_t len, unsigned int salt)
{
	uint64_t x = offset * 0x9e3779b97f4a7c15ull + salt + 1;
	uint8_t *p = gmem_fill(gm, offset, len);

	assert_non_null(p);
	for (uint64_t i = 0; i < len; i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		p[i] = (uint8_t)x;
	}
}

static void zero(struct gmem *gm, uint64_t offset, uint64_t len)
{
	memset(gmem_fill(gm, offset, len), 0, len);
}

/* What a guest leaves: long runs, single pages, pages at the edges of windows. */
static void first(struct gmem *gm)
{
	fill(gm, 0, 4096, 1);
	fill(gm, MIB(1) - 4096, 8192, 2);
	fill(gm, MIB(4), MIB(3) + 4096, 3);
	for (uint64_t at = MIB(16); at < MIB(20); at += 16384)
		fill(gm, at, 4096, 4);
	fill(gm, RAM - 4096, 4096, 5);
}

/* Then some of it changes, some becomes zero, some is new, some is written with what it was. */
static void second(struct gmem *gm)
{
	fill(gm, MIB(1), 4096, 6);
	fill(gm, MIB(5), MIB(1), 7);
	zero(gm, MIB(4), 256 << 10);
	zero(gm, MIB(16) + 16384, 4096);
	fill(gm, MIB(4) + (256 << 10), 4096, 8);
	fill(gm, MIB(40), 128 << 10, 9);
	zero(gm, MIB(50), 4096);
	memmove(gmem_fill(gm, MIB(6), 4096), gmem_fill(gm, MIB(6), 4096), 4096);
}

static void third(struct gmem *gm)
{
	zero(gm, MIB(40), 64 << 10);
	fill(gm, MIB(4), 4096, 10);
	fill(gm, MIB(60), MIB(1), 11);
	zero(gm, RAM - 4096, 4096);
}

static void (*const steps[])(struct gmem *gm) = { first, second, third };

static int file(void)
{
	int fd = memfd_create("ram", MFD_CLOEXEC);

	assert_true(fd >= 0);
	return fd;
}

static struct ram_layer store_fine(struct gmem *gm, enum ram_encoding enc, struct ram_layer *base,
				   size_t n, size_t fine)
{
	struct ram_write w = {
		.gm = gm, .fd = file(), .encoding = enc, .base = base, .nr_base = n, .fine = fine
	};
	struct ram_index ix, again;
	struct ram_layer l;
	struct wbuf buf;
	struct rbuf r;
	struct err e;

	if (ram_write(&w, &ix, &e))
		fail_msg("%s", e.msg);
	/* through its record, as in a state file */
	wbuf_init(&buf, SNAP_FILE_MAX);
	ram_index_encode(&ix, &buf);
	assert_false(buf.bad);
	rbuf_init(&r, buf.data, buf.len);
	if (ram_index_decode(&r, &again, &e))
		fail_msg("%s", e.msg);
	ram_index_fini(&ix);
	wbuf_fini(&buf);
	if (ram_layer_open(&l, &again, w.fd, &e))
		fail_msg("%s", e.msg);
	return l;
}

static struct ram_layer store(struct gmem *gm, enum ram_encoding enc, struct ram_layer *base,
			      size_t n)
{
	return store_fine(gm, enc, base, n, 0);
}

static struct gmem *load(struct ram_layer *l, size_t n)
{
	struct gmem *gm = make();
	struct err e;

	if (ram_chain_load(l, n, gm, &e))
		fail_msg("%s", e.msg);
	return gm;
}

static void same_ram(struct gmem *a, struct gmem *b)
{
	for (uint64_t at = 0; at < RAM; at += GMEM_PAGE)
		if (memcmp(gmem_at_offset(a, at, GMEM_PAGE), gmem_at_offset(b, at, GMEM_PAGE),
			   GMEM_PAGE))
			fail_msg("page %#llx differs", (unsigned long long)at);
}

static void test_ram__a_chain_and_a_flat_file_give_the_same_bytes(void **state)
{
	(void)state;
	for (unsigned int mix = 0; mix < 8; mix++) {
		struct gmem *gm = make();
		struct ram_layer chain[3];

		for (size_t i = 0; i < ARRAY_SIZE(steps); i++) {
			enum ram_encoding enc = mix & 1u << i ? RAM_ZSTD : RAM_RAW;
			struct ram_layer flat;
			struct gmem *a, *b;

			steps[i](gm);
			chain[i] = store(gm, enc, chain, i);
			flat = store(gm, enc, NULL, 0);
			a = load(chain, i + 1);
			b = load(&flat, 1);
			same_ram(gm, b);
			same_ram(a, b);
			gmem_destroy(a);
			gmem_destroy(b);
			ram_layer_close(&flat);
		}
		for (size_t i = 0; i < ARRAY_SIZE(chain); i++)
			ram_layer_close(&chain[i]);
		gmem_destroy(gm);
	}
}

/* An index of single pages all over 1 TiB would not fit into a state file. */
static void test_ram__scattered_pages_have_coarse_extents(void **state)
{
	(void)state;
	for (int enc = RAM_RAW; enc <= RAM_ZSTD; enc++) {
		struct gmem *gm = make(), *got;
		struct ram_layer chain[2];

		first(gm);
		chain[0] = store_fine(gm, (enum ram_encoding)enc, NULL, 0, 1);
		/* the limit was reached in the first window, which has two */
		for (size_t i = 2; i < chain[0].ix.n; i++)
			assert_true(chain[0].ix.ext[i].offset / RAM_WINDOW >
				    chain[0].ix.ext[i - 1].offset / RAM_WINDOW);
		second(gm);
		third(gm);
		/* every other page is new, or zero, or neither */
		for (uint64_t at = MIB(30); at < MIB(34); at += 12288) {
			fill(gm, at, 4096, 12);
			zero(gm, at + 4096, 4096);
		}
		chain[1] = store_fine(gm, (enum ram_encoding)enc, chain, 1, 1);
		for (size_t i = 2; i < chain[1].ix.n; i++) {
			assert_false(chain[1].ix.ext[i].zero);
			assert_true(chain[1].ix.ext[i].offset / RAM_WINDOW >
				    chain[1].ix.ext[i - 1].offset / RAM_WINDOW);
		}
		got = load(chain, 2);
		same_ram(got, gm);
		gmem_destroy(got);
		gmem_destroy(gm);
		ram_layer_close(&chain[0]);
		ram_layer_close(&chain[1]);
	}
}

static void test_ram__a_layer_holds_only_what_differs(void **state)
{
	struct gmem *gm = make();
	struct ram_layer chain[2], none;

	(void)state;
	first(gm);
	chain[0] = store(gm, RAM_RAW, NULL, 0);
	none = store(gm, RAM_ZSTD, chain, 1);
	assert_int_equal(none.ix.n, 0);
	second(gm);
	chain[1] = store(gm, RAM_RAW, chain, 1);
	/* one page, 1 MiB, one page, 128 KiB; and three runs that are zero now, one of which was */
	assert_int_equal(ram_index_data(&chain[1].ix), 4096 + MIB(1) + 4096 + (128 << 10));
	assert_int_equal(chain[1].ix.n, 6);
	assert_true(chain[1].ix.ext[1].zero && chain[1].ix.ext[1].offset == MIB(4));
	assert_true(chain[1].ix.ext[4].zero && chain[1].ix.ext[4].len == 4096);
	ram_layer_close(&none);
	ram_layer_close(&chain[0]);
	ram_layer_close(&chain[1]);
	gmem_destroy(gm);
}

/* The base holds what a page was; it has fallen to its template's, or to zero, since. */
static void test_ram__what_was_discarded_is_stored_as_what_it_fell_to(void **state)
{
	(void)state;
	for (int filed = 0; filed < 2; filed++) {
		struct gmem *gm = make(), *live, *got;
		struct ram_layer chain[3];

		first(gm);
		chain[0] = store(gm, RAM_RAW, NULL, 0);
		live = filed ? load(chain, 1) : make();
		fill(live, MIB(5), MIB(1), 7);
		fill(live, MIB(40), 128 << 10, 9);
		chain[1] = store(live, RAM_RAW, chain, 1);
		assert_int_equal(gmem_discard(live, MIB(5), MIB(1) / 2), 0);
		assert_int_equal(gmem_discard(live, MIB(40), 64 << 10), 0);
		chain[2] = store(live, RAM_ZSTD, chain, 2);
		assert_int_equal(ram_index_data(&chain[2].ix), filed ? MIB(1) / 2 : 0);
		got = load(chain, 3);
		same_ram(got, live);
		for (uint64_t at = MIB(5); at < MIB(5) + MIB(1) / 2; at += GMEM_PAGE) {
			const void *p = gmem_at_offset(got, at, GMEM_PAGE);

			assert_true(filed ? !memcmp(p, gmem_at_offset(gm, at, GMEM_PAGE), GMEM_PAGE)
					  : gmem_page_is_zero(p));
		}
		assert_true(gmem_page_is_zero(gmem_at_offset(got, MIB(40), GMEM_PAGE)));
		gmem_destroy(got);
		gmem_destroy(live);
		gmem_destroy(gm);
		for (size_t i = 0; i < ARRAY_SIZE(chain); i++)
			ram_layer_close(&chain[i]);
	}
}

static void test_ram__a_frozen_child_writes_what_was_and_gives_back(void **state)
{
	struct gmem *gm = make(), *want = make(), *got;
	struct ram_write w = { .gm = gm, .fd = file(), .give_back = true };
	int changed[2], status;
	struct ram_layer l, same;
	struct ram_index ix;
	struct err e;
	pid_t pid;
	char c;

	(void)state;
	first(gm);
	first(want);
	assert_int_equal(pipe(changed), 0);
	pid = fork();
	if (!pid) {
		unsigned char vec[256];
		/* not before the parent has changed everything */
		bool ok = read(changed[0], &c, 1) == 1 && !ram_write(&w, &ix, &e);

		for (uint64_t at = 0; at < RAM; at += MIB(1))
			ok &= !gmem_resident(gm, at, MIB(1), vec);
		_exit(!ok);
	}
	zero(gm, 0, MIB(8));
	second(gm);
	assert_int_equal(write(changed[1], "x", 1), 1);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	/* its index died with it, but it is that of the same memory */
	same = store(want, RAM_RAW, NULL, 0);
	ix = same.ix;
	same.ix = (struct ram_index){ 0 };
	if (ram_layer_open(&l, &ix, w.fd, &e))
		fail_msg("%s", e.msg);
	got = load(&l, 1);
	same_ram(got, want);
	gmem_destroy(got);
	ram_layer_close(&l);
	ram_layer_close(&same);
	gmem_destroy(gm);
	gmem_destroy(want);
	close(changed[0]);
	close(changed[1]);
}

static void test_ram__holes_are_not_stored(void **state)
{
	struct gmem *gm = make();
	struct ram_layer raw, packed;
	struct stat st;

	(void)state;
	first(gm);
	raw = store(gm, RAM_RAW, NULL, 0);
	assert_int_equal(fstat(raw.fd, &st), 0);
	assert_int_equal(st.st_size, RAM);
	assert_true((uint64_t)st.st_blocks * 512 < MIB(5));
	zero(gm, 0, RAM);
	memset(gmem_fill(gm, MIB(2), MIB(8)), 7, MIB(8));
	packed = store(gm, RAM_ZSTD, NULL, 0);
	assert_int_equal(packed.ix.nr_frames, 8);
	assert_int_equal(fstat(packed.fd, &st), 0);
	assert_true(st.st_size < 64 << 10);
	ram_layer_close(&raw);
	ram_layer_close(&packed);
	gmem_destroy(gm);
}

static int decode(const struct ram_index *ix, size_t cut, long flip)
{
	struct ram_index out;
	struct wbuf w;
	struct rbuf r;
	struct err e = { "" };
	int ret;

	wbuf_init(&w, SNAP_FILE_MAX);
	ram_index_encode(ix, &w);
	assert_false(w.bad);
	if (flip >= 0)
		w.data[flip / 8] ^= (uint8_t)(1 << flip % 8);
	rbuf_init(&r, w.data, w.len - cut);
	ret = ram_index_decode(&r, &out, &e);
	if (ret)
		assert_string_not_equal(e.msg, "");
	else
		ram_index_fini(&out);
	wbuf_fini(&w);
	return ret;
}

static void test_ram__a_damaged_index_is_refused(void **state)
{
	struct ram_extent x[] = { { MIB(2), 8192, false }, { MIB(3), 4096, true } };
	struct ram_index ix = { .size_bytes = RAM, .ext = x, .n = 2 };
	static const struct ram_extent bad[] = {
		{ MIB(2), 4096, false },	    /* not after the first */
		{ MIB(3) + 1, 4096, false },	    /* unaligned */
		{ MIB(3), 4095, false },	    /* part of a page */
		{ MIB(3), 0, true },		    /* empty */
		{ RAM - 4096, 8192, false },	    /* beyond RAM */
		{ UINT64_MAX - 4095, 4096, false }, /* wraps */
		{ MIB(2) + 8192, 4096, false },	    /* continues the first */
	};
	uint32_t frame[] = { 100 };

	(void)state;
	assert_int_equal(decode(&ix, 0, -1), 0);
	for (size_t cut = 1; cut < 54; cut++)
		assert_int_equal(decode(&ix, cut, -1), -EINVAL);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		x[1] = bad[i];
		assert_int_equal(decode(&ix, 0, -1), -EINVAL);
	}
	x[1] = (struct ram_extent){ MIB(3), 4096, true };
	ix.size_bytes = RAM + 4096;
	assert_int_equal(decode(&ix, 0, -1), -EINVAL);
	ix.size_bytes = RAM;
	/* a frame for each window with data, of some bytes */
	ix.encoding = RAM_ZSTD;
	assert_int_equal(decode(&ix, 0, -1), -EINVAL);
	ix.frames = frame;
	ix.nr_frames = 1;
	assert_int_equal(decode(&ix, 0, -1), 0);
	frame[0] = 0;
	assert_int_equal(decode(&ix, 0, -1), -EINVAL);
	frame[0] = MIB(2);
	assert_int_equal(decode(&ix, 0, -1), -EINVAL);
	ix.encoding = RAM_RAW;
	frame[0] = 100;
	assert_int_equal(decode(&ix, 0, -1), -EINVAL);
	ix.nr_frames = 0;
	ix.encoding = (enum ram_encoding)2;
	assert_int_equal(decode(&ix, 0, -1), -EINVAL);
}

static void test_ram__a_cut_or_damaged_file_is_refused(void **state)
{
	for (int enc = RAM_RAW; enc <= RAM_ZSTD; enc++) {
		struct gmem *gm = make(), *to = make();
		struct ram_layer l, again;
		struct ram_index ix;
		struct stat st;
		struct err e;

		(void)state;
		first(gm);
		l = store(gm, (enum ram_encoding)enc, NULL, 0);
		if (enc == RAM_ZSTD) {
			uint32_t junk = 0xdeadbeef;

			assert_int_equal(pwrite(l.fd, &junk, 4, (off_t)l.at[1]), 4);
			assert_int_equal(ram_chain_load(&l, 1, to, &e), -EINVAL);
		}
		assert_int_equal(fstat(l.fd, &st), 0);
		assert_int_equal(ftruncate(l.fd, st.st_size - 1), 0);
		ix = l.ix;
		l.ix = (struct ram_index){ 0 };
		assert_int_equal(ram_layer_open(&again, &ix, dup(l.fd), &e), -EINVAL);
		ram_layer_close(&l);
		gmem_destroy(gm);
		gmem_destroy(to);
	}
}

static void test_ram__another_machines_size_is_refused(void **state)
{
	struct gmem *gm = make(), *big;
	struct ram_layer l;
	struct err e;

	(void)state;
	first(gm);
	l = store(gm, RAM_RAW, NULL, 0);
	assert_int_equal(gmem_create(2 * RAM, &big, &e), 0);
	assert_int_equal(ram_chain_load(&l, 1, big, &e), -EINVAL);
	ram_layer_close(&l);
	gmem_destroy(gm);
	gmem_destroy(big);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_ram__a_chain_and_a_flat_file_give_the_same_bytes),
		cmocka_unit_test(test_ram__scattered_pages_have_coarse_extents),
		cmocka_unit_test(test_ram__a_layer_holds_only_what_differs),
		cmocka_unit_test(test_ram__what_was_discarded_is_stored_as_what_it_fell_to),
		cmocka_unit_test(test_ram__a_frozen_child_writes_what_was_and_gives_back),
		cmocka_unit_test(test_ram__holes_are_not_stored),
		cmocka_unit_test(test_ram__a_damaged_index_is_refused),
		cmocka_unit_test(test_ram__a_cut_or_damaged_file_is_refused),
		cmocka_unit_test(test_ram__another_machines_size_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
