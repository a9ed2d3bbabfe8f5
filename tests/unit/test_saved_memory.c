/* SPDX-License-Identifier: MIT */
/*
 * What is said of a template's memory: every page is stored, shared or zero, once, and resident is
 * what the page cache has of the stored.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/util.h"
#include "cli/commands.h"
#include "cli/saved_memory.h"
#include "snapshot/format.h"
#include "tests/lib/scratch.h"

#define PAGE 4096u
#define RAM_BYTES MIB(2)

struct extents {
	uint64_t page, pages;
	bool zero;
};

static struct ram_index make_index(const struct extents *x, size_t n)
{
	struct ram_index ix = { .size_bytes = RAM_BYTES };

	for (size_t i = 0; i < n; i++)
		assert_int_equal(ram_index_add(&ix, x[i].page * PAGE, x[i].pages * PAGE, x[i].zero),
				 0);
	return ix;
}

/* Base: 0-9 data, 20-29 data. Layer: 5-6 zero, 25-34 data, 40 zero. Top: 0 data, 29-30 zero. */
static const struct extents base[] = { { 0, 10, false }, { 20, 10, false } };
static const struct extents layer[] = { { 5, 2, true }, { 25, 10, false }, { 40, 1, true } };
static const struct extents top[] = { { 0, 1, false }, { 29, 2, true } };

static void check_count(const struct ram_index *ix, size_t n, uint64_t stored, uint64_t shared)
{
	struct saved_memory m;

	saved_memory_count(ix, n, &m);
	assert_int_equal(m.size, RAM_BYTES);
	assert_int_equal(m.stored / PAGE, stored);
	assert_int_equal(m.shared / PAGE, shared);
	assert_int_equal(m.zero, RAM_BYTES - (stored + shared) * PAGE);
}

static void test_count__each_page_is_what_the_newest_that_names_it_says(void **state)
{
	struct ram_index ix[] = { make_index(base, ARRAY_SIZE(base)),
				  make_index(layer, ARRAY_SIZE(layer)),
				  make_index(top, ARRAY_SIZE(top)) };
	struct ram_index none = { .size_bytes = RAM_BYTES };

	(void)state;
	check_count(ix, 1, 20, 0);
	/* 0-4, 7-9, 20-24 of the base */
	check_count(ix, 2, 10, 13);
	/* 1-4, 7-9, 20-24 of the base, 25-28 and 31-34 of the layer */
	check_count(ix, 3, 1, 20);
	check_count(&none, 1, 0, 0);
	for (size_t i = 0; i < ARRAY_SIZE(ix); i++)
		ram_index_fini(&ix[i]);
}

static void test_resident__is_what_the_page_cache_has_of_the_data(void **state)
{
	struct ram_index ix = make_index(base, ARRAY_SIZE(base));
	int fd = open(scratch_path(*state, "ram"), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	struct saved_memory m;
	char page[PAGE];
	struct err e;

	assert_true(fd >= 0);
	memset(page, 7, sizeof(page));
	/* 50: no data, by the index */
	for (uint64_t i = 0; i < 60; i++)
		if (i < 10 || (i >= 20 && i < 30) || i == 50)
			assert_int_equal(fd_pwrite_full(fd, page, PAGE, i * PAGE), 0);
	assert_int_equal(saved_memory_resident(&ix, fd, &m, &e), 0);
	assert_true(m.resident_known);
	assert_int_equal(m.resident, 20 * PAGE);
	assert_int_equal(fsync(fd), 0);
	assert_int_equal(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED), 0);
	assert_int_equal(saved_memory_resident(&ix, fd, &m, &e), 0);
	assert_int_equal(m.resident, 0);
	assert_int_equal(posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM), 0);
	assert_int_equal(pread(fd, page, PAGE, 22 * PAGE), PAGE);
	assert_int_equal(saved_memory_resident(&ix, fd, &m, &e), 0);
	assert_int_equal(m.resident, PAGE);
	/* a file that ends early: what it does not have is nowhere */
	assert_int_equal(ftruncate(fd, 5 * PAGE), 0);
	assert_int_equal(saved_memory_resident(&ix, fd, &m, &e), 0);
	assert_int_equal(m.resident, 0);
	ram_index_fini(&ix);
	close(fd);
}

static void test_resident__of_a_compressed_one_counts_the_file(void **state)
{
	struct ram_index ix = make_index(base, ARRAY_SIZE(base));
	int fd = open(scratch_path(*state, "ram"), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	struct saved_memory m;
	struct err e;

	ix.encoding = RAM_ZSTD;
	assert_true(fd >= 0);
	assert_int_equal(fd_pwrite_full(fd, "packed", 6, 2 * PAGE), 0);
	assert_int_equal(saved_memory_resident(&ix, fd, &m, &e), 0);
	/* the pages before it are a hole that nobody has read */
	assert_int_equal(m.resident, PAGE);
	ram_index_fini(&ix);
	close(fd);
}

/* ---- templates as they are stored ---- */

static void stage_file(struct template_stage *s, struct template *t, const char *name,
		       const struct ram_index *ix)
{
	struct snap_writer w;
	struct err e;
	int fd = template_stage_file(s, name, &e);

	assert_true(fd >= 0);
	if (ix) {
		snap_writer_init(&w);
		ram_index_encode(ix, snap_begin(&w, "ram", "", RAM_RECORD_VERSION));
		snap_end(&w);
		assert_int_equal(snap_finish(&w, fd, &e), 0);
		snap_writer_fini(&w);
	} else {
		assert_int_equal(ftruncate(fd, RAM_BYTES), 0);
		assert_int_equal(fd_pwrite_full(fd, "data", 4, 0), 0);
	}
	close(fd);
	snprintf(t->files[t->nfiles++].name, sizeof(t->files[0].name), "%s", name);
}

static void publish_made(const char *name, const char *image, const char *created,
			 const struct template *parent, const struct ram_index *ix)
{
	struct template *t = calloc(1, sizeof(*t));
	struct template_stage s;
	struct err e;

	*t = (struct template){
		.clone_version = "0.1.0", .cpu = "Some CPU", .mem_bytes = RAM_BYTES, .vcpus = 2
	};
	snprintf(t->image, sizeof(t->image), "%s", image);
	snprintf(t->created, sizeof(t->created), "%s", created);
	if (parent) {
		t->parent.store = STORE_TEMPLATES;
		memcpy(t->parent.name, parent->name, sizeof(t->parent.name));
		memcpy(t->parent.sha256, parent->sha256, sizeof(t->parent.sha256));
	}
	assert_int_equal(template_stage_begin(STORE_TEMPLATES, name, &s, &e), 0);
	stage_file(&s, t, "state", ix);
	stage_file(&s, t, "ram", NULL);
	if (template_stage_publish(&s, t, &e))
		fail_msg("%s", e.msg);
	template_stage_end(&s);
	free(t);
}

static void publish(const char *name, const struct template *parent, const struct ram_index *ix)
{
	publish_made(name, "debian", "2026-06-01T12:00:00Z", parent, ix);
}

/* Standard output of a command, which must succeed. */
static char *said(int argc, char **argv)
{
	int fd = open(scratch_path(getenv("CLONE_STATE_DIR"), "out"), O_RDWR | O_CREAT | O_TRUNC,
		      0600),
	    saved = dup(STDOUT_FILENO);
	char *text = calloc(1, 8192);

	assert_true(fd >= 0);
	optind = 0;
	fflush(stdout);
	dup2(fd, STDOUT_FILENO);
	assert_int_equal(cmd_template(argc, argv), 0);
	fflush(stdout);
	dup2(saved, STDOUT_FILENO);
	assert_true(pread(fd, text, 8191, 0) > 0);
	close(fd);
	close(saved);
	return text;
}

static void test_inspect__says_what_a_chain_of_templates_has(void **state)
{
	struct ram_index ix[] = { make_index(base, ARRAY_SIZE(base)),
				  make_index(layer, ARRAY_SIZE(layer)) };
	struct template *t = calloc(1, sizeof(*t));
	char *json[] = { "template", "inspect", "on", NULL };
	char *text[] = { "template", "inspect", "-o", "text", "on", NULL };
	char *last[] = { "template", "inspect", "on", "flat", "--output=text", NULL };
	struct err e;
	json_t *j, *m;
	char *out;

	(void)state;
	publish("flat", NULL, &ix[0]);
	assert_int_equal(template_open(STORE_TEMPLATES, "flat", t, &e), 0);
	publish("on", t, &ix[1]);
	out = said(3, json);
	j = json_loads(out, 0, NULL);
	m = json_object_get(j, "memory");
	assert_int_equal(json_integer_value(json_object_get(m, "size_bytes")), RAM_BYTES);
	assert_int_equal(json_integer_value(json_object_get(m, "stored_bytes")), 10 * PAGE);
	assert_int_equal(json_integer_value(json_object_get(m, "shared_bytes")), 13 * PAGE);
	assert_int_equal(json_integer_value(json_object_get(m, "zero_bytes")),
			 RAM_BYTES - 23 * PAGE);
	/* its index has no data where the file has its one page */
	assert_int_equal(json_integer_value(json_object_get(m, "resident_bytes")), 0);
	json_decref(j);
	free(out);
	out = said(5, text);
	assert_non_null(strstr(out, "stands on          template flat\n"));
	assert_non_null(strstr(out, "memory             2.0M\n"
				    "  stored           40.0K\n"
				    "  shared           52.0K\n"
				    "  zero             1.9M\n"
				    "resident           0B\n"));
	free(out);
	/* an option is one wherever it stands */
	out = said(5, last);
	assert_memory_equal(out, "template           on\n", 22);
	assert_non_null(strstr(out, "\ntemplate           flat\n"));
	assert_null(strstr(out, "{"));
	free(out);
	free(t);
	for (size_t i = 0; i < ARRAY_SIZE(ix); i++)
		ram_index_fini(&ix[i]);
}

/* A manifest's words do nothing to a terminal. */
static void test_inspect__and_ls_print_no_escapes(void **state)
{
	struct ram_index ix = make_index(base, ARRAY_SIZE(base));
	char *ls[] = { "template", "ls", NULL };
	char *text[] = { "template", "inspect", "-o", "text", "rude", NULL };
	char *json[] = { "template", "inspect", "rude", NULL };
	json_t *j;
	char *out;

	(void)state;
	publish_made("rude",
		     "a\x1b[2Jb\xc2\x9b"
		     "c",
		     "\x1b]0;x\a\xc2\x9b"
		     "2J\n",
		     NULL, &ix);
	out = said(2, ls);
	assert_non_null(strstr(out, "\nrude                     a [2Jb  c "));
	free(out);
	out = said(5, text);
	assert_non_null(strstr(out, "\ncreated             ]0;x   2J \n"));
	free(out);
	/* in JSON they are there, and ASCII */
	out = said(3, json);
	assert_non_null(strstr(out, "\"image\": \"a\\u001B[2Jb\\u009Bc\""));
	for (const char *p = out; *p; p++)
		assert_true(*p == '\n' || (*p >= ' ' && *p <= '~'));
	j = json_loads(out, 0, NULL);
	assert_string_equal(json_string_value(json_object_get(j, "created")), "\x1b]0;x\a\xc2\x9b"
									      "2J\n");
	json_decref(j);
	free(out);
	ram_index_fini(&ix);
}

#define CASE(fn) cmocka_unit_test_setup_teardown(fn, scratch_state_setup, scratch_state_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(test_count__each_page_is_what_the_newest_that_names_it_says),
		CASE(test_resident__is_what_the_page_cache_has_of_the_data),
		CASE(test_resident__of_a_compressed_one_counts_the_file),
		CASE(test_inspect__says_what_a_chain_of_templates_has),
		CASE(test_inspect__and_ls_print_no_escapes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
