/* SPDX-License-Identifier: MIT */
/*
 * Starting VM processes: the privileged side of `clone vm FD` (vm/vm.h) and the requests that
 * configure a VM. Whatever fails leaves nothing behind. One thread.
 */
#ifndef CLONE_CLI_LAUNCH_H
#define CLONE_CLI_LAUNCH_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"
#include "cli/diskfiles.h"
#include "cli/state.h"
#include "control/client.h"

#define LAUNCH_MS 30000 /* for a step that no guest can delay */

struct vmproc {
	struct vmdir dir;
	pid_t pid; /* our child; 0 when it is not */
	int pidfd;
	int fdsock;
	struct client *api;
	int cancel_fd; /* the caller's; -1: none */
};

/* A VM process, jailed and listening, not yet a VM. Seeds linger for linger_ms after their last
 * fork. */
int vmproc_start(enum place place, const char *name, uint32_t linger_ms, int cancel_fd,
		 struct vmproc *p, struct err *e);
/* A VM that runs already: -EINVAL when it has ended. */
int vmproc_attach(const char *name, int cancel_fd, struct vmproc *p, struct err *e);
/* Kills it, waits for it, removes its directory; accepts a half-made or finished one. */
void vmproc_abort(struct vmproc *p);
/* Closes our descriptors; the VM lives on. */
void vmproc_close(struct vmproc *p);
/* client_request, with the reason of the VM's end in e when it ended meanwhile. */
int vmproc_request(struct vmproc *p, const char *method, const char *path, json_t *body,
		   uint64_t timeout_ms, json_t **reply, struct err *e);
/* "poweroff", "panic: ..." from its exit record, or that it was killed; cli_clean. */
void vmdir_end_text(const struct vmdir *d, char *buf, size_t n);

#define LAUNCH_DISKS 8
struct nics; /* cli/nics.h */
struct nic_options;
struct nic_ports;

struct launch_disk {
	char id[32];
	const char *path;
	const char *serial;	  /* NULL: none */
	const char *backing_dir;  /* as for disk_files_open */
	uint64_t bandwidth, iops; /* a second, at most; 0: no limit */
	uint64_t quota;		  /* of the overlay, bytes; 0: no limit */
	bool qcow2, read_only, persistent, direct, root;
};

struct launch_vm {
	const char *kernel; /* path */
	const char *initrd; /* path; NULL: none, unless initrd_fd */
	int initrd_fd;	    /* -1: none; stays the caller's */
	const char *cmdline;
	struct launch_disk disks[LAUNCH_DISKS];
	struct disk_files files[LAUNCH_DISKS]; /* of each, from launch_boot on */
	size_t ndisks;
	uint64_t bays; /* empty, behind the disks */
	bool no_balloon;
	/* places on networks, the caller's; NULL: no NICs */
	const struct nics *nics;
	const struct nic_ports *ports;
	const struct nic_options *nic_options;
	uint64_t mem_bytes;
	unsigned int vcpus;
};

/*
 * Adds what the option --disk says:
 * FILE,format=raw|qcow2[,readonly|persistent[,direct]][,serial=TEXT][,backing=DIR][,bandwidth=SIZE][,iops=N][,quota=SIZE].
 * The format must be said: a guest can write a header of its choice into a raw disk. Cuts spec,
 * which must outlive vm; errors begin with word. -EINVAL.
 */
int launch_disk_option(struct launch_vm *vm, const char *word, char *spec, struct err *e);
/* --bays N. -EINVAL. */
int launch_bays_option(uint64_t *bays, const char *text, struct err *e);
/* Grants a disk's opened files, and what takes its writes, and asks for it: PUT, or PATCH of a bay.
 */
int launch_put_disk(struct vmproc *p, const char *method, const struct launch_disk *d,
		    struct disk_files *f, struct err *e);
/* Opens what it names, grants it, configures and starts the VM. */
int launch_boot(struct vmproc *p, struct launch_vm *vm, struct err *e);
/* Closes the disks' files. */
void launch_vm_fini(struct launch_vm *vm);
/* Waits for the agent's answer. */
int launch_wait_agent(struct vmproc *p, uint64_t timeout_ms, struct err *e);

/* An empty file without a name in this folder of the state directory, which dies with its last
 * user. Where the file system cannot make one: one in memory if that will do, else one that has
 * lost its name. The fd, or -errno. */
int launch_unnamed(const char *folder, bool memory_will_do, struct err *e);
/* The same for what a VM writes to a disk. */
int launch_overlay(struct err *e);
/* The same file (which stays the caller's), read-only. */
int launch_overlay_reader(int overlay, struct err *e);
/* Both, fresh, granted as PREFIX"disk/ID/data" and -ro. */
int launch_grant_overlay(int fdsock, const char *prefix, const char *id, struct err *e);
int launch_kvm(struct err *e);

/* The listening sockets and files of a VM's directory; also a fork's child's ("child/NAME/...").
 * "log" is the stderr of a new process; a child gets it like the others. */
#define HOST_FDS 7
struct host_fds {
	int fd[HOST_FDS];
};
extern const char *const host_fd_names[HOST_FDS];
int host_fds_open(const struct vmdir *d, struct host_fds *h, struct err *e);
void host_fds_close(struct host_fds *h);

#endif
