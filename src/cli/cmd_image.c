/* SPDX-License-Identifier: MIT */
/*
 * clone image: the command line over src/image.
 */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/util.h"
#include "cli/cli.h"
#include "cli/commands.h"
#include "image/image.h"
#include "template/template.h"

const char cmd_image_usage[] =
	"build debian|busybox [--name NAME] [--release R] [--mirror URL] [--size SIZE]\n"
	"                  [--kernel cloud|full] [--init systemd|openrc|runit] [--package P]... "
	"[-q]\n"
	"       clone image ls [-q] [-o json]\n"
	"       clone image inspect IMAGE...\n"
	"       clone image verify IMAGE...\n"
	"       clone image rm [-f] IMAGE...\n"
	"\n"
	"      --name NAME    default: debian or busybox\n"
	"      --release R    of Debian; default bookworm\n"
	"      --mirror URL   default: the one that this host uses\n"
	"      --size SIZE    of the disk as the guest sees it\n"
	"      --kernel K     cloud (default): small; full: every driver\n"
	"      --init I       of Debian: systemd (default), openrc or runit\n"
	"      --package P    one more Debian package; may be repeated\n"
	"  -q, --quiet        build: no progress; ls: names only\n"
	"  -f, --force        rm: although templates are based on it\n";

#define PACKAGES_MAX 256

struct build_args {
	struct image_build_cfg cfg;
	const char *packages[PACKAGES_MAX + 1];
	size_t npackages;
	bool quiet;
};

struct progress {
	bool tty;
	int percent;
	char phase[32];
};

/* One line that is written over on a terminal; elsewhere a line per phase. */
static void show_progress(void *arg, const char *phase, int percent, const char *line)
{
	struct progress *p = arg;

	(void)line;
	if (percent == p->percent && !strcmp(phase, p->phase))
		return;
	if (p->tty)
		fprintf(stderr, "\r\033[K%3d%% %s", percent, phase);
	else if (strcmp(phase, p->phase))
		fprintf(stderr, "%3d%% %s\n", percent, phase);
	p->percent = percent;
	snprintf(p->phase, sizeof(p->phase), "%s", phase);
}

static int parse_init(const char *s, enum image_init *init, struct err *e)
{
	static const char *const names[] = {
		[IMAGE_INIT_SYSTEMD] = "systemd",
		[IMAGE_INIT_OPENRC] = "openrc",
		[IMAGE_INIT_RUNIT] = "runit",
	};

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		if (strcmp(s, names[i]) != 0)
			continue;
		*init = (enum image_init)i;
		return 0;
	}
	return err_set(e, EINVAL, "--init: systemd, openrc or runit");
}

static int build_option(void *arg, int opt, struct err *e)
{
	struct build_args *a = arg;

	switch (opt) {
	case 'n':
		a->cfg.name = optarg;
		return cli_name_check("--name", optarg, e);
	case 'r':
		a->cfg.release = optarg;
		return 0;
	case 'm':
		a->cfg.mirror = optarg;
		return 0;
	case 's':
		return cli_parse_size(optarg, &a->cfg.size_bytes, e);
	case 'k':
		if (strcmp(optarg, "cloud") && strcmp(optarg, "full"))
			return err_set(e, EINVAL, "--kernel: cloud or full");
		a->cfg.kernel = *optarg == 'c' ? IMAGE_KERNEL_CLOUD : IMAGE_KERNEL_FULL;
		return 0;
	case 'i':
		return parse_init(optarg, &a->cfg.init, e);
	case 'p':
		if (a->npackages == PACKAGES_MAX)
			return err_set(e, EINVAL, "--package: at most %d", PACKAGES_MAX);
		a->packages[a->npackages++] = optarg;
		return 0;
	case 'q':
		a->quiet = true;
		return 0;
	default:
		return -ENOSYS;
	}
}

static int build_args(struct build_args *a, int argc, char **argv)
{
	static const struct option opts[] = {
		{ "name", required_argument, NULL, 'n' },
		{ "release", required_argument, NULL, 'r' },
		{ "mirror", required_argument, NULL, 'm' },
		{ "size", required_argument, NULL, 's' },
		{ "kernel", required_argument, NULL, 'k' },
		{ "init", required_argument, NULL, 'i' },
		{ "package", required_argument, NULL, 'p' },
		{ "quiet", no_argument, NULL, 'q' },
		{ NULL, 0, NULL, 0 },
	};
	int r = cli_options("image", argc, argv, "q", opts, build_option, a);

	if (r)
		return r;
	if (argc - optind != 1)
		return cli_usage("image", "build debian or busybox?");
	return CLI_OK;
}

static int image_build(int argc, char **argv)
{
	struct progress p = { .tty = isatty(STDERR_FILENO), .percent = -1 };
	struct build_args a = { 0 };
	const char *kind;
	struct err e;
	int r = build_args(&a, argc, argv);

	if (r)
		return r;
	kind = argv[optind];
	if (strcmp(kind, "debian") && strcmp(kind, "busybox"))
		return cli_usage("image", "'%.64s' cannot be built: debian or busybox", kind);
	if (!a.cfg.name)
		a.cfg.name = kind;
	a.cfg.packages = a.npackages ? a.packages : NULL;
	if (!a.quiet) {
		a.cfg.progress = show_progress;
		a.cfg.progress_arg = &p;
	}
	r = *kind == 'd' ? image_build_debian(&a.cfg, &e) : image_build_busybox(&a.cfg, &e);
	if (!a.quiet && p.tty && p.percent >= 0)
		fputs("\r\033[K", stderr);
	if (r)
		return cli_fail(&e);
	puts(a.cfg.name);
	return cli_flush();
}

static json_t *image_json(const struct image *i)
{
	return json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:I, s:I, s:s, s:s, s:s}",
			 "name", i->name, "distribution", i->distribution, "release", i->release,
			 "created", i->created, "kernel_version", i->kernel_version, "cmdline",
			 i->cmdline, "root_fstype", i->root_fstype, "init", i->init, "size_bytes",
			 (json_int_t)i->size_bytes, "used_bytes", (json_int_t)i->used_bytes,
			 "rootfs_sha256", i->rootfs_sha256, "kernel_sha256", i->kernel_sha256,
			 "directory", i->dir);
}

static void print_image(const struct image *i)
{
	char size[16], used[16], age[16];

	cli_format_size(i->size_bytes, size, sizeof(size));
	cli_format_size(i->used_bytes, used, sizeof(used));
	cli_format_age(i->created, age, sizeof(age));
	printf("%-20s %-10s %-10s %-24s %6s %6s %6s\n", i->name, i->distribution, i->release,
	       i->kernel_version, size, used, age);
}

static int image_ls(int argc, char **argv)
{
	bool json = false, quiet = false;
	struct image *list = NULL;
	json_t *all;
	struct err e;
	size_t n = 0;
	int opt;

	while ((opt = getopt(argc, argv, "+qo:")) != -1) {
		if (opt == 'q')
			quiet = true;
		else if (opt != 'o')
			return cli_bad_option("image", argv);
		else if (!cli_output_json("image", optarg, &json))
			return CLI_USAGE;
	}
	if (image_list(&list, &n, &e))
		return cli_fail(&e);
	all = json_array();
	if (!quiet && !json)
		printf("%-20s %-10s %-10s %-24s %6s %6s %6s\n", "NAME", "SYSTEM", "RELEASE",
		       "KERNEL", "SIZE", "USED", "AGE");
	for (size_t i = 0; i < n; i++) {
		if (json)
			json_array_append_new(all, image_json(&list[i]));
		else if (quiet)
			puts(list[i].name);
		else
			print_image(&list[i]);
	}
	free(list);
	if (json)
		return cli_print_json(all);
	json_decref(all);
	return cli_flush();
}

static int inspect_one(const char *name, struct err *e)
{
	struct image *img = calloc(1, sizeof(*img));
	json_t *j;
	int r = img ? image_open(name, img, e) : err_set(e, ENOMEM, "out of memory");

	if (!r) {
		j = image_json(img);
		if (cli_print_json(j) != CLI_OK)
			r = err_set(e, EIO, "image %s: cannot be printed", name);
	}
	free(img);
	return r;
}

static int verify_one(const char *name, struct err *e)
{
	struct image *img = calloc(1, sizeof(*img));
	int r = img ? image_open(name, img, e) : err_set(e, ENOMEM, "out of memory");

	if (!r)
		r = image_verify(img, e);
	if (!r)
		printf("%s: intact\n", name);
	free(img);
	return r;
}

/* A template or snapshot whose base has gone is of no use to anybody. */
static int check_unused_in(enum store where, const char *image, struct err *e)
{
	struct template *t = calloc(1, sizeof(*t));
	char **names = NULL;
	size_t n = 0;
	int r = t ? template_list(where, &names, &n, e) : err_set(e, ENOMEM, "out of memory");

	for (size_t i = 0; i < n && !r; i++)
		if (!template_open(where, names[i], t, NULL) && !strcmp(t->image, image))
			r = err_set(e, EBUSY,
				    "image %s: the %s %s is based on it (-f removes it anyway)",
				    image, store_word(where), names[i]);
	for (size_t i = 0; i < n; i++)
		free(names[i]);
	free(names);
	free(t);
	return r;
}

static int check_unused(const char *image, struct err *e)
{
	int r = check_unused_in(STORE_TEMPLATES, image, e);

	return r ? r : check_unused_in(STORE_SNAPSHOTS, image, e);
}

static int rm_one(const char *name, struct err *e)
{
	int r = check_unused(name, e);

	return r ? r : image_rm(name, e);
}

static int rm_forced(const char *name, struct err *e)
{
	return image_rm(name, e);
}

static int image_each(int argc, char **argv, int (*fn)(const char *, struct err *),
		      int (*forced)(const char *, struct err *))
{
	int opt, code = CLI_OK;
	struct err e;

	while ((opt = getopt(argc, argv, forced ? "+f" : "+")) != -1) {
		if (opt != 'f')
			return cli_bad_option("image", argv);
		fn = forced;
	}
	if (optind >= argc)
		return cli_usage("image", "which image?");
	for (int i = optind; i < argc; i++)
		if (fn(argv[i], &e))
			code = cli_fail(&e);
	return code == CLI_OK ? cli_flush() : code;
}

int cmd_image(int argc, char **argv)
{
	const char *sub = argc > 1 ? argv[1] : "";

	opterr = 0;
	if (!strcmp(sub, "build"))
		return image_build(argc - 1, argv + 1);
	if (!strcmp(sub, "ls"))
		return image_ls(argc - 1, argv + 1);
	if (!strcmp(sub, "inspect"))
		return image_each(argc - 1, argv + 1, inspect_one, NULL);
	if (!strcmp(sub, "verify"))
		return image_each(argc - 1, argv + 1, verify_one, NULL);
	if (!strcmp(sub, "rm"))
		return image_each(argc - 1, argv + 1, rm_one, rm_forced);
	return cli_usage("image", "build, ls, inspect, verify or rm?");
}
