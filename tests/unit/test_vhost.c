/* SPDX-License-Identifier: MIT */
/*
 * What net/vhost.c asks of the kernel, in which order, and what it does when the kernel refuses.
 * The kernel is a model: ioctl(2) of descriptor FD, with the rules of drivers/vhost.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <linux/vhost.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/util.h"
#include "mem/gmem.h"
#include "net/vhost.h"

#define FD 900
#define TAP 901

struct model_ring {
	unsigned int num, base;
	int kick, call, err, tap;
	struct vhost_vring_addr addr;
};

static struct {
	bool owner, memory;
	uint64_t features;
	struct model_ring ring[2];
	unsigned int calls, fail_at; /* fail_at: the how-manieth call fails; 0: none */
	unsigned int failed;	     /* its request */
} model;

/* A ring that ran was given three buffers. */
static void set_backend(const struct vhost_vring_file *f)
{
	struct model_ring *r = &model.ring[f->index];

	if (r->tap >= 0 && f->fd < 0)
		r->base += 3;
	r->tap = f->fd;
}

static int model_call(unsigned long request, void *arg)
{
	const struct vhost_vring_state *s = arg;
	const struct vhost_vring_file *f = arg;
	struct model_ring *r = &model.ring[*(unsigned int *)arg & 1];

	if (request == VHOST_GET_FEATURES) {
		*(uint64_t *)arg = 0x1234;
		return 0;
	}
	if (request == VHOST_SET_FEATURES || request == VHOST_SET_MEM_TABLE) {
		assert_true(model.owner && model.ring[0].tap < 0 && model.ring[1].tap < 0);
		if (request == VHOST_SET_FEATURES)
			model.features = *(uint64_t *)arg;
		else
			model.memory = true;
		return 0;
	}
	assert_true(*(unsigned int *)arg < 2 && model.owner && model.memory && model.features);
	switch (request) {
	case VHOST_SET_VRING_NUM:
		assert_true(r->tap < 0);
		r->num = s->num;
		return 0;
	case VHOST_SET_VRING_BASE:
		assert_true(r->tap < 0);
		r->base = s->num;
		return 0;
	case VHOST_SET_VRING_ADDR:
		assert_true(r->num);
		r->addr = *(struct vhost_vring_addr *)arg;
		return 0;
	case VHOST_SET_VRING_KICK:
		r->kick = f->fd;
		return 0;
	case VHOST_SET_VRING_CALL:
		r->call = f->fd;
		return 0;
	case VHOST_SET_VRING_ERR:
		r->err = f->fd;
		return 0;
	case VHOST_NET_SET_BACKEND:
		assert_true(f->fd < 0 || (r->addr.desc_user_addr && r->kick >= 0));
		set_backend(f);
		return 0;
	case VHOST_GET_VRING_BASE:
		assert_true(r->tap < 0);
		((struct vhost_vring_state *)arg)->num = r->base;
		return 0;
	default:
		fail_msg("ioctl %#lx", request);
		return -1;
	}
}

int ioctl(int fd, unsigned long request, ...)
{
	va_list ap;
	void *arg;

	va_start(ap, request);
	arg = va_arg(ap, void *);
	va_end(ap);
	if (fd != FD)
		return (int)syscall(SYS_ioctl, fd, request, arg);
	if (++model.calls == model.fail_at) {
		model.failed = (unsigned int)request;
		errno = EIO;
		return -1;
	}
	if (request != VHOST_SET_OWNER)
		return model_call(request, arg);
	errno = EBUSY;
	if (model.owner)
		return -1;
	model.owner = true;
	return 0;
}

static void begin(unsigned int fail_at)
{
	memset(&model, 0, sizeof(model));
	for (unsigned int i = 0; i < 2; i++)
		model.ring[i] = (struct model_ring){ .kick = -1, .call = -1, .err = -1, .tap = -1 };
	model.fail_at = fail_at;
}

static char rings[6];

static void two(struct vhost_ring r[2])
{
	for (unsigned int i = 0; i < 2; i++)
		r[i] = (struct vhost_ring){ .size = (uint16_t)(256 >> i),
					    .last_avail = (uint16_t)(65534 + i),
					    .desc = &rings[3 * i],
					    .avail = &rings[3 * i + 1],
					    .used = &rings[3 * i + 2],
					    .kick_fd = 10 + (int)i,
					    .call_fd = i ? -1 : 20,
					    .err_fd = 30 };
}

static void test_vhost__is_claimed_started_and_stopped(void **state)
{
	struct gmem *gm = *state;
	struct vhost_ring r[2];
	uint16_t last[2];
	uint64_t f = 0;
	struct err e;

	begin(0);
	assert_int_equal(vhost_claim(FD, gm, &f, &e), 0);
	assert_int_equal(f, 0x1234);
	assert_int_equal(vhost_claim(FD, gm, &f, &e), -EBUSY);
	for (unsigned int round = 0; round < 2; round++) {
		two(r);
		assert_int_equal(vhost_start(FD, TAP, 0x99, r, &e), 0);
		assert_int_equal(model.features, 0x99);
		for (unsigned int i = 0; i < 2; i++) {
			const struct model_ring *m = &model.ring[i];

			assert_int_equal(m->num, r[i].size);
			assert_int_equal(m->base, r[i].last_avail);
			assert_int_equal(m->addr.desc_user_addr, (uintptr_t)r[i].desc);
			assert_int_equal(m->addr.avail_user_addr, (uintptr_t)r[i].avail);
			assert_int_equal(m->addr.used_user_addr, (uintptr_t)r[i].used);
			assert_int_equal(m->addr.flags, 0);
			assert_int_equal(m->kick, r[i].kick_fd);
			assert_int_equal(m->call, r[i].call_fd);
			assert_int_equal(m->err, 30);
			assert_int_equal(m->tap, TAP);
		}
		vhost_stop(FD, last);
		assert_int_equal(last[0], 1); /* 65534 and three */
		assert_int_equal(last[1], 2);
		assert_int_equal(model.ring[0].tap, -1);
		assert_int_equal(model.ring[1].tap, -1);
	}
}

/* Each call fails once: an error with a story, nothing runs, and where the rings are is known. */
static void test_vhost__nothing_runs_after_a_failure(void **state)
{
	struct gmem *gm = *state;
	unsigned int n = 1, starts = 0, ran = 0;

	for (;; n++) {
		struct vhost_ring r[2];
		struct err e = { "" };
		uint64_t f = 77;
		int ret;

		begin(n);
		two(r);
		ret = vhost_claim(FD, gm, &f, &e);
		if (!ret) {
			starts++;
			ret = vhost_start(FD, TAP, 0x99, r, &e);
		}
		if (!model.failed)
			break;
		assert_int_equal(ret, -EIO);
		assert_non_null(strstr(e.msg, "vhost-net: "));
		for (unsigned int i = 0; i < 2; i++)
			assert_int_equal(model.ring[i].tap, -1);
		/* the first had run when the second's TAP was refused */
		ran += model.ring[0].base == 65534 + 3;
		assert_int_equal(r[0].last_avail, model.ring[0].base == 65534 + 3 ? 1 : 65534);
		assert_int_equal(r[1].last_avail, 65535);
	}
	assert_int_equal(ran, 1);
	assert_int_equal(n, 3 + 1 + 12 + 2 + 1);
	assert_int_equal(starts, 1 + 12 + 2 + 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_prestate(test_vhost__is_claimed_started_and_stopped, NULL),
		cmocka_unit_test_prestate(test_vhost__nothing_runs_after_a_failure, NULL),
	};
	struct CMUnitTest with_ram[ARRAY_SIZE(tests)];
	struct gmem *gm;
	int ret;

	BUG_ON(gmem_create(MIB(64), &gm, NULL));
	memcpy(with_ram, tests, sizeof(tests));
	for (size_t i = 0; i < ARRAY_SIZE(tests); i++)
		with_ram[i].initial_state = gm;
	ret = cmocka_run_group_tests(with_ram, NULL, NULL);
	gmem_destroy(gm);
	return ret;
}
