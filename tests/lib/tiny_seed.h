/* SPDX-License-Identifier: MIT */
/*
 * A seed without a template: real VM processes, with every device and the whole jail, around a
 * snapshot of a guest of a few instructions (tiny_kernel.h). For tests and benchmarks, which are
 * their own VM process: main() calls vm_process_main for `vm FD`. Directories are made under
 * $CLONE_RUN_DIR. One thread.
 */
#ifndef CLONE_TESTS_TINY_SEED_H
#define CLONE_TESTS_TINY_SEED_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "base/err.h"
#include "cli/forkreq.h"
#include "cli/launch.h"

#define TINY_MS 300000 /* for any one request: parking waits for the disk */

/*
 * A guest with a block for a seed to make huge (descriptor as tiny_kernel.h): fills it with one
 * word, then counts as tiny_kernel_counter does and looks at a word of the block's next page each
 * time. It halts at a wrong one: no progress.
 */
#define TINY_BLOCK_BYTES (2u << 20)
#define TINY_BLOCK_PAGES (TINY_BLOCK_BYTES / 4096)
int tiny_kernel_filler(void);

/* Files without a name; base is that of the guest's one disk, "root". */
struct tiny_snapshot {
	int state, ram, layer, base;
};

/* Boots the kernel (its descriptor stays the caller's), saves the VM once it counts, and ends it.
 * The files are made in dir. -errno. */
int tiny_snapshot_make(const char *dir, int kernel, struct tiny_snapshot *s, struct err *e);
void tiny_snapshot_close(struct tiny_snapshot *s);

/* The files alone, empty. */
int tiny_files_make(const char *dir, struct tiny_snapshot *s, struct err *e);
/* A VM of that kernel with a disk over base (both stay the caller's), until it counts. On failure
 * nothing is left; else vmproc_abort. */
int tiny_vm_boot(const char *name, int kernel, int base, struct vmproc *p, struct err *e);
/* What PUT /snapshot/create is to say; base: what a Diff differs from, the flat one first. */
struct tiny_save {
	const struct tiny_snapshot *to, *base;
	size_t nr_base;
	bool compress, wait;
	long max_growth_bytes;
};
int tiny_vm_save(struct vmproc *p, const struct tiny_save *s, struct err *e);
/* A VM out of a chain, paused. On failure nothing is left; else vmproc_abort. */
int tiny_vm_restore(const char *name, const struct tiny_snapshot *chain, size_t n, struct vmproc *p,
		    struct err *e);
/* A chain into the files `to`, by a process of its own. */
int tiny_flatten(const struct tiny_snapshot *chain, size_t n, const struct tiny_snapshot *to,
		 bool compress, struct err *e);

struct tiny_seed {
	struct vmproc proc;
	json_t *info; /* what its children's vm.json begin with */
	bool live;    /* it is no seed, but a running VM */
};

/* tiny_vm_boot's, to be forked and ended as a seed is. */
int tiny_vm_start(const char *name, int kernel, int base, struct tiny_seed *vm, struct err *e);

/* A VM process that may be loaded. tiny_seed_end also takes one that failed or was killed. */
int tiny_seed_open(const char *name, struct tiny_seed *seed, struct err *e);
/* Makes it a seed of s: "spares" and "huge_pages" as in doc/control.md. */
int tiny_seed_load(struct tiny_seed *seed, const struct tiny_snapshot *s, unsigned int spares,
		   bool huge_pages, struct err *e);
/* Both; on failure nothing is left. */
int tiny_seed_start(const char *name, const struct tiny_snapshot *s, unsigned int spares,
		    bool huge_pages, struct tiny_seed *seed, struct err *e);
/* Kills it and waits for it; its children live on. */
void tiny_seed_end(struct tiny_seed *seed);

/* Forks n children named c[i].name in one request. 0 when all of them live; their clocks are the
 * caller's. */
int tiny_seed_fork(const struct tiny_seed *seed, struct fork_child_info *c, size_t n,
		   struct err *e);

/* GET of a VM's API by the VM's name: the reply is the caller's. */
int tiny_vm_get(const char *name, const char *path, json_t **reply, struct err *e);

/* A process's children that have not ended (zombies have), the first max of them: how many. */
size_t tiny_children(pid_t pid, pid_t *v, size_t max);

#endif
