/* SPDX-License-Identifier: MIT */
/*
 * The initrd composer: what is in it and in which order, where modules are looked for, which
 * version a kernel image says it is; kernels and directories that make no sense.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/util.h"
#include "image/initrd.h"
#include "tests/lib/scratch.h"

#define VERSION "6.1.0-test"

/* A file with a bzImage's header: set-up sectors, magic, and the version string at `at`+0x200. */
static void write_bzimage(const char *dir, const char *name, unsigned at, const char *version)
{
	uint8_t k[8192] = { 0 };

	k[0x1f1] = 4;
	memcpy(k + 0x202, "HdrS", 4);
	k[0x20e] = (uint8_t)at;
	k[0x20f] = (uint8_t)(at >> 8);
	if (at + 0x200 + strlen(version) + 1 < sizeof(k))
		memcpy(k + 0x200 + at, version, strlen(version) + 1);
	scratch_write(dir, name, k, sizeof(k));
}

static const char *const modules[] = { "virtio",     "virtio_pci", "virtio_blk",
				       "virtio-rng", "vsock",	   "vmw_vsock_virtio_transport",
				       "overlay",    "evdev",	   "extra",
				       "virtio_net", "inet_diag",  "tcp_diag",
				       "af_packet" };

static void write_modules(const char *dir, const char *builtin)
{
	char text[4096] = "", path[200];
	uint8_t elf[128] = "\177ELF";
	size_t used = 0;

	for (size_t i = 0; i < ARRAY_SIZE(modules); i++) {
		bool diag = !strcmp(modules[i], "tcp_diag"),
		     base = !strcmp(modules[i], "virtio") || !strcmp(modules[i], "vsock") ||
			    !strcmp(modules[i], "inet_diag") || !strcmp(modules[i], "af_packet");

		used += (size_t)snprintf(text + used, sizeof(text) - used, "kernel/%s.ko:%s\n",
					 modules[i],
					 diag	? " kernel/inet_diag.ko"
					 : base ? ""
						: " kernel/virtio.ko");
		snprintf(path, sizeof(path), "lib/modules/" VERSION "/kernel/%s.ko", modules[i]);
		elf[64] = (uint8_t)i;
		scratch_write(dir, path, elf, sizeof(elf));
	}
	scratch_text(dir, "lib/modules/" VERSION "/modules.dep", text);
	scratch_text(dir, "lib/modules/" VERSION "/modules.builtin", builtin);
}

static char *setup(struct initrd_cfg *cfg)
{
	char *dir = scratch_make();

	write_bzimage(dir, "vmlinuz", 0x400, VERSION " (x@y) #1 SMP");
	write_modules(dir, "kernel/fs/ext4/ext4.ko\n");
	scratch_text(dir, "the-init", "init!");
	scratch_text(dir, "the-agent", "agent!");
	*cfg = (struct initrd_cfg){ .kernel = strdup(scratch_path(dir, "vmlinuz")),
				    .init = strdup(scratch_path(dir, "the-init")),
				    .agent = strdup(scratch_path(dir, "the-agent")) };
	return dir;
}

static void cleanup(char *dir, struct initrd_cfg *cfg)
{
	free((char *)(uintptr_t)cfg->kernel);
	free((char *)(uintptr_t)cfg->init);
	free((char *)(uintptr_t)cfg->agent);
	scratch_remove(dir);
}

/* Composes and unpacks into dir/out. */
static void compose(const char *dir, const struct initrd_cfg *cfg)
{
	struct stat st;
	struct err e;
	uint8_t *data;
	int fd = -1;

	if (initrd_compose(cfg, &fd, &e))
		fail_msg("%s", e.msg);
	assert_int_equal(fstat(fd, &st), 0);
	data = malloc((size_t)st.st_size);
	assert_non_null(data);
	assert_int_equal(fd_pread_full(fd, data, (size_t)st.st_size, 0), 0);
	scratch_write(dir, "initrd", data, (size_t)st.st_size);
	free(data);
	assert_int_equal(write(fd, "x", 1), -1); /* sealed */
	close(fd);
	free(scratch_sh("rm -rf %s/out && mkdir %s/out && cd %s/out && cpio -i --quiet < ../initrd",
			dir, dir, dir));
}

static void expect_out(const char *dir, const char *cmd, const char *want)
{
	char *out = scratch_sh("cd %s/out && %s", dir, cmd);

	assert_string_equal(out, want);
	free(out);
}

static void test_initrd__holds_programs_and_modules_in_load_order(void **state)
{
	struct initrd_cfg cfg;
	char *dir = setup(&cfg);

	(void)state;
	compose(dir, &cfg);
	expect_out(dir, "cat init clone-agent", "init!agent!");
	expect_out(dir, "stat -c %a init clone-agent", "755\n755\n");
	expect_out(dir, "cat modules/list",
		   "000-virtio.ko\n001-virtio_pci.ko\n002-virtio_blk.ko\n003-virtio_rng.ko\n"
		   "004-vmw_vsock_virtio_transport.ko\n005-overlay.ko\n006-virtio_net.ko\n"
		   "007-af_packet.ko\n008-inet_diag.ko\n009-tcp_diag.ko\n010-evdev.ko\n");
	expect_out(dir, "ls modules | wc -l", "12\n");
	expect_out(dir,
		   "cmp modules/003-virtio_rng.ko "
		   "../lib/modules/" VERSION "/kernel/virtio-rng.ko && echo same",
		   "same\n");
	expect_out(dir, "ls -d dev proc sys run sysroot | wc -l", "5\n");
	expect_out(dir, "stat -c '%F %t %T' dev/console", "character special file 5 1\n");
	cleanup(dir, &cfg);
}

static void test_initrd__wanted_modules_are_added(void **state)
{
	static const char *const wanted[] = { "extra", NULL }, *const absent[] = { "absent", NULL };
	struct initrd_cfg cfg;
	char *dir = setup(&cfg);
	struct err e;
	int fd;

	(void)state;
	cfg.wanted = wanted;
	compose(dir, &cfg);
	expect_out(dir, "tail -1 modules/list", "011-extra.ko\n");
	cfg.wanted = absent;
	assert_int_equal(initrd_compose(&cfg, &fd, &e), -ENOENT);
	assert_non_null(strstr(e.msg, "absent"));
	assert_non_null(strstr(e.msg, "/lib/modules/" VERSION));
	cleanup(dir, &cfg);
}

/* In the guest's own root, with a NIC and nobody behind it. */
static char *with_nic(const char *dir, const char *cmd)
{
	return scratch_sh("unshare -n sh -c 'ip link add eth0 type veth peer name p0 && "
			  "ip link set p0 up && chroot %s/out /bin/sh -c \"$0\"' '%s'",
			  dir, cmd);
}

static void expect_nic(const char *dir, const char *cmd, const char *want)
{
	char *out = with_nic(dir, cmd);

	assert_string_equal(out, want);
	free(out);
}

static void test_initrd__busybox_can_ask_for_an_address(void **state)
{
	static const char offer[] =
		"export interface=eth0 ip=10.1.0.7 mask=24 router=\"10.1.0.1 10.1.0.2\" "
		"dns=\"10.1.0.1 1.1.1.1\" domain=a.example; S=/etc/udhcpc/default.script; ";
	struct initrd_cfg cfg;
	char *dir = setup(&cfg), cmd[1024];

	(void)state;
	cfg.busybox = "/bin/busybox";
	compose(dir, &cfg);
	/* udhcpc finds the script, and nobody answers. */
	expect_nic(dir,
		   "udhcpc -i eth0 -n -q -f -t 1 -T 1 2>&1 | grep -c default.script; "
		   "ip link show up dev eth0 | grep -c eth0",
		   "0\n1\n");
	snprintf(cmd, sizeof(cmd), "%s%s", offer,
		 "ip addr add 10.9.9.9/24 dev eth0 && $S deconfig && $S bound && $S renew && "
		 "ip -o -4 addr show dev eth0 | tr -s \" \" | cut -d \" \" -f 4 && "
		 "ip route | tr -s \" \" && cat /etc/resolv.conf");
	expect_nic(dir, cmd,
		   "10.1.0.7/24\ndefault via 10.1.0.1 dev eth0 \n"
		   "10.1.0.0/24 dev eth0 scope link src 10.1.0.7 \n"
		   "search a.example\nnameserver 10.1.0.1\nnameserver 1.1.1.1\n");
	/* A router beyond the network, as where each guest has an address and nothing else. */
	snprintf(cmd, sizeof(cmd), "%s%s", offer,
		 "mask=32; $S deconfig && $S bound && ip route | tr -s \" \"");
	expect_nic(dir, cmd, "default via 10.1.0.1 dev eth0 \n10.1.0.1 dev eth0 scope link \n");
	expect_out(dir, "stat -L -c %a etc/udhcpc/default.script", "755\n");
	expect_out(dir, "readlink usr/share/udhcpc/default.script", "/etc/udhcpc/default.script\n");
	cleanup(dir, &cfg);
}

static void test_initrd__missing_root_file_system_is_named(void **state)
{
	struct initrd_cfg cfg;
	char *dir = setup(&cfg);
	struct err e;
	int fd;

	(void)state;
	cfg.root_fstype = "btrfs";
	assert_int_equal(initrd_compose(&cfg, &fd, &e), -ENOENT);
	assert_non_null(strstr(e.msg, "btrfs"));
	cfg.root_fstype = "ntfs";
	assert_int_equal(initrd_compose(&cfg, &fd, &e), -EINVAL);
	cleanup(dir, &cfg);
}

static void test_initrd__modules_are_found_where_promised(void **state)
{
	static const char *const places[] = { "modules/lib/modules/" VERSION, "modules/" VERSION };
	struct initrd_cfg cfg;
	char *dir = setup(&cfg);
	struct err e;
	int fd;

	(void)state;
	free(scratch_sh("mv %s/lib/modules/" VERSION " %s/tree", dir, dir));
	assert_int_equal(initrd_compose(&cfg, &fd, &e), -ENOENT);
	assert_non_null(strstr(e.msg, VERSION));
	assert_non_null(strstr(e.msg, dir));
	for (size_t i = 0; i < ARRAY_SIZE(places); i++) {
		free(scratch_sh("cd %s && mkdir -p $(dirname %s) && cp -r tree %s", dir, places[i],
				places[i]));
		compose(dir, &cfg);
		free(scratch_sh("rm -r %s/modules", dir));
	}
	cfg.modules_dir = scratch_path(dir, "tree");
	compose(dir, &cfg);
	cfg.modules_dir = scratch_path(dir, "nowhere");
	assert_int_equal(initrd_compose(&cfg, &fd, &e), -ENOENT);
	assert_non_null(strstr(e.msg, "nowhere"));
	cfg.modules_dir = NULL;
	cfg.no_modules = true;
	compose(dir, &cfg);
	expect_out(dir, "cat modules/list | wc -c", "0\n");
	cleanup(dir, &cfg);
}

static void test_initrd__missing_kernel_or_program_is_named(void **state)
{
	struct initrd_cfg cfg;
	char *dir = setup(&cfg);
	const char *keep = cfg.agent;
	struct err e;
	int fd;

	(void)state;
	cfg.agent = "/nonexistent/agent";
	assert_int_equal(initrd_compose(&cfg, &fd, &e), -ENOENT);
	assert_non_null(strstr(e.msg, "/nonexistent/agent"));
	cfg.agent = NULL;
	setenv("CLONE_LIBDIR", "/nonexistent/lib", 1);
	assert_int_equal(initrd_compose(&cfg, &fd, &e), -ENOENT);
	unsetenv("CLONE_LIBDIR");
	assert_non_null(strstr(e.msg, "clone-agent"));
	assert_non_null(strstr(e.msg, "/nonexistent/lib"));
	cfg.agent = keep;
	keep = cfg.kernel;
	cfg.kernel = "/nonexistent/vmlinuz";
	assert_int_equal(initrd_compose(&cfg, &fd, &e), -ENOENT);
	assert_non_null(strstr(e.msg, "/nonexistent/vmlinuz"));
	cfg.kernel = keep;
	cleanup(dir, &cfg);
}

static int version_of(const char *path, char *buf, struct err *e)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC), r;

	assert_true(fd >= 0);
	r = kernel_version(fd, buf, 65, e);
	close(fd);
	return r;
}

static void test_initrd__bzimage_says_its_version(void **state)
{
	static const struct {
		unsigned at;
		const char *text;
	} bad[] = {
		{ 0, "" },
		{ 0x800, "6.1 x" },
		{ 0xffff, "6.1 x" },
		{ 0x400, "" },
		{ 0x400, "six x" },
		{ 0x400, "6.1/../../etc x" },
		{ 0x400, "6.1\n x" },
		{ 0x400, "6.123456789012345678901234567890123456789012345678901234567890123456 x" },
	};
	char *dir = scratch_make(), buf[65] = "unchanged";
	struct err e;

	(void)state;
	write_bzimage(dir, "k", 0x400, "6.1.0-56-cloud-amd64 (debian-kernel@l) #1");
	assert_int_equal(version_of(scratch_path(dir, "k"), buf, &e), 0);
	assert_string_equal(buf, "6.1.0-56-cloud-amd64");
	strcpy(buf, "unchanged");
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		write_bzimage(dir, "k", bad[i].at, bad[i].text);
		assert_int_equal(version_of(scratch_path(dir, "k"), buf, &e), -EBADMSG);
		assert_string_equal(buf, "unchanged");
	}
	scratch_remove(dir);
}

/* The banner may lie across any boundary of what is read at once. */
static void test_initrd__vmlinux_says_its_version(void **state)
{
	static const size_t at[] = { 64,       KIB(256) - 20,  KIB(256) - 14, KIB(256) - 1,
				     KIB(256), KIB(512) - 140, 600000 };
	char *dir = scratch_make(), buf[65];
	uint8_t *k = calloc(1, 700000);
	struct err e;

	(void)state;
	assert_non_null(k);
	for (size_t i = 0; i < ARRAY_SIZE(at); i++) {
		memset(k, 0, 700000);
		memcpy(k, "\177ELF", 4);
		strcpy((char *)k + 30, "Linux version %s (%s)"); /* the format, not the banner */
		strcpy((char *)k + at[i], "Linux version 5.15.0-x+ (root@h) (gcc)");
		scratch_write(dir, "k", k, 700000);
		assert_int_equal(version_of(scratch_path(dir, "k"), buf, &e), 0);
		assert_string_equal(buf, "5.15.0-x+");
	}
	memset(k + 64, 0, 700000 - 64);
	scratch_write(dir, "k", k, 700000);
	assert_int_equal(version_of(scratch_path(dir, "k"), buf, &e), -EBADMSG);
	free(k);
	scratch_remove(dir);
}

static void test_initrd__no_kernel_is_refused(void **state)
{
	char *dir = scratch_make(), buf[65], junk[1000];
	struct err e;

	(void)state;
	memset(junk, 'j', sizeof(junk));
	scratch_write(dir, "junk", junk, sizeof(junk));
	scratch_write(dir, "short", junk, 100);
	scratch_write(dir, "empty", "", 0);
	assert_int_equal(version_of(scratch_path(dir, "junk"), buf, &e), -EBADMSG);
	assert_int_equal(version_of(scratch_path(dir, "short"), buf, &e), -EBADMSG);
	assert_int_equal(version_of(scratch_path(dir, "empty"), buf, &e), -EBADMSG);
	assert_int_equal(version_of(dir, buf, &e), -EBADMSG);
	scratch_remove(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_initrd__holds_programs_and_modules_in_load_order),
		cmocka_unit_test(test_initrd__wanted_modules_are_added),
		cmocka_unit_test(test_initrd__busybox_can_ask_for_an_address),
		cmocka_unit_test(test_initrd__missing_root_file_system_is_named),
		cmocka_unit_test(test_initrd__modules_are_found_where_promised),
		cmocka_unit_test(test_initrd__missing_kernel_or_program_is_named),
		cmocka_unit_test(test_initrd__bzimage_says_its_version),
		cmocka_unit_test(test_initrd__vmlinux_says_its_version),
		cmocka_unit_test(test_initrd__no_kernel_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
