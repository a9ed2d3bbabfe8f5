/* SPDX-License-Identifier: MIT */
/*
 * A template's manifest of arbitrary bytes: refused, or a template whose indexes and strings are in
 * bounds and that is written and read back the same.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "control/json.h"
#include "template/manifest.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	static struct template t, again;
	cleanup_json json_t *j = json_object_from((const char *)data, n, NULL), *back = NULL;

	memset(&t, 0, sizeof(t));
	if (!j || manifest_from_json(j, &t, NULL))
		return 0;
	BUG_ON(t.nfiles < 2 || t.nfiles > TEMPLATE_FILES || t.ndisks > TEMPLATE_DISKS);
	for (size_t i = 0; i < t.ndisks; i++)
		BUG_ON(t.disks[i].layer != -1 &&
		       (t.disks[i].layer < 2 || (size_t)t.disks[i].layer >= t.nfiles));
	for (size_t i = 0; i < t.nfiles; i++)
		BUG_ON(!template_name_ok(t.files[i].name) || !digest_ok(t.files[i].sha256));
	back = manifest_to_json(&t);
	memset(&again, 0, sizeof(again));
	BUG_ON(!back || manifest_from_json(back, &again, NULL) || memcmp(&t, &again, sizeof(t)));
	return 0;
}
