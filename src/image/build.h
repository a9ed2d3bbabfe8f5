/* SPDX-License-Identifier: MIT */
/*
 * What the builds share: progress, the kernel and its modules in the stage, the file system made of
 * a directory. Inside of src/image; any one thread.
 */
#ifndef CLONE_IMAGE_BUILD_H
#define CLONE_IMAGE_BUILD_H

#include "image/image.h"
#include "image/kcache.h"
#include "image/store.h"

struct build {
	const struct image_build_cfg *cfg;
	const char *release; /* cfg->release or the default */
	char *sources;	     /* lines of a sources.list */
	struct stage stage;
	struct kernel kernel;
	struct image img; /* what the manifest will say */
	const char *phase;
	int percent, phase_end; /* of the phase: output moves percent towards it */
	unsigned packages_done; /* twice per package */
};

/*
 * Checks what every build needs, claims the name and gets the kernel: its vmlinuz and modules are
 * in the stage then. b must be ended whatever this returned.
 */
int build_begin(struct build *b, const struct image_build_cfg *cfg, const char *distribution,
		struct err *e);

/* Publishes if ret is 0, cleans up, and returns the result of it all with the name in front. */
int build_end(struct build *b, int ret, struct err *e);

/* A new phase, which will take the build from `from` to `to` percent. */
void build_phase(struct build *b, const char *phase, int from, int to);

/* A line of output in the current phase; fits proc.line, arg is the build. */
void build_line(void *b, const char *text);

/* Runs argv with its output in the log and the progress. */
int build_run(struct build *b, const char *const *argv, struct err *e);

/* Makes STAGE/image/rootfs.ext4 of what is in dir; journal: with one. */
int build_mkfs(struct build *b, const char *dir, uint64_t default_size, bool journal,
	       struct err *e);

/* Puts clone-agent into the tree at root, as /usr/lib/clone/clone-agent. */
int build_put_agent(const struct build *b, const char *root, struct err *e);

/* Makes the fresh Debian tree at root a guest that boots fast and forks well (guest_debian.c). */
int guest_debian_configure(const char *root, enum image_init init, struct err *e);

/* Its part that is about identity after a fork (guest_identity.c). */
int guest_identity_configure(const char *root, enum image_init init, struct err *e);

#endif
