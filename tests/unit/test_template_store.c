/* SPDX-License-Identifier: MIT */
/*
 * The stores of templates and snapshots: published whole or not at all, no byte of what is
 * published can change without being noticed, and what something stands on stays. Long, because all
 * rows stage the same model.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/util.h"
#include "template/template.h"
#include "tests/lib/scratch.h"

#define RAM_BYTES (4u << 20)

static int setup(void **state)
{
	scratch_state_setup(state);
	scratch_text(*state, "base.img", "the shared base of a disk");
	return 0;
}

static struct template *model(const char *dir)
{
	struct template *t = calloc(1, sizeof(*t));

	*t = (struct template){
		.created = "2025-06-01T12:00:00Z",
		.clone_version = "0.1.0",
		.image = "debian",
		.cpu = "Some CPU",
		.mem_bytes = RAM_BYTES,
		.vcpus = 2,
		.agent = true,
		.ndisks = 1,
		.nfiles = 3,
		.files = { { .name = "state" }, { .name = "ram" }, { .name = "layer-root" } }
	};
	snprintf(t->disks[0].id, sizeof(t->disks[0].id), "root");
	snprintf(t->bases[0].path, sizeof(t->bases[0].path), "%s/base.img", dir);
	t->nbases = 1;
	t->disks[0].nbases = 1;
	t->disks[0].layer = 2;
	return t;
}

static void stage_parts(struct template_stage *s)
{
	static const char *const names[] = { "state", "ram", "layer-root" };
	struct err e;

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		int fd = template_stage_file(s, names[i], &e);

		assert_true(fd >= 0);
		assert_int_equal(fd_write_full(fd, names[i], strlen(names[i])), 0);
		if (i == TEMPLATE_RAM) {
			assert_int_equal(ftruncate(fd, RAM_BYTES), 0);
			assert_int_equal(fd_pwrite_full(fd, "deep", 4, RAM_BYTES - 100000), 0);
		}
		close(fd);
	}
}

static int make(const char *dir, const char *name, struct err *e)
{
	struct template *t = model(dir);
	struct template_stage s;
	int r = template_stage_begin(STORE_TEMPLATES, name, &s, e);

	if (!r) {
		stage_parts(&s);
		r = template_stage_publish(&s, t, e);
	}
	template_stage_end(&s);
	free(t);
	return r;
}

/* Whoever wrote a file may still have it open, and is not to be believed. */
static void test_template__nothing_is_published_that_somebody_may_write(void **state)
{
	struct template *t = model(*state);
	struct template_stage s;
	struct err e;
	int ram;

	assert_int_equal(template_stage_begin(STORE_TEMPLATES, "kept", &s, &e), 0);
	stage_parts(&s);
	ram = openat(s.dir, "ram", O_RDWR | O_CLOEXEC);
	assert_true(ram >= 0);
	assert_int_equal(template_stage_publish(&s, t, &e), -EBUSY);
	assert_non_null(strstr(e.msg, "ram: the VM that wrote it does not let go"));
	close(ram);
	assert_int_equal(template_stage_publish(&s, t, &e), 0);
	template_stage_end(&s);
	free(t);
}

static void must_make(const char *dir, const char *name)
{
	struct err e;

	if (make(dir, name, &e))
		fail_msg("%s", e.msg);
}

static int verify(const char *name, struct err *e)
{
	struct template *t = calloc(1, sizeof(*t));
	int r = template_open(STORE_TEMPLATES, name, t, e);

	if (!r)
		r = template_verify(t, e);
	free(t);
	return r;
}

static int use(const char *name, int verified, struct err *e)
{
	struct template *t = calloc(1, sizeof(*t));
	int r = template_open(STORE_TEMPLATES, name, t, e);

	if (!r)
		r = template_check(t, verified, e);
	free(t);
	return r;
}

static void test_template__what_is_published_is_read_back(void **state)
{
	struct template *t = calloc(1, sizeof(*t));
	const char *dir = *state;
	struct stat st;
	struct err e;

	must_make(dir, "web");
	assert_int_equal(template_open(STORE_TEMPLATES, "web", t, &e), 0);
	assert_string_equal(t->name, "web");
	assert_string_equal(t->image, "debian");
	assert_int_equal(t->mem_bytes, RAM_BYTES);
	assert_int_equal(t->vcpus, 2);
	assert_true(t->agent);
	assert_int_equal(t->ndisks, 1);
	assert_int_equal(t->disks[0].layer, 2);
	assert_int_equal(t->bases[0].bytes, 25);
	assert_int_equal(t->files[TEMPLATE_RAM].size_bytes, RAM_BYTES);
	/* the zeroes in its RAM are not stored */
	assert_true(template_used_bytes(t) < RAM_BYTES / 2);
	assert_int_equal(verify("web", &e), 0);
	assert_int_equal(lstat(scratch_path(dir, "templates/web/ram"), &st), 0);
	assert_int_equal(st.st_mode & 07777, 0400);
	assert_int_equal(lstat(scratch_path(dir, "templates/web"), &st), 0);
	assert_int_equal(st.st_mode & 07777, 0500);
	free(t);
}

static void test_template__a_name_is_taken_once(void **state)
{
	struct template_stage a, b;
	struct err e;

	must_make(*state, "web");
	assert_int_equal(make(*state, "web", &e), -EEXIST);
	assert_non_null(strstr(e.msg, "already exists"));
	assert_int_equal(template_stage_begin(STORE_TEMPLATES, "api", &a, &e), 0);
	assert_int_equal(template_stage_begin(STORE_TEMPLATES, "api", &b, &e), -EBUSY);
	template_stage_end(&b);
	template_stage_end(&a);
	must_make(*state, "api");
}

static void test_template__names_are_checked(void **state)
{
	static const char *const bad[] = { "", ".", "..", ".new-x", "a/b", "../x", "-x", "a b" };
	struct template *t = calloc(1, sizeof(*t));
	struct template_stage s;
	struct err e;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		assert_true(template_stage_begin(STORE_TEMPLATES, bad[i], &s, &e) < 0);
		assert_int_equal(template_open(STORE_TEMPLATES, bad[i], t, &e), -ENOENT);
		assert_int_equal(template_rm(STORE_TEMPLATES, bad[i], &e), -ENOENT);
	}
	free(t);
}

static void test_template__aborted_and_killed_makers_leave_nothing(void **state)
{
	struct template_stage s;
	char **names, *left;
	struct err e;
	size_t n;
	pid_t pid;

	assert_int_equal(template_stage_begin(STORE_TEMPLATES, "web", &s, &e), 0);
	stage_parts(&s);
	template_stage_end(&s);
	left = scratch_sh("ls -A %s/templates", (char *)*state);
	assert_string_equal(left, "");
	free(left);

	pid = fork();
	if (!pid) {
		if (!template_stage_begin(STORE_TEMPLATES, "web", &s, &e))
			stage_parts(&s);
		kill(getpid(), SIGKILL);
	}
	waitpid(pid, NULL, 0);
	left = scratch_sh("ls -A %s/templates", (char *)*state);
	assert_string_equal(left, ".new-web\n");
	free(left);
	assert_int_equal(template_list(STORE_TEMPLATES, &names, &n, &e), 0);
	assert_int_equal(n, 0);
	free(names);
	left = scratch_sh("ls -A %s/templates", (char *)*state);
	assert_string_equal(left, "");
	free(left);
}

static void test_template__list_and_rm(void **state)
{
	char **names;
	struct err e;
	size_t n;

	must_make(*state, "web");
	must_make(*state, "api");
	assert_int_equal(template_list(STORE_TEMPLATES, &names, &n, &e), 0);
	assert_int_equal(n, 2);
	assert_string_equal(names[0], "api");
	assert_string_equal(names[1], "web");
	for (size_t i = 0; i < n; i++)
		free(names[i]);
	free(names);
	assert_int_equal(template_rm(STORE_TEMPLATES, "web", &e), 0);
	assert_int_equal(template_rm(STORE_TEMPLATES, "web", &e), -ENOENT);
	assert_int_equal(verify("api", &e), 0);
	assert_int_equal(verify("web", &e), -ENOENT);
}

/* Flips one bit of a file behind the store's back, keeping its times as a careful vandal would. */
static void flip(const char *path, off_t at, int bit)
{
	struct stat st;
	struct timespec ts[2];
	uint8_t b;
	int fd;

	assert_int_equal(lstat(path, &st), 0);
	assert_int_equal(chmod(path, 0600), 0);
	fd = open(path, O_RDWR | O_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(fd_pread_full(fd, &b, 1, (uint64_t)at), 0);
	b = (uint8_t)(b ^ (1u << bit));
	assert_int_equal(fd_pwrite_full(fd, &b, 1, (uint64_t)at), 0);
	ts[0] = st.st_atim;
	ts[1] = st.st_mtim;
	assert_int_equal(futimens(fd, ts), 0);
	close(fd);
	assert_int_equal(chmod(path, st.st_mode & 07777), 0);
}

static void test_template__a_flipped_bit_anywhere_is_found(void **state)
{
	static const char *const files[] = {
		"templates/web/manifest.json", "templates/web/digest", "templates/web/state",
		"templates/web/layer-root",    "templates/web/ram",    "base.img"
	};
	const char *dir = *state;
	struct err e;

	must_make(dir, "web");
	for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
		const char *path = scratch_path(dir, files[i]);
		struct stat st;

		assert_int_equal(lstat(path, &st), 0);
		/* all of a small file; of RAM the stored bytes and the hole between them */
		for (off_t at = 0; at<st.st_size; at += st.st_size> 100000 ? 99991 : 1) {
			flip(path, at, (int)(at % 8));
			if (verify("web", &e) == 0)
				fail_msg("%s: byte %lld", files[i], (long long)at);
			flip(path, at, (int)(at % 8));
		}
	}
	assert_int_equal(verify("web", &e), 0);
}

static void test_template__every_truncation_is_found(void **state)
{
	const char *dir = *state, *path;
	struct err e;

	must_make(dir, "web");
	path = scratch_path(dir, "templates/web/ram");
	assert_int_equal(truncate(path, RAM_BYTES - 1), 0);
	assert_int_equal(use("web", -1, &e), -EBADMSG);
	assert_non_null(strstr(e.msg, "truncated"));
	assert_int_equal(truncate(path, RAM_BYTES), 0);
	assert_int_equal(use("web", -1, &e), 0);
	assert_int_equal(unlink(path), 0);
	assert_int_equal(use("web", -1, &e), -EBADMSG);
	assert_non_null(strstr(e.msg, "ram"));
}

static void test_template__ram_is_read_once_until_it_changes(void **state)
{
	const char *dir = *state, *ram;
	int verified;
	struct err e;

	must_make(dir, "web");
	ram = scratch_path(dir, "templates/web/ram");
	assert_int_equal(mkdir(scratch_path(dir, "verified"), 0700), 0);
	verified = open(scratch_path(dir, "verified"), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_int_equal(use("web", verified, &e), 0);
	assert_int_equal(access(scratch_path(dir, "verified/web"), F_OK), 0);
	/* its contents are believed now, but the vandal cannot keep ctime */
	assert_int_equal(use("web", verified, &e), 0);
	flip(ram, 2, 0);
	assert_int_equal(use("web", verified, &e), -EBADMSG);
	flip(ram, 2, 0);
	assert_int_equal(use("web", verified, &e), 0);
	/* a stamp of another template of the same name is not believed */
	assert_int_equal(template_rm(STORE_TEMPLATES, "web", &e), 0);
	must_make(dir, "web");
	flip(ram, 2, 0);
	assert_int_equal(use("web", verified, &e), -EBADMSG);
	close(verified);
}

static void test_template__a_base_may_move_but_not_change(void **state)
{
	const char *dir = *state, *base = scratch_path(dir, "base.img");
	struct err e;

	must_make(dir, "web");
	/* the same bytes in another inode */
	free(scratch_sh("cp %s %s.copy && mv %s.copy %s", base, base, base, base));
	assert_int_equal(use("web", -1, &e), 0);
	scratch_text(dir, "base.img", "The shared base of a disk");
	assert_int_equal(use("web", -1, &e), -EBADMSG);
	assert_non_null(strstr(e.msg, "base.img"));
	scratch_text(dir, "base.img", "longer than it was before, by far");
	assert_int_equal(use("web", -1, &e), -EBADMSG);
	assert_int_equal(unlink(base), 0);
	assert_int_equal(use("web", -1, &e), -EBADMSG);
}

/* Replaces the manifest and its digest: only what the manifest says can give it away. */
static void forge(const char *dir, const char *sed)
{
	free(scratch_sh(
		"cd %s/templates/web && chmod 700 . && chmod 600 manifest.json digest && "
		"sed -i '%s' manifest.json && sha256sum manifest.json | cut -d' ' -f1 >digest",
		dir, sed));
}

static void test_template__manifests_that_lie_are_refused(void **state)
{
	static const struct {
		const char *sed, *says;
		int error;
	} lies[] = {
		{ "s/\"version\": 3/\"version\": 4/", "format 4", -EPROTONOSUPPORT },
		{ "s/\"version\": 3/\"version\": \"3\"/", "version", -EBADMSG },
		{ "s/\"name\": \"web\"/\"name\": \"api\"/", "another name", -EBADMSG },
		{ "s/\"name\": \"ram\"/\"name\": \"..\"/", "name", -EBADMSG },
		{ "s/\"name\": \"ram\"/\"name\": \"state\"/", "two are named", -EBADMSG },
		{ "s/\"vcpus\": 2/\"vcpus\": 65/", "vcpus", -EBADMSG },
		{ "s/\"layer\": \"layer-root\"/\"layer\": \"ram\"/", "layer", -EBADMSG },
		{ "s/\"path\": \"[^\"]*\"/\"path\": \"etc\\/passwd\"/", "base", -EBADMSG },
		{ "s/\"format\": \"raw\"/\"format\": \"vhd\"/", "format", -EBADMSG },
		{ "s/\"agent\": true/\"agent\": true, \"more\": 1/", "more", -EBADMSG },
		{ "$d", "JSON", -EBADMSG },
	};
	const char *dir = *state;
	struct err e;

	for (size_t i = 0; i < ARRAY_SIZE(lies); i++) {
		int r;

		must_make(dir, "web");
		forge(dir, lies[i].sed);
		r = verify("web", &e);
		if (r != lies[i].error)
			fail_msg("%s: %d: %s", lies[i].sed, r, r ? e.msg : "");
		if (!strstr(e.msg, lies[i].says))
			fail_msg("%s: %s", lies[i].sed, e.msg);
		/* damaged, and can be removed all the same */
		assert_int_equal(template_rm(STORE_TEMPLATES, "web", &e), 0);
	}
}

static void test_digest__does_not_depend_on_holes(void **state)
{
	char a[DIGEST_HEX + 1], b[DIGEST_HEX + 1], c[DIGEST_HEX + 1];
	const char *dir = *state;
	struct err e;
	int fd;

	/* 300,001 bytes, two of them not zero: once sparse, once written out */
	free(scratch_sh(
		"cd %s && truncate -s 300001 sparse && printf x | dd of=sparse bs=1 seek=70000 "
		"conv=notrunc 2>/dev/null && printf y | dd of=sparse bs=1 seek=300000 "
		"conv=notrunc 2>/dev/null && cat sparse >full",
		dir));
	fd = open(scratch_path(dir, "sparse"), O_RDONLY | O_CLOEXEC);
	assert_int_equal(digest_sparse(fd, a, &e), 0);
	assert_int_equal(digest_plain(fd, c, &e), 0);
	close(fd);
	fd = open(scratch_path(dir, "full"), O_RDONLY | O_CLOEXEC);
	assert_int_equal(digest_sparse(fd, b, &e), 0);
	assert_string_equal(a, b);
	assert_int_equal(digest_plain(fd, b, &e), 0);
	assert_string_equal(b, c);
	assert_string_not_equal(a, b);
	close(fd);
	/* one more zero at the end is another file */
	free(scratch_sh("truncate -s 300002 %s/sparse", dir));
	fd = open(scratch_path(dir, "sparse"), O_RDONLY | O_CLOEXEC);
	assert_int_equal(digest_sparse(fd, b, &e), 0);
	assert_string_not_equal(a, b);
	close(fd);
}

#define CASE(fn) cmocka_unit_test_setup_teardown(fn, setup, scratch_state_teardown)

/* Publishes one that stands on another of its own store (NULL: on nothing). */
static int publish_on(enum store where, const char *name, const char *dir, enum store on,
		      const char *parent, struct err *e)
{
	struct template *t = model(dir), *p = calloc(1, sizeof(*p));
	struct template_stage s;
	int r = 0;

	if (parent) {
		assert_int_equal(template_open(on, parent, p, e), 0);
		t->parent.store = on;
		snprintf(t->parent.name, sizeof(t->parent.name), "%s", parent);
		memcpy(t->parent.sha256, p->sha256, sizeof(t->parent.sha256));
	}
	assert_int_equal(template_stage_begin(where, name, &s, e), 0);
	stage_parts(&s);
	r = template_stage_publish(&s, t, e);
	template_stage_end(&s);
	free(t);
	free(p);
	return r;
}

static void test_store__a_chain_is_what_it_was_or_refused(void **state)
{
	struct template *t = calloc(1, sizeof(*t)), *chain = NULL;
	struct err e;
	size_t n = 0;

	assert_int_equal(publish_on(STORE_TEMPLATES, "base", *state, 0, NULL, &e), 0);
	assert_int_equal(publish_on(STORE_SNAPSHOTS, "mid", *state, STORE_TEMPLATES, "base", &e),
			 0);
	assert_int_equal(publish_on(STORE_TEMPLATES, "leaf", *state, STORE_SNAPSHOTS, "mid", &e),
			 0);
	assert_int_equal(template_open(STORE_TEMPLATES, "leaf", t, &e), 0);
	assert_int_equal(template_chain(t, &chain, &n, &e), 0);
	assert_int_equal(n, 3);
	assert_string_equal(chain[0].name, "base");
	assert_string_equal(chain[1].name, "mid");
	assert_string_equal(chain[2].name, "leaf");
	assert_int_equal(chain[1].store, STORE_SNAPSHOTS);
	free(chain);
	/* what others stand on stays, and they are named */
	assert_int_equal(template_rm(STORE_TEMPLATES, "base", &e), -EBUSY);
	assert_string_equal(e.msg, "template base is what others stand on: snapshot mid");
	assert_int_equal(template_rm(STORE_SNAPSHOTS, "mid", &e), -EBUSY);
	assert_string_equal(e.msg, "snapshot mid is what others stand on: template leaf");
	assert_int_equal(template_open(STORE_SNAPSHOTS, "mid", t, &e), 0);
	/* another one of its name is not the one that was meant */
	assert_int_equal(template_rm(STORE_TEMPLATES, "leaf", &e), 0);
	assert_int_equal(template_rm(STORE_SNAPSHOTS, "mid", &e), 0);
	assert_int_equal(publish_on(STORE_SNAPSHOTS, "mid", *state, STORE_TEMPLATES, "base", &e),
			 0);
	assert_int_equal(template_open(STORE_SNAPSHOTS, "mid", t, &e), 0);
	t->parent.sha256[0] ^= 1;
	chain = NULL;
	assert_int_equal(template_chain(t, &chain, &n, &e), -EBADMSG);
	t->parent.sha256[0] ^= 1;
	snprintf(t->parent.name, sizeof(t->parent.name), "gone");
	assert_int_equal(template_chain(t, &chain, &n, &e), -EBADMSG);
	assert_null(chain);
	assert_int_equal(template_rm(STORE_SNAPSHOTS, "mid", &e), 0);
	assert_int_equal(template_rm(STORE_TEMPLATES, "base", &e), 0);
	free(t);
}

static void test_store__nothing_is_published_over_a_parent_that_went(void **state)
{
	struct template *t = model(*state), *p = calloc(1, sizeof(*p));
	struct template_stage s;
	struct err e;

	assert_int_equal(publish_on(STORE_TEMPLATES, "base", *state, 0, NULL, &e), 0);
	assert_int_equal(template_open(STORE_TEMPLATES, "base", p, &e), 0);
	t->parent.store = STORE_TEMPLATES;
	snprintf(t->parent.name, sizeof(t->parent.name), "base");
	memcpy(t->parent.sha256, p->sha256, sizeof(t->parent.sha256));
	assert_int_equal(template_stage_begin(STORE_SNAPSHOTS, "late", &s, &e), 0);
	stage_parts(&s);
	assert_int_equal(template_rm(STORE_TEMPLATES, "base", &e), 0);
	assert_int_equal(template_stage_publish(&s, t, &e), -EBADMSG);
	template_stage_end(&s);
	assert_int_equal(template_open(STORE_SNAPSHOTS, "late", p, &e), -ENOENT);
	free(t);
	free(p);
}

static void test_store__one_takes_anothers_place_in_one_step(void **state)
{
	struct template *t = calloc(1, sizeof(*t)), *new = model(*state);
	struct template_stage s;
	char **names = NULL, old[DIGEST_HEX + 1];
	struct err e;
	size_t n = 0;

	assert_int_equal(publish_on(STORE_SNAPSHOTS, "s", *state, 0, NULL, &e), 0);
	assert_int_equal(template_open(STORE_SNAPSHOTS, "s", t, &e), 0);
	memcpy(old, t->sha256, sizeof(old));
	new->vcpus = 3;
	assert_int_equal(template_stage_begin_over(t, &s, &e), 0);
	stage_parts(&s);
	assert_int_equal(template_stage_publish(&s, new, &e), 0);
	template_stage_end(&s);
	assert_int_equal(template_open(STORE_SNAPSHOTS, "s", t, &e), 0);
	assert_int_equal(t->vcpus, 3);
	assert_string_not_equal(t->sha256, old);
	assert_int_equal(template_list(STORE_SNAPSHOTS, &names, &n, &e), 0);
	assert_int_equal(n, 1);
	free(names[0]);
	free(names);
	/* not while something stands on the old one */
	assert_int_equal(publish_on(STORE_SNAPSHOTS, "on", *state, STORE_SNAPSHOTS, "s", &e), 0);
	assert_int_equal(template_stage_begin_over(t, &s, &e), 0);
	stage_parts(&s);
	new->vcpus = 4;
	assert_int_equal(template_stage_publish(&s, new, &e), -EBUSY);
	template_stage_end(&s);
	assert_int_equal(template_open(STORE_SNAPSHOTS, "s", t, &e), 0);
	assert_int_equal(t->vcpus, 3);
	assert_int_equal(template_rm(STORE_SNAPSHOTS, "on", &e), 0);
	assert_int_equal(template_rm(STORE_SNAPSHOTS, "s", &e), 0);
	free(new);
	free(t);
}

/* Flattening takes long: what is replaced at its end must be what was read at its beginning. */
static void test_store__only_what_was_meant_is_replaced(void **state)
{
	struct template *t = calloc(1, sizeof(*t)), *new = model(*state);
	struct template_stage s;
	struct err e;

	assert_int_equal(publish_on(STORE_SNAPSHOTS, "s", *state, 0, NULL, &e), 0);
	assert_int_equal(template_open(STORE_SNAPSHOTS, "s", t, &e), 0);
	assert_int_equal(template_stage_begin_over(t, &s, &e), 0);
	stage_parts(&s);
	/* not while its successor is made */
	assert_int_equal(template_rm(STORE_SNAPSHOTS, "s", &e), -EBUSY);
	assert_string_equal(e.msg, "snapshot s is being replaced right now");
	assert_int_equal(template_unchanged(t, &e), 0);
	/* by somebody who does not ask: gone, then another one */
	free(scratch_sh("mv %s/snapshots/s %s/away", (char *)*state, (char *)*state));
	assert_int_equal(template_unchanged(t, &e), -EBADMSG);
	assert_string_equal(e.msg, "snapshot s was removed or replaced meanwhile");
	assert_int_equal(template_stage_publish(&s, new, &e), -EBADMSG);
	assert_string_equal(e.msg, "snapshot s was removed or replaced meanwhile");
	template_stage_end(&s);
	new->vcpus = 7;
	assert_int_equal(template_stage_begin(STORE_SNAPSHOTS, "s", &s, &e), 0);
	stage_parts(&s);
	assert_int_equal(template_stage_publish(&s, new, &e), 0);
	template_stage_end(&s);
	assert_int_equal(template_stage_begin_over(t, &s, &e), 0);
	stage_parts(&s);
	new->vcpus = 3;
	assert_int_equal(template_stage_publish(&s, new, &e), -EBADMSG);
	template_stage_end(&s);
	assert_int_equal(template_unchanged(t, &e), -EBADMSG);
	assert_int_equal(template_open(STORE_SNAPSHOTS, "s", t, &e), 0);
	assert_int_equal(t->vcpus, 7);
	free(scratch_sh("rm -rf %s/away", (char *)*state));
	free(new);
	free(t);
}

/* A stage that somebody swept away is not its maker's any more, whoever has its name then. */
static void test_store__anothers_stage_is_left_alone(void **state)
{
	struct template_stage a, b;
	char *left;
	struct err e;

	assert_int_equal(template_stage_begin(STORE_SNAPSHOTS, "s", &a, &e), 0);
	free(scratch_sh("rmdir %s/snapshots/.new-s", (char *)*state));
	assert_int_equal(template_stage_begin(STORE_SNAPSHOTS, "s", &b, &e), 0);
	template_stage_end(&a);
	left = scratch_sh("ls -A %s/snapshots", (char *)*state);
	assert_string_equal(left, ".new-s\n");
	free(left);
	template_stage_end(&b);
}

static void test_store__a_chain_has_its_most(void **state)
{
	struct template *t = calloc(1, sizeof(*t)), *chain = NULL;
	char name[16], on[16] = "";
	struct err e;
	size_t n = 0;

	for (int i = 1; i <= TEMPLATE_CHAIN_MAX; i++) {
		snprintf(name, sizeof(name), "s%d", i);
		if (i > 1) {
			assert_int_equal(template_open(STORE_SNAPSHOTS, on, t, &e), 0);
			assert_int_equal(template_check_base(t, &e), 0);
		}
		assert_int_equal(publish_on(STORE_SNAPSHOTS, name, *state, STORE_SNAPSHOTS,
					    i > 1 ? on : NULL, &e),
				 0);
		memcpy(on, name, sizeof(on));
	}
	assert_int_equal(template_open(STORE_SNAPSHOTS, "s16", t, &e), 0);
	assert_int_equal(template_chain(t, &chain, &n, &e), 0);
	assert_int_equal(n, TEMPLATE_CHAIN_MAX);
	free(chain);
	assert_int_equal(template_check_base(t, &e), -E2BIG);
	assert_string_equal(e.msg, "snapshot s16 is number 16 of a chain, and nothing can stand on "
				   "that: flatten it, or store all of the memory");
	assert_int_equal(publish_on(STORE_TEMPLATES, "s17", *state, STORE_SNAPSHOTS, "s16", &e),
			 -E2BIG);
	assert_string_equal(e.msg, "template s17: a chain of more than 16");
	assert_int_equal(template_open(STORE_TEMPLATES, "s17", t, &e), -ENOENT);
	free(t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(test_template__what_is_published_is_read_back),
		CASE(test_template__nothing_is_published_that_somebody_may_write),
		CASE(test_template__a_name_is_taken_once),
		CASE(test_template__names_are_checked),
		CASE(test_template__aborted_and_killed_makers_leave_nothing),
		CASE(test_template__list_and_rm),
		CASE(test_template__a_flipped_bit_anywhere_is_found),
		CASE(test_template__every_truncation_is_found),
		CASE(test_template__ram_is_read_once_until_it_changes),
		CASE(test_template__a_base_may_move_but_not_change),
		CASE(test_template__manifests_that_lie_are_refused),
		CASE(test_store__a_chain_is_what_it_was_or_refused),
		CASE(test_store__nothing_is_published_over_a_parent_that_went),
		CASE(test_store__one_takes_anothers_place_in_one_step),
		CASE(test_store__only_what_was_meant_is_replaced),
		CASE(test_store__anothers_stage_is_left_alone),
		CASE(test_store__a_chain_has_its_most),
		CASE(test_digest__does_not_depend_on_holes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
