/* SPDX-License-Identifier: MIT */
/*
 * Names, sizes, durations: from text and to text. See cli.h.
 */
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "base/util.h"
#include "cli/cli.h"

bool cli_name_ok(const char *name)
{
	static const char set[] =
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-";
	size_t n = strspn(name, set);

	return n >= 1 && n <= 64 && !name[n] && !strchr("_.-", name[0]);
}

int cli_name_check(const char *what, const char *name, struct err *e)
{
	if (cli_name_ok(name))
		return 0;
	return err_set(
		e, EINVAL,
		"%s '%.64s': a name has 1 to 64 letters, digits, '_', '.' or '-' and begins with "
		"a letter or digit",
		what, name);
}

/* Digits only: strtoull alone takes blanks, signs and overflow. */
static bool digits(const char *s, uint64_t *v, const char **end)
{
	uint64_t n = 0;

	if (!isdigit((unsigned char)*s))
		return false;
	for (; isdigit((unsigned char)*s); s++)
		if (!mul_u64(n, 10, &n) || !add_u64(n, (uint64_t)(*s - '0'), &n))
			return false;
	*v = n;
	*end = s;
	return true;
}

int cli_parse_uint(const char *s, uint64_t min, uint64_t max, uint64_t *v, struct err *e)
{
	const char *end;
	uint64_t n;

	if (!digits(s, &n, &end) || *end || n < min || n > max)
		return err_set(e, EINVAL, "'%s' is not a number in %" PRIu64 "..%" PRIu64, s, min,
			       max);
	*v = n;
	return 0;
}

int cli_parse_size(const char *s, uint64_t *bytes, struct err *e)
{
	static const char units[] = "KMGT";
	const char *end, *u;
	uint64_t n;

	if (!digits(s, &n, &end))
		return err_set(e, EINVAL, "'%s' is not a size like 512M or 2G", s);
	u = *end ? strchr(units, toupper((unsigned char)*end)) : NULL;
	if (!u || !(end[1] == '\0' || !strcasecmp(end + 1, "B") || !strcasecmp(end + 1, "iB")))
		return err_set(e, EINVAL, "'%s' is not a size with a unit: K, M, G or T", s);
	if (!mul_u64(n, 1ull << (10 * (u - units + 1)), bytes) || !*bytes)
		return err_set(e, EINVAL, "'%s' is out of range", s);
	return 0;
}

int cli_parse_duration(const char *s, uint64_t *ms, struct err *e)
{
	static const struct {
		const char *unit;
		uint64_t ms;
	} units[] = { { "", 1000 }, { "s", 1000 }, { "ms", 1 }, { "m", 60000 }, { "h", 3600000 } };
	const char *end;
	uint64_t n;

	if (!digits(s, &n, &end))
		return err_set(e, EINVAL, "'%s' is not a duration like 500ms, 10s or 2m", s);
	for (size_t i = 0; i < ARRAY_SIZE(units); i++) {
		uint64_t v;

		if (strcmp(end, units[i].unit))
			continue;
		if (!mul_u64(n, units[i].ms, &v) || v < 1 || v > 86400000)
			return err_set(e, EINVAL, "'%s' is not in 1ms..24h", s);
		*ms = v;
		return 0;
	}
	return err_set(e, EINVAL, "'%s' is not a duration: units are ms, s, m, h", s);
}

void cli_auto_name(const char *prefix, char *buf, size_t n)
{
	static const char *const adjectives[] = {
		"amber", "brave", "brisk", "calm",  "clear", "cosy",  "deft",  "eager",
		"fair",	 "fleet", "fond",  "glad",  "grand", "happy", "jolly", "keen",
		"kind",	 "lucid", "merry", "mild",  "neat",  "noble", "plain", "proud",
		"quick", "quiet", "rapid", "ready", "sharp", "spry",  "swift", "warm",
	};
	static const char *const nouns[] = {
		"alder", "aspen", "badger", "beech",  "birch", "cedar", "crane",  "dove",
		"elm",	 "finch", "fox",    "hare",   "hazel", "heron", "holly",  "ibis",
		"jay",	 "kite",  "lark",   "linden", "lynx",  "maple", "marten", "otter",
		"owl",	 "pine",  "robin",  "rowan",  "seal",  "swan",	"willow", "wren",
	};
	uint8_t r[4] = { 0 };

	if (getrandom(r, sizeof(r), 0) != sizeof(r))
		r[0] = (uint8_t)time(NULL);
	if (prefix)
		snprintf(buf, n, "%.54s-%02x%02x%02x", prefix, r[0], r[1], r[2]);
	else
		snprintf(buf, n, "%s-%s-%02x", adjectives[r[0] % ARRAY_SIZE(adjectives)],
			 nouns[r[1] % ARRAY_SIZE(nouns)], r[2]);
}

void cli_format_size(uint64_t bytes, char *buf, size_t n)
{
	static const char units[] = "BKMGT";
	double v = (double)bytes;
	size_t u = 0;

	while (v >= 1024 && units[u + 1]) {
		v /= 1024;
		u++;
	}
	if (u == 0 || v >= 100)
		snprintf(buf, n, "%.0f%c", v, units[u]);
	else
		snprintf(buf, n, "%.1f%c", v, units[u]);
}

void cli_format_now(char *buf, size_t n)
{
	time_t t = time(NULL);
	struct tm tm;

	gmtime_r(&t, &tm);
	strftime(buf, n, "%Y-%m-%dT%H:%M:%SZ", &tm);
}

void cli_format_age(const char *created, char *buf, size_t n)
{
	struct tm tm = { 0 };
	const char *end = strptime(created, "%Y-%m-%dT%H:%M:%SZ", &tm);
	int64_t s;

	buf[0] = '\0';
	if (!end || *end)
		return;
	s = (int64_t)time(NULL) - (int64_t)timegm(&tm);
	if (s < 0)
		s = 0;
	if (s < 120)
		snprintf(buf, n, "%" PRId64 "s", s);
	else if (s < 7200)
		snprintf(buf, n, "%" PRId64 "m", s / 60);
	else if (s < 172800)
		snprintf(buf, n, "%" PRId64 "h", s / 3600);
	else
		snprintf(buf, n, "%" PRId64 "d", s / 86400);
}
