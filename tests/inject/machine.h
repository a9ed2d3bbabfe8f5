/* SPDX-License-Identifier: MIT */
/*
 * The counting guest in a machine with one of every device, for operations that are swept. Main
 * thread.
 */
#ifndef CLONE_TESTS_MACHINE_H
#define CLONE_TESTS_MACHINE_H

#include <stdint.h>

#include "base/err.h"
#include "vm/vm.h"
#include "vm/vm_private.h"

#define MACHINE_MEM (64ull << 20)

/* Memory that the test and all its machines share, to the page. */
void machine_share(const void *at, size_t n);
/* What a test opens for its machines does not count: makes fd a grant, which counts. */
int machine_grant(struct vm *vm, const char *prefix, const char *name, int fd, struct err *e);
/* A file of a few sectors, read-only as a disk's base is. */
int machine_base(void);
/* The listening sockets and files that every machine has. */
int machine_grants(struct vm *vm, const char *prefix, struct err *e);
/* vm_create with /dev/kvm and machine_grants. *out is for machine_end even after a failure. */
int machine_create(struct vm **out, struct err *e);
/* machine_create, configured and started, the device lock held. */
int machine_start(unsigned int vcpus, struct vm **out, struct err *e);
/* The files of a snapshot. */
struct machine_files {
	int state, ram, layer;
};
/* Takes one of a machine that has run, in a process of its own; false: it said why on stderr. */
bool machine_save(unsigned int vcpus, struct machine_files *f);
/* vm_save of a running VM, as the frozen child of a live snapshot does it, to machine_grant_files.
 */
int machine_snapshot(struct vm *vm, struct err *e);
/* The grants for machine_snapshot or, without its data file when seed is set, vm_load. sweep_fail
 * on error. */
void machine_grant_files(struct vm *vm, const struct machine_files *f, bool load, bool seed);
/* Destroys it, whose lock is held; NULL is fine. */
void machine_end(struct vm *vm);

uint64_t machine_counter(struct vm *vm);
/* The guest does not count on: sweep_fail. The device lock is given up meanwhile. */
void machine_must_go_on(struct vm *vm);

#endif
