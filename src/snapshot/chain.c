/* SPDX-License-Identifier: MIT */
/*
 * Opening a chain of snapshots. See chain.h.
 */
#include "snapshot/chain.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "base/util.h"
#include "event/fdtab.h"
#include "event/grants.h"
#include "vm/vm_private.h"

int chain_take(struct vm *vm, const char *name, struct err *e)
{
	int fd = grants_take(vm->m.grants, name, e);

	if (fd >= 0)
		fdtab_del(vm->m.fds, fd);
	return fd;
}

/* One layer; its state file stays open in *state. */
static int open_layer(struct ram_layer *l, struct snap_file *state, struct vm *vm,
		      const struct vm_files *files, struct err *e)
{
	cleanup_close int state_fd = chain_take(vm, files->state, e);
	struct ram_index ix;
	struct err ignored;
	struct rbuf r;
	int ret, ram_fd = chain_take(vm, files->ram, state_fd < 0 ? &ignored : e);

	ret = state_fd < 0 ? state_fd : MIN(ram_fd, 0);
	if (!ret)
		ret = snap_open(state_fd, state, e);
	if (!ret) {
		ret = snap_find(state, "ram", "", RAM_RECORD_VERSION, &r, e);
		if (!ret)
			ret = ram_index_decode(&r, &ix, e);
		if (!ret)
			ret = ram_layer_open(l, &ix, take_fd(&ram_fd), e);
		if (ret) {
			snap_close(state);
			err_wrap(e, ret, "state");
		}
	}
	if (ram_fd >= 0)
		close(ram_fd);
	return ret;
}

int chain_open(struct chain *c, struct vm *vm, const struct vm_files *files, size_t n,
	       struct err *e)
{
	struct err ignored;
	int ret = 0;

	memset(c, 0, sizeof(*c));
	if (!n || n > RAM_LAYERS_MAX)
		ret = err_set(e, E2BIG, "a chain of %zu snapshots: 1 to %d", n, RAM_LAYERS_MAX);
	for (size_t i = 0; i < n; i++) {
		struct snap_file state;

		if (ret) { /* what we were given is ours to close */
			int a = chain_take(vm, files[i].state, &ignored);
			int b = chain_take(vm, files[i].ram, &ignored);

			if (a >= 0)
				close(a);
			if (b >= 0)
				close(b);
			continue;
		}
		ret = open_layer(&c->l[i], &state, vm, &files[i], e);
		if (ret)
			continue;
		c->n++;
		if (c->l[i].ix.size_bytes != c->l[0].ix.size_bytes)
			ret = err_set(e, EINVAL, "state: RAM of %llu bytes over one of %llu",
				      (unsigned long long)c->l[i].ix.size_bytes,
				      (unsigned long long)c->l[0].ix.size_bytes);
		if (i + 1 == n && !ret)
			c->own = state;
		else
			snap_close(&state);
	}
	if (ret)
		chain_close(c);
	return ret;
}

void chain_close(struct chain *c)
{
	for (size_t i = 0; i < c->n; i++)
		ram_layer_close(&c->l[i]);
	c->n = 0;
	snap_close(&c->own);
	memset(&c->own, 0, sizeof(c->own));
}
