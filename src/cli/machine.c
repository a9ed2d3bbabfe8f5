/* SPDX-License-Identifier: MIT */
/*
 * Loading and describing machines. See machine.h.
 */
#include "cli/machine.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/util.h"
#include "cli/cli.h"
#include "cli/netpool.h"
#include "cli/nics.h"
#include "cli/seed.h"
#include "control/json.h"

#define LOAD_MS 120000

static int grant_file(struct vmproc *p, const char *name, int fd, struct err *e)
{
	int r = fd < 0 ? fd : client_grant(p->fdsock, &name, &fd, 1, e);

	if (fd >= 0)
		close(fd);
	return r;
}

static int grant_bases(struct vmproc *p, const struct template *t, const struct template_disk *k,
		       struct err *e)
{
	int r = 0;

	for (size_t i = 0; i < k->nbases && !r; i++) {
		const char *path = t->bases[k->base + i].path;
		int fd = disk_file_open(path, e);
		char name[64];

		if (fd < 0)
			return err_wrap(e, fd, "disk %s", k->id);
		if (i)
			snprintf(name, sizeof(name), "disk/%s/base/%zu", k->id, i);
		else
			snprintf(name, sizeof(name), "disk/%s/base", k->id);
		r = grant_file(p, name, fd, e);
	}
	return r;
}

static int grant_disks(struct vmproc *p, const struct template *t, bool seed, struct err *e)
{
	for (size_t i = 0; i < t->ndisks; i++) {
		const struct template_disk *k = &t->disks[i];
		char name[64];
		int r;

		r = grant_bases(p, t, k, e);
		if (!r && k->layer >= 0) {
			snprintf(name, sizeof(name), "disk/%s/layer", k->id);
			r = grant_file(p, name, template_file_open(t, (size_t)k->layer, e), e);
		}
		if (!r && k->layer >= 0 && !seed)
			r = launch_grant_overlay(p->fdsock, "", k->id, e);
		if (r)
			return r;
	}
	return 0;
}

/* As long as the seed lives, the TAPs made ahead for its forks stay. One of which there is no
 * network here is not its concern: a fork may be told another. */
static void hold_networks(struct vmproc *p, const struct template *t)
{
	for (size_t i = 0; i < t->nnics; i++) {
		struct network nw;
		char name[64];
		int fd;

		if (!t->nics[i].network[0] || network_open(t->nics[i].network, &nw, NULL))
			continue;
		fd = network_hold(&nw, NULL);
		snprintf(name, sizeof(name), "net/%s/keep", t->nics[i].id);
		if (fd >= 0 && !grant_file(p, name, fd, NULL))
			network_refill_later(nw.name);
	}
}

/* Anonymous ones, for those who ask. */
static bool host_has_huge_pages(void)
{
	cleanup_close int fd =
		open("/sys/kernel/mm/transparent_hugepage/enabled", O_RDONLY | O_CLOEXEC);
	char text[64] = "";

	return fd >= 0 && read(fd, text, sizeof(text) - 1) > 0 &&
	       (strstr(text, "[always]") || strstr(text, "[madvise]"));
}

int machine_grant_chain(struct vmproc *p, const struct template *chain, size_t n,
			const char *prefix, json_t *list, struct err *e)
{
	for (size_t i = 0; i < n; i++) {
		char state[160], ram[160];
		int r;

		snprintf(state, sizeof(state), "%s%zu/state", prefix, i);
		snprintf(ram, sizeof(ram), "%s%zu/ram", prefix, i);
		r = grant_file(p, state, template_file_open(&chain[i], TEMPLATE_STATE, e), e);
		if (!r)
			r = grant_file(p, ram, template_file_open(&chain[i], TEMPLATE_RAM, e), e);
		if (!r && json_array_append_new(list, json_pack("{s:s, s:s}", "snapshot_path",
								state, "mem_file_path", ram)))
			r = err_set(e, ENOMEM, "out of memory");
		if (r)
			return r;
	}
	/* each was opened by its name: of one that was flattened or made anew between the two, the
	 * files would be layers over what they do not stand on */
	for (size_t i = 0; i < n; i++) {
		int r = template_unchanged(&chain[i], e);

		if (r)
			return r;
	}
	return 0;
}

static int check_chain(const struct template *chain, size_t n, struct err *e)
{
	cleanup_close int run = run_open(e);
	cleanup_close int verified = -1;
	int r = MIN(run, 0);

	if (!r)
		verified = openat(run, "verified", O_DIRECTORY | O_CLOEXEC);
	for (size_t i = 0; i < n && !r; i++)
		r = template_check(&chain[i], verified, e);
	return r;
}

static json_t *load_body(const json_t *list, const struct seed_options *seed, uint64_t know_ms,
			 json_t *networks)
{
	size_t own = json_array_size(list) - 1;
	const json_t *last = json_array_get(list, own);
	json_t *parents = json_array();
	json_t *body = json_pack("{s:O, s:{s:s, s:O}, s:b}", "snapshot_path",
				 json_object_get(last, "snapshot_path"), "mem_backend",
				 "backend_type", "File", "backend_path",
				 json_object_get(last, "mem_file_path"), "seed", seed != NULL);
	int r = !body || !parents;

	for (size_t i = 0; i < own && !r; i++)
		r = json_array_append(parents, json_array_get(list, i));
	if (!r && own)
		r = json_object_set(body, "parents", parents);
	if (!r && seed)
		r = json_object_set_new(body, "spares", json_integer(seed->spares)) ||
		    json_object_set_new(body, "working_set", json_boolean(seed->working_set)) ||
		    json_object_set_new(body, "huge_pages",
					json_boolean(seed->huge_pages && host_has_huge_pages()));
	if (!r && know_ms)
		r = json_object_set_new(body, "wait", json_true()) ||
		    json_object_set_new(body, "timeout_ms", json_integer((json_int_t)know_ms));
	if (!r && networks)
		r = json_object_set(body, "networks", networks);
	json_decref(parents);
	if (!r)
		return body;
	json_decref(body);
	return NULL;
}

int machine_load(struct vmproc *p, const struct template *t, bool seed, uint64_t know_ms,
		 json_t *networks, struct err *e)
{
	cleanup_json json_t *list = json_array(), *body = NULL;
	struct template *chain = NULL;
	struct seed_options options;
	size_t n = 0;
	int r = list ? seed_options(&options, e) : err_set(e, ENOMEM, "out of memory");

	if (!r)
		r = template_chain(t, &chain, &n, e);
	if (!r)
		r = check_chain(chain, n, e);
	if (!r)
		r = grant_disks(p, t, seed, e);
	if (!r)
		r = machine_grant_chain(p, chain, n, "", list, e);
	if (!r && seed)
		hold_networks(p, t);
	if (!r) {
		body = load_body(list, seed ? &options : NULL, know_ms, networks);
		r = body ? vmproc_request(p, "PUT", "/snapshot/load", body, LOAD_MS, NULL, e)
			 : err_set(e, ENOMEM, "out of memory");
	}
	free(chain);
	return r;
}

json_t *machine_disk_info(const struct template *t, const struct template_disk *d)
{
	json_t *files = json_array();

	for (size_t i = 0; i < d->nbases; i++) {
		const struct template_base *b = &t->bases[d->base + i];

		json_array_append_new(files, json_pack("{s:s, s:s}", "path", b->path, "format",
						       b->qcow2 ? "qcow2" : "raw"));
	}
	return json_pack("{s:s, s:s, s:b, s:o}", "id", d->id, "path", t->bases[d->base].path,
			 "read_only", d->read_only, "files", files);
}

static json_t *nics_json(const struct template *t)
{
	json_t *list = json_array();

	for (size_t i = 0; list && i < t->nnics; i++)
		json_array_append_new(list, json_pack("{s:s, s:s, s:i}", "id", t->nics[i].id,
						      "network", t->nics[i].network, "queues",
						      (int)t->nics[i].queues));
	return list;
}

json_t *machine_info(const struct template *t)
{
	json_t *disks = json_array();
	json_t *info = json_pack("{s:s, s:s, s:I, s:i, s:b, s:o, s:{s:s, s:s, s:s}}",
				 "clone_version", CLONE_VERSION, store_word(t->store), t->name,
				 "memory_bytes", (json_int_t)t->mem_bytes, "vcpus", (int)t->vcpus,
				 "agent", t->agent, "disks", disks, "origin", "store",
				 store_word(t->store), "name", t->name, "sha256", t->sha256);

	for (size_t i = 0; info && i < t->ndisks; i++)
		json_array_append_new(disks, machine_disk_info(t, &t->disks[i]));
	if (info && t->image[0])
		json_object_set_new(info, "image", json_string(t->image));
	if (info && t->nnics)
		json_object_set_new(info, "networks", nics_json(t));
	if (info && t->ksm[0])
		json_object_set_new(info, "ksm", json_string(t->ksm));
	return info;
}

json_t *machine_info_of_fork(const struct vmdir *d, struct err *e)
{
	static const char *const own[] = { "pid",  "start_time", "uid",	 "rm",
					   "name", "created",	 "owned" };
	json_t *info = NULL;

	if (vmdir_info(d, &info, e))
		return NULL;
	for (size_t i = 0; i < ARRAY_SIZE(own); i++)
		json_object_del(info, own[i]);
	json_object_set_new(info, "parent", json_string(d->name));
	return info;
}

static void cpu_name(char *buf, size_t n)
{
	FILE *f = fopen("/proc/cpuinfo", "re");
	char line[256];

	snprintf(buf, n, "unknown");
	while (f && fgets(line, sizeof(line), f)) {
		char *colon = strchr(line, ':');

		if (strncmp(line, "model name", 10) != 0 || !colon)
			continue;
		colon[strcspn(colon, "\n")] = '\0';
		snprintf(buf, n, "%s", colon + 2);
		break;
	}
	if (f)
		fclose(f);
}

static int describe_base(const json_t *j, struct template *t, struct err *e)
{
	const char *path = json_string_value(json_object_get(j, "path"));
	const char *format = json_string_value(json_object_get(j, "format"));
	struct template_base *b = &t->bases[t->nbases];
	cleanup_free char *real = NULL;

	if (!path || !format)
		return err_set(e, EBADMSG, "vm.json: damaged list of disks");
	if (t->nbases == TEMPLATE_BASES)
		return err_set(e, EINVAL, "its disks stand on more than %d files", TEMPLATE_BASES);
	real = realpath(path, NULL);
	if (!real)
		return err_sys(e, errno, "disk %s", path);
	memset(b, 0, sizeof(*b));
	snprintf(b->path, sizeof(b->path), "%s", real);
	b->qcow2 = !strcmp(format, "qcow2");
	t->nbases++;
	return 0;
}

static int describe_disk(const json_t *j, struct template *t, struct err *e)
{
	const char *id = json_string_value(json_object_get(j, "id"));
	const json_t *files = json_object_get(j, "files"), *file;
	struct template_disk *d = &t->disks[t->ndisks];
	int r = 0;
	size_t i;

	if (!id || !json_array_size(files) || t->ndisks == TEMPLATE_DISKS)
		return err_set(e, EBADMSG, "vm.json: damaged list of disks");
	snprintf(d->id, sizeof(d->id), "%s", id);
	d->read_only = json_is_true(json_object_get(j, "read_only"));
	d->layer = -1;
	d->base = t->nbases;
	d->nbases = json_array_size(files);
	json_array_foreach(files, i, file)
	{
		r = describe_base(file, t, e);
		if (r)
			return r;
	}
	t->ndisks++;
	return 0;
}

static int describe_nics(const json_t *list, struct template *t, struct err *e)
{
	const struct nic_options as_it_is = { .n = 0 };
	cleanup_json json_t *info = json_pack("{s:O*}", "networks", list);
	struct nics k;
	int r = nics_of(info, &as_it_is, &k, e);

	t->nnics = r ? 0 : k.n;
	for (size_t i = 0; i < t->nnics; i++) {
		snprintf(t->nics[i].id, sizeof(t->nics[i].id), "%s", k.plan[i].id);
		snprintf(t->nics[i].network, sizeof(t->nics[i].network), "%s", k.plan[i].network);
		t->nics[i].queues = k.plan[i].queues;
	}
	return r;
}

int machine_describe(const json_t *info, struct template *t, struct err *e)
{
	const char *image = json_string_value(json_object_get(info, "image"));
	const char *ksm = json_string_value(json_object_get(info, "ksm"));
	const json_t *disk;
	size_t i;

	snprintf(t->image, sizeof(t->image), "%s", image ? image : "");
	snprintf(t->ksm, sizeof(t->ksm), "%s", ksm ? ksm : "");
	snprintf(t->clone_version, sizeof(t->clone_version), "%s", CLONE_VERSION);
	cli_format_now(t->created, sizeof(t->created));
	cpu_name(t->cpu, sizeof(t->cpu));
	t->mem_bytes = (uint64_t)json_integer_value(json_object_get(info, "memory_bytes"));
	t->vcpus = (unsigned int)json_integer_value(json_object_get(info, "vcpus"));
	t->agent = !json_is_false(json_object_get(info, "agent"));
	json_array_foreach(json_object_get(info, "disks"), i, disk)
	{
		int r = describe_disk(disk, t, e);

		if (r)
			return r;
	}
	return describe_nics(json_object_get(info, "networks"), t, e);
}
