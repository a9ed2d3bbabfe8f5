/* SPDX-License-Identifier: MIT */
/*
 * What a kernel's modules directory says: which modules there are, which are built in, what each
 * needs and in what order that has to be loaded. Reads the text files depmod writes (modules.dep,
 * modules.builtin, modules.softdep, modules.alias); they may come with an image and are taken as
 * hostile. Used by initrd.c. One thread per struct.
 */
#ifndef CLONE_IMAGE_MODULES_H
#define CLONE_IMAGE_MODULES_H

#include <stdbool.h>
#include <stddef.h>

#include "base/buf.h"
#include "base/err.h"
#include "base/util.h"

#define MODULE_MAX_BYTES MIB(64) /* of one module, compressed or not */

struct modules;

/*
 * Reads the index in dir (".../lib/modules/VERSION"). -ENOENT when modules.dep is missing, -EBADMSG
 * with file and line when a file makes no sense.
 */
int modules_open(const char *dir, struct modules **out, struct err *e);
void modules_close(struct modules *m);

/* The directory it was opened from; valid until modules_close. */
const char *modules_dir(const struct modules *m);

/* Paths of modules relative to the directory, in load order, each once; the paths belong to m. */
struct module_list {
	const char **path;
	size_t count;
	struct modules *of;
	unsigned lookups; /* of aliases so far */
};

void module_list_init(struct module_list *l, struct modules *m);
void module_list_fini(struct module_list *l);

/*
 * Appends the module `name` (- and _ are the same) and before it what it needs, as far as not in
 * the list yet. Soft dependencies are followed where they can be found. Nothing is appended for a
 * module that is built in. -ENOENT when it is neither there nor built in, -ELOOP when modules need
 * each other in a circle, -EBADMSG when one needs a module that is not there. After an error the
 * list is good for module_list_fini only.
 */
int module_list_add(struct module_list *l, const char *name, struct err *e);

/* true when `name` is a module of its own or built in. */
bool modules_has(const struct modules *m, const char *name);

/*
 * The bare name of a module's path: without directory and .ko and whatever follows, - turned into
 * _. false when it is no module's path or longer than n.
 */
bool module_name(const char *path, char *buf, size_t n);

/*
 * Appends the ELF object of the module at dir/path to out, decompressed if its name ends in .xz,
 * .zst or .gz. -EBADMSG when it is damaged, no ELF file, or larger than MODULE_MAX_BYTES.
 */
int module_read(const char *dir, const char *path, struct wbuf *out, struct err *e);

#endif
