/* SPDX-License-Identifier: MIT */
/*
 * Writing a snapshot of a world that stands still: RAM and each disk's layer go to their files,
 * then the state that refers to them. Everything was opened by the caller; a failure leaves files
 * to throw away. Main thread, device lock held: of the frozen child of a live snapshot
 * (src/fork/frozen.c).
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/util.h"
#include "event/grants.h"
#include "mem/gmem.h"
#include "snapshot/chain.h"
#include "snapshot/format.h"
#include "snapshot/ram.h"
#include "snapshot/snapshot.h"
#include "virtio/blk.h"
#include "vm/vm_private.h"

static void put_index(struct snap_writer *s, const struct ram_index *ix)
{
	ram_index_encode(ix, snap_begin(s, "ram", "", RAM_RECORD_VERSION));
	snap_end(s);
}

static int save_ram(struct vm *vm, int fd, const struct vm_save *save, struct chain *base,
		    struct snap_writer *s, uint64_t *stored, struct err *e)
{
	struct ram_write w = { .gm = vm->m.mem,
			       .fd = fd,
			       .encoding = save->compress ? RAM_ZSTD : RAM_RAW,
			       .base = base->n ? base->l : NULL,
			       .nr_base = base->n,
			       .give_back = save->frozen,
			       .progress = save->progress,
			       .arg = save->arg };
	struct ram_index ix = { 0 };
	int ret = ram_write(&w, &ix, e);

	if (!ret) {
		put_index(s, &ix);
		*stored = ram_index_data(&ix);
	}
	ram_index_fini(&ix);
	return ret;
}

static int save_layers(struct vm *vm, struct err *e)
{
	for (uint32_t i = 0; i < vm->cfg.nr_disks; i++) {
		const struct disk_cfg *d = &vm->cfg.disks[i];
		char name[GRANT_NAME_MAX];
		int fd, ret;

		if (d->read_only || !d->size_bytes)
			continue;
		snprintf(name, sizeof(name), "layer/%s", d->id);
		fd = chain_take(vm, name, e);
		if (fd < 0)
			return fd;
		ret = virtio_blk_save_layer(vm_find_device(vm, "virtio-blk", d->id), fd, e);
		close(fd);
		if (ret)
			return err_wrap(e, ret, "disk %s", d->id);
	}
	return 0;
}

static void save_devices(struct vm *vm, struct snap_writer *s)
{
	for (struct device *d = vm->devices; d; d = d->next) {
		char name[SNAP_NAME_MAX + 1];

		snprintf(name, sizeof(name), "cfg:%s", d->cls->name);
		field_encode(&d->cls->cfg, d->cfg, snap_begin(s, name, d->id, d->cls->version));
		snap_end(s);
		field_encode(&d->cls->state, d->state,
			     snap_begin(s, d->cls->name, d->id, d->cls->version));
		snap_end(s);
	}
}

static int save_all(struct vm *vm, const struct vm_save *save, struct chain *base, int state_fd,
		    int ram_fd, uint64_t *stored, struct err *e)
{
	struct snap_writer s;
	int ret;

	snap_writer_init(&s);
	field_encode(&machine_cfg_table, &vm->cfg,
		     snap_begin(&s, "machine", "", MACHINE_CFG_VERSION));
	snap_end(&s);
	/* disks first: what RAM holds is given back on the way, and they may be long */
	ret = save_layers(vm, e);
	if (!ret)
		ret = save_ram(vm, ram_fd, save, base, &s, stored, e);
	if (!ret) {
		save_devices(vm, &s);
		ret = snap_finish(&s, state_fd, e);
	}
	snap_writer_fini(&s);
	return ret;
}

int vm_save(struct vm *vm, const struct vm_save *s, uint64_t *stored, struct err *e)
{
	cleanup_close int state_fd = chain_take(vm, s->to.state, e);
	cleanup_close int ram_fd = state_fd < 0 ? -1 : chain_take(vm, s->to.ram, e);
	cleanup_free struct chain *base = calloc(1, sizeof(*base));
	int ret = MIN(state_fd, 0);

	if (!ret)
		ret = MIN(ram_fd, 0);
	if (!ret && !base)
		ret = err_set(e, ENOMEM, "out of memory");
	if (!ret && s->nr_base) {
		ret = s->nr_base < RAM_LAYERS_MAX
			      ? chain_open(base, vm, s->base, s->nr_base, e)
			      : err_set(e, E2BIG,
					"it would be the %zuth of a chain of at most %d: flatten "
					"the one before it",
					s->nr_base + 1, RAM_LAYERS_MAX);
		if (!ret && base->l[0].ix.size_bytes != gmem_size(vm->m.mem))
			ret = err_set(e, EINVAL, "its base has another amount of RAM");
	}
	if (!ret)
		ret = save_all(vm, s, base, state_fd, ram_fd, stored, e);
	if (base)
		chain_close(base);
	grants_drop(vm->m.grants, "layer/");
	return ret ? err_wrap(e, ret, "snapshot") : 0;
}

/* All records of the newest but RAM's. */
static void copy_records(struct snap_writer *s, const struct snap_file *from,
			 const struct ram_index *ix)
{
	for (size_t i = 0; i < from->n; i++) {
		const struct snap_record *r = &from->rec[i];

		if (!strcmp(r->name, "ram")) {
			put_index(s, ix);
			continue;
		}
		wbuf_bytes(snap_begin(s, r->name, r->id, r->version), r->payload.data,
			   r->payload.len);
		snap_end(s);
	}
}

static int flatten(struct chain *c, int state_fd, int ram_fd, bool compress, struct err *e)
{
	struct ram_write w = { .fd = ram_fd, .encoding = compress ? RAM_ZSTD : RAM_RAW };
	struct ram_index ix = { 0 };
	struct snap_writer s;
	int ret = gmem_create(c->l[0].ix.size_bytes, &w.gm, e);

	if (ret)
		return ret;
	ret = ram_chain_load(c->l, c->n, w.gm, e);
	if (!ret)
		ret = ram_write(&w, &ix, e);
	if (!ret) {
		snap_writer_init(&s);
		copy_records(&s, &c->own, &ix);
		ret = snap_finish(&s, state_fd, e);
		snap_writer_fini(&s);
	}
	ram_index_fini(&ix);
	gmem_destroy(w.gm);
	return ret;
}

int vm_flatten(struct vm *vm, const struct vm_files *files, size_t n, const struct vm_files *to,
	       bool compress, struct err *e)
{
	cleanup_free struct chain *c = calloc(1, sizeof(*c));
	struct err state_why, ram_why;
	cleanup_close int state_fd = chain_take(vm, to->state, &state_why);
	cleanup_close int ram_fd = chain_take(vm, to->ram, &ram_why);
	int ret;

	if (!c)
		return err_set(e, ENOMEM, "flatten: out of memory");
	ret = chain_open(c, vm, files, n, e);
	if (!ret && vm->state != VM_CONFIGURING)
		ret = err_set(e, EBUSY, "this VM is in use already");
	if (!ret && state_fd < 0)
		ret = err_set(e, -state_fd, "%s", state_why.msg);
	if (!ret && ram_fd < 0)
		ret = err_set(e, -ram_fd, "%s", ram_why.msg);
	if (!ret)
		ret = flatten(c, state_fd, ram_fd, compress, e);
	chain_close(c);
	return ret ? err_wrap(e, ret, "flatten") : 0;
}
