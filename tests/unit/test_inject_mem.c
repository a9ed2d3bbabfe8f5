/* SPDX-License-Identifier: MIT */
/*
 * No allocation, mapping or descriptor: guest memory, the state file, grants, the event loop.
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
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/util.h"
#include "event/barrier.h"
#include "event/fdtab.h"
#include "event/grants.h"
#include "event/loop.h"
#include "mem/gmem.h"
#include "mem/gmem_out.h"
#include "snapshot/format.h"
#include "tests/inject/sweep.h"

#define RAM_BYTES MIB(64)

struct files {
	int ram, state;
};

static int gmem_run(void *arg, struct err *e)
{
	static const struct gmem_extent ext[] = { { 0, MIB(2) }, { MIB(8), MIB(4) } };
	struct files *f = arg;
	static const struct gmem_extent zero = { MIB(9), MIB(1) };
	struct gmem *gm;
	int ret = gmem_create(RAM_BYTES, &gm, e);

	if (ret)
		return ret;
	ret = gmem_map_file(gm, f->ram, ext, ARRAY_SIZE(ext), e);
	if (!ret)
		ret = gmem_huge_begin(gm, f->ram, ext, ARRAY_SIZE(ext), e);
	if (!ret)
		while ((ret = gmem_huge_step(gm, e)) > 0)
			;
	if (!ret)
		ret = gmem_dirty_start(gm, e);
	if (!ret)
		gmem_write(gm, MIB(20), "x", 1);
	if (!ret)
		ret = gmem_map_zero(gm, &zero, e);
	gmem_destroy(gm);
	return ret;
}

/* Pushed out and read back; whatever cannot be had, RAM is whole. */
static int out_run(void *arg, struct err *e)
{
	const struct files *f = arg;
	struct gmem_out *o = NULL;
	struct gmem *gm;
	char c = 0;
	int ret = gmem_create(RAM_BYTES, &gm, e);

	if (ret)
		return ret;
	gmem_write(gm, MIB(20), "x", 1);
	assert_int_equal(ftruncate(f->state, 0), 0);
	ret = gmem_out_begin(gm, f->state, f->ram, &o, e);
	if (!ret)
		while ((ret = gmem_out_step(o, e)) > 0)
			;
	if (!ret) {
		gmem_out_discard(o);
		ret = gmem_out_back(o, e);
	}
	gmem_out_end(o);
	assert_int_equal(gmem_read(gm, MIB(20), &c, 1), 0);
	assert_int_equal(c, 'x');
	gmem_destroy(gm);
	return ret;
}

static void test_inject__memory_pushed_out(void **state)
{
	static const struct sweep_op op = { .name = "gmem_out", .run = out_run, .min = 6 };
	struct files f = { .ram = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC),
			   .state = memfd_create("out", MFD_CLOEXEC) };

	(void)state;
	assert_true(f.ram >= 0 && f.state >= 0);
	sweep(&op, &f);
	close(f.ram);
	close(f.state);
}

/* Two regions, one of them above the hole. */
static int gmem_big_run(void *arg, struct err *e)
{
	struct gmem *gm;
	int ret = gmem_create(GIB(4), &gm, e);

	(void)arg;
	if (!ret)
		gmem_destroy(gm);
	return ret;
}

static void test_inject__guest_memory(void **state)
{
	static const struct sweep_op op = { .name = "gmem", .run = gmem_run, .min = 8 };
	static const struct sweep_op big = { .name = "gmem of 4 GiB",
					     .run = gmem_big_run,
					     .min = 5 };
	struct files f = { .ram = memfd_create("ram", MFD_CLOEXEC) };
	char junk[4096];

	(void)state;
	memset(junk, 'j', sizeof(junk));
	for (int i = 0; i < 3072; i++)
		assert_int_equal(write(f.ram, junk, sizeof(junk)), sizeof(junk));
	sweep(&op, &f);
	sweep(&big, NULL);
	close(f.ram);
}

static int write_run(void *arg, struct err *e)
{
	struct files *f = arg;
	struct snap_writer s;
	int ret;

	snap_writer_init(&s);
	for (int i = 0; i < 40; i++) {
		uint8_t *p = wbuf_reserve(snap_begin(&s, "record", "id", 1), 1000);

		if (p)
			memset(p, i, 1000);
		snap_end(&s);
	}
	ret = snap_finish(&s, f->state, e);
	snap_writer_fini(&s);
	return ret;
}

static int read_run(void *arg, struct err *e)
{
	struct files *f = arg;
	struct snap_file snap;
	int ret = snap_open(f->state, &snap, e);

	if (!ret)
		snap_close(&snap);
	return ret;
}

static void test_inject__state_file(void **state)
{
	static const struct sweep_op w = { .name = "writing", .run = write_run, .min = 2 };
	static const struct sweep_op r = { .name = "reading", .run = read_run, .min = 2 };
	struct files f = { .state = memfd_create("state", MFD_CLOEXEC) };

	(void)state;
	sweep(&w, &f);
	sweep(&r, &f);
	close(f.state);
}

static void on_timer(void *arg)
{
	(void)arg;
}

static void on_io(void *arg, int fd, unsigned int events)
{
	(void)arg;
	(void)fd;
	(void)events;
}

/* Timers and watches of a loop, armed and disarmed. */
static int use_loop(struct loop *l, struct err *e)
{
	struct loop_timer *t[8] = { NULL };
	struct loop_io *io[8] = { NULL };
	int fds[8], ret = 0;

	inject_hold();
	for (size_t i = 0; i < ARRAY_SIZE(fds); i++)
		fds[i] = eventfd(0, EFD_CLOEXEC);
	inject_release();
	for (size_t i = 0; i < ARRAY_SIZE(t) && !ret; i++) {
		t[i] = loop_add_timer(l, on_timer, NULL);
		io[i] = loop_add_io(l, fds[i], LOOP_READ, on_io, NULL);
		if (!t[i] || !io[i])
			ret = err_set(e, ENOMEM, "no timer or no watch");
		if (t[i])
			loop_set_timer(t[i], 1000);
		if (io[i])
			loop_set_io(io[i], LOOP_READ | LOOP_WRITE);
	}
	for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
		loop_del_timer(t[i]);
		loop_del_io(io[i]);
		close(fds[i]);
	}
	return ret;
}

static int base_run(void *arg, struct err *e)
{
	pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	struct barrier *b = NULL;
	struct grants *g = NULL;
	struct fdtab *t = NULL;
	struct loop *l = NULL;
	int ret = fdtab_create(&t, e);

	(void)arg;
	if (!ret)
		ret = grants_create(t, &g, e);
	if (!ret)
		ret = barrier_create(&b, e);
	if (!ret)
		ret = loop_create(&lock, &l, e);
	if (!ret)
		ret = use_loop(l, e);
	for (int i = 0; i < 40 && !ret; i++) {
		char name[32];
		int fd;

		snprintf(name, sizeof(name), "grant %d", i);
		inject_hold();
		fd = dup(STDERR_FILENO);
		inject_release();
		ret = grants_put(g, name, fd, e);
	}
	loop_destroy(l);
	barrier_destroy(b);
	grants_destroy(g);
	fdtab_destroy(t);
	return ret;
}

static void test_inject__event_base(void **state)
{
	static const struct sweep_op op = { .name = "loop and grants", .run = base_run, .min = 70 };

	(void)state;
	sweep(&op, NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_inject__guest_memory),
		cmocka_unit_test(test_inject__memory_pushed_out),
		cmocka_unit_test(test_inject__state_file),
		cmocka_unit_test(test_inject__event_base),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
