/* SPDX-License-Identifier: MIT */
/*
 * The manifest of a template or snapshot ("parent", "vm", "vm_created", "networks", "ksm" may be
 * missing):
 *
 *     {"version": 3, "name": "web", "created": "2025-06-01T12:00:00Z", "clone_version": "0.1.0",
 *      "parent": {"store": "template", "name": "base", "sha256": "..."},
 *      "vm": "web-1", "vm_created": "...", "image": "debian", "cpu": "...", "memory_bytes": N,
 * "vcpus": N, "agent": true, "disks": [{"id": "root", "read_only": false, "layer":
 * "layer-root", "bases": [{"path": "/...", "format": "raw", "bytes": N, "dev": N, "ino": N,
 * "mtime_ns": N, "sha256": "..."}]}], "files": [{"name": "state", "size_bytes": N, "sha256":
 * "..."}, {"name": "ram",
 * ...}, ...]}
 *
 * "state" and "ram" come first in "files"; every other file is some disk's layer.
 */
#include "template/manifest.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/util.h"
#include "control/json.h"

bool template_name_ok(const char *name)
{
	static const char set[] =
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-";
	size_t n = strspn(name, set);

	return n >= 1 && n <= TEMPLATE_NAME_MAX && !name[n] && !strchr("_.-", name[0]);
}

static json_t *base_json(const struct template_base *b)
{
	return json_pack("{s:s, s:s, s:I, s:I, s:I, s:I, s:s}", "path", b->path, "format",
			 b->qcow2 ? "qcow2" : "raw", "bytes", (json_int_t)b->bytes, "dev",
			 (json_int_t)b->dev, "ino", (json_int_t)b->ino, "mtime_ns",
			 (json_int_t)b->mtime_ns, "sha256", b->sha256);
}

static json_t *disk_json(const struct template *t, const struct template_disk *d)
{
	json_t *bases = json_array();
	json_t *j = json_pack("{s:s, s:b, s:o}", "id", d->id, "read_only", d->read_only, "bases",
			      bases);
	int r = !j;

	for (size_t i = 0; i < d->nbases && !r; i++)
		r = json_array_append_new(bases, base_json(&t->bases[d->base + i]));
	if (!r && d->layer >= 0)
		r = json_object_set_new(j, "layer", json_string(t->files[d->layer].name));
	if (!r)
		return j;
	json_decref(j);
	return NULL;
}

static json_t *nics_json(const struct template *t)
{
	json_t *list = json_array();

	for (size_t i = 0; i < t->nnics; i++)
		if (json_array_append_new(list, json_pack("{s:s, s:s, s:i}", "id", t->nics[i].id,
							  "network", t->nics[i].network, "queues",
							  (int)t->nics[i].queues))) {
			json_decref(list);
			return NULL;
		}
	return list;
}

static json_t *file_json(const struct template_file *f)
{
	return json_pack("{s:s, s:I, s:s}", "name", f->name, "size_bytes",
			 (json_int_t)f->size_bytes, "sha256", f->sha256);
}

/* What only some have. */
static int add_optional(json_t *j, const struct template *t)
{
	const struct template_parent *p = &t->parent;
	int r = 0;

	if (p->name[0])
		r = json_object_set_new(j, "parent",
					json_pack("{s:s, s:s, s:s}", "store", store_word(p->store),
						  "name", p->name, "sha256", p->sha256));
	if (!r && t->vm[0])
		r = json_object_set_new(j, "vm", json_string(t->vm));
	if (!r && t->vm_created[0])
		r = json_object_set_new(j, "vm_created", json_string(t->vm_created));
	if (!r && t->nnics)
		r = json_object_set_new(j, "networks", nics_json(t));
	if (!r && t->ksm[0])
		r = json_object_set_new(j, "ksm", json_string(t->ksm));
	return r;
}

json_t *manifest_to_json(const struct template *t)
{
	json_t *j;
	cleanup_json json_t *disks = json_array();
	cleanup_json json_t *files = json_array();
	int r = 0;

	for (size_t i = 0; i < t->ndisks && !r; i++)
		r = json_array_append_new(disks, disk_json(t, &t->disks[i]));
	for (size_t i = 0; i < t->nfiles && !r; i++)
		r = json_array_append_new(files, file_json(&t->files[i]));
	if (r)
		return NULL;
	j = json_pack("{s:i, s:s, s:s, s:s, s:s, s:s, s:I, s:i, s:b, s:O, s:O}", "version",
		      TEMPLATE_VERSION, "name", t->name, "created", t->created, "clone_version",
		      t->clone_version, "image", t->image, "cpu", t->cpu, "memory_bytes",
		      (json_int_t)t->mem_bytes, "vcpus", (int)t->vcpus, "agent", t->agent, "disks",
		      disks, "files", files);
	if (j && add_optional(j, t)) {
		json_decref(j);
		return NULL;
	}
	return j;
}

struct file_fields {
	const char *name, *sha256;
	uint64_t size_bytes;
};

static int read_file(const json_t *j, struct template_file *f, struct err *e)
{
	static const struct json_field tab[] = {
		JSON_FIELD(struct file_fields, name, WANT_STRING, true, 1, sizeof(f->name) - 1),
		JSON_FIELD(struct file_fields, sha256, WANT_STRING, true, DIGEST_HEX, DIGEST_HEX),
		JSON_FIELD(struct file_fields, size_bytes, WANT_UINT, true, 0, INT64_MAX),
	};
	struct file_fields v = { 0 };
	int r = json_fields(j, tab, ARRAY_SIZE(tab), &v, e);

	if (r)
		return r;
	if (!template_name_ok(v.name) || !digest_ok(v.sha256))
		return err_set(e, EINVAL, "not a file's name or digest");
	snprintf(f->name, sizeof(f->name), "%s", v.name);
	snprintf(f->sha256, sizeof(f->sha256), "%s", v.sha256);
	f->size_bytes = v.size_bytes;
	return 0;
}

static int read_files(const json_t *list, struct template *t, struct err *e)
{
	t->nfiles = json_array_size(list);
	for (size_t i = 0; i < t->nfiles; i++) {
		int r = read_file(json_array_get(list, i), &t->files[i], e);

		if (r)
			return err_wrap(e, r, "files[%zu]", i);
		for (size_t k = 0; k < i; k++)
			if (!strcmp(t->files[i].name, t->files[k].name))
				return err_set(e, EINVAL, "files: two are named %s",
					       t->files[i].name);
	}
	if (strcmp(t->files[TEMPLATE_STATE].name, "state") ||
	    strcmp(t->files[TEMPLATE_RAM].name, "ram"))
		return err_set(e, EINVAL, "files: state and ram must come first");
	return 0;
}

struct base_fields {
	const char *path, *format, *sha256;
	uint64_t bytes, dev, ino, mtime_ns;
};

static int read_base(const json_t *j, struct template_base *b, struct err *e)
{
	static const struct json_field tab[] = {
		JSON_FIELD(struct base_fields, path, WANT_STRING, true, 2, PATH_MAX - 1),
		JSON_FIELD(struct base_fields, format, WANT_STRING, true, 3, 5),
		JSON_FIELD(struct base_fields, sha256, WANT_STRING, true, DIGEST_HEX, DIGEST_HEX),
		JSON_FIELD(struct base_fields, bytes, WANT_UINT, true, 1, INT64_MAX),
		JSON_FIELD(struct base_fields, dev, WANT_UINT, true, 0, INT64_MAX),
		JSON_FIELD(struct base_fields, ino, WANT_UINT, true, 0, INT64_MAX),
		JSON_FIELD(struct base_fields, mtime_ns, WANT_UINT, true, 0, INT64_MAX),
	};
	struct base_fields v = { 0 };
	int r = json_fields(j, tab, ARRAY_SIZE(tab), &v, e);

	if (r)
		return r;
	if (v.path[0] != '/' || !digest_ok(v.sha256))
		return err_set(e, EINVAL, "not a base's path or digest");
	b->qcow2 = !strcmp(v.format, "qcow2");
	if (!b->qcow2 && strcmp(v.format, "raw"))
		return err_set(e, EINVAL, "format: must be raw or qcow2");
	snprintf(b->path, sizeof(b->path), "%s", v.path);
	snprintf(b->sha256, sizeof(b->sha256), "%s", v.sha256);
	b->bytes = v.bytes;
	b->dev = v.dev;
	b->ino = v.ino;
	b->mtime_ns = v.mtime_ns;
	return 0;
}

struct disk_fields {
	const char *id, *layer;
	bool read_only;
	json_t *bases;
};

static int read_disk(const json_t *j, struct template *t, struct template_disk *d, struct err *e)
{
	static const struct json_field tab[] = {
		JSON_FIELD(struct disk_fields, id, WANT_ID, true, 1, sizeof(d->id) - 1),
		JSON_FIELD(struct disk_fields, layer, WANT_STRING, false, 1, 47),
		JSON_FIELD(struct disk_fields, read_only, WANT_BOOL, true, 0, 0),
		JSON_FIELD(struct disk_fields, bases, WANT_ARRAY, true, 1, TEMPLATE_BASES),
	};
	struct disk_fields v = { 0 };
	int r = json_fields(j, tab, ARRAY_SIZE(tab), &v, e);

	if (r)
		return r;
	d->layer = -1;
	for (size_t i = TEMPLATE_RAM + 1; v.layer && i < t->nfiles; i++)
		if (!strcmp(t->files[i].name, v.layer))
			d->layer = (int)i;
	if ((d->layer < 0) != v.read_only)
		return err_set(e, EINVAL, "a disk has a layer if and only if it can be written to");
	snprintf(d->id, sizeof(d->id), "%s", v.id);
	d->read_only = v.read_only;
	d->base = t->nbases;
	d->nbases = json_array_size(v.bases);
	if (d->nbases > TEMPLATE_BASES - t->nbases)
		return err_set(e, EINVAL, "bases: more than %d files in all", TEMPLATE_BASES);
	for (size_t i = 0; i < d->nbases; i++) {
		r = read_base(json_array_get(v.bases, i), &t->bases[t->nbases++], e);
		if (r)
			return err_wrap(e, r, "bases[%zu]", i);
	}
	return 0;
}

struct nic_fields {
	const char *id, *network;
	uint64_t queues;
};

static int read_nic(const json_t *j, struct template_nic *n, struct err *e)
{
	static const struct json_field tab[] = {
		JSON_FIELD(struct nic_fields, id, WANT_ID, true, 1, sizeof(n->id) - 1),
		JSON_FIELD(struct nic_fields, network, WANT_STRING, true, 0, TEMPLATE_NAME_MAX),
		JSON_FIELD(struct nic_fields, queues, WANT_UINT, true, 1, 8),
	};
	struct nic_fields v = { 0 };
	int r = json_fields(j, tab, ARRAY_SIZE(tab), &v, e);

	if (r)
		return r;
	if (v.network[0] && !template_name_ok(v.network))
		return err_set(e, EINVAL, "network: not a name");
	snprintf(n->id, sizeof(n->id), "%s", v.id);
	snprintf(n->network, sizeof(n->network), "%s", v.network);
	n->queues = (unsigned int)v.queues;
	return 0;
}

struct parent_fields {
	const char *store, *name, *sha256;
};

static int read_parent(const json_t *j, struct template_parent *p, struct err *e)
{
	static const struct json_field tab[] = {
		JSON_FIELD(struct parent_fields, store, WANT_STRING, true, 8, 8),
		JSON_FIELD(struct parent_fields, name, WANT_STRING, true, 1, TEMPLATE_NAME_MAX),
		JSON_FIELD(struct parent_fields, sha256, WANT_STRING, true, DIGEST_HEX, DIGEST_HEX),
	};
	struct parent_fields v = { 0 };
	int r = json_fields(j, tab, ARRAY_SIZE(tab), &v, e);

	if (r)
		return r;
	if (!template_name_ok(v.name) || !digest_ok(v.sha256))
		return err_set(e, EINVAL, "not a name or digest");
	p->store = STORE_TEMPLATES;
	if (strcmp(v.store, store_word(p->store)))
		p->store = STORE_SNAPSHOTS;
	if (strcmp(v.store, store_word(p->store)))
		return err_set(e, EINVAL, "store: must be template or snapshot");
	snprintf(p->name, sizeof(p->name), "%s", v.name);
	snprintf(p->sha256, sizeof(p->sha256), "%s", v.sha256);
	return 0;
}

struct top {
	uint64_t version, memory_bytes, vcpus;
	const char *name, *created, *clone_version, *image, *cpu, *vm, *vm_created, *ksm;
	bool agent;
	json_t *disks, *files, *parent, *networks;
};

static int read_top(const json_t *j, struct top *v, struct err *e)
{
	static const struct json_field tab[] = {
		JSON_FIELD(struct top, version, WANT_UINT, true, 0, UINT32_MAX),
		JSON_FIELD(struct top, name, WANT_STRING, true, 1, TEMPLATE_NAME_MAX),
		JSON_FIELD(struct top, created, WANT_STRING, true, 0, 31),
		JSON_FIELD(struct top, clone_version, WANT_STRING, true, 0, 31),
		JSON_FIELD(struct top, image, WANT_STRING, true, 0, 64),
		JSON_FIELD(struct top, cpu, WANT_STRING, true, 0, 127),
		JSON_FIELD(struct top, memory_bytes, WANT_UINT, true, 1 << 20, 1ull << 40),
		JSON_FIELD(struct top, vcpus, WANT_UINT, true, 1, 64),
		JSON_FIELD(struct top, agent, WANT_BOOL, true, 0, 0),
		JSON_FIELD(struct top, parent, WANT_OBJECT, false, 0, 0),
		JSON_FIELD(struct top, vm, WANT_STRING, false, 1, TEMPLATE_NAME_MAX),
		JSON_FIELD(struct top, vm_created, WANT_STRING, false, 1, 31),
		JSON_FIELD(struct top, disks, WANT_ARRAY, true, 0, TEMPLATE_DISKS),
		JSON_FIELD(struct top, files, WANT_ARRAY, true, 2, TEMPLATE_FILES),
		JSON_FIELD(struct top, networks, WANT_ARRAY, false, 0, TEMPLATE_NICS),
		JSON_FIELD(struct top, ksm, WANT_STRING, false, 1, TEMPLATE_NAME_MAX),
	};

	return json_fields(j, tab, ARRAY_SIZE(tab), v, e);
}

int manifest_from_json(const json_t *j, struct template *t, struct err *e)
{
	const json_t *version = json_object_get(j, "version");
	struct top v = { 0 };
	int r;

	/* Another version may have other fields: say that first. */
	if (json_is_integer(version) && json_integer_value(version) != TEMPLATE_VERSION)
		return err_set(e, EPROTONOSUPPORT,
			       "format %lld, this clone knows %d: make the template again",
			       (long long)json_integer_value(version), TEMPLATE_VERSION);
	r = read_top(j, &v, e);
	if (!r && !template_name_ok(v.name))
		r = err_set(e, EINVAL, "name: not a template's name");
	if (!r)
		r = read_files(v.files, t, e);
	if (!r && v.parent) {
		r = read_parent(v.parent, &t->parent, e);
		if (r)
			err_wrap(e, r, "parent");
	}
	if (r)
		return err_wrap(e, -EBADMSG, "manifest");
	snprintf(t->vm, sizeof(t->vm), "%s", v.vm ? v.vm : "");
	snprintf(t->vm_created, sizeof(t->vm_created), "%s", v.vm_created ? v.vm_created : "");
	snprintf(t->name, sizeof(t->name), "%s", v.name);
	snprintf(t->created, sizeof(t->created), "%s", v.created);
	snprintf(t->clone_version, sizeof(t->clone_version), "%s", v.clone_version);
	snprintf(t->image, sizeof(t->image), "%s", v.image);
	snprintf(t->cpu, sizeof(t->cpu), "%s", v.cpu);
	t->mem_bytes = v.memory_bytes;
	t->vcpus = (unsigned int)v.vcpus;
	t->agent = v.agent;
	snprintf(t->ksm, sizeof(t->ksm), "%s", v.ksm ? v.ksm : "");
	t->nnics = json_array_size(v.networks);
	for (size_t i = 0; i < t->nnics; i++) {
		r = read_nic(json_array_get(v.networks, i), &t->nics[i], e);
		if (r)
			return err_wrap(e, -EBADMSG, "manifest: networks[%zu]", i);
	}
	t->ndisks = json_array_size(v.disks);
	t->nbases = 0;
	for (size_t i = 0; i < t->ndisks; i++) {
		r = read_disk(json_array_get(v.disks, i), t, &t->disks[i], e);
		if (r)
			return err_wrap(e, -EBADMSG, "manifest: disks[%zu]", i);
	}
	return 0;
}
