/* SPDX-License-Identifier: MIT */
/*
 * Inside of the image store: staging and publishing (store.c), the manifest (manifest.c). Used by
 * the builds; everybody else uses image.h.
 */
#ifndef CLONE_IMAGE_STORE_H
#define CLONE_IMAGE_STORE_H

#include "image/image.h"

#define STORE_BUILD_PREFIX ".build-"
#define STORE_RM_PREFIX ".rm-"

/* 0, or -EINVAL with the rule in the story. */
int image_check_name(const char *name, struct err *e);

/* The images directory; it need not exist. */
int store_dir(char *buf, size_t n, struct err *e);

/* Opens (creates) and locks `path`; when not to wait, -EWOULDBLOCK if another process has it. */
int store_lock_file(const char *path, bool wait, int *out, struct err *e);

/* Waits for the lock on the store's entries; close *out to unlock. */
int store_lock(const char *store, int *out, struct err *e);

/* With the store locked: removes what killed builds and removals left. Failures are logged only. */
void store_sweep(const char *store);

/* A build under way. Its directory and all in it disappears in stage_end, or by the next command.
 */
struct stage {
	char store[PATH_MAX]; /* .../images */
	char dir[PATH_MAX];   /* .../images/.build-NAME */
	char image[PATH_MAX]; /* .../images/.build-NAME/image: what will be published */
	char name[IMAGE_NAME_MAX + 1];
	int lock; /* held: the build lives */
	int log;  /* everything the programs said */
};

/* -EEXIST when the name is taken, -EBUSY when somebody builds it now. */
int stage_begin(const char *name, struct stage *s, struct err *e);

/*
 * Hashes the parts, writes the manifest from img (whose descriptive fields the build has set),
 * syncs and gives the image its name. The stage still has to be ended.
 */
int stage_publish(struct stage *s, struct image *img, struct err *e);

/*
 * Removes what is left of the stage. ret is the build's result: if it failed the log is kept and
 * its path put behind the story. Returns ret.
 */
int stage_end(struct stage *s, int ret, struct err *e);

/* Reads STORE/NAME/image.json into img and checks the parts against it. */
int manifest_read(const char *store, const char *name, struct image *img, struct err *e);

/* Writes DIR/image.json. */
int manifest_write(const char *dir, const struct image *img, struct err *e);

/* Sets the paths of the parts of the image in img->dir. */
int image_set_paths(struct image *img, const char *store, const char *name, struct err *e);

#endif
