/* SPDX-License-Identifier: MIT */
/*
 * clone park, unpark: the memory of VMs goes into files without a name and comes back. A file ends
 * with its VM process, however that ends.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "account/account.h"
#include "base/util.h"
#include "cli/cli.h"
#include "cli/commands.h"
#include "cli/launch.h"
#include "cli/procid.h"
#include "control/json.h"

const char cmd_park_usage[] =
	"[-o json] VM...\n"
	"\n"
	"The guest stops, and its memory goes into a file in the state directory. The VM wakes by\n"
	"itself for a command, what is typed at its console and what its network brings, or by\n"
	"`clone unpark`.\n"
	"\n"
	"  -o json     how much was put out, and how long it took\n";
const char cmd_unpark_usage[] = "[-o json] VM...\n";

#define ROOM_LEFT MIB(256) /* of the disk, for everything else */
#define PARK_MS 3600000u   /* as long as a disk may take for all memory of a large VM */

struct parking {
	const char *cmd;
	int (*fn)(struct vmdir *d, int signals, json_t **reply, struct err *e);
};

static int request(struct vmdir *d, const char *path, json_t *body, int signals, json_t **reply,
		   struct err *e)
{
	struct client *c;
	int r = client_open(d->fd, &c, e);

	if (!r) {
		client_set_cancel(c, signals);
		r = client_request(c, "PUT", path, body, PARK_MS, reply, e);
		client_close(c);
	}
	json_decref(body);
	return r;
}

/* What of the process is its own alone, in memory or swapped out: the most that parking writes.
 * False: the kernel does not say. */
static bool private_bytes(int smaps_rollup, uint64_t *bytes)
{
	static const char *const keys[] = { "Private_Clean", "Private_Dirty", "Swap" };
	cleanup_close int fd = dup(smaps_rollup);
	FILE *f = fd < 0 ? NULL : fdopen(fd, "r");
	uint64_t sum = 0, v;
	char line[256];
	size_t found = 0;

	if (!f)
		return false;
	(void)take_fd(&fd);
	while (fgets(line, sizeof(line), f))
		for (size_t i = 0; i < ARRAY_SIZE(keys); i++)
			if (account_kb(line, keys[i], &v) && add_u64(sum, v, &sum))
				found++;
	fclose(f);
	*bytes = sum;
	return found == ARRAY_SIZE(keys);
}

/* As much as may be written; else as large as its RAM is. */
static uint64_t needed(const struct vmdir *d)
{
	cleanup_close int fd = procid_open(d, "smaps_rollup", NULL);
	cleanup_json json_t *info = NULL;
	uint64_t bytes;

	if (fd >= 0 && private_bytes(fd, &bytes))
		return bytes;
	if (vmdir_info(d, &info, NULL))
		return 0;
	return (uint64_t)json_integer_value(json_object_get(info, "memory_bytes"));
}

/* Is there room for it, and some left for others, on a disk? What was written when it turns out
 * that there is not would be lost time, and others' room meanwhile. */
static int check_room(const struct vmdir *d, int file, struct err *e)
{
	char want[32], have[32], reserve[32];
	uint64_t need = needed(d), room;
	struct statvfs v;
	struct statfs s;

	if (fstatfs(file, &s) || fstatvfs(file, &v))
		return err_sys(e, errno, "the state directory's file system");
	if (s.f_type == TMPFS_MAGIC || s.f_type == RAMFS_MAGIC)
		return err_set(
			e, EINVAL,
			"the state directory is in memory (tmpfs), where parking gains nothing: "
			"let CLONE_STATE_DIR name one on a disk");
	if (!mul_u64(v.f_bavail, v.f_frsize, &room))
		room = UINT64_MAX;
	if (need <= UINT64_MAX - ROOM_LEFT && room >= need + ROOM_LEFT)
		return 0;
	cli_format_size(need, want, sizeof(want));
	cli_format_size(room, have, sizeof(have));
	cli_format_size(ROOM_LEFT, reserve, sizeof(reserve));
	return err_set(
		e, ENOSPC,
		"up to %s are to be written, and %s are to stay free; the state directory's "
		"disk has %s: make room (clone template ls, clone rm), or let the guest give "
		"memory back first (clone balloon)",
		want, reserve, have);
}

/* Its memory goes to a file that ends with the process, and not to one in memory. */
static int do_park(struct vmdir *d, int signals, json_t **reply, struct err *e)
{
	static const char *const names[] = { "park/ram", "park/pagemap" };
	cleanup_close int sock = client_fdsock(d->fd, e);
	cleanup_close int pagemap = sock < 0 ? -1 : procid_open(d, "pagemap", e);
	cleanup_close int file = pagemap < 0 ? -1 : launch_unnamed("parked", false, e);
	int r;

	if (file < 0)
		return sock < 0 ? sock : pagemap < 0 ? pagemap : file;
	r = check_room(d, file, e);
	if (r)
		return r;
	r = client_grant(sock, names, (const int[]){ file, pagemap }, 2, e);
	if (r)
		return r;
	return request(d, "/park",
		       json_pack("{s:s, s:s}", "mem_file_path", names[0], "pagemap_path", names[1]),
		       signals, reply, e);
}

static int do_unpark(struct vmdir *d, int signals, json_t **reply, struct err *e)
{
	return request(d, "/unpark", json_object(), signals, reply, e);
}

static int one(const struct parking *p, const char *name, int signals, json_t *list, struct err *e)
{
	json_t *reply = NULL;
	struct vmdir d;
	int r = vmdir_open(PLACE_VM, name, &d, e);

	if (!r && !vmdir_alive(&d))
		r = err_set(e, ESRCH, "%s is not running", d.name);
	if (!r)
		r = p->fn(&d, signals, &reply, e);
	vmdir_close(&d);
	if (r)
		return err_wrap(e, r, "%s %.64s", p->cmd, name);
	if (reply)
		json_object_set_new(reply, "name", json_string(name));
	json_array_append_new(list, reply);
	return 0;
}

static int each(const struct parking *p, int argc, char **argv)
{
	static const struct option opts[] = {
		{ "output", required_argument, NULL, 'o' },
		{ NULL, 0, NULL, 0 },
	};
	cleanup_json json_t *list = json_array();
	bool json = false;
	int opt, signals, code = CLI_OK;
	struct err e;

	opterr = 0;
	while ((opt = getopt_long(argc, argv, "+o:", opts, NULL)) != -1) {
		if (opt != 'o')
			return cli_bad_option(p->cmd, argv);
		if (!cli_output_json(p->cmd, optarg, &json))
			return CLI_USAGE;
	}
	if (optind >= argc)
		return cli_usage(p->cmd, "which VM?");
	signals = cli_catch_signals(&e);
	if (signals < 0)
		return cli_fail(&e);
	for (int i = optind; i < argc; i++) {
		int r = one(p, argv[i], signals, list, &e);

		if (r)
			code = cli_fail(&e);
		if (r == -EINTR)
			return CLI_SIGNAL + cli_signal_of(signals);
	}
	if (!json)
		return code;
	if (argc - optind > 1 && cli_print_json(json_incref(list)))
		return CLI_FAIL;
	if (argc - optind == 1 && json_array_size(list))
		return cli_print_json(json_incref(json_array_get(list, 0)));
	return code;
}

int cmd_park(int argc, char **argv)
{
	return each(&(struct parking){ .cmd = "park", .fn = do_park }, argc, argv);
}

int cmd_unpark(int argc, char **argv)
{
	return each(&(struct parking){ .cmd = "unpark", .fn = do_unpark }, argc, argv);
}
