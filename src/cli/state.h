/* SPDX-License-Identifier: MIT */
/*
 * The directories of running things, and the truth about who is alive. In RUN (image/rundir.h):
 *     lock              held while directories come or go
 *     vms/NAME/         one VM:
 *         lock          write-locked (fcntl, open file description) by the VM process for life
 *         creator       write-locked by whoever is making the VM, until it is made; or as long as
 *                       its owner lives ("owned" in vm.json): `fork --rm -- COMMAND` and the like
 *         vm.json       what it is; a directory without one is half made
 *         api.sock fd.sock console.sock vsock.sock   console.log vmm.log   exit.json
 *         group         of one with a memory quota: names its cgroup (cli/group.h); killed.json
 *     seeds/TEMPLATE/   the same for a template's seed
 *     seeds/TEMPLATE.start, .use   who may start the seed; who is forking from the template
 *     uids/N            a symbolic link to the name of the VM that runs under uid N
 *     verified/NAME     what was last found to be intact (src/template)
 *     networks/         who has which address (src/network)
 *     ksm/              which trust domain has KSM (cli/ksm.h)
 *
 * A process is alive when its lock is taken: the kernel drops it at any death, so no pid is ever
 * trusted. A VM's directory belongs to root and only its group may pass through it, so a VM process
 * that was taken over can neither change nor add a file there.
 */
#ifndef CLONE_CLI_STATE_H
#define CLONE_CLI_STATE_H

#include <jansson.h>
#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "image/rundir.h"

#define UID_FIRST 0x40000000u
#define UID_COUNT 0x20000000u

enum place { PLACE_VM, PLACE_SEED };

struct vmdir {
	enum place place;
	char name[65];
	int fd;		   /* the directory */
	int lock_fd;	   /* vmdir_create only: hand it to the VM process, then close it */
	int creator_fd;	   /* vmdir_create only */
	uint32_t uid, gid; /* 0, 0 when VMs do not get their own; live forks share their parent's */
};

/*
 * Makes a directory with lock and uid; -EEXIST when the name is taken (by a dead VM too). Not
 * yet a VM: until vmdir_publish any death of ours makes it somebody's leftover. share_uid: that of
 * another VM to run under (a live fork cannot change it); 0: one of its own.
 */
int vmdir_create(enum place place, const char *name, uint32_t share_uid, struct vmdir *d,
		 struct err *e);
/* Writes vm.json and lets go of creator_fd and lock_fd; of creator_fd not if info says "owned":
 * such a VM lives as long as somebody holds that. */
int vmdir_publish(struct vmdir *d, const json_t *info, struct err *e);
/* Another vm.json, in one step; the caller keeps others from doing the same (flock of fd). */
int vmdir_rewrite(const struct vmdir *d, const json_t *info, struct err *e);
/* An existing one. -ENOENT with "no VM is called ..." */
int vmdir_open(enum place place, const char *name, struct vmdir *d, struct err *e);
void vmdir_close(struct vmdir *d); /* fds only */
void vmdir_init(struct vmdir *d);  /* so that vmdir_close is harmless */

bool vmdir_alive(const struct vmdir *d);
/* Waits until it is not. timeout_ms 0: forever. -ETIMEDOUT, -EINTR (cancel_fd). */
int vmdir_wait_end(const struct vmdir *d, uint64_t timeout_ms, int cancel_fd, struct err *e);
/* vm.json and exit.json: the caller's reference. -ENOENT for half-made, or still running. */
int vmdir_info(const struct vmdir *d, json_t **info, struct err *e);
int vmdir_exit(const struct vmdir *d, json_t **record, struct err *e);
/* Removes the directory and frees the uid. -EBUSY while it is alive, or what is in its group does
 * not end; a group that cannot be removed for another reason is left, which stderr is told. */
int vmdir_remove(struct vmdir *d, struct err *e);

/*
 * Names of all there are in an array of strings (free each and the array). Half-made leftovers and
 * dead VMs that wanted it (--rm) are removed on the way, as are uids without a VM.
 */
int vmdir_list(enum place place, char ***names, size_t *n, struct err *e);
void vmdir_list_free(char **names, size_t n);
/* The sweep alone; errors are nobody's concern. */
void state_sweep(void);

#endif
