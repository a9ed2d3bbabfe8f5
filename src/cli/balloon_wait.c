/* SPDX-License-Identifier: MIT */
/*
 * See balloon_wait.h. By asking again and again: a driver works for as long as it likes, and no
 * connection is to be held up by that.
 */
#include "cli/balloon_wait.h"

#include <errno.h>
#include <unistd.h>

#include "base/time.h"
#include "base/util.h"
#include "cli/cli.h"
#include "cli/progress.h"
#include "control/json.h"

#define POLL_US 20000
#define STALL_MS 5000 /* Linux's driver tries again every 200 ms while it finds no page */
#define STEP MIB(1)   /* less in that time is no progress: a page each 4 s would never end */
#define REFRESH_MS 1000
#define QUIET_MS 3000 /* Linux reports a part of what is free every 2 s */

static int ask(struct vmproc *p, const char *path, json_t **j, struct err *e)
{
	int r = vmproc_request(p, "GET", path, NULL, LAUNCH_MS, j, e);

	return !r && !*j ? err_set(e, EBADMSG, "%s: an empty answer", path) : r;
}

int balloon_actual(struct vmproc *p, uint64_t *bytes, struct err *e)
{
	cleanup_json json_t *j = NULL;
	int r = ask(p, "/balloon/statistics", &j, e);

	if (!r)
		*bytes = (uint64_t)json_integer_value(json_object_get(j, "actual_bytes"));
	return r;
}

static int stalled(uint64_t now, uint64_t to, struct err *e)
{
	char have[32], want[32];

	cli_format_size(now, have, sizeof(have));
	cli_format_size(to, want, sizeof(want));
	return err_set(e, ETIMEDOUT,
		       "the guest has %s in its balloon, not %s, and made no progress for %d s: %s",
		       have, want, STALL_MS / 1000,
		       now < to ? "it needs the rest itself (it goes on trying)"
				: "its driver does not answer");
}

int balloon_wait_target(struct vmproc *p, uint64_t from, uint64_t to, struct err *e)
{
	uint64_t now = from, mark = UINT64_MAX, moved_ns = time_mono_ns();
	struct progress bar;
	int r;

	progress_begin(&bar, to < from ? "deflating" : "inflating");
	for (;;) {
		uint64_t left;

		r = balloon_actual(p, &now, e);
		if (r || now == to)
			break;
		left = now < to ? to - now : now - to;
		/* to and fro is no progress; less than a step is to end before its time does */
		if (left <= mark - MIN(mark, STEP)) {
			moved_ns = time_mono_ns();
			mark = left;
		}
		if (time_mono_ns() - moved_ns > STALL_MS * NS_PER_MS) {
			r = stalled(now, to, e);
			break;
		}
		/* it may overshoot, or go the wrong way while the guest is short of memory */
		progress_show(&bar, from < to ? MAX(now, from) - from : from - MIN(now, from),
			      from < to ? to - from : from - to);
		usleep(POLL_US);
	}
	progress_end(&bar);
	return r;
}

int balloon_hint(struct vmproc *p, uint64_t timeout_ms, struct err *e)
{
	uint64_t end_ns = time_mono_ns() + timeout_ms * NS_PER_MS;
	cleanup_json json_t *body = json_object();
	int r = body ? vmproc_request(p, "PATCH", "/balloon/hinting/start", body, LAUNCH_MS, NULL,
				      e)
		     : err_set(e, ENOMEM, "out of memory");

	while (!r) {
		cleanup_json json_t *j = NULL;

		r = ask(p, "/balloon/hinting/status", &j, e);
		if (r || !json_is_true(json_object_get(j, "hinting")))
			break;
		if (time_mono_ns() > end_ns)
			return err_set(e, ETIMEDOUT,
				       "the guest did not name all of its free pages within %llu s",
				       (unsigned long long)timeout_ms / 1000);
		usleep(POLL_US);
	}
	return r;
}

int balloon_wait_reported(struct vmproc *p, uint64_t timeout_ms, struct err *e)
{
	uint64_t begin_ns = time_mono_ns(), news_ns = begin_ns;
	json_int_t last = -1;

	for (;;) {
		cleanup_json json_t *j = NULL;
		int r = ask(p, "/balloon/statistics", &j, e);
		json_int_t now = json_integer_value(json_object_get(j, "reported_bytes"));

		if (r == -EREMOTEIO || (!r && !json_is_true(json_object_get(j, "driver"))))
			return 0;
		if (r)
			return r;
		if (now != last)
			news_ns = time_mono_ns();
		last = now;
		if (time_mono_ns() - news_ns > QUIET_MS * NS_PER_MS ||
		    time_mono_ns() - begin_ns > timeout_ms * NS_PER_MS)
			return 0;
		usleep(POLL_US);
	}
}

void balloon_refresh(struct vmproc *p)
{
	uint64_t asked_ns = time_mono_ns();
	cleanup_json json_t *b = NULL, *body = NULL;
	json_int_t age_ms = -1;

	if (ask(p, "/balloon", &b, NULL))
		return;
	body = json_pack("{s:O*}", "stats_polling_interval_s",
			 json_object_get(b, "stats_polling_interval_s"));
	if (!body || vmproc_request(p, "PATCH", "/balloon/statistics", body, LAUNCH_MS, NULL, NULL))
		return;
	for (;;) {
		cleanup_json json_t *j = NULL;
		uint64_t waited_ms;

		if (ask(p, "/balloon/statistics", &j, NULL))
			return;
		waited_ms = (time_mono_ns() - asked_ns) / NS_PER_MS;
		if (json_object_get(j, "stats_age_ms"))
			age_ms = json_integer_value(json_object_get(j, "stats_age_ms"));
		if ((age_ms >= 0 && (uint64_t)age_ms <= waited_ms) || waited_ms > REFRESH_MS)
			return;
		usleep(POLL_US);
	}
}
