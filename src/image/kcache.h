/* SPDX-License-Identifier: MIT */
/*
 * Kernels out of Debian's packages, downloaded once and shared by all images: CACHE/kernels/PACKAGE
 * _VERSION/{vmlinuz,lib/modules/V}, with CACHE $CLONE_CACHE_DIR, else /var/cache/clone for root and
 * $XDG_CACHE_HOME/clone (~/.cache) for others. Nothing is installed on the host. Used by the
 * builds; any one thread, any number of processes.
 */
#ifndef CLONE_IMAGE_KCACHE_H
#define CLONE_IMAGE_KCACHE_H

#include <limits.h>

#include "base/err.h"

struct kernel {
	char dir[PATH_MAX]; /* holds lib/modules/VERSION with its index */
	char vmlinuz[PATH_MAX];
	char version[65];
};

struct kcache_cfg {
	const char *package;	       /* what names the kernel: "linux-image-cloud-amd64" */
	const char *release, *sources; /* the lines of debsrc.h */
	int log, keep_fd;	       /* as in proc.h */
	void (*line)(void *arg, const char *text);
	void *arg;
};

/*
 * Finds the kernel that the package depends on, downloads it if the cache has none or was not asked
 * for a day, and says where it is. Without network an older one in the cache will do. Waits for
 * another process doing the same.
 */
int kcache_get(const struct kcache_cfg *cfg, struct kernel *k, struct err *e);

#endif
