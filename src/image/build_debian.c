/* SPDX-License-Identifier: MIT */
/*
 * A Debian image: mmdebstrap makes a tar archive of the installed system, which is unpacked, turned
 * into a guest (guest_debian.c) and made a file system by mke2fs, without a loop device or a mount.
 * Called by the CLI; any one thread.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/util.h"
#include "image/build.h"
#include "image/image.h"
#include "image/proc.h"
#include "image/tree.h"
#include "image/userns.h"

#define DEBIAN_SIZE GIB(2)
#define MERGED_USR_HOOKS "/usr/share/mmdebstrap/hooks/maybe-merged-usr"

/* Enough for a machine to log in to and to install more into. */
#define PACKAGES "usr-is-merged,iproute2,procps,kmod"

/* Where udev is a daemon like others it is left out: the kernel makes the nodes that a guest needs.
 */
static const char *const init_packages[] = {
	[IMAGE_INIT_SYSTEMD] = "systemd-sysv,dbus,udev",
	[IMAGE_INIT_OPENRC] = "sysvinit-core,openrc,initscripts",
	[IMAGE_INIT_RUNIT] = "runit-init,getty-run",
};

/* mmdebstrap's lines that begin a step, and how far its work has come then (percent of it). */
static const struct {
	const char *begins;
	int percent;
} steps[] = {
	{ "I: running apt-get update", 3 }, { "I: downloading packages", 8 },
	{ "I: extracting archives", 12 },   { "I: installing essential", 20 },
	{ "I: installing remaining", 50 },  { "I: cleaning package", 92 },
	{ "I: creating tarball", 95 },
};

static void mmdebstrap_line(void *arg, const char *text)
{
	struct build *b = arg;

	for (size_t i = 0; i < ARRAY_SIZE(steps); i++)
		if (!strncmp(text, steps[i].begins, strlen(steps[i].begins)))
			b->percent =
				MAX(b->percent, 15 + steps[i].percent * (b->phase_end - 15) / 100);
	/* Each package is unpacked and set up; the plain system has about 130. */
	if ((!strncmp(text, "Unpacking ", 10) || !strncmp(text, "Setting up ", 11)) &&
	    ++b->packages_done % 6 == 0 && b->percent < b->phase_end - 4)
		b->percent++;
	build_line(b, text);
}

static int include_option(const struct build *b, char **out, struct err *e)
{
	const char *const *p = b->cfg->packages;
	char *s, *more;

	if (asprintf(&s, "--include=" PACKAGES ",%s", init_packages[b->cfg->init]) < 0)
		s = NULL;
	for (; s && p && *p; p++) {
		if (!**p || strlen(*p) > 100 ||
		    strspn(*p, "abcdefghijklmnopqrstuvwxyz0123456789+.-:") != strlen(*p) ||
		    !((*p)[0] >= '0' && ((*p)[0] <= '9' || (*p)[0] >= 'a'))) {
			free(s);
			return err_set(e, EINVAL, "'%.60s' cannot be the name of a package", *p);
		}
		if (asprintf(&more, "%s,%s", s, *p) < 0)
			more = NULL;
		free(s);
		s = more;
	}
	*out = s;
	return s ? 0 : err_sys(e, ENOMEM, "list of packages");
}

/* Installs into STAGE/debian.tar. */
static int install(struct build *b, const char *tar, struct err *e)
{
	cleanup_free char *include = NULL;
	char list[PATH_MAX], tmpdir[PATH_MAX + 8];
	bool hooks = !access(MERGED_USR_HOOKS, R_OK);
	const char *const argv[] = {
		"mmdebstrap",
		"--verbose",
		geteuid() ? "--mode=unshare" : "--mode=root",
		"--format=tar",
		"--variant=minbase",
		"--architectures=amd64",
		"--aptopt=Acquire::Languages \"none\"",
		"--aptopt=APT::Install-Recommends \"false\"",
		"--dpkgopt=force-unsafe-io",
		"--dpkgopt=path-exclude=/usr/share/man/*",
		"--dpkgopt=path-exclude=/usr/share/info/*",
		"--dpkgopt=path-exclude=/usr/share/locale/*",
		"--dpkgopt=path-exclude=/usr/share/doc/*",
		"--dpkgopt=path-include=/usr/share/doc/*/copyright",
		"--dpkgopt=path-exclude=*/lib/udev/hwdb.d/*",
		NULL /* include */,
		hooks ? "--hook-dir=" MERGED_USR_HOOKS : "--verbose",
		b->release,
		tar,
		list,
		NULL,
	};
	const char *args[ARRAY_SIZE(argv)];
	/*
	 * In the stage, what a killed mmdebstrap leaves is removed with it. Other users cannot
	 * get there, so without root it is /tmp.
	 */
	const char *const env[] = { tmpdir, NULL };
	const struct proc p = {
		.argv = args,
		.env = geteuid() ? NULL : env,
		.log = b->stage.log,
		.keep_fd = b->stage.lock,
		.line = mmdebstrap_line,
		.arg = b,
		.own_mounts = !geteuid(),
	};
	int r = include_option(b, &include, e);

	if (!r)
		r = tree_path(list, sizeof(list), e, "%s/sources.list", b->stage.dir);
	if (!r)
		r = tree_write(b->stage.dir, "sources.list", 0644, b->sources, strlen(b->sources),
			       e);
	if (r)
		return r;
	snprintf(tmpdir, sizeof(tmpdir), "TMPDIR=%s", b->stage.dir);
	memcpy(args, argv, sizeof(argv));
	for (size_t i = 0; i < ARRAY_SIZE(args) - 1; i++)
		if (!args[i])
			args[i] = include;
	return proc_run(&p, e);
}

struct rootfs {
	struct build *b;
	const char *tar;
};

/* /etc and /var are as new as /usr: systemd need not bring them up to date on each boot. */
static int mark_updated(const char *root, struct err *e)
{
	static const char *const where[] = { "etc", "var" };
	char path[PATH_MAX];
	struct stat st;
	int r = tree_path(path, sizeof(path), e, "%s/usr", root);

	if (r)
		return r;
	if (stat(path, &st))
		return err_sys(e, errno, "%s", path);
	for (size_t i = 0; !r && i < ARRAY_SIZE(where); i++) {
		const struct timespec ts[] = { st.st_mtim, st.st_mtim };

		r = tree_path(path, sizeof(path), e, "%s/.updated", where[i]);
		if (!r)
			r = tree_write(root, path, 0644, "", 0, e);
		if (!r)
			r = tree_path(path, sizeof(path), e, "%s/%s/.updated", root, where[i]);
		if (!r && utimensat(AT_FDCWD, path, ts, 0))
			r = err_sys(e, errno, "%s", path);
	}
	return r;
}

/* As root, or root of a user namespace: the archive becomes rootfs.ext4. */
static int make_rootfs(void *arg, struct err *e)
{
	const struct rootfs *fs = arg;
	char root[PATH_MAX], from[PATH_MAX], to[PATH_MAX];
	const char *const untar[] = {
		"tar",
		"-x",
		"-f",
		fs->tar,
		"-C",
		root,
		"--numeric-owner",
		"--xattrs",
		"--xattrs-include=*",
		"--exclude=./dev/*",
		NULL,
	};
	int r;

	if ((r = tree_path(root, sizeof(root), e, "%s/root", fs->b->stage.dir)) ||
	    (r = tree_mkdirs(root, 0755, e)) || (r = build_run(fs->b, untar, e)) ||
	    (r = guest_debian_configure(root, fs->b->cfg->init, e)) ||
	    (r = build_put_agent(fs->b, root, e)) ||
	    (r = tree_path(from, sizeof(from), e, "%s/lib/modules", fs->b->kernel.dir)) ||
	    (r = tree_path(to, sizeof(to), e, "%s/usr/lib/modules", root)) ||
	    (r = tree_remove(to, e)) || (r = tree_clone(from, to, true, e)) ||
	    (r = mark_updated(root, e)) || (r = build_mkfs(fs->b, root, DEBIAN_SIZE, true, e)))
		return r;
	return tree_remove(root, e);
}

int image_build_debian(const struct image_build_cfg *cfg, struct err *e)
{
	char tar[PATH_MAX];
	struct build b;
	struct rootfs fs = { .b = &b, .tar = tar };
	int r = proc_have("mmdebstrap", "mmdebstrap", e);

	if (!r && geteuid())
		r = proc_have("newuidmap", "uidmap", e);
	if (r)
		return r;
	r = build_begin(&b, cfg, "debian", e);
	if (!r)
		r = tree_path(tar, sizeof(tar), e, "%s/debian.tar", b.stage.dir);
	if (!r) {
		build_phase(&b, "packages", 15, 80);
		r = install(&b, tar, e);
	}
	if (!r) {
		build_phase(&b, "file system", 80, 92);
		r = userns_call(true, make_rootfs, &fs, e);
	}
	return build_end(&b, r, e);
}
