/* SPDX-License-Identifier: MIT */
/*
 * See workset.h. The recorder has KVM log writes for a while (that costs it 4 KiB mappings), adds
 * what its devices wrote, and sends page numbers over a socket of its own. It has run its guest by
 * then and may be hostile: the seed believes it as far as which pages to copy ahead, and not how
 * many.
 */
#include "fork/workset.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/endian.h"
#include "base/time.h"
#include "base/util.h"
#include "event/fdtab.h"
#include "event/grants.h"
#include "event/loop.h"
#include "fork/spare.h"
#include "mem/gmem.h"
#include "vm/dirty_log.h"
#include "vm/vm_private.h"

#define GRANT "working-set"
#define RECORD_NS (2 * NS_PER_SEC) /* the first command is usually over by then */
#define TRIES_MAX 3		   /* recorders that died without a word */

/* ---- the seed ---- */

static void hang_up(struct vm *vm)
{
	struct workset *w = &vm->workset;

	loop_del_io(w->io);
	w->io = NULL;
	fdtab_close(vm->m.fds, &w->fd);
}

static void on_told(void *arg, int fd, unsigned int events)
{
	struct vm *vm = arg;
	struct workset *w = &vm->workset;
	uint64_t pages = gmem_size(vm->m.mem) / GMEM_PAGE;
	le32 *list = calloc(WORKSET_PAGES_MAX, sizeof(*list));
	ssize_t n = list ? recv(fd, list, WORKSET_PAGES_MAX * sizeof(*list), MSG_DONTWAIT) : -1;

	(void)events;
	if (list && n < 0 && (errno == EAGAIN || errno == EINTR)) {
		free(list);
		return;
	}
	hang_up(vm);
	w->pages = n > 0 ? calloc(WORKSET_PAGES_MAX, sizeof(*w->pages)) : NULL;
	for (size_t i = 0; w->pages && i < (size_t)n / sizeof(*list); i++)
		if (le32_get(list[i]) < pages)
			w->pages[w->n++] = le32_get(list[i]);
	free(list);
	if (w->n)
		spares_renew(vm); /* those that there are have no copies */
}

void workset_ask(struct vm *vm, const char *child)
{
	struct workset *w = &vm->workset;
	char name[VM_NAME_MAX + 32];
	int pair[2];
	struct err e;

	if (vm->state != VM_SEED || !w->want || w->n || w->fd >= 0 || w->tries == TRIES_MAX)
		return;
	w->tries++;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0)
		return;
	snprintf(name, sizeof(name), "child/%s/" GRANT, child);
	if (grants_put(vm->m.grants, name, pair[1], &e)) {
		close(pair[0]);
		return;
	}
	w->fd = pair[0];
	fdtab_add(vm->m.fds, w->fd, FD_CLOSE, "working set");
	w->io = loop_add_io(vm->m.loop, w->fd, LOOP_READ, on_told, vm);
	if (!w->io)
		hang_up(vm);
}

/* ---- the child ---- */

void workset_child(struct vm *vm)
{
	struct workset *w = &vm->workset;

	if (w->timer)
		gmem_dirty_stop(vm->m.mem); /* our parent was recording; we are not */
	w->io = NULL;
	w->timer = NULL;
	w->fd = -1;
	w->want = false;
	if (vm->child.spare)
		return;
	free(w->pages);
	w->pages = NULL;
	w->n = 0;
}

void workset_populate(struct vm *vm)
{
	struct workset *w = &vm->workset;

	for (size_t i = 0; i < w->n;) {
		size_t run = 1;

		while (i + run < w->n && w->pages[i + run] == w->pages[i] + run)
			run++;
		gmem_populate(vm->m.mem, (uint64_t)w->pages[i] * GMEM_PAGE, run * GMEM_PAGE);
		i += run;
	}
	free(w->pages);
	w->pages = NULL;
	w->n = 0;
}

static size_t list_of(const uint64_t *written, uint64_t pages, le32 *list)
{
	size_t n = 0;

	for (uint64_t p = 0; p < pages && n < WORKSET_PAGES_MAX; p++)
		if (written[p / 64] >> (p % 64) & 1)
			list[n++] = le32_put((uint32_t)p);
	return n;
}

static void on_recorded(void *arg)
{
	struct vm *vm = arg;
	struct workset *w = &vm->workset;
	uint64_t *written = dirty_log_bits(vm);
	le32 *list = calloc(WORKSET_PAGES_MAX, sizeof(*list));
	size_t n = 0;
	struct err e;

	if (written && list && !dirty_log_read(vm, written, &e))
		n = list_of(written, gmem_size(vm->m.mem) / GMEM_PAGE, list);
	if (n)
		(void)send(w->fd, list, n * sizeof(*list), MSG_NOSIGNAL);
	free(list);
	free(written);
	dirty_log_stop(vm);
	fdtab_close(vm->m.fds, &w->fd);
	loop_del_timer(w->timer);
	w->timer = NULL;
}

void workset_record(struct vm *vm)
{
	struct workset *w = &vm->workset;
	int fd = grants_take(vm->m.grants, GRANT, NULL);
	struct err e;

	if (fd < 0)
		return;
	w->fd = fd;
	w->timer = loop_add_timer(vm->m.loop, on_recorded, vm);
	if (w->timer && !dirty_log_start(vm, &e)) {
		loop_set_timer(w->timer, RECORD_NS);
		return;
	}
	loop_del_timer(w->timer);
	w->timer = NULL;
	fdtab_close(vm->m.fds, &w->fd);
}
