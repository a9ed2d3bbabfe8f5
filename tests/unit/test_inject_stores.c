/* SPDX-License-Identifier: MIT */
/*
 * Whatever fails in the stores of templates and images: what is published is whole, what is listed
 * is all there is, and what failed can be done again. And the initrd composer, which only reads.
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
#include "image/store.h"
#include "template/template.h"
#include "tests/inject/sweep.h"
#include "tests/lib/scratch.h"

#define RAM_BYTES (1u << 20)

static char *dir; /* of the run at hand */

static void new_dir(void)
{
	dir = scratch_make();
	setenv("CLONE_STATE_DIR", dir, 1);
}

static void remove_dir(void)
{
	scratch_remove(dir);
	dir = NULL;
}

static void must(int ret, const struct err *e)
{
	if (ret)
		sweep_fail("unarmed: %s", e->msg);
}

/* ---- templates ---- */

static void fill(int fd, const char *name)
{
	inject_hold();
	if (fd_write_full(fd, name, strlen(name)) ||
	    (!strcmp(name, "ram") && ftruncate(fd, RAM_BYTES)))
		sweep_fail("writing %s", name);
	inject_release();
	close(fd);
}

static int make(const char *name, struct err *e)
{
	static const char *const parts[] = { "state", "ram", "layer-root" };
	static struct template t;
	struct template_stage s;
	int ret = template_stage_begin(STORE_TEMPLATES, name, &s, e);

	t = (struct template){
		.created = "2025-06-01T12:00:00Z",
		.clone_version = "0.1.0",
		.image = "debian",
		.cpu = "Some CPU",
		.mem_bytes = RAM_BYTES,
		.vcpus = 2,
		.ndisks = 1,
		.disks = { { .id = "root", .layer = 2 } },
		.nfiles = 3,
		.files = { { .name = "state" }, { .name = "ram" }, { .name = "layer-root" } }
	};
	snprintf(t.bases[0].path, sizeof(t.bases[0].path), "%s/base.img", dir);
	t.nbases = 1;
	t.disks[0].nbases = 1;
	for (size_t i = 0; i < ARRAY_SIZE(parts) && !ret; i++) {
		int fd = template_stage_file(&s, parts[i], e);

		if (fd < 0)
			ret = fd;
		else
			fill(fd, parts[i]);
	}
	if (!ret)
		ret = template_stage_publish(&s, &t, e);
	template_stage_end(&s);
	return ret;
}

static int use(const char *name, struct err *e)
{
	static struct template t;
	int ret = template_open(STORE_TEMPLATES, name, &t, e), verified;

	inject_hold();
	verified = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	inject_release();
	if (!ret)
		ret = template_check(&t, verified, e);
	if (!ret)
		ret = template_check(&t, verified, e);
	if (!ret)
		ret = template_verify(&t, e);
	close(verified);
	return ret;
}

static void template_setup(void *arg)
{
	struct err e;

	(void)arg;
	new_dir();
	scratch_text(dir, "base.img", "the shared base of a disk");
	must(make("web", &e), &e);
	must(make("api", &e), &e);
}

static int template_make_run(void *arg, struct err *e)
{
	(void)arg;
	return make("new", e);
}

static void template_make_after(void *arg, int ret)
{
	struct err e;

	(void)arg;
	/* the last steps, after the name has appeared, may fail too: it is there, whole, then */
	if (ret && make("new", &e) != -EEXIST)
		must(use("new", &e), &e);
	must(use("new", &e), &e);
	remove_dir();
}

static int template_use_run(void *arg, struct err *e)
{
	(void)arg;
	return use("web", e);
}

static void template_use_after(void *arg, int ret)
{
	struct err e;

	(void)arg;
	if (ret == -ENOENT)
		sweep_fail("a template that is there was not found");
	must(use("web", &e), &e);
	remove_dir();
}

static size_t count_templates(int *ret, struct err *e)
{
	char **names;
	size_t n;

	*ret = template_list(STORE_TEMPLATES, &names, &n, e);
	if (*ret)
		return 0;
	for (size_t i = 0; i < n; i++)
		free(names[i]);
	free(names);
	return n;
}

static int template_list_run(void *arg, struct err *e)
{
	int ret;
	size_t n = count_templates(&ret, e);

	(void)arg;
	if (!ret && n != 2)
		sweep_fail("%zu templates of 2 are listed", n);
	return ret;
}

static int template_rm_run(void *arg, struct err *e)
{
	(void)arg;
	return template_rm(STORE_TEMPLATES, "web", e);
}

static void template_rm_after(void *arg, int ret)
{
	struct err e;

	(void)arg;
	if (ret && template_rm(STORE_TEMPLATES, "web", &e) != -ENOENT)
		must(template_rm(STORE_TEMPLATES, "web", &e) == -ENOENT ? 0 : -1, &e);
	if (count_templates(&ret, &e) != 1)
		sweep_fail("not one template is left: %s", ret ? e.msg : "");
	remove_dir();
}

static void just_remove(void *arg, int ret)
{
	(void)arg;
	(void)ret;
	remove_dir();
}

/* ---- chains ---- */

static int make_on(const char *name, const char *parent, struct err *e)
{
	static struct template t, p;
	struct template_stage s;
	int ret = template_open(STORE_TEMPLATES, parent, &p, e);

	if (!ret)
		ret = template_stage_begin(STORE_TEMPLATES, name, &s, e);
	if (ret)
		return ret;
	t = p;
	memset(t.vm, 0, sizeof(t.vm));
	t.parent.store = STORE_TEMPLATES;
	memcpy(t.parent.name, p.name, sizeof(t.parent.name));
	memcpy(t.parent.sha256, p.sha256, sizeof(t.parent.sha256));
	for (size_t i = 0; i < p.nfiles && !ret; i++)
		ret = template_stage_link(&s, &p, i, e);
	if (!ret)
		ret = template_stage_publish(&s, &t, e);
	template_stage_end(&s);
	return ret;
}

static void chain_setup(void *arg)
{
	struct err e;

	template_setup(arg);
	must(make_on("mid", "web", &e), &e);
	must(make_on("leaf", "mid", &e), &e);
}

static int chain_run(void *arg, struct err *e)
{
	static struct template t;
	struct template *chain = NULL;
	size_t n = 7;
	int ret = template_open(STORE_TEMPLATES, "leaf", &t, e);

	(void)arg;
	if (!ret)
		ret = template_chain(&t, &chain, &n, e);
	if (ret && (chain || n != 7))
		sweep_fail("a failure changed what it was to give");
	if (!ret && (n != 3 || strcmp(chain[0].name, "web") || strcmp(chain[2].name, "leaf")))
		sweep_fail("another chain");
	free(chain);
	return ret ? ret : template_unchanged(&t, e);
}

static int link_run(void *arg, struct err *e)
{
	(void)arg;
	return make_on("new", "leaf", e);
}

static void link_after(void *arg, int ret)
{
	struct err e;

	(void)arg;
	if (ret && make_on("new", "leaf", &e) != -EEXIST)
		must(use("new", &e), &e);
	must(use("new", &e), &e);
	must(use("leaf", &e), &e);
	remove_dir();
}

/* Whatever fails, what others stand on stays. */
static int chain_rm_run(void *arg, struct err *e)
{
	(void)arg;
	if (!template_rm(STORE_TEMPLATES, "web", e))
		sweep_fail("what mid stands on was removed");
	return 0;
}

static void chain_rm_after(void *arg, int ret)
{
	struct err e;

	(void)arg;
	(void)ret;
	must(use("web", &e), &e);
	must(use("leaf", &e), &e);
	remove_dir();
}

/* In its place: the old or the new, and never both or none. */
static int over_run(void *arg, struct err *e)
{
	static struct template t;
	struct template_stage s;
	int ret = template_open(STORE_TEMPLATES, "leaf", &t, e);

	(void)arg;
	if (!ret)
		ret = template_stage_begin_over(&t, &s, e);
	if (ret)
		return ret;
	t.vcpus = 5;
	for (size_t i = 0; i < t.nfiles && !ret; i++)
		ret = template_stage_link(&s, &t, i, e);
	if (!ret)
		ret = template_stage_publish(&s, &t, e);
	template_stage_end(&s);
	return ret;
}

static void over_after(void *arg, int ret)
{
	static struct template t;
	struct err e;
	int r;

	(void)arg;
	must(template_open(STORE_TEMPLATES, "leaf", &t, &e), &e);
	must(use("leaf", &e), &e);
	if (t.vcpus != (ret ? 2u : 5u))
		sweep_fail("after %d the %s one is there", ret, ret ? "new" : "old");
	if (count_templates(&r, &e) != 4)
		sweep_fail("not four templates: %s", r ? e.msg : "");
	remove_dir();
}

static void test_inject__chains(void **state)
{
	static const struct sweep_op ops[] = {
		{ "chain: open", chain_setup, chain_run, just_remove, false, 20 },
		{ "chain: link", chain_setup, link_run, link_after, false, 30 },
		{ "chain: rm of a base", chain_setup, chain_rm_run, chain_rm_after, false, 20 },
		{ "chain: in another's place", chain_setup, over_run, over_after, false, 30 },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(ops); i++)
		sweep(&ops[i], NULL);
}

static void test_inject__templates(void **state)
{
	static const struct sweep_op ops[] = {
		{ "template: publish", template_setup, template_make_run, template_make_after,
		  false, 20 },
		{ "template: use", template_setup, template_use_run, template_use_after, false,
		  20 },
		{ "template: list", template_setup, template_list_run, just_remove, false, 5 },
		{ "template: rm", template_setup, template_rm_run, template_rm_after, false, 5 },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(ops); i++)
		sweep(&ops[i], NULL);
}

/* ---- images ---- */

static int publish(const char *name, struct err *e)
{
	static struct stage s;
	static struct image img;
	int ret = stage_begin(name, &s, e);

	img = (struct image){ .distribution = "debian",
			      .release = "bookworm",
			      .kernel_version = "6.1.0-1-amd64",
			      .cmdline = "console=ttyS0",
			      .root_device = "/dev/vda",
			      .root_fstype = "ext4",
			      .init = "/sbin/init" };
	if (!ret) {
		inject_hold();
		scratch_text(s.image, "rootfs.ext4", "root file system");
		scratch_text(s.image, "vmlinuz", "kernel");
		scratch_text(s.image, "modules/lib/modules/6.1/modules.dep", "");
		inject_release();
		ret = stage_publish(&s, &img, e);
	}
	return stage_end(&s, ret, e);
}

static void image_setup(void *arg)
{
	struct err e;

	(void)arg;
	new_dir();
	must(publish("deb", &e), &e);
	must(publish("bb", &e), &e);
}

static int image_publish_run(void *arg, struct err *e)
{
	(void)arg;
	return publish("new", e);
}

static int look(const char *name, struct err *e)
{
	static struct image img;
	int ret = image_open(name, &img, e);

	return ret ? ret : image_verify(&img, e);
}

static void image_publish_after(void *arg, int ret)
{
	struct err e;

	(void)arg;
	if (ret && publish("new", &e) != -EEXIST)
		must(look("new", &e), &e);
	must(look("new", &e), &e);
	remove_dir();
}

static int image_look_run(void *arg, struct err *e)
{
	(void)arg;
	return look("deb", e);
}

static void image_look_after(void *arg, int ret)
{
	(void)arg;
	if (ret == -ENOENT)
		sweep_fail("an image that is there was not found");
	remove_dir();
}

static int image_list_run(void *arg, struct err *e)
{
	struct image *list;
	size_t n;
	int ret = image_list(&list, &n, e);

	(void)arg;
	if (ret)
		return ret;
	free(list);
	/* one that cannot be read is left out, but not in silence */
	if (n != 2 && lseek(STDERR_FILENO, 0, SEEK_CUR) == 0)
		sweep_fail("%zu images of 2 are listed", n);
	return 0;
}

static int image_rm_run(void *arg, struct err *e)
{
	(void)arg;
	return image_rm("deb", e);
}

static void image_rm_after(void *arg, int ret)
{
	struct err e;
	int again;

	(void)arg;
	again = image_rm("deb", &e);
	if (again && again != -ENOENT)
		sweep_fail("after %d: %s", ret, e.msg);
	must(look("bb", &e), &e);
	remove_dir();
}

static void test_inject__images(void **state)
{
	static const struct sweep_op ops[] = {
		{ "image: publish", image_setup, image_publish_run, image_publish_after, false,
		  20 },
		{ "image: open", image_setup, image_look_run, image_look_after, false, 10 },
		{ "image: list", image_setup, image_list_run, just_remove, false, 5 },
		{ "image: rm", image_setup, image_rm_run, image_rm_after, false, 5 },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(ops); i++)
		sweep(&ops[i], NULL);
}

/* ---- the initrd ---- */

#define VERSION "6.1.0-test"

static void module(const char *name, const char *pack)
{
	uint8_t elf[128] = "\177ELF";
	char path[200];

	snprintf(path, sizeof(path), "lib/modules/" VERSION "/kernel/%s.ko", name);
	scratch_write(dir, path, elf, sizeof(elf));
	if (pack)
		free(scratch_sh("cd %s && %s %s", dir, pack, path));
}

/* One module of each compression. */
static void initrd_setup(void)
{
	uint8_t k[8192] = { 0 };

	k[0x1f1] = 4;
	memcpy(k + 0x202, "HdrS", 4);
	k[0x20f] = 4;
	strcpy((char *)k + 0x600, VERSION " (x@y) #1 SMP");
	scratch_write(dir, "vmlinuz", k, sizeof(k));
	module("virtio", NULL);
	module("virtio_pci", "xz");
	module("virtio_blk", "zstd -q --rm");
	module("virtio_rng", "gzip");
	module("vmw_vsock_virtio_transport", NULL);
	module("overlay", NULL);
	module("evdev", NULL);
	scratch_text(dir, "lib/modules/" VERSION "/modules.dep",
		     "kernel/virtio.ko:\nkernel/virtio_pci.ko.xz: kernel/virtio.ko\n"
		     "kernel/virtio_blk.ko.zst: kernel/virtio.ko\n"
		     "kernel/virtio_rng.ko.gz: kernel/virtio.ko\n"
		     "kernel/vmw_vsock_virtio_transport.ko:\nkernel/overlay.ko:\n"
		     "kernel/evdev.ko:\n");
	scratch_text(dir, "lib/modules/" VERSION "/modules.builtin", "kernel/fs/ext4/ext4.ko\n");
	scratch_text(dir, "the-init", "init!");
	scratch_text(dir, "the-agent", "agent!");
}

static int initrd_run(void *arg, struct err *e)
{
	struct initrd_cfg cfg = { .kernel = scratch_path(dir, "vmlinuz"),
				  .init = scratch_path(dir, "the-init"),
				  .agent = scratch_path(dir, "the-agent") };
	int fd, ret = initrd_compose(&cfg, &fd, e);
	off_t *size = arg;
	struct stat st;

	if (ret)
		return ret;
	/* whatever did not fail the whole has left nothing out */
	if (fstat(fd, &st) || (*size && st.st_size != *size))
		sweep_fail("an initrd of %lld bytes", (long long)st.st_size);
	*size = st.st_size;
	close(fd);
	return 0;
}

static void test_inject__initrd(void **state)
{
	static const struct sweep_op op = { .name = "initrd", .run = initrd_run, .min = 30 };
	off_t size = 0;
	struct err e;

	(void)state;
	new_dir();
	initrd_setup();
	if (initrd_run(&size, &e))
		fail_msg("%s", e.msg);
	sweep(&op, &size);
	remove_dir();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_inject__templates),
		cmocka_unit_test(test_inject__chains),
		cmocka_unit_test(test_inject__images),
		cmocka_unit_test(test_inject__initrd),
	};

	/* where fsync(2) costs nothing, if there is such a place */
	if (access("/dev/shm", W_OK) == 0)
		setenv("TMPDIR", "/dev/shm", 0);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
