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
#include "vm/park.h"
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

static struct disk_cfg *find_disk(struct vm *vm, const char *id)
{
	for (uint32_t i = 0; i < vm->cfg.nr_disks; i++)
		if (!strcmp(vm->cfg.disks[i].id, id))
			return &vm->cfg.disks[i];
	return NULL;
}

struct virtio_blk_cfg vm_blk_cfg(const struct vm *vm, const struct disk_cfg *d)
{
	struct virtio_blk_cfg cfg = { .read_only = d->read_only,
				      .nr_files = d->nr_files,
				      .last_qcow2 = d->last_qcow2,
				      .writes = d->writes,
				      .quota_bytes = d->quota_bytes,
				      .nr_queues = vm->cfg.vcpus,
				      .size_bytes = d->size_bytes };

	memcpy(cfg.serial, d->serial, sizeof(cfg.serial));
	return cfg;
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

/* What the user asked for, as a disk's cfg, and its files under the names that its device knows. */
static int take_disk(struct vm *vm, const struct vm_disk *k, struct disk_cfg *d, struct err *e)
{
	char direct[DEVICE_ID_MAX + 16];
	uint64_t bytes = 0;
	int ret = 0;

	if (k->nr_files > SOURCE_FILES)
		return err_set(e, EINVAL, "disk '%s': %u files: at most %d", k->id, k->nr_files,
			       SOURCE_FILES);
	if (k->quota_bytes && (k->persistent || k->read_only))
		return err_set(e, EINVAL, "disk '%s': a quota is for a disk with an overlay",
			       k->id);
	if (k->persistent && k->read_only)
		return err_set(e, EINVAL, "disk '%s': persistent and read-only", k->id);
	snprintf(direct, sizeof(direct), "disk/%s/direct", k->id);
	if (k->direct && (!k->persistent || grants_peek(vm->m.grants, direct) < 0))
		return err_set(e, EINVAL,
			       "disk '%s': direct I/O is for a persistent disk, granted once more "
			       "as %s, with O_DIRECT",
			       k->id, direct);
	if (!k->nr_files && (k->quota_bytes || k->persistent || k->read_only))
		return err_set(e, EINVAL, "disk '%s': an empty bay has nothing but a serial",
			       k->id);
	for (unsigned int i = 0; i < k->nr_files && !ret; i++)
		ret = take_disk_file(vm, k, i, &bytes, e);
	if (ret) {
		drop_disk_files(vm, k->id);
		return err_wrap(e, ret, "disk '%s'", k->id);
	}
	d->read_only = k->read_only;
	d->nr_files = k->nr_files;
	d->quota_bytes = k->quota_bytes;
	d->last_qcow2 = k->nr_files && k->files[k->nr_files - 1].qcow2;
	d->size_bytes = ROUND_DOWN(bytes, BLK_SECTOR);
	d->writes = BLK_OVERLAY;
	if (k->persistent)
		d->writes = k->files[0].qcow2 ? BLK_IN_QCOW2 : BLK_IN_RAW;
	if (d->writes == BLK_IN_RAW) {
		/* it is its own data file; the other descriptor said how long it is */
		d->nr_files = 0;
		drop_disk_files(vm, k->id);
	}
	return 0;
}

int vm_add_disk(struct vm *vm, const struct vm_disk *k, struct err *e)
{
	const char *serial = k->serial ? k->serial : "";
	int ret = vm_configuring(vm, "a disk", e);
	struct disk_cfg d = { .id = "" };

	if (ret)
		return ret;
	if (!k->id[0] || strlen(k->id) >= DEVICE_ID_MAX)
		return err_set(e, EINVAL, "disk id: 1 to %d characters", DEVICE_ID_MAX - 1);
	if (strlen(serial) > sizeof(d.serial))
		return err_set(e, EINVAL, "disk '%s': a serial of more than %zu characters", k->id,
			       sizeof(d.serial));
	if (find_disk(vm, k->id))
		return err_set(e, EEXIST, "disk '%s' exists already", k->id);
	if (vm->cfg.nr_disks == VM_MAX_DISKS)
		return err_set(e, ENOSPC, "a VM has at most %d disks", VM_MAX_DISKS);
	ret = take_disk(vm, k, &d, e);
	if (ret)
		return ret;
	snprintf(d.id, sizeof(d.id), "%s", k->id);
	memcpy(d.serial, serial, strlen(serial));
	vm->rate[vm->cfg.nr_disks] = k->rate ? *k->rate : (struct virtio_blk_rate){ 0 };
	vm->cfg.disks[vm->cfg.nr_disks++] = d;
	return 0;
}

/* ---- while it runs ---- */

/* The disk and its device; the world stands still (unlike a paused VM's, it goes on by end_change).
 */
static int begin_change(struct vm *vm, const char *id, struct disk_cfg **d, struct device **dev,
			struct err *e)
{
	int ret;

	*d = find_disk(vm, id);
	if (!*d)
		return err_set(e, ENOENT, "there is no disk '%s'", id);
	ret = vm_unpark(vm, "disk", e);
	if (ret)
		return ret;
	if (vm->state != VM_RUNNING && vm->state != VM_PAUSED)
		return err_set(e, EINVAL, "disk '%s': only of a VM that runs or is paused", id);
	*dev = vm_find_device(vm, "virtio-blk", id);
	return vm->state == VM_RUNNING ? vm_stop_world(vm, e) : 0;
}

static void end_change(struct vm *vm)
{
	if (vm->state == VM_RUNNING)
		vm_start_world(vm);
}

int vm_insert_disk(struct vm *vm, const struct vm_disk *k, struct err *e)
{
	struct virtio_blk_cfg cfg;
	struct disk_cfg *d, now;
	struct device *dev;
	int ret;

	if (!k->nr_files || (k->serial && k->serial[0]))
		return err_set(e, EINVAL,
			       "disk '%s': it needs a file, and its serial is that of its bay",
			       k->id);
	ret = begin_change(vm, k->id, &d, &dev, e);
	if (ret)
		return ret;
	now = *d;
	ret = d->size_bytes ? err_set(e, EBUSY, "disk '%s': there is one already", k->id)
			    : take_disk(vm, k, &now, e);
	if (!ret) {
		cfg = vm_blk_cfg(vm, &now);
		ret = virtio_blk_insert(dev, &cfg, e);
		if (ret)
			drop_disk_files(vm, k->id);
	}
	if (!ret)
		ret = k->rate ? virtio_blk_set_rate(dev, k->rate, e) : 0;
	if (!ret)
		*d = now;
	end_change(vm);
	return ret;
}

int vm_eject_disk(struct vm *vm, const char *id, struct err *e)
{
	struct disk_cfg *d;
	struct device *dev;
	int ret = begin_change(vm, id, &d, &dev, e);

	if (ret)
		return ret;
	ret = d->read_only ? err_set(e, ENOTSUP,
				     "disk '%s': the guest was told that it cannot write: a bay "
				     "cannot be made of it",
				     id)
			   : virtio_blk_eject(dev, e);
	if (!ret || ret == -EIO) {
		vm->rate[d - vm->cfg.disks] = (struct virtio_blk_rate){ 0 };
		d->nr_files = 0;
		d->last_qcow2 = d->writes = 0;
		d->size_bytes = d->quota_bytes = 0;
	}
	end_change(vm);
	return ret;
}

int vm_grow_disk(struct vm *vm, const char *id, uint64_t bytes, struct err *e)
{
	struct disk_cfg *d;
	struct device *dev;
	int ret = begin_change(vm, id, &d, &dev, e);

	if (ret)
		return ret;
	ret = virtio_blk_grow(dev, bytes, e);
	if (!ret)
		d->size_bytes = bytes;
	end_change(vm);
	return ret;
}

bool vm_disk_stats(struct vm *vm, unsigned int i, struct vm_disk_view *view, struct blk_stats *out)
{
	struct device *d;

	if (i >= vm->cfg.nr_disks)
		return false;
	memset(out, 0, sizeof(*out));
	d = vm_find_device(vm, "virtio-blk", vm->cfg.disks[i].id);
	*view = (struct vm_disk_view){ .id = vm->cfg.disks[i].id,
				       .bytes = vm->cfg.disks[i].size_bytes,
				       .seen = !d || virtio_blk_seen(d) };
	if (d)
		virtio_blk_stats(d, out);
	return true;
}

int vm_set_disk_rate(struct vm *vm, const char *id, const struct virtio_blk_rate *rate,
		     struct err *e)
{
	struct disk_cfg *d = find_disk(vm, id);
	struct device *dev;
	int ret;

	if (!d)
		return err_set(e, ENOENT, "there is no disk '%s'", id);
	dev = vm_find_device(vm, "virtio-blk", id);
	ret = dev ? virtio_blk_set_rate(dev, rate, e) : 0;
	if (ret)
		return err_wrap(e, ret, "disk '%s'", id);
	vm->rate[d - vm->cfg.disks] = *rate;
	return 0;
}
