/* SPDX-License-Identifier: MIT */
/*
 * JSON bodies against a table: each field's type and range is checked, what the table does not name
 * is refused. Used by the control socket (hostile input) and wherever the project reads its own
 * JSON files back. Any thread.
 */
#ifndef CLONE_CONTROL_JSON_H
#define CLONE_CONTROL_JSON_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

enum json_want {
	WANT_BOOL,   /* bool */
	WANT_UINT,   /* uint64_t; min..max is its range */
	WANT_STRING, /* const char *, borrowed from the root; min..max is its length in bytes */
	WANT_ID,     /* as STRING, of [A-Za-z0-9_] */
	WANT_ARRAY,  /* json_t *, borrowed; min..max is its number of elements */
	WANT_OBJECT, /* json_t *, borrowed */
};

struct json_field {
	const char *name;
	enum json_want want;
	bool required;
	size_t offset; /* in the struct that json_fields fills */
	uint64_t min, max;
};

#define JSON_FIELD(type, member, kind, need, lo, hi)                                               \
	{                                                                                          \
		.name = #member, .want = (kind), .required = (need),                               \
		.offset = offsetof(type, member), .min = (lo), .max = (hi)                         \
	}

/*
 * Parses n bytes into a JSON object: NULL and e with line and reason when it is not one (or has a
 * key twice). The caller's (json_decref).
 */
json_t *json_object_from(const char *text, size_t n, struct err *e);

/*
 * Reads an object's fields into `out`. A field that is absent or null leaves `out` as it was
 * (-EINVAL when it is required). -EINVAL for anything else that the table does not allow, with the
 * field's name; `out` may be partly filled then.
 */
int json_fields(const json_t *obj, const struct json_field *tab, size_t n, void *out,
		struct err *e);

/* A number that another side chose: what is more than JSON's integers have is their largest. */
json_t *json_number(uint64_t v);

/* true for 1 to max bytes of [A-Za-z0-9_]. */
bool json_id_ok(const char *s, size_t max);

/*
 * The value as text, the caller's to free; flags as json_dumps has them. NULL: no value, no memory,
 * or more than 64 MiB. In the place of json_dumps, which leaves a key out when there is no memory
 * for it.
 */
char *json_text(const json_t *j, size_t flags);

/* Reads a whole file of at most `max` bytes as one JSON object. -errno, -EBADMSG. */
int json_read_file(int dirfd, const char *name, size_t max, json_t **out, struct err *e);
/* Writes obj to dirfd/name: a temporary file first, fsynced, renamed over the old one. */
int json_write_file(int dirfd, const char *name, unsigned int mode, const json_t *obj,
		    struct err *e);

static inline void json_decref_p(json_t **j)
{
	json_decref(*j);
}
#define cleanup_json __attribute__((cleanup(json_decref_p)))

#endif
