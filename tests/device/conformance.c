/* SPDX-License-Identifier: MIT */
/*
 * The device conformance suite. See conformance.h.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/device/conformance.h"

#include <fcntl.h>
#include <linux/kcmp.h>
#include <linux/virtio_ring.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/util.h"
#include "event/fdtab.h"
#include "event/grants.h"
#include "kvm/kvm.h"

static const struct conf_env *env; /* one suite a program */

static const struct identity same = { .name = "conf", .generation = { 1 } };

void conf_assert(struct conf *c, bool ok, const char *what, const char *file, int line)
{
	if (ok)
		return;
	if (c->child) {
		fprintf(stderr, "%s:%d: in the child of %s: %s\n", file, line, c->row->cls->name,
			what);
		_exit(1);
	}
	print_error("%s: %s\n", c->row->cls->name, what);
	_fail(file, line);
}

void conf_submit(struct conf *c, const struct vd_buf *b, unsigned int n)
{
	vd_submit(&c->d, 0, b, n, c->n++ & 1);
	c->outstanding++;
}

void conf_drain(struct conf *c)
{
	for (; c->outstanding; c->outstanding--)
		CONF(c, vd_wait_used(&c->d, 0, NULL, NULL));
}

int conf_listener(void)
{
	struct sockaddr_un any = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	BUG_ON(fd < 0 || bind(fd, (struct sockaddr *)&any, sizeof(any.sun_family)) ||
	       listen(fd, 4));
	return fd;
}

/* ---- a device's life ---- */

static void make(struct conf *c, const struct conf_row *row)
{
	memset(c, 0, sizeof(*c));
	c->row = row;
	fm_init(&c->fm, CONF_MEM, env->sys_fd);
	env->prepare(c);
	if (row->cls == c->fm.dev[0]->cls)
		c->dev = c->fm.dev[0];
	else
		c->dev = fm_add(&c->fm, row->cls, row->id, row->cfg);
	c->buf = fm_alloc(&c->fm, 65536, 4096);
}

static void give(struct conf *c, const char *prefix)
{
	if (c->row->give)
		c->row->give(c, prefix);
}

static void boot(struct conf *c)
{
	c->outstanding = 0;
	c->loaded = false;
	if (c->row->virtio_id) {
		vd_probe(&c->d, &c->fm, c->row->virtio_id);
		vd_start(&c->d,
			 c->row->features | 1ull << VIRTIO_RING_F_EVENT_IDX |
				 1ull << VIRTIO_RING_F_INDIRECT_DESC,
			 0);
	}
	if (c->row->boot)
		c->row->boot(c);
}

/* Running, its driver up, having done something. */
static void run(struct conf *c, const struct conf_row *row)
{
	make(c, row);
	give(c, "");
	fm_start(&c->fm);
	boot(c);
	row->progress(c);
}

static void quiesce(struct conf *c)
{
	if (c->row->park)
		c->row->park(c);
	fm_quiesce(&c->fm);
	CONF(c, gmem_pins(c->fm.m.mem) == 0);
	if (c->row->virtio_id)
		for (unsigned int q = 0; q < c->d.nr_queues; q++)
			CONF(c, ((struct virtio_dev *)c->dev)->q[q].in_flight == 0);
}

static void load(struct conf *c)
{
	if (c->row->load)
		c->row->load(c);
}

static void drain(struct conf *c)
{
	if (c->row->drain)
		c->row->drain(c);
}

static void woke(struct conf *c)
{
	if (c->row->woke)
		c->row->woke(c);
}

/* The guest's memory and what its driver knows, as a snapshot's RAM file brings them. */
static void copy_guest(struct conf *from, struct conf *to)
{
	static const gpa_t low = 0x1000;
	uint64_t n = from->fm.brk - low;
	void *p = malloc(n);

	BUG_ON(!p || gmem_read(from->fm.m.mem, low, p, n) || gmem_write(to->fm.m.mem, low, p, n));
	free(p);
	to->fm.brk = from->fm.brk;
	to->d = from->d;
	to->d.fm = &to->fm;
	to->outstanding = from->outstanding;
	to->buf = from->buf;
	to->n = from->n;
	to->done = from->done;
	to->loaded = from->loaded;
}

static void assert_same(struct conf *c, const struct wbuf *a, const struct wbuf *b)
{
	CONF(c, a->len == b->len && !memcmp(a->data, b->data, a->len));
}

/* ---- claims ---- */

static void saved_twice_is_the_same(const struct conf_row *row)
{
	struct wbuf a, b;
	struct conf c;

	run(&c, row);
	quiesce(&c);
	fm_save(c.dev, &a);
	fm_save(c.dev, &b);
	assert_same(&c, &a, &b);
	wbuf_fini(&b);
	fm_resume(&c.fm);
	row->progress(&c);
	fm_fini(&c.fm);
	wbuf_fini(&a);
}

static void restored_is_the_same_and_works(const struct conf_row *row)
{
	struct conf c, r;
	struct wbuf a, b;
	struct err e;

	run(&c, row);
	load(&c);
	quiesce(&c);
	fm_save(c.dev, &a);
	make(&r, row);
	copy_guest(&c, &r);
	give(&r, "");
	if (row->carry)
		row->carry(&c, &r);
	if (fm_load(r.dev, a.data, a.len, &e)) {
		print_error("%s\n", e.msg);
		CONF(&r, false);
	}
	fm_save(r.dev, &b);
	assert_same(&r, &a, &b);
	wbuf_fini(&b);
	fm_adopt(&r.fm, &same);
	fm_save(r.dev, &b);
	assert_same(&r, &a, &b);
	wbuf_fini(&b);
	fm_resume(&r.fm);
	woke(&r);
	drain(&r);
	row->progress(&r);
	fm_fini(&r.fm);
	/* and the one it was taken from has noticed nothing */
	fm_resume(&c.fm);
	drain(&c);
	row->progress(&c);
	fm_fini(&c.fm);
	wbuf_fini(&a);
}

static void truncated_is_refused(const struct conf_row *row)
{
	struct conf c;
	struct wbuf a;
	struct err e;

	run(&c, row);
	quiesce(&c);
	fm_save(c.dev, &a);
	for (size_t n = 0; n < a.len; n++) {
		/* a copy of its own, so that a sanitizer sees any read beyond the cut */
		void *cut = malloc(n + !n);

		memcpy(cut, a.data, n);
		CONF(&c, fm_load(c.dev, cut, n, &e) < 0 && e.msg[0]);
		free(cut);
	}
	fm_fini(&c.fm);
	wbuf_fini(&a);
}

/* The state in a, with the guest memory of `from`: false when it was refused. */
static bool accepts(struct conf *c, struct conf *from, const struct wbuf *a)
{
	struct err e;

	make(c, from->row);
	give(c, "");
	if (fm_load(c->dev, a->data, a->len, &e))
		return false;
	copy_guest(from, c);
	if (c->row->carry)
		c->row->carry(from, c);
	for (unsigned int i = 0; i < c->fm.nr_devs; i++)
		if (c->fm.dev[i]->cls->prepare(c->fm.dev[i], &e) ||
		    c->fm.dev[i]->cls->adopt(c->fm.dev[i], &same, &e))
			return false;
	BUG_ON(kvm_routes_commit(c->fm.m.kvm, &e));
	return true;
}

/* Whatever state it is, it runs, it stops, and a reset makes it good. */
static void assert_usable(struct conf *c)
{
	fm_resume(&c->fm);
	fm_spin(&c->fm);
	fm_quiesce(&c->fm);
	CONF(c, gmem_pins(c->fm.m.mem) == 0);
	if (c->row->one_life)
		return;
	c->row->cls->reset(c->dev);
	fm_resume(&c->fm);
	boot(c);
	c->row->progress(c);
}

/* Thousands of lines about thousands of wrong states. */
static int mute(void)
{
	int saved = dup(STDERR_FILENO), null = open("/dev/null", O_WRONLY | O_CLOEXEC);

	BUG_ON(saved < 0 || dup2(null, STDERR_FILENO) < 0);
	close(null);
	return saved;
}

static void unmute(int saved)
{
	dup2(saved, STDERR_FILENO);
	close(saved);
}

static void flipped_is_refused_or_works(const struct conf_row *row)
{
	size_t bits, step, tried = 0, accepted = 0;
	struct conf c, f;
	struct wbuf a;
	int saved;

	run(&c, row);
	load(&c);
	quiesce(&c);
	fm_save(c.dev, &a);
	bits = a.len * 8;
	step = bits / env->max_flips + 1;
	step += !(step & 1); /* odd: meets every bit of a byte sooner or later */
	saved = mute();
	for (size_t bit = 0; bit < bits; bit += step, tried++) {
		a.data[bit / 8] ^= (uint8_t)(1u << (bit % 8));
		if (accepts(&f, &c, &a)) {
			accepted++;
			assert_usable(&f);
		}
		fm_fini(&f.fm);
		a.data[bit / 8] ^= (uint8_t)(1u << (bit % 8));
	}
	unmute(saved);
	print_message("%s: %zu of %zu flips accepted\n", row->cls->name, accepted, tried);
	fm_fini(&c.fm);
	wbuf_fini(&a);
}

static void reset_is_power_on(const struct conf_row *row)
{
	struct wbuf a, b;
	struct conf c;

	make(&c, row);
	fm_save(c.dev, &a);
	give(&c, "");
	fm_start(&c.fm);
	boot(&c);
	row->progress(&c);
	load(&c);
	quiesce(&c);
	row->cls->reset(c.dev);
	fm_save(c.dev, &b);
	if (!row->reset_keeps)
		assert_same(&c, &a, &b);
	wbuf_fini(&a);
	wbuf_fini(&b);
	if (!row->one_life) {
		fm_resume(&c.fm);
		boot(&c);
		row->progress(&c);
	}
	fm_fini(&c.fm);
}

static void quiesced_under_load_has_nothing_in_flight(const struct conf_row *row)
{
	struct conf c;

	run(&c, row);
	for (int i = 0; i < 20; i++) {
		load(&c);
		for (int k = 0; k < i % 4; k++)
			fm_spin(&c.fm);
		quiesce(&c);
		fm_resume(&c.fm);
		drain(&c);
		row->progress(&c);
	}
	fm_fini(&c.fm);
}

static bool fd_shared(pid_t parent, int fd)
{
	for (int other = 3; other < 1024; other++)
		if (syscall(SYS_kcmp, getpid(), parent, KCMP_FILE, fd, other) == 0)
			return true;
	return false;
}

static void assert_no_fd_shared(struct conf *c, pid_t parent)
{
	/* kcmp itself must work, or this would prove nothing */
	CONF(c, syscall(SYS_kcmp, getpid(), getpid(), KCMP_FILE, 2, 2) == 0);
	for (int fd = 3; fd < 1024; fd++) {
		if (fcntl(fd, F_GETFD) < 0 || (c->fm.kept[fd / 64] & (1ull << (fd % 64))))
			continue;
		CONF(c, !fd_shared(parent, fd));
	}
}

/* In the child. depth: how many more generations. */
static void child(struct conf *c, pid_t parent, int depth);

static void fork_once(struct conf *c, int depth)
{
	pid_t self = getpid(), pid;
	int status;

	load(c);
	fm_spin(&c->fm);
	quiesce(c);
	if (c->row->before_fork)
		c->row->before_fork(c);
	give(c, "child/");
	fflush(NULL);
	pid = fork();
	BUG_ON(pid < 0);
	if (!pid) {
		child(c, self, depth);
		_exit(0);
	}
	grants_drop(c->fm.m.grants, "child/");
	fm_resume(&c->fm);
	drain(c);
	c->row->progress(c);
	CONF(c, waitpid(pid, &status, 0) == pid);
	CONF(c, WIFEXITED(status) && WEXITSTATUS(status) == 0);
	c->row->progress(c);
}

static void child(struct conf *c, pid_t parent, int depth)
{
	static const struct identity other = {
		.renew = true, .name = "other", .hostname = "other", .generation = { 2, 2 }
	};

	c->child = true;
	alarm(60);
	fm_child(&c->fm, &other);
	assert_no_fd_shared(c, parent);
	fm_resume(&c->fm);
	woke(c);
	drain(c);
	c->row->progress(c);
	if (depth > 1)
		fork_once(c, depth - 1);
	c->row->progress(c);
}

static void forked_under_load_both_go_on(const struct conf_row *row)
{
	struct conf c;

	run(&c, row);
	fork_once(&c, 2);
	fork_once(&c, 1); /* and the same parent again */
	fm_fini(&c.fm);
}

static void destroyed_gives_descriptors_back(const struct conf_row *row)
{
	unsigned int before = fm_open_fds();
	struct conf c;

	run(&c, row);
	load(&c); /* also with work in flight */
	fm_fini(&c.fm);
	assert_int_equal(fm_open_fds(), before);
	make(&c, row); /* and when it was never adopted */
	fm_fini(&c.fm);
	assert_int_equal(fm_open_fds(), before);
}

/* ---- running ---- */

static const struct {
	const char *name;
	void (*fn)(const struct conf_row *row);
} claims[] = {
	{ "saved_twice_is_the_same", saved_twice_is_the_same },
	{ "restored_is_the_same_and_works", restored_is_the_same_and_works },
	{ "truncated_is_refused", truncated_is_refused },
	{ "flipped_is_refused_or_works", flipped_is_refused_or_works },
	{ "reset_is_power_on", reset_is_power_on },
	{ "quiesced_under_load_has_nothing_in_flight", quiesced_under_load_has_nothing_in_flight },
	{ "forked_under_load_both_go_on", forked_under_load_both_go_on },
	{ "destroyed_gives_descriptors_back", destroyed_gives_descriptors_back },
};

struct job {
	const struct conf_row *row;
	size_t claim;
	char name[128];
};

static void one(void **state)
{
	struct job *j = *state;

	claims[j->claim].fn(j->row);
}

int conf_run(const struct conf_env *en, const struct conf_row *const *rows, size_t n)
{
	size_t total = n * ARRAY_SIZE(claims);
	struct CMUnitTest *tests = calloc(total, sizeof(*tests));
	struct job *jobs = calloc(total, sizeof(*jobs));
	int failed;

	BUG_ON(!tests || !jobs);
	env = en;
	for (size_t i = 0; i < total; i++) {
		struct job *j = &jobs[i];

		j->row = rows[i / ARRAY_SIZE(claims)];
		j->claim = i % ARRAY_SIZE(claims);
		snprintf(j->name, sizeof(j->name), "conformance__%s__%s", j->row->id,
			 claims[j->claim].name);
		tests[i] = (struct CMUnitTest){ .name = j->name,
						.test_func = one,
						.initial_state = j };
	}
	failed = _cmocka_run_group_tests("conformance", tests, total, NULL, NULL);
	free(tests);
	free(jobs);
	return failed;
}
