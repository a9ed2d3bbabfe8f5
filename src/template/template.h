/* SPDX-License-Identifier: MIT */
/*
 * The stores of templates and snapshots: machines stopped at a good moment, immutable, under a
 * name. Both are made of the same files; a template is what forks begin from, a snapshot what one
 * machine is restored from. Called by the privileged side (CLI, later the host daemon). Everything
 * blocks; any one thread; several processes may use the stores at once.
 *
 * STATE/templates and STATE/snapshots (see image_state_dir) hold for each:
 *     NAME/manifest.json   what it is and the digest of every file (manifest.c)
 *     NAME/digest          the SHA-256 of manifest.json
 *     NAME/state           registers and devices (src/snapshot)
 *     NAME/ram             sparse guest memory
 *     NAME/layer-ID        what the machine had written to the disk ID
 *     .new-NAME/           being made (flocked), or what a killed maker left (not locked)
 *
 * One may stand on another, its parent, in either store: its RAM file holds only what differs. The
 * manifest has the digest of the parent's manifest, so a chain is what it was or is refused.
 * STATE/.stores is locked, shared, while something with a parent is published, and exclusively
 * while something is removed, which is refused as long as anything stands on it.
 */
#ifndef CLONE_TEMPLATE_TEMPLATE_H
#define CLONE_TEMPLATE_TEMPLATE_H

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "template/digest.h"

#define TEMPLATE_VERSION 3
#define TEMPLATE_NAME_MAX 64
#define TEMPLATE_DISKS 8
#define TEMPLATE_NICS 4
#define TEMPLATE_FILES (2 + TEMPLATE_DISKS)
#define TEMPLATE_BASES 64 /* files that all its disks stand on */
#define TEMPLATE_STATE 0  /* index into files */
#define TEMPLATE_RAM 1
#define TEMPLATE_CHAIN_MAX 16 /* from the flat one to the newest */

struct template_file {
	char name[48]; /* "state", "ram", "layer-ID" */
	uint64_t size_bytes;
	char sha256[DIGEST_HEX + 1]; /* digest_sparse */
};

/* A file that a template's disk stands on, which lies outside the store. */
struct template_base {
	char path[PATH_MAX]; /* absolute */
	bool qcow2;
	/* as it was; another inode or time makes us compare the digest */
	uint64_t bytes, dev, ino, mtime_ns;
	char sha256[DIGEST_HEX + 1]; /* digest_plain */
};

struct template_disk {
	char id[32];
	bool read_only;
	size_t base, nbases; /* in the template's bases: the topmost first */
	int layer;	     /* index into files; -1 for a read-only disk */
};

struct template_nic {
	char id[32];
	char network[TEMPLATE_NAME_MAX + 1]; /* by name: what that is, each host says; "": none */
	unsigned int queues;
};

enum store { STORE_TEMPLATES, STORE_SNAPSHOTS };
/* "template", "snapshot" */
const char *store_word(enum store s);

struct template_parent {
	enum store store;
	char name[TEMPLATE_NAME_MAX + 1]; /* "": none */
	char sha256[DIGEST_HEX + 1];	  /* of its manifest */
};

struct template
{
	char name[TEMPLATE_NAME_MAX + 1];
	struct template_parent parent;
	/* the VM that it was made of, if that lived on: name and vm.json's "created" */
	char vm[TEMPLATE_NAME_MAX + 1], vm_created[32];
	char created[32], clone_version[32], image[65], cpu[128];
	uint64_t mem_bytes;
	unsigned int vcpus;
	bool agent;			 /* the guest has one, and a fork can wait for it */
	char ksm[TEMPLATE_NAME_MAX + 1]; /* trust domain that its forks merge pages in; "": none */
	struct template_disk disks[TEMPLATE_DISKS];
	size_t ndisks;
	struct template_nic nics[TEMPLATE_NICS];
	size_t nnics;
	struct template_base bases[TEMPLATE_BASES]; /* each disk's follow each other */
	size_t nbases;
	struct template_file files[TEMPLATE_FILES];
	size_t nfiles;
	/* not stored */
	enum store store;
	char dir[PATH_MAX];
	char sha256[DIGEST_HEX + 1]; /* of the manifest */
};

/* The store's directory, made when missing. */
int template_dir(enum store where, char *buf, size_t n, struct err *e);

/*
 * Reads and checks manifest and digest, sizes of the files, and that the bases are what they were.
 * -ENOENT: none of that name; -EBADMSG: damaged or tampered with (says what); -EPROTONOSUPPORT: of
 * another version.
 */
int template_open(enum store where, const char *name, struct template *t, struct err *e);
/*
 * t and all that it stands on, the flat one first, t itself (a copy) last: *n of them, to be freed.
 * -EBADMSG when one is missing or is not the one that was meant; -E2BIG: more than
 * TEMPLATE_CHAIN_MAX.
 */
int template_chain(const struct template *t, struct template **chain, size_t *n, struct err *e);
/* Before any work for something that is to stand on it: -E2BIG when its chain is the longest there
 * may be; else as template_chain. */
int template_check_base(const struct template *base, struct err *e);
/* Its name still means it: whatever was opened of it before belongs together. -EBADMSG: not so. */
int template_unchanged(const struct template *t, struct err *e);
/* A file of an opened template, for reading. The fd, or -errno. */
int template_file_open(const struct template *t, size_t index, struct err *e);

/*
 * Before use: digests of all files. The RAM file's is computed once per boot of the host:
 * verified_dir (a directory that does not outlive the boot; -1: none) remembers which inode was
 * found good.
 */
int template_check(const struct template *t, int verified_dir, struct err *e);
/* Reads everything again, bases too, and believes no memory of an earlier check. */
int template_verify(const struct template *t, struct err *e);

/* Names, sorted; free each and the array. Removes what killed makers left. */
int template_list(enum store where, char ***names, size_t *n, struct err *e);
/* Works on a damaged one too. -EBUSY names what stands on it. Who may still run on its files is the
 * caller's to know. */
int template_rm(enum store where, const char *name, struct err *e);
/* What it takes on the disk, holes not counted. */
uint64_t template_used_bytes(const struct template *t);

/* ---- making one ---- */

struct template_stage {
	enum store store;
	int dir; /* .new-NAME, flocked */
	int parent;
	char over[DIGEST_HEX + 1]; /* of what it takes the place of; "": of nothing */
	char name[TEMPLATE_NAME_MAX + 1];
};

/* -EEXIST when the name is taken, -EBUSY when it is being made right now. */
int template_stage_begin(enum store where, const char *name, struct template_stage *s,
			 struct err *e);
/* For one that is to take the place of `old` in one step. When published: -EBUSY while something
 * stands on that, -EBADMSG when it went or is another one by then. */
int template_stage_begin_over(const struct template *old, struct template_stage *s, struct err *e);
/* A new file in it, open for reading and writing. */
int template_stage_file(struct template_stage *s, const char *name, struct err *e);
/* A file of another template or snapshot, which both have then. */
int template_stage_link(struct template_stage *s, const struct template *t, size_t index,
			struct err *e);
/*
 * Computes sizes and digests of t's files and identities of its bases (their base_sha256 is the
 * caller's to give, or computed when empty), writes the manifest, syncs everything and makes the
 * name appear at once; -EBADMSG when its parent is gone meanwhile. On failure the stage is still
 * the caller's to abort.
 */
int template_stage_publish(struct template_stage *s, struct template *t, struct err *e);
/* Removes what is staged; accepts one that was published or never begun (dir -1). */
void template_stage_end(struct template_stage *s);

#endif
