/* SPDX-License-Identifier: MIT */
/*
 * Loading a snapshot: decode all, check all, commit all, adopt all. Nothing of the VM changes
 * before every byte was found valid; the file is hostile. Main thread, device lock held.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/util.h"
#include "event/barrier.h"
#include "event/fdtab.h"
#include "event/grants.h"
#include "mem/gmem.h"
#include "snapshot/chain.h"
#include "snapshot/format.h"
#include "snapshot/ram.h"
#include "snapshot/snapshot.h"
#include "vm/vm_private.h"

static int decode(const struct snap_file *f, const char *name, const char *id, uint32_t version,
		  const struct field_table *t, void *obj, struct err *e)
{
	struct rbuf r;
	int ret = snap_find(f, name, id, version, &r, e);

	if (ret)
		return ret;
	ret = field_decode(t, &r, obj, e);
	if (!ret && !rbuf_done(&r))
		ret = err_set(e, EINVAL, "%zu bytes too many", rbuf_left(&r));
	return ret ? err_wrap(e, ret, "state: %s %s", name, id) : 0;
}

static bool id_ok(const char id[DEVICE_ID_MAX])
{
	size_t n = strnlen(id, DEVICE_ID_MAX);

	if (!n || n == DEVICE_ID_MAX)
		return false;
	for (size_t i = 0; i < n; i++)
		if (!strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_",
			    id[i]))
			return false;
	return true;
}

static int check_machine(const struct machine_cfg *c, struct err *e)
{
	if (c->vcpus < 1 || c->vcpus > VM_MAX_VCPUS)
		return err_set(e, EINVAL, "state: %u vCPUs", c->vcpus);
	if (c->has_vsock > 1 || c->has_entropy > 1 || (c->has_vsock && c->guest_cid < 3) ||
	    c->has_balloon > 1 || c->balloon_oom > 1 || c->mergeable > 1)
		return err_set(e, EINVAL, "state: damaged machine record");
	for (uint32_t i = 0; i < c->nr_nics; i++) {
		if (!id_ok(c->nics[i].id))
			return err_set(e, EINVAL, "state: damaged NIC record %u", i);
		for (uint32_t j = 0; j < i; j++)
			if (!strcmp(c->nics[i].id, c->nics[j].id))
				return err_set(e, EINVAL, "state: NIC '%s' twice", c->nics[i].id);
	}
	for (uint32_t i = 0; i < c->nr_disks; i++) {
		const struct disk_cfg *k = &c->disks[i];
		bool bay = !k->size_bytes && !k->nr_files && !k->read_only && !k->quota_bytes;

		if (!id_ok(k->id) || k->read_only > 1 || k->last_qcow2 > 1 || k->writes ||
		    ((!k->nr_files || !k->size_bytes) && !bay))
			return err_set(e, EINVAL, "state: damaged disk record %u", i);
		for (uint32_t j = 0; j < i; j++)
			if (!strcmp(c->disks[i].id, c->disks[j].id))
				return err_set(e, EINVAL, "state: disk '%s' twice", c->disks[i].id);
	}
	return 0;
}

/* The decoded states of all devices, in the list's order, until all were checked. */
static int load_devices(struct vm *vm, const struct snap_file *f, struct err *e)
{
	void *state[SNAP_RECORDS_MAX] = { 0 };
	size_t n = 0;
	int ret = 0;

	for (struct device *d = vm->devices; d && !ret; d = d->next, n++) {
		char name[SNAP_NAME_MAX + 1];
		void *cfg = calloc(1, MAX(d->cls->cfg.struct_size, (size_t)1));

		state[n] = calloc(1, MAX(d->cls->state.struct_size, (size_t)1));
		if (!cfg || !state[n]) {
			free(cfg);
			ret = err_set(e, ENOMEM, "state: out of memory");
			break;
		}
		snprintf(name, sizeof(name), "cfg:%s", d->cls->name);
		ret = decode(f, name, d->id, d->cls->version, &d->cls->cfg, cfg, e);
		if (!ret) {
			ret = field_compare(&d->cls->cfg, cfg, d->cfg, e);
			if (ret)
				err_wrap(e, ret, "state: %s %s", name, d->id);
		}
		free(cfg);
		if (!ret)
			ret = decode(f, d->cls->name, d->id, d->cls->version, &d->cls->state,
				     state[n], e);
		if (!ret) {
			ret = d->cls->check(d, state[n], e);
			if (ret)
				err_wrap(e, ret, "state: %s %s", d->cls->name, d->id);
		}
	}
	if (!ret && 2 * n + 2 != f->n)
		ret = err_set(e, EINVAL, "state: %zu records, this machine has %zu", f->n,
			      2 * n + 2);
	n = 0;
	for (struct device *d = vm->devices; d && !ret; d = d->next)
		d->cls->commit(d, state[n++]);
	for (size_t i = 0; i < ARRAY_SIZE(state); i++)
		free(state[i]);
	return ret;
}

/* A seed's plan of huge pages, out of its one, raw file, which it keeps open. */
static int plan_huge(struct vm *vm, struct ram_layer *l, struct err *e)
{
	cleanup_free struct gmem_extent *x = calloc(l->ix.n + 1, sizeof(*x));
	size_t n = 0;
	int ret;

	if (!x)
		return err_set(e, ENOMEM, "state: out of memory");
	for (size_t i = 0; i < l->ix.n; i++)
		if (!l->ix.ext[i].zero)
			x[n++] = (struct gmem_extent){ l->ix.ext[i].offset, l->ix.ext[i].len };
	ret = gmem_huge_begin(vm->m.mem, l->fd, x, n, e);
	if (!ret) {
		vm->seed_ram_fd = take_fd(&l->fd);
		fdtab_add(vm->m.fds, vm->seed_ram_fd, FD_CLOSE, "seed RAM");
	}
	return ret;
}

static int load_all(struct vm *vm, struct chain *c, bool huge, struct err *e)
{
	int ret = decode(&c->own, "machine", "", MACHINE_CFG_VERSION, &machine_cfg_table, &vm->cfg,
			 e);

	if (!ret)
		ret = check_machine(&vm->cfg, e);
	if (!ret)
		ret = vm_build(vm, e);
	if (!ret)
		ret = vm_open_kvm(vm, e); /* checks compare with what this host can do */
	if (!ret) {
		ret = ram_chain_load(c->l, c->n, vm->m.mem, e);
		if (ret)
			err_wrap(e, ret, "state");
	}
	if (!ret)
		ret = load_devices(vm, &c->own, e);
	if (!ret && huge && c->n == 1 && c->l[0].ix.encoding == RAM_RAW)
		ret = plan_huge(vm, &c->l[0], e);
	return ret;
}

int vm_load(struct vm *vm, const struct vm_files *files, size_t n, const struct vm_seed *seed,
	    struct err *e)
{
	cleanup_free struct chain *c = calloc(1, sizeof(*c));
	struct machine_cfg before = vm->cfg;
	int ret;

	if (!c)
		return err_set(e, ENOMEM, "load: out of memory");
	if (vm->state != VM_CONFIGURING)
		return err_set(e, EBUSY, "load: this VM is in use already");
	ret = chain_open(c, vm, files, n, e);
	if (!ret)
		ret = load_all(vm, c, seed && seed->huge_pages, e);
	chain_close(c);
	if (!ret) {
		vm->id.renew = true; /* a snapshot may be loaded many times */
		/* a seed runs nothing: its children say for themselves */
		ret = seed ? 0 : vm_merge(vm, e);
	}
	if (!ret)
		ret = vm_prepare_all(vm, e);
	if (!ret)
		ret = vm_adopt_all(vm, &vm->id, e);
	grants_drop(vm->m.grants, "disk/"); /* for a bay that is empty here, perhaps */
	if (ret) {
		vm_unbuild(vm);
		if (vm->seed_ram_fd >= 0) {
			fdtab_del(vm->m.fds, vm->seed_ram_fd);
			close(take_fd(&vm->seed_ram_fd));
		}
		vm->cfg = before;
		return err_wrap(e, ret, "load");
	}
	/* nothing runs: this pause cannot fail, and vm_resume or the child's start undoes it */
	BUG_ON(barrier_pause(vm->m.barrier, 0, e));
	vm->state = seed ? VM_SEED : VM_PAUSED;
	if (seed) {
		vm->spares.want = seed->spares;
		vm->workset.want = seed->working_set;
	}
	return 0;
}
