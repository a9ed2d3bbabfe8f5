/* SPDX-License-Identifier: MIT */
/*
 * A VM's disks: how they are configured, what of them can be changed and asked while it runs. See
 * vm.h. Main thread, device lock held.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/util.h"
#include "block/source.h"
#include "event/fdtab.h"
#include "event/grants.h"
#include "vm/vm_private.h"

/* Moves a granted file to the name under which its device will look for it. */
static int take_disk_file(struct vm *vm, const struct vm_disk *k, unsigned int i, uint64_t *bytes,
			  struct err *e)
{
	const struct vm_disk_file *f = &k->files[i];
	char name[GRANT_NAME_MAX];
	int fd, ret;

	if (!f->qcow2 && i != k->nr_files - 1)
		return err_set(e, EINVAL, "%s is raw: nothing can stand behind it", f->path);
	fd = grants_take(vm->m.grants, f->path, e);
	if (fd < 0)
		return fd;
	fdtab_del(vm->m.fds, fd);
	ret = i ? 0 : source_file_bytes(fd, f->qcow2 ? SOURCE_QCOW2 : SOURCE_RAW, bytes, e);
	if (!ret && !i && *bytes < BLK_SECTOR)
		ret = err_set(e, EINVAL, "is no file of at least one sector");
	if (ret) {
		close(fd);
		return err_wrap(e, ret, "%s", f->path);
	}
	if (i)
		snprintf(name, sizeof(name), "disk/%s/base/%u", k->id, i);
	else
		snprintf(name, sizeof(name), "disk/%s/base", k->id);
	return grants_put(vm->m.grants, name, fd, e);
}

static void drop_disk_files(struct vm *vm, const char *id)
{
	char taken[DEVICE_ID_MAX + 16];

	snprintf(taken, sizeof(taken), "disk/%s/base", id);
	grants_drop(vm->m.grants, taken);
}

int vm_disks_can_fork(const struct vm *vm, struct err *e)
{
	for (uint32_t i = 0; i < vm->cfg.nr_disks; i++)
		if (vm->cfg.disks[i].writes == BLK_IN_RAW)
			return err_set(
				e, ENOTSUP,
				"disk '%s' is persistent and raw: forks cannot share what is "
				"written there; a qcow2 file can be shared",
				vm->cfg.disks[i].id);
	return 0;
}

int vm_disks_can_be_saved(const struct vm *vm, struct err *e)
{
	for (uint32_t i = 0; i < vm->cfg.nr_disks; i++)
		if (vm->cfg.disks[i].writes != BLK_OVERLAY)
			return err_set(e, ENOTSUP,
				       "disk '%s' is of a persistent file, which a VM goes on "
				       "writing to: a snapshot cannot stand on it",
				       vm->cfg.disks[i].id);
	return 0;
}

void vm_finish_disks(struct vm *vm)
{
	for (uint32_t i = 0; i < vm->cfg.nr_disks; i++) {
		struct device *d = vm_find_device(vm, "virtio-blk", vm->cfg.disks[i].id);

		if (d)
			virtio_blk_finish(d);
	}
}

int vm_add_disk(struct vm *vm, const struct vm_disk *k, struct err *e)
{
	const char *serial = k->serial ? k->serial : "";
	int ret = vm_configuring(vm, "a disk", e);
	uint64_t bytes = 0;
	struct disk_cfg *d;

	if (ret)
		return ret;
	if (!k->id[0] || strlen(k->id) >= DEVICE_ID_MAX)
		return err_set(e, EINVAL, "disk id: 1 to %d characters", DEVICE_ID_MAX - 1);
	if (strlen(serial) > sizeof(d->serial))
		return err_set(e, EINVAL, "disk '%s': a serial of more than %zu characters", k->id,
			       sizeof(d->serial));
	if (!k->nr_files || k->nr_files > SOURCE_FILES)
		return err_set(e, EINVAL, "disk '%s': %u files: 1 to %d", k->id, k->nr_files,
			       SOURCE_FILES);
	for (uint32_t i = 0; i < vm->cfg.nr_disks; i++)
		if (!strcmp(vm->cfg.disks[i].id, k->id))
			return err_set(e, EEXIST, "disk '%s' exists already", k->id);
	if (vm->cfg.nr_disks == VM_MAX_DISKS)
		return err_set(e, ENOSPC, "a VM has at most %d disks", VM_MAX_DISKS);
	if (k->quota_bytes && (k->persistent || k->read_only))
		return err_set(e, EINVAL, "disk '%s': a quota is for a disk with an overlay",
			       k->id);
	if (k->persistent && k->read_only)
		return err_set(e, EINVAL, "disk '%s': persistent and read-only", k->id);
	for (unsigned int i = 0; i < k->nr_files; i++) {
		ret = take_disk_file(vm, k, i, &bytes, e);
		if (ret) {
			drop_disk_files(vm, k->id);
			return err_wrap(e, ret, "disk '%s'", k->id);
		}
	}
	vm->rate[vm->cfg.nr_disks] = k->rate ? *k->rate : (struct virtio_blk_rate){ 0 };
	d = &vm->cfg.disks[vm->cfg.nr_disks++];
	*d = (struct disk_cfg){ .read_only = k->read_only,
				.nr_files = k->nr_files,
				.quota_bytes = k->quota_bytes,
				.last_qcow2 = k->files[k->nr_files - 1].qcow2,
				.size_bytes = ROUND_DOWN(bytes, BLK_SECTOR) };
	if (k->persistent)
		d->writes = k->files[0].qcow2 ? BLK_IN_QCOW2 : BLK_IN_RAW;
	if (d->writes == BLK_IN_RAW) {
		/* it is its own data file; the other descriptor said how long it is */
		d->nr_files = 0;
		drop_disk_files(vm, k->id);
	}
	snprintf(d->id, sizeof(d->id), "%s", k->id);
	memcpy(d->serial, serial, strlen(serial));
	return 0;
}

const char *vm_disk_stats(struct vm *vm, unsigned int i, struct blk_stats *out)
{
	struct device *d;

	if (i >= vm->cfg.nr_disks)
		return NULL;
	memset(out, 0, sizeof(*out));
	d = vm_find_device(vm, "virtio-blk", vm->cfg.disks[i].id);
	if (d)
		virtio_blk_stats(d, out);
	return vm->cfg.disks[i].id;
}

int vm_set_disk_rate(struct vm *vm, const char *id, const struct virtio_blk_rate *rate,
		     struct err *e)
{
	for (uint32_t i = 0; i < vm->cfg.nr_disks; i++) {
		struct device *dev;
		int ret;

		if (strcmp(vm->cfg.disks[i].id, id) != 0)
			continue;
		dev = vm_find_device(vm, "virtio-blk", id);
		ret = dev ? virtio_blk_set_rate(dev, rate, e) : 0;
		if (ret)
			return err_wrap(e, ret, "disk '%s'", id);
		vm->rate[i] = *rate;
		return 0;
	}
	return err_set(e, ENOENT, "there is no disk '%s'", id);
}
