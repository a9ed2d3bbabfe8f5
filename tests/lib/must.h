/* SPDX-License-Identifier: MIT */
/*
 * What a test cannot do without: fails it with the story. Include it after cmocka.h.
 */
#ifndef CLONE_TESTS_MUST_H
#define CLONE_TESTS_MUST_H

#include "base/err.h"

static inline void must(int r, const struct err *e)
{
	if (r)
		fail_msg("%s", e->msg);
}

#endif
