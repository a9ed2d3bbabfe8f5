/* SPDX-License-Identifier: MIT */
/*
 * The module index and the walk through it. Input: modules.dep, modules.softdep, modules.alias and
 * modules.builtin, each ended by a NUL byte; then names to load, one a line.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "image/modules.h"
#include "image/tree.h"

static char dir[] = "/dev/shm/fuzz-modules-XXXXXX";

static void clean(void)
{
	tree_remove(dir, NULL);
}

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc;
	(void)argv;
	BUG_ON(!mkdtemp(dir));
	return atexit(clean);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	static const char *const file[] = { "modules.dep", "modules.softdep", "modules.alias",
					    "modules.builtin" };
	cleanup_free char *names = NULL;
	struct module_list l;
	struct modules *m;
	char *rest, *name;

	for (size_t i = 0; i < ARRAY_SIZE(file); i++) {
		size_t len = strnlen((const char *)data, n);

		BUG_ON(tree_write(dir, file[i], 0600, data, len, NULL));
		data += MIN(len + 1, n);
		n -= MIN(len + 1, n);
	}
	if (modules_open(dir, &m, NULL))
		return 0;
	module_list_init(&l, m);
	names = rest = strndup((const char *)data, n);
	while ((name = strsep(&rest, "\n")) && !module_list_add(&l, name, NULL))
		;
	for (size_t i = 0; i < l.count; i++)
		BUG_ON(l.path[i][0] == '/' || strstr(l.path[i], "/../"));
	module_list_fini(&l);
	modules_close(m);
	return 0;
}
