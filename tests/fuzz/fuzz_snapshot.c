/* SPDX-License-Identifier: MIT */
/*
 * Fuzz target: state files. First the bytes as a whole file; then, past the checksums, as one
 * record's payload for the machine and for each device's cfg and state: what a table decodes it
 * encodes to the same bytes, so nothing in a file goes unread or has two meanings.
 */
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "snapshot/format.h"
#include "snapshot/ram.h"
#include "vm/registry.h"
#include "vm/vm_private.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void whole_file(const uint8_t *data, size_t size)
{
	struct snap_file f;
	struct err e = { "" };
	struct rbuf r;

	if (snap_parse(data, size, &f, &e)) {
		BUG_ON(!e.msg[0]);
		return;
	}
	for (size_t i = 0; i < f.n; i++)
		BUG_ON(snap_find(&f, f.rec[i].name, f.rec[i].id, f.rec[i].version + 1, &r, &e) ==
		       0);
	snap_close(&f);
}

static void payload(const struct field_table *t, const uint8_t *data, size_t size)
{
	void *obj = calloc(1, t->struct_size + !t->struct_size);
	struct err e = { "" };
	struct rbuf r;
	struct wbuf w;

	BUG_ON(!obj);
	rbuf_init(&r, data, size);
	if (field_decode(t, &r, obj, &e)) {
		BUG_ON(!e.msg[0]);
	} else {
		wbuf_init(&w, SNAP_FILE_MAX);
		field_encode(t, obj, &w);
		BUG_ON(w.bad || w.len != r.pos || (w.len && memcmp(w.data, data, w.len)));
		BUG_ON(field_compare(t, obj, obj, &e));
		wbuf_fini(&w);
	}
	free(obj);
}

static void ram(const uint8_t *data, size_t size)
{
	struct err e = { "" };
	struct ram_index ix;
	struct rbuf r;
	struct wbuf w;

	rbuf_init(&r, data, size);
	if (ram_index_decode(&r, &ix, &e)) {
		BUG_ON(!e.msg[0]);
		return;
	}
	wbuf_init(&w, SNAP_FILE_MAX);
	ram_index_encode(&ix, &w);
	BUG_ON(w.bad || w.len != size || memcmp(w.data, data, w.len));
	BUG_ON(ram_index_data(&ix) > ix.size_bytes || ram_index_find(&ix, ix.size_bytes) != ix.n);
	wbuf_fini(&w);
	ram_index_fini(&ix);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	size_t which = size ? data[0] % (2 * device_registry_len + 3) : 0;

	if (which == 0)
		whole_file(data + !!size, size - !!size);
	else if (which == 1)
		payload(&machine_cfg_table, data + 1, size - 1);
	else if (which == 2)
		ram(data + 1, size - 1);
	else if (which % 2)
		payload(&device_registry[which / 2 - 1]->cfg, data + 1, size - 1);
	else
		payload(&device_registry[which / 2 - 2]->state, data + 1, size - 1);
	return 0;
}
