/* SPDX-License-Identifier: MIT */
/*
 * A machine without vCPUs, for tests. See fake_machine.h.
 */
#include "tests/lib/fake_machine.h"

#include <dirent.h>
#include <event2/event.h>
#include <stdio.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/time.h"
#include "base/util.h"
#include "device/bus.h"
#include "event/barrier.h"
#include "event/fdtab.h"
#include "event/grants.h"
#include "event/loop.h"
#include "kvm/kvm.h"

#define SAVE_LIMIT (1u << 20)

/* A failure of the set-up, with its story. */
static void must(int ret, const struct err *e)
{
	if (!ret)
		return;
	fprintf(stderr, "fake machine: %s\n", e->msg);
	BUG_ON(true);
}

static void on_notice(struct machine *m, const char *kind, const char *who, const char *detail)
{
	(void)who;
	(void)detail;
	((struct fake_machine *)m)->notices++;
	snprintf(((struct fake_machine *)m)->notice, sizeof(((struct fake_machine *)m)->notice),
		 "%s", kind);
}

static void on_event(struct machine *m, enum vm_event ev, const char *detail)
{
	(void)detail;
	((struct fake_machine *)m)->events[ev]++;
}

static void make_kvm(struct fake_machine *fm)
{
	struct gmem_region r[GMEM_MAX_REGIONS];
	struct err e;
	size_t n = gmem_regions(fm->m.mem, r);

	must(kvm_create(fm->sys_fd, &fm->m.kvm, &e), &e);
	for (size_t i = 0; i < n; i++)
		must(kvm_set_memory(fm->m.kvm, (unsigned int)i, r[i].gpa, r[i].size_bytes, r[i].hva,
				    false, &e),
		     &e);
}

void fm_init(struct fake_machine *fm, uint64_t mem_bytes, int sys_fd)
{
	struct machine *m = &fm->m;
	struct err e;

	memset(fm, 0, sizeof(*fm));
	fm->sys_fd = sys_fd;
	fm->brk = FM_ALLOC_BASE;
	pthread_mutex_init(&fm->lock, NULL);
	m->lock = &fm->lock;
	m->nr_vcpus = 1;
	m->event = on_event;
	m->notice = on_notice;
	must(fdtab_create(&m->fds, &e), &e);
	if (sys_fd >= 0)
		fdtab_add(m->fds, sys_fd, FD_KEEP, "/dev/kvm");
	must(grants_create(m->fds, &m->grants, &e), &e);
	must(barrier_create(&m->barrier, &e), &e);
	must(gmem_create(mem_bytes, &m->mem, &e), &e);
	must(loop_create(m->lock, &m->loop, &e), &e);
	must(bus_create("pio", &m->pio, &e), &e);
	must(bus_create("mmio", &m->mmio, &e), &e);
	must(pci_bus_create(m, &m->pci, &e), &e);
	make_kvm(fm);
	fm_add(fm, &pci_host_class, "pci-host", NULL);
}

void fm_fini(struct fake_machine *fm)
{
	struct machine *m = &fm->m;

	while (fm->nr_devs) {
		struct device *d = fm->dev[--fm->nr_devs];

		d->cls->destroy(d);
	}
	kvm_destroy(m->kvm);
	pci_bus_destroy(m->pci);
	bus_destroy(m->mmio);
	bus_destroy(m->pio);
	loop_destroy(m->loop);
	gmem_destroy(m->mem);
	barrier_destroy(m->barrier);
	grants_destroy(m->grants);
	fdtab_destroy(m->fds);
	pthread_mutex_destroy(&fm->lock);
}

struct device *fm_add(struct fake_machine *fm, const struct device_class *cls, const char *id,
		      const void *cfg)
{
	struct device *d = NULL;
	struct err e;

	BUG_ON(fm->nr_devs == FM_DEVICES);
	must(cls->create(&fm->m, id, cfg, &d, &e), &e);
	fm->dev[fm->nr_devs++] = d;
	return d;
}

void fm_adopt(struct fake_machine *fm, const struct identity *id)
{
	struct err e;

	pthread_mutex_lock(&fm->lock);
	for (unsigned int i = 0; i < fm->nr_devs; i++)
		must(fm->dev[i]->cls->prepare(fm->dev[i], &e), &e);
	for (unsigned int i = 0; i < fm->nr_devs; i++)
		must(fm->dev[i]->cls->adopt(fm->dev[i], id, &e), &e);
	must(kvm_routes_commit(fm->m.kvm, &e), &e);
	pthread_mutex_unlock(&fm->lock);
}

void fm_resume(struct fake_machine *fm)
{
	pthread_mutex_lock(&fm->lock);
	for (unsigned int i = 0; i < fm->nr_devs; i++)
		fm->dev[i]->cls->resume(fm->dev[i]);
	pthread_mutex_unlock(&fm->lock);
}

void fm_start(struct fake_machine *fm)
{
	static const struct identity same = { .name = "fake", .generation = { 1 } };

	fm_adopt(fm, &same);
	fm_resume(fm);
}

void fm_quiesce(struct fake_machine *fm)
{
	struct err e;

	pthread_mutex_lock(&fm->lock);
	for (unsigned int i = 0; i < fm->nr_devs; i++)
		must(fm->dev[i]->cls->quiesce(fm->dev[i], &e), &e);
	pthread_mutex_unlock(&fm->lock);
}

void fm_child(struct fake_machine *fm, const struct identity *id)
{
	struct machine *m = &fm->m;
	struct err e;

	grants_child(m->grants, "child/");
	fdtab_child(m->fds);
	memset(fm->kept, 0, sizeof(fm->kept));
	for (int fd = 0; fd < (int)(8 * sizeof(fm->kept)); fd++)
		if (fcntl(fd, F_GETFD) >= 0)
			fm->kept[fd / 64] |= 1ull << (fd % 64);
	barrier_child(m->barrier);
	kvm_abandon(m->kvm);
	must(loop_create(m->lock, &m->loop, &e), &e);
	make_kvm(fm);
	fm_adopt(fm, id);
}

void fm_save(struct device *d, struct wbuf *out)
{
	wbuf_init(out, SAVE_LIMIT);
	if (d->cls->cfg.struct_size)
		field_encode(&d->cls->cfg, d->cfg, out);
	field_encode(&d->cls->state, d->state, out);
	BUG_ON(out->bad);
}

int fm_load(struct device *d, const void *data, size_t len, struct err *e)
{
	cleanup_free void *cfg = calloc(1, d->cls->cfg.struct_size + 1);
	cleanup_free void *state = calloc(1, d->cls->state.struct_size);
	struct rbuf r;
	int ret = 0;

	BUG_ON(!cfg || !state);
	rbuf_init(&r, data, len);
	if (d->cls->cfg.struct_size) {
		ret = field_decode(&d->cls->cfg, &r, cfg, e);
		if (!ret)
			ret = field_compare(&d->cls->cfg, cfg, d->cfg, e);
	}
	if (!ret)
		ret = field_decode(&d->cls->state, &r, state, e);
	if (!ret && !rbuf_done(&r))
		ret = err_set(e, 22, "%zu bytes too many", rbuf_left(&r));
	if (!ret)
		ret = d->cls->check(d, state, e);
	if (!ret)
		d->cls->commit(d, state);
	return ret;
}

void fm_assert_valid(struct device *d)
{
	struct err e;

	must(d->cls->check(d, d->state, &e), &e);
}

uint64_t fm_read(struct fake_machine *fm, uint64_t addr, unsigned int len)
{
	uint8_t data[8];

	pthread_mutex_lock(&fm->lock);
	bus_read(fm->m.mmio, addr, data, len);
	pthread_mutex_unlock(&fm->lock);
	return bus_get(data, len);
}

void fm_write(struct fake_machine *fm, uint64_t addr, unsigned int len, uint64_t val)
{
	uint8_t data[8];

	if (fm->taken && fm->taken(fm, addr, len))
		return;
	bus_put(data, len, val);
	pthread_mutex_lock(&fm->lock);
	bus_write(fm->m.mmio, addr, data, len);
	pthread_mutex_unlock(&fm->lock);
}

uint64_t fm_in(struct fake_machine *fm, uint16_t port, unsigned int len)
{
	uint8_t data[8];

	pthread_mutex_lock(&fm->lock);
	bus_read(fm->m.pio, port, data, len);
	pthread_mutex_unlock(&fm->lock);
	return bus_get(data, len);
}

void fm_out(struct fake_machine *fm, uint16_t port, unsigned int len, uint64_t val)
{
	uint8_t data[8];

	bus_put(data, len, val);
	pthread_mutex_lock(&fm->lock);
	bus_write(fm->m.pio, port, data, len);
	pthread_mutex_unlock(&fm->lock);
}

gpa_t fm_alloc(struct fake_machine *fm, uint64_t n, uint64_t align)
{
	gpa_t at = ROUND_UP(fm->brk, align);

	BUG_ON(!gmem_valid(fm->m.mem, at, n));
	fm->brk = at + n;
	return at;
}

gpa_t fm_page_tables(struct fake_machine *fm)
{
	gpa_t t = fm_alloc(fm, 6 * 4096ull, 4096);
	uint64_t e = (t + 4096) | 3;

	gmem_write(fm->m.mem, t, &e, 8);
	for (uint64_t i = 0; i < 4; i++) {
		e = (t + 8192 + 4096 * i) | 3;
		gmem_write(fm->m.mem, t + 4096 + 8 * i, &e, 8);
	}
	for (uint64_t i = 0; i < 2048; i++) {
		e = i << 21 | 0x83;
		gmem_write(fm->m.mem, t + 8192 + 8 * i, &e, 8);
	}
	return t;
}

void fm_spin(struct fake_machine *fm)
{
	/* a few rounds: a callback may make another due */
	for (int i = 0; i < 4; i++)
		event_base_loop(loop_base(fm->m.loop), EVLOOP_NONBLOCK);
}

bool fm_until(struct fake_machine *fm, bool (*done)(void *arg), void *arg)
{
	const struct timespec nap = { .tv_nsec = 50000 };
	uint64_t end = time_mono_ns() + 300 * NS_PER_SEC; /* a flush waits for the disk */

	for (;;) {
		fm_spin(fm);
		if (done(arg))
			return true;
		if (time_mono_ns() > end)
			return false;
		nanosleep(&nap, NULL);
	}
}

unsigned int fm_open_fds(void)
{
	DIR *d = opendir("/proc/self/fd");
	unsigned int n = 0;

	BUG_ON(!d);
	while (readdir(d))
		n++;
	closedir(d);
	return n - 3; /* ".", "..", and the directory's own */
}
