/* SPDX-License-Identifier: MIT */
/*
 * Turns a freshly installed Debian into a guest: what a virtual machine without firmware, screen
 * and rotating disks does not need is masked, because every unit costs start-up time, and what is
 * left running costs each fork memory. All of it is configuration in /etc that a user can undo with
 * systemctl. Called by build_debian.c; any one thread.
 */
#include <errno.h>
#include <limits.h>
#include <string.h>

#include "base/util.h"
#include "image/build.h"
#include "image/tree.h"

/* systemctl unmask brings any of them back. */
static const char *const masked[] = {
	/* maintenance of long-lived machines */
	"apt-daily.timer",
	"apt-daily-upgrade.timer",
	"dpkg-db-backup.timer",
	"e2scrub_all.timer",
	"e2scrub_reap.service",
	"fstrim.timer",
	"systemd-tmpfiles-clean.timer",
	/* done at build time, or kept by nobody after the machine is gone */
	"systemd-hwdb-update.service",
	"systemd-firstboot.service",
	"systemd-pstore.service",
	"systemd-update-utmp.service",
	"systemd-update-utmp-runlevel.service",
	"systemd-journal-flush.service",
	"systemd-random-seed.service",
	/* clone-init has mounted the root; there is one disk, not encrypted, not from a network */
	"systemd-remount-fs.service",
	"systemd-repart.service",
	"cryptsetup.target",
	"integritysetup.target",
	"veritysetup.target",
	"remote-fs.target",
	"remote-cryptsetup.target",
	"systemd-networkd-wait-online.service",
	/* no screen, no TPM, no System V tools, nobody to ask for a password */
	"getty@tty1.service",
	"getty-static.service",
	"systemd-pcrphase.service",
	"systemd-pcrphase-sysinit.service",
	"systemd-initctl.socket",
	"systemd-ask-password-wall.path",
	"systemd-ask-password-console.path",
	"systemd-journald-audit.socket",
	/* mounted by those who want them */
	"proc-sys-fs-binfmt_misc.automount",
	"systemd-binfmt.service",
	"sys-kernel-debug.mount",
	"sys-kernel-tracing.mount",
	"sys-kernel-config.mount",
	"sys-fs-fuse-connections.mount",
	"dev-hugepages.mount",
	"dev-mqueue.mount",
	/* only for logind's seats */
	"modprobe@drm.service",
	/* replaced: by static-nodes below; by not making /run/nologin */
	"kmod-static-nodes.service",
	"systemd-user-sessions.service",
};

static const char *const masked_generators[] = {
	"systemd-bless-boot-generator",
	"systemd-cryptsetup-generator",
	"systemd-debug-generator",
	"systemd-gpt-auto-generator",
	"systemd-hibernate-resume-generator",
	"systemd-integritysetup-generator",
	"systemd-rc-local-generator",
	"systemd-run-generator",
	"systemd-system-update-generator",
	"systemd-veritysetup-generator",
};

#define UNITS "etc/systemd/system/"

/* Rules for hardware that nobody plugs into a virtual machine: each is read on every boot. */
static const char *const masked_rules[] = {
	"60-cdrom_id",	     "60-fido-id", "60-persistent-alsa", "60-persistent-storage-tape",
	"60-persistent-v4l", "60-sensor",  "70-camera",		 "70-joystick",
	"70-memory",	     "70-mouse",   "70-touchpad",	 "75-probe_mtd",
	"78-sound-card",     "85-hwclock", "96-e2scrub",
};

struct text_file {
	const char *path, *text;
};

struct link {
	const char *path, *target;
};

static const struct text_file files[] = {
	{ "etc/hostname", "clone\n" },
	{ "etc/hosts", "127.0.0.1\tlocalhost\n127.0.1.1\tclone\n"
		       "::1\tlocalhost ip6-localhost ip6-loopback\n" },
	{ "etc/resolv.conf", "" },
	{ "etc/fstab", "# The root file system is mounted by clone-init.\n" },
	/* Empty, not absent: systemd makes up an id, but does not take this for a first boot. */
	{ "etc/machine-id", "" },
};

static const struct text_file systemd_files[] = {
	/* Root needs no password on the console, and has none that would work elsewhere. */
	{ UNITS "serial-getty@.service.d/clone.conf",
	  "[Service]\nExecStart=\nExecStart=-/sbin/agetty -o '-p -f -- \\\\u' --autologin root "
	  "--noclear --keep-baud 115200,57600,38400,9600 - $TERM\n" },
	/*
	 * Devices that were there before udev: those that lead to a driver or a file system. A full
	 * trigger spends most of the boot on terminals and processors. What is plugged in later is
	 * seen as ever.
	 */
	{ UNITS "systemd-udev-trigger.service.d/clone.conf",
	  "[Service]\nExecStart=\nExecStart=-udevadm trigger --action=add --subsystem-match=pci "
	  "--subsystem-match=virtio --subsystem-match=block --subsystem-match=net "
	  "--subsystem-match=input --subsystem-match=rtc\n"
	  "ExecStart=-udevadm trigger --action=add --subsystem-match=tty --sysname-match=ttyS0 "
	  "--sysname-match=hvc0\n" },
	{ "etc/systemd/journald.conf.d/clone.conf",
	  "[Journal]\nStorage=volatile\nRuntimeMaxUse=16M\nAudit=no\nForwardToSyslog=no\n" },
	{ "etc/systemd/logind.conf.d/clone.conf", "[Login]\nNAutoVTs=0\nReserveVT=0\n" },
	{ "etc/tmpfiles.d/static-nodes.conf",
	  "c! /dev/fuse 0666 root root - 10:229\nd /dev/net 0755 root root\n"
	  "c! /dev/net/tun 0666 root root - 10:200\nc! /dev/loop-control 0660 root disk - "
	  "10:237\n" },
};

static const struct link systemd_links[] = {
	{ UNITS "default.target", "/lib/systemd/system/multi-user.target" },
	{ "etc/tmpfiles.d/systemd-nologin.conf", "/dev/null" },
};

/* Debian's inittab without terminals that are not there, with the console. */
static const struct text_file openrc_files[] = {
	{ "etc/inittab", "id:2:initdefault:\n"
			 "si::sysinit:/etc/init.d/rcS\n"
			 "~~:S:wait:/sbin/sulogin --force\n"
			 "l0:0:wait:/etc/init.d/rc 0\n"
			 "l1:1:wait:/etc/init.d/rc 1\n"
			 "l2:2:wait:/etc/init.d/rc 2\n"
			 "l3:3:wait:/etc/init.d/rc 3\n"
			 "l4:4:wait:/etc/init.d/rc 4\n"
			 "l5:5:wait:/etc/init.d/rc 5\n"
			 "l6:6:wait:/etc/init.d/rc 6\n"
			 "ca:12345:ctrlaltdel:/sbin/shutdown -t1 -a -r now\n"
			 "S0:2345:respawn:/sbin/agetty -o '-p -f -- \\u' --autologin root "
			 "--noclear --keep-baud 115200,57600,38400,9600 ttyS0 linux\n" },
};

static const struct text_file runit_files[] = {
	{ "etc/sv/getty-ttyS0/run",
	  "#!/bin/sh\nexec /sbin/agetty -o '-p -f -- \\u' --autologin root --noclear "
	  "--keep-baud 115200,57600,38400,9600 ttyS0 linux\n" },
};

/* Terminals that are not there, in runit's words. */
static const char *const runit_removed[] = {
	"etc/runit/runsvdir/default/getty-tty1",  "etc/runit/runsvdir/default/getty-tty2",
	"etc/runit/runsvdir/default/getty-tty3",  "etc/runit/runsvdir/default/getty-tty4",
	"etc/runit/runsvdir/default/getty-tty5",  "etc/runit/runsvdir/default/getty-tty6",
	"etc/runit/runsvdir/default/getty-ttyv0",
};

static const char *const removed[] = {
	"usr/lib/udev/hwdb.bin",
	"usr/lib/udev/hwdb.d",
	"etc/modules-load.d/modules.conf",
	"var/lib/dbus/machine-id",
	"boot",
};

static const char *const systemd_removed[] = {
	"var/log/journal",
	UNITS "getty.target.wants",
	UNITS "multi-user.target.wants/e2scrub_reap.service",
	UNITS "multi-user.target.wants/remote-fs.target",
	UNITS "sysinit.target.wants/systemd-pstore.service",
	UNITS "timers.target.wants/apt-daily.timer",
	UNITS "timers.target.wants/apt-daily-upgrade.timer",
	UNITS "timers.target.wants/dpkg-db-backup.timer",
	UNITS "timers.target.wants/e2scrub_all.timer",
	UNITS "timers.target.wants/fstrim.timer",
};

/* Links PREFIX NAME SUFFIX to /dev/null for each name: the way both systemd and udev mask. */
static int mask_all(const char *root, const char *prefix, const char *const *names, size_t count,
		    const char *suffix, struct err *e)
{
	char path[PATH_MAX];
	int r = 0;

	for (size_t i = 0; !r && i < count; i++) {
		r = tree_path(path, sizeof(path), e, "%s%s%s", prefix, names[i], suffix);
		if (!r)
			r = tree_symlink(root, path, "/dev/null", e);
	}
	return r;
}

static int write_all(const char *root, const struct text_file *f, size_t count, mode_t mode,
		     struct err *e)
{
	int r = 0;

	for (size_t i = 0; !r && i < count; i++)
		r = tree_write(root, f[i].path, mode, f[i].text, strlen(f[i].text), e);
	return r;
}

static int remove_all(const char *root, const char *const *names, size_t count, struct err *e)
{
	char path[PATH_MAX];
	int r = 0;

	for (size_t i = 0; !r && i < count; i++) {
		r = tree_path(path, sizeof(path), e, "%s/%s", root, names[i]);
		if (!r)
			r = tree_remove(path, e);
	}
	return r;
}

static int configure_systemd(const char *root, struct err *e)
{
	int r = remove_all(root, systemd_removed, ARRAY_SIZE(systemd_removed), e);

	if (!r)
		r = write_all(root, systemd_files, ARRAY_SIZE(systemd_files), 0644, e);
	for (size_t i = 0; !r && i < ARRAY_SIZE(systemd_links); i++)
		r = tree_symlink(root, systemd_links[i].path, systemd_links[i].target, e);
	if (!r)
		r = mask_all(root, UNITS, masked, ARRAY_SIZE(masked), "", e);
	if (!r)
		r = mask_all(root, "etc/systemd/system-generators/", masked_generators,
			     ARRAY_SIZE(masked_generators), "", e);
	return r;
}

static int configure_init(const char *root, enum image_init init, struct err *e)
{
	int r;

	switch (init) {
	case IMAGE_INIT_SYSTEMD:
		return configure_systemd(root, e);
	case IMAGE_INIT_OPENRC:
		return write_all(root, openrc_files, ARRAY_SIZE(openrc_files), 0644, e);
	case IMAGE_INIT_RUNIT:
		r = remove_all(root, runit_removed, ARRAY_SIZE(runit_removed), e);
		return r ? r : write_all(root, runit_files, ARRAY_SIZE(runit_files), 0755, e);
	}
	return err_set(e, EINVAL, "init system %d", (int)init);
}

int guest_debian_configure(const char *root, enum image_init init, struct err *e)
{
	char path[PATH_MAX];
	int r = remove_all(root, removed, ARRAY_SIZE(removed), e);

	if (!r)
		r = write_all(root, files, ARRAY_SIZE(files), 0644, e);
	if (!r)
		r = configure_init(root, init, e);
	if (!r)
		r = mask_all(root, "etc/udev/rules.d/", masked_rules, ARRAY_SIZE(masked_rules),
			     ".rules", e);
	if (!r)
		r = guest_identity_configure(root, init, e);
	/* The mount point stays: whatever looks for it finds an empty directory. */
	if (!r)
		r = tree_path(path, sizeof(path), e, "%s/boot", root);
	return r ? r : tree_mkdirs(path, 0755, e);
}
