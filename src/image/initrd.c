/* SPDX-License-Identifier: MIT */
/*
 * Composes the built-in initrd. Called by the CLI before a cold boot; any one thread.
 */
#include "image/initrd.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "base/fd.h"
#include "base/util.h"
#include "image/busybox.h"
#include "image/cpio.h"
#include "image/modules.h"
#include "image/proc.h"
#include "image/tree.h"

#define INITRD_MAX MIB(256)
#define VERSION_BUF 65

/* What every guest needs; it is an error if the kernel has one of these neither way. */
static const char *const needed[] = {
	"virtio_pci", "virtio_blk", "virtio_rng", "vmw_vsock_virtio_transport", "overlay",
};

/*
 * What is used when the kernel has it: for network and balloon no module tree is needed in the
 * guest; with tcp_diag the agent ends a fork's inherited connections, and it is not to be looked
 * for while one waits; af_packet is for DHCP clients; vmgenid tells it that it was forked; button
 * and evdev carry the power button. virtiofs is as large as all of these, and left to who shares a
 * directory (initrd_cfg.wanted).
 */
static const char *const useful[] = {
	"virtio_net", "af_packet", "tcp_diag", "virtio_balloon",
	"vmgenid",    "button",	   "evdev",    "rtc_cmos",
};

static const char *const fstypes[] = { "ext4", "xfs", "btrfs" };

int guest_program_path(const char *name, char *buf, size_t n, struct err *e)
{
	const char *env = getenv("CLONE_LIBDIR");
	char exe[PATH_MAX], tried[5][PATH_MAX];
	ssize_t len = readlink("/proc/self/exe", exe, sizeof(exe) - 1);
	size_t count = 0;

	exe[MAX(len, 0)] = '\0';
	dirname(exe);
	if (env && *env) {
		snprintf(tried[count++], PATH_MAX, "%s", env);
	} else {
		snprintf(tried[count++], PATH_MAX, "%s", exe);
		/* build/VARIANT/clone and build/VARIANT/tests/X: build/guest */
		snprintf(tried[count++], PATH_MAX, "%.4000s/../guest", exe);
		snprintf(tried[count++], PATH_MAX, "%.4000s/../../guest", exe);
		/* as installed, wherever that is now */
		snprintf(tried[count++], PATH_MAX, "%.4000s/../lib/clone", exe);
		snprintf(tried[count++], PATH_MAX, "%s/lib/clone", CLONE_PREFIX);
	}
	for (size_t i = 0; i < count; i++) {
		int r = tree_path(buf, n, e, "%s/%s", tried[i], name);

		if (r)
			return r;
		if (!access(buf, R_OK))
			return 0;
	}
	return err_set(e, ENOENT, "%s not found in %.200s%s", name, env && *env ? env : exe,
		       env && *env ? " ($CLONE_LIBDIR)"
				   : ", ../guest and ../lib/clone of it, or " CLONE_PREFIX
				     "/lib/clone (make guest builds it; $CLONE_LIBDIR overrides)");
}

static bool is_index(const char *dir)
{
	char path[PATH_MAX];

	return !tree_path(path, sizeof(path), NULL, "%s/modules.dep", dir) && !access(path, F_OK);
}

/* The modules directory of `version`: as the user says, beside the kernel, or the host's own. */
static int find_modules(const struct initrd_cfg *cfg, const char *version, char *buf, size_t n,
			struct err *e)
{
	char copy[PATH_MAX];
	const char *kdir;
	int r = tree_path(copy, sizeof(copy), e, "%s", cfg->kernel);

	if (r)
		return r;
	kdir = dirname(copy);
	if (cfg->modules_dir) {
		r = tree_path(buf, n, e, "%s/lib/modules/%s", cfg->modules_dir, version);
		if (r || is_index(buf))
			return r;
		r = tree_path(buf, n, e, "%s", cfg->modules_dir);
		if (r || is_index(buf))
			return r;
		return err_set(e, ENOENT,
			       "no modules of kernel %s: there is no modules.dep in %s nor "
			       "in its lib/modules/%s (depmod writes it)",
			       version, cfg->modules_dir, version);
	}
	for (int i = 0; i < 5; i++) {
		static const char *const mid[] = { "/lib/modules/", "/modules/lib/modules/",
						   "/modules/", "/../lib/modules/",
						   "/lib/modules/" };

		r = tree_path(buf, n, e, "%s%s%s", i < 4 ? kdir : "", mid[i], version);
		if (r || is_index(buf))
			return r;
	}
	return err_set(
		e, ENOENT,
		"no modules of kernel %s: looked for lib/modules/%s and modules/%s beside it in "
		"%.150s, in ../lib/modules, and for /lib/modules/%s",
		version, version, version, kdir, version);
}

static int add_wanted(const struct initrd_cfg *cfg, struct module_list *l, struct err *e)
{
	const char *fs = cfg->root_fstype ? cfg->root_fstype : "ext4";
	bool known = false;
	int r = 0;

	for (size_t i = 0; i < ARRAY_SIZE(fstypes); i++)
		known |= !strcmp(fs, fstypes[i]);
	if (!known)
		return err_set(e, EINVAL, "root file system '%.20s': must be ext4, xfs or btrfs",
			       fs);
	for (size_t i = 0; !r && i < ARRAY_SIZE(needed); i++)
		r = module_list_add(l, needed[i], e);
	if (!r)
		r = module_list_add(l, fs, e);
	for (size_t i = 0; !r && i < ARRAY_SIZE(useful); i++)
		if (modules_has(l->of, useful[i]))
			r = module_list_add(l, useful[i], e);
	for (size_t i = 0; !r && cfg->wanted && cfg->wanted[i]; i++)
		r = module_list_add(l, cfg->wanted[i], e);
	return r;
}

static int put_modules(struct cpio *c, const struct module_list *l, struct err *e)
{
	struct wbuf ko, list;
	int r = 0;

	wbuf_init(&ko, MODULE_MAX_BYTES);
	wbuf_init(&list, MIB(1));
	for (size_t i = 0; !r && i < l->count; i++) {
		char name[80], path[128];

		if (!module_name(l->path[i], name, sizeof(name)))
			continue; /* cannot be: the index was made of such names */
		snprintf(path, sizeof(path), "modules/%03zu-%s.ko", i, name);
		ko.len = 0;
		r = module_read(modules_dir(l->of), l->path[i], &ko, e);
		if (!r)
			r = cpio_file(c, path, 0600, ko.data, ko.len, e);
		wbuf_bytes(&list, path + strlen("modules/"), strlen(path) - strlen("modules/"));
		wbuf_u8(&list, '\n');
	}
	if (!r && list.bad)
		r = err_set(e, ENOMEM, "modules/list: out of memory");
	if (!r)
		r = cpio_file(c, "modules/list", 0600, list.data, list.len, e);
	wbuf_fini(&ko);
	wbuf_fini(&list);
	return r;
}

static int put_dhcp(struct cpio *c, struct err *e)
{
	static const char *const dirs[] = { BUSYBOX_DHCP_DIR, "usr", "usr/share",
					    BUSYBOX_DHCP_LINK_DIR };
	int r = 0;

	for (size_t i = 0; !r && i < ARRAY_SIZE(dirs); i++)
		r = cpio_dir(c, dirs[i], 0755, e);
	if (!r)
		r = cpio_file(c, BUSYBOX_DHCP_PATH, 0755, busybox_dhcp, strlen(busybox_dhcp), e);
	return r ? r : cpio_link(c, BUSYBOX_DHCP_LINK, "/" BUSYBOX_DHCP_PATH, e);
}

/* Busybox under the name of each of its applets, for a guest without a disk. */
static int put_busybox(struct cpio *c, const char *busybox, struct err *e)
{
	static const char passwd[] = "root:x:0:0:root:/root:/bin/sh\n", group[] = "root:x:0:\n";
	const char *const argv[] = { busybox, "--list", NULL };
	cleanup_free char *out = NULL;
	char path[128], *rest, *applet;
	int r = proc_capture(argv, &out, e);

	if (r)
		return err_wrap(e, r, "busybox");
	if ((r = cpio_dir(c, "bin", 0755, e)) || (r = cpio_dir(c, "etc", 0755, e)) ||
	    (r = cpio_dir(c, "root", 0700, e)) || (r = cpio_dir(c, "tmp", 01777, e)) ||
	    (r = cpio_file(c, "etc/passwd", 0644, passwd, sizeof(passwd) - 1, e)) ||
	    (r = cpio_file(c, "etc/group", 0644, group, sizeof(group) - 1, e)) ||
	    (r = cpio_add(c, "bin/busybox", 0755, busybox, e)) || (r = put_dhcp(c, e)))
		return r;
	rest = out;
	while (!r && (applet = strsep(&rest, "\n"))) {
		if (!*applet || strchr(applet, '/') || !strcmp(applet, "busybox"))
			continue;
		snprintf(path, sizeof(path), "bin/%s", applet);
		r = cpio_link(c, path, "busybox", e);
	}
	return r;
}

static int put_skeleton(struct cpio *c, struct err *e)
{
	static const char *const dirs[] = { "dev", "proc", "sys", "run", "sysroot", "modules" };
	int r = 0;

	for (size_t i = 0; !r && i < ARRAY_SIZE(dirs); i++)
		r = cpio_dir(c, dirs[i], 0755, e);
	/* PID 1 gets its stdin, stdout and stderr from here, before it mounts anything. */
	if (!r)
		r = cpio_chardev(c, "dev/console", 0600, 5, 1, e);
	return r;
}

static int put_program(struct cpio *c, const char *path, const char *name, const char *given,
		       struct err *e)
{
	char buf[PATH_MAX];
	int r;

	if (given)
		return cpio_add(c, path, 0755, given, e);
	r = guest_program_path(name, buf, sizeof(buf), e);
	return r ? r : cpio_add(c, path, 0755, buf, e);
}

static int put_all(const struct initrd_cfg *cfg, const char *version, struct cpio *c, struct err *e)
{
	struct modules *m = NULL;
	struct module_list l = { 0 };
	char dir[PATH_MAX];
	int r = 0;

	if (!cfg->no_modules) {
		r = find_modules(cfg, version, dir, sizeof(dir), e);
		if (!r)
			r = modules_open(dir, &m, e);
		if (r)
			return r;
		module_list_init(&l, m);
		r = add_wanted(cfg, &l, e);
	}
	if (!r && !(r = put_skeleton(c, e)) &&
	    !(r = put_program(c, "init", "clone-init", cfg->init, e)) &&
	    !(r = put_program(c, "clone-agent", "clone-agent", cfg->agent, e)) && cfg->busybox)
		r = put_busybox(c, cfg->busybox, e);
	if (!r)
		r = put_modules(c, &l, e);
	if (!r)
		r = cpio_end(c, e);
	module_list_fini(&l);
	modules_close(m);
	return r;
}

static int seal(const struct cpio *c, int *memfd_out, struct err *e)
{
	cleanup_close int fd = memfd_create("clone-initrd", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	int r;

	if (fd < 0)
		return err_sys(e, errno, "memfd for the initrd");
	r = fd_write_full(fd, c->out.data, c->out.len);
	if (r)
		return err_sys(e, -r, "write the initrd");
	if (lseek(fd, 0, SEEK_SET) ||
	    fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL))
		return err_sys(e, errno, "seal the initrd");
	*memfd_out = take_fd(&fd);
	return 0;
}

int initrd_compose(const struct initrd_cfg *cfg, int *memfd_out, struct err *e)
{
	cleanup_close int kernel = open(cfg->kernel, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	char version[VERSION_BUF];
	struct cpio c;
	int r;

	if (kernel < 0)
		return err_sys(e, errno, "kernel %s", cfg->kernel);
	r = kernel_version(kernel, version, sizeof(version), e);
	if (r)
		return err_wrap(e, r, "kernel %s", cfg->kernel);
	cpio_init(&c, INITRD_MAX);
	r = put_all(cfg, version, &c, e);
	if (!r)
		r = seal(&c, memfd_out, e);
	cpio_fini(&c);
	return r ? err_wrap(e, r, "initrd") : 0;
}
