/* SPDX-License-Identifier: MIT */
/*
 * Writing a snapshot: the world stands still, RAM's data and each disk's layer go to their files,
 * then the state that refers to them. Everything was opened by the caller; a failure leaves files
 * to throw away and a VM that lives on. Main thread, device lock held.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/util.h"
#include "event/fdtab.h"
#include "event/grants.h"
#include "mem/gmem.h"
#include "snapshot/format.h"
#include "snapshot/records.h"
#include "snapshot/snapshot.h"
#include "virtio/blk.h"
#include "vm/vm_private.h"

static const struct field extent_fields[] = {
	F_U64(struct gmem_extent, offset),
	F_U64(struct gmem_extent, len),
};
static const struct field ram_record_fields[] = {
	F_U64(struct ram_record, size_bytes),
	F_STRUCTS_N(struct ram_record, extents, nr_extents, extent_fields),
};
const struct field_table ram_record_table = FIELD_TABLE(struct ram_record, ram_record_fields);

#define WRITE_CHUNK MIB(1)

/* Writes one extent, chunk by chunk: an extent may span the MMIO hole, a chunk never does. */
static int write_extent(struct vm *vm, int fd, const struct gmem_extent *x, struct err *e)
{
	for (uint64_t at = x->offset; at < x->offset + x->len;) {
		uint64_t n = MIN(WRITE_CHUNK - at % WRITE_CHUNK, x->offset + x->len - at);
		const void *p = gmem_at_offset(vm->m.mem, at, n);
		int ret;

		BUG_ON(!p);
		ret = fd_pwrite_full(fd, p, n, at);
		if (ret)
			return err_sys(e, -ret, "RAM file: writing %llu bytes at %llu",
				       (unsigned long long)n, (unsigned long long)at);
		at += n;
	}
	return 0;
}

static int save_ram(struct vm *vm, int fd, struct snap_writer *s, struct err *e)
{
	struct ram_record *rec = calloc(1, sizeof(*rec));
	struct gmem_extent *x = NULL;
	size_t n = 0;
	int ret;

	if (!rec)
		return err_set(e, ENOMEM, "snapshot: out of memory");
	ret = gmem_find_data(vm->m.mem, RAM_MERGE_BYTES, RAM_EXTENTS_MAX, &x, &n, e);
	if (!ret && ftruncate(fd, (off_t)gmem_size(vm->m.mem)) < 0)
		ret = err_sys(e, errno, "RAM file: setting its length");
	for (size_t i = 0; i < n && !ret; i++) {
		rec->extents[i] = x[i];
		ret = write_extent(vm, fd, &x[i], e);
	}
	if (!ret) {
		rec->size_bytes = gmem_size(vm->m.mem);
		rec->nr_extents = (uint32_t)n;
		field_encode(&ram_record_table, rec, snap_begin(s, "ram", "", RAM_RECORD_VERSION));
		snap_end(s);
	}
	free(x);
	free(rec);
	return ret;
}

static int save_layers(struct vm *vm, struct err *e)
{
	for (uint32_t i = 0; i < vm->cfg.nr_disks; i++) {
		const struct disk_cfg *d = &vm->cfg.disks[i];
		char name[GRANT_NAME_MAX];
		int fd, ret;

		if (d->read_only)
			continue;
		snprintf(name, sizeof(name), "layer/%s", d->id);
		fd = grants_take(vm->m.grants, name, e);
		if (fd < 0)
			return fd;
		ret = virtio_blk_save_layer(vm_find_device(vm, "virtio-blk", d->id), fd, e);
		fdtab_del(vm->m.fds, fd);
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

static int save_all(struct vm *vm, int state_fd, int ram_fd, struct err *e)
{
	struct snap_writer s;
	int ret;

	snap_writer_init(&s);
	field_encode(&machine_cfg_table, &vm->cfg,
		     snap_begin(&s, "machine", "", MACHINE_CFG_VERSION));
	snap_end(&s);
	ret = save_ram(vm, ram_fd, &s, e);
	if (!ret)
		ret = save_layers(vm, e);
	if (!ret) {
		save_devices(vm, &s);
		ret = snap_finish(&s, state_fd, e);
	}
	snap_writer_fini(&s);
	return ret;
}

int vm_snapshot(struct vm *vm, const char *state, const char *ram, struct err *e)
{
	bool live = vm->state == VM_RUNNING;
	int state_fd, ram_fd, ret;

	if (!live && vm->state != VM_PAUSED)
		return err_set(e, EINVAL, "snapshot: the VM is not running or paused");
	state_fd = grants_take(vm->m.grants, state, e);
	if (state_fd < 0)
		return state_fd;
	ram_fd = grants_take(vm->m.grants, ram, e);
	ret = ram_fd < 0 ? ram_fd : 0;
	if (!ret && live)
		ret = vm_stop_world(vm, e);
	if (!ret) {
		ret = save_all(vm, state_fd, ram_fd, e);
		if (live)
			vm_start_world(vm);
	}
	fdtab_del(vm->m.fds, state_fd);
	close(state_fd);
	if (ram_fd >= 0) {
		fdtab_del(vm->m.fds, ram_fd);
		close(ram_fd);
	}
	grants_drop(vm->m.grants, "layer/");
	return err_wrap(ret ? e : NULL, ret, "snapshot");
}
