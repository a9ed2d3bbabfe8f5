/* SPDX-License-Identifier: MIT */
/*
 * Scratch directories for tests, under $TMPDIR or /tmp.
 */
#include "tests/lib/scratch.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <cmocka.h>

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "image/tree.h"

char *scratch_make(void)
{
	const char *tmp = getenv("TMPDIR");
	char *dir = NULL;

	assert_true(asprintf(&dir, "%s/clone-test-XXXXXX", tmp ? tmp : "/tmp") > 0);
	assert_non_null(mkdtemp(dir));
	return dir;
}

void scratch_remove(char *dir)
{
	struct err e;

	if (tree_remove(dir, &e))
		fail_msg("%s", e.msg);
	free(dir);
}

int scratch_state_setup(void **state)
{
	*state = scratch_make();
	setenv("CLONE_STATE_DIR", *state, 1);
	return 0;
}

int scratch_state_teardown(void **state)
{
	scratch_remove(*state);
	return 0;
}

const char *scratch_path(const char *dir, const char *name)
{
	static char buf[8][PATH_MAX];
	static unsigned next;
	char *p = buf[next++ % ARRAY_SIZE(buf)];

	snprintf(p, PATH_MAX, "%s/%s", dir, name);
	return p;
}

void scratch_write(const char *dir, const char *name, const void *data, size_t n)
{
	struct err e;

	if (tree_write(dir, name, 0755, data, n, &e))
		fail_msg("%s", e.msg);
}

void scratch_text(const char *dir, const char *name, const char *text)
{
	scratch_write(dir, name, text, strlen(text));
}

char *scratch_sh(const char *fmt, ...)
{
	cleanup_free char *cmd = NULL;
	char *out = calloc(1, 1 << 20);
	size_t n;
	va_list ap;
	FILE *f;

	assert_non_null(out);
	va_start(ap, fmt);
	assert_true(vasprintf(&cmd, fmt, ap) > 0);
	va_end(ap);
	f = popen(cmd, "re");
	assert_non_null(f);
	n = fread(out, 1, (1 << 20) - 1, f);
	out[n] = '\0';
	if (pclose(f))
		fail_msg("failed: %s", cmd);
	return out;
}
