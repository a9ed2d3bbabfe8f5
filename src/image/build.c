/* SPDX-License-Identifier: MIT */
/*
 * The common part of the image builds. Called by build_debian.c and build_busybox.c; any one
 * thread.
 */
#include "image/build.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/util.h"
#include "image/debsrc.h"
#include "image/initrd.h"
#include "image/proc.h"
#include "image/tree.h"

#define DEFAULT_RELEASE "bookworm"
#define SIZE_MIN MIB(8)
#define SIZE_MAX_BYTES (GIB(1) * 16384) /* of ext4 with 4 KiB blocks */

static void report(struct build *b, const char *line)
{
	if (b->cfg->progress)
		b->cfg->progress(b->cfg->progress_arg, b->phase, b->percent, line);
}

void build_phase(struct build *b, const char *phase, int from, int to)
{
	b->phase = phase;
	b->percent = MAX(b->percent, from);
	b->phase_end = to;
	report(b, "");
}

void build_line(void *arg, const char *text)
{
	struct build *b = arg;

	report(b, text);
}

int build_run(struct build *b, const char *const *argv, struct err *e)
{
	const struct proc p = {
		.argv = argv,
		.log = b->stage.log,
		.keep_fd = b->stage.lock,
		.line = build_line,
		.arg = b,
	};

	return proc_run(&p, e);
}

/* The kernel's files become part of the image; the cache keeps its names for them. */
static int take_kernel(struct build *b, struct err *e)
{
	const struct kcache_cfg kc = {
		.package = b->cfg->kernel == IMAGE_KERNEL_FULL ? "linux-image-amd64"
							       : "linux-image-cloud-amd64",
		.release = b->release,
		.sources = b->sources,
		.log = b->stage.log,
		.keep_fd = b->stage.lock,
		.line = build_line,
		.arg = b,
	};
	char from[PATH_MAX], to[PATH_MAX];
	int r = kcache_get(&kc, &b->kernel, e);

	if (r)
		return r;
	snprintf(b->img.kernel_version, sizeof(b->img.kernel_version), "%s", b->kernel.version);
	if ((r = tree_path(to, sizeof(to), e, "%s/vmlinuz", b->stage.image)) ||
	    (r = tree_clone(b->kernel.vmlinuz, to, true, e)) ||
	    (r = tree_path(from, sizeof(from), e, "%s/lib", b->kernel.dir)) ||
	    (r = tree_path(to, sizeof(to), e, "%s/modules", b->stage.image)) ||
	    (r = tree_mkdirs(to, 0755, e)) ||
	    (r = tree_path(to, sizeof(to), e, "%s/modules/lib", b->stage.image)))
		return r;
	return tree_clone(from, to, true, e);
}

static int check_cfg(const struct image_build_cfg *cfg, struct err *e)
{
	if (cfg->size_bytes && (cfg->size_bytes < SIZE_MIN || cfg->size_bytes > SIZE_MAX_BYTES ||
				cfg->size_bytes % 4096))
		return err_set(e, EINVAL,
			       "a disk of %llu bytes: must be a multiple of 4096 from 8 MiB "
			       "to 16 TiB",
			       (unsigned long long)cfg->size_bytes);
	return proc_have("mke2fs", "e2fsprogs", e);
}

int build_begin(struct build *b, const struct image_build_cfg *cfg, const char *distribution,
		struct err *e)
{
	int r;

	*b = (struct build){ .cfg = cfg, .stage = { .lock = -1, .log = -1 } };
	b->release = cfg->release ? cfg->release : DEFAULT_RELEASE;
	snprintf(b->img.distribution, sizeof(b->img.distribution), "%s", distribution);
	/*
	 * noatime: reading a file must not make a fork's disk diverge. cryptomgr.notests: the
	 * kernel tests each of its ciphers on every boot, which is a third of the instructions of
	 * all of it.
	 */
	snprintf(b->img.cmdline, sizeof(b->img.cmdline),
		 "console=ttyS0 root=/dev/vda "
		 "rootfstype=ext4 rootflags=noatime rw quiet panic=-1 cryptomgr.notests");
	snprintf(b->img.root_device, sizeof(b->img.root_device), "/dev/vda");
	snprintf(b->img.root_fstype, sizeof(b->img.root_fstype), "ext4");
	snprintf(b->img.init, sizeof(b->img.init), "/sbin/init");
	if ((r = check_cfg(cfg, e)) ||
	    (r = debsrc_lines(b->release, cfg->mirror, "/etc/apt", &b->sources, e)))
		return r;
	snprintf(b->img.release, sizeof(b->img.release), "%s", b->release);
	r = stage_begin(cfg->name, &b->stage, e);
	if (r)
		return r;
	build_phase(b, "kernel", 0, 15);
	return take_kernel(b, e);
}

int build_end(struct build *b, int ret, struct err *e)
{
	if (!ret) {
		build_phase(b, "publish", 92, 99);
		ret = stage_publish(&b->stage, &b->img, e);
	}
	if (ret)
		err_wrap(e, ret, "build image %s", b->cfg->name);
	ret = stage_end(&b->stage, ret, e);
	free(b->sources);
	b->sources = NULL;
	if (!ret)
		build_phase(b, "done", 100, 100);
	return ret;
}

int build_mkfs(struct build *b, const char *dir, uint64_t default_size, bool journal, struct err *e)
{
	uint64_t size = b->cfg->size_bytes ? b->cfg->size_bytes : default_size;
	char file[PATH_MAX], kib[32];
	/* The file is new, so it reads as zeros: no inode table has to be written, now or at boot.
	 */
	const char *const argv[] = {
		"mke2fs",
		"-q",
		"-t",
		"ext4",
		"-b",
		"4096",
		"-m",
		"1",
		"-L",
		"clone-root",
		"-E",
		"assume_storage_prezeroed=1",
		"-d",
		dir,
		journal ? "-J" : "-O",
		journal ? "size=16" : "^has_journal",
		file,
		kib,
		NULL,
	};
	int r = tree_path(file, sizeof(file), e, "%s/rootfs.ext4", b->stage.image);

	snprintf(kib, sizeof(kib), "%lluk", (unsigned long long)(size >> 10));
	if (!r)
		r = build_run(b, argv, e);
	return r ? err_wrap(e, r, "file system of %llu MiB", (unsigned long long)(size >> 20)) : 0;
}

int build_put_agent(const struct build *b, const char *root, struct err *e)
{
	char agent[PATH_MAX], to[PATH_MAX];
	int r;

	if (b->cfg->agent)
		r = tree_path(agent, sizeof(agent), e, "%s", b->cfg->agent);
	else
		r = guest_program_path("clone-agent", agent, sizeof(agent), e);
	if (!r)
		r = tree_path(to, sizeof(to), e, "%s/usr/lib/clone", root);
	if (!r)
		r = tree_mkdirs(to, 0755, e);
	if (!r)
		r = tree_path(to, sizeof(to), e, "%s/usr/lib/clone/clone-agent", root);
	return r ? r : tree_copy_file(agent, to, 0755, e);
}
