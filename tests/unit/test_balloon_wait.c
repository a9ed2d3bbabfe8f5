/* SPDX-License-Identifier: MIT */
/*
 * Waiting for a guest's balloon: against a VM process that is a script, since a driver that gives
 * up, goes to and fro or takes its time is not to be had on order.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/time.h"
#include "base/util.h"
#include "cli/balloon_wait.h"
#include "cli/commands.h"
#include "cli/procid.h"
#include "control/json.h"
#include "control/http.h"
#include "control/sock.h"
#include "event/fdtab.h"
#include "event/loop.h"
#include "tests/lib/scratch.h"

/* Time passes while we sleep, and not while the machine does something else: twenty times as fast
 * as it does. */
static uint64_t slept_ns;

int clock_gettime(clockid_t id, struct timespec *t)
{
	uint64_t now = 1000 * NS_PER_SEC + slept_ns;

	if (id == CLOCK_REALTIME || id == CLOCK_BOOTTIME)
		return (int)syscall(SYS_clock_gettime, id, t);
	*t = (struct timespec){ (time_t)(now / NS_PER_SEC), (long)(now % NS_PER_SEC) };
	return 0;
}

int usleep(useconds_t us)
{
	const struct timespec t = { .tv_nsec = us * 50 };

	slept_ns += us * 1000ull;
	return nanosleep(&t, NULL);
}

/* What the script's balloon does; shared with the process that plays it. */
struct script {
	uint64_t
		actual_mib[8]; /* of one answer after another; then the last pair again and again */
	unsigned int nr_actual;
	uint64_t creep;	    /* not 0: bytes more with each answer, from none */
	unsigned int hints; /* answers that say "hinting" */
	int stats_after;    /* statistics are fresh after so many questions; -1: never */
	bool refuses;	    /* PATCH */
	bool no_driver, no_balloon;
	bool rude;	      /* its policy has words that a terminal acts on */
	unsigned int reports; /* answers that say that it has reported more */
	/* what was asked of it */
	unsigned int asked, hinted, polled, patched, policies;
};

struct world {
	char *dir;
	int dir_fd;
	pid_t pid;
	struct script *s;
	struct vmproc p;
};

static uint64_t next_actual(struct script *s)
{
	unsigned int i = s->asked++;

	if (s->creep)
		return i * s->creep;
	if (i >= s->nr_actual)
		i = s->nr_actual < 2 ? 0 : s->nr_actual - 2 + (i - s->nr_actual) % 2;
	return s->actual_mib[i] << 20;
}

static void answer(void *arg, struct http_request *rq)
{
	static const char no[] = "{\"fault_message\": \"the driver is not there\"}";
	struct script *s = arg;
	char text[200] = "";

	if (rq->method == HTTP_PATCH) {
		s->patched++;
		s->hinted += !strcmp(rq->path, "/balloon/hinting/start");
		if (!strcmp(rq->path, "/balloon/statistics"))
			s->polled += strstr(rq->body, "\"stats_polling_interval_s\":7") != NULL;
		http_reply(rq, s->refuses ? 400 : 204, s->refuses ? no : NULL,
			   s->refuses ? sizeof(no) - 1 : 0);
		return;
	}
	if (rq->method == HTTP_PUT) {
		s->policies += !strcmp(rq->path, "/balloon/policy");
		http_reply(rq, 204, NULL, 0);
		return;
	}
	if (!strcmp(rq->path, "/balloon")) {
		snprintf(text, sizeof(text), "{\"stats_polling_interval_s\": 7}");
	} else if (!strcmp(rq->path, "/balloon/policy")) {
		snprintf(text, sizeof(text),
			 "{\"mode\": \"auto\", \"state\": \"%s\", \"last\": {\"reason\": \"%s\"}}",
			 s->rude ? "a\\u001b]0;b\\u0007" : "idle", s->rude ? "c\\n\\u009bd" : "x");
	} else if (!strcmp(rq->path, "/balloon/hinting/status")) {
		snprintf(text, sizeof(text), "{\"hinting\": %s}", s->hints ? "true" : "false");
		s->hints -= s->hints > 0;
	} else {
		bool more = s->asked < s->reports;
		int age = s->stats_after < 0 || (int)s->asked < s->stats_after ? 100000 : 0;

		snprintf(text, sizeof(text),
			 "{\"driver\": %s, \"actual_bytes\": %llu, \"reported_bytes\": %u, "
			 "\"stats_age_ms\": %d}",
			 s->no_driver ? "false" : "true", (unsigned long long)next_actual(s),
			 more ? s->asked : s->reports, age);
	}
	if (s->no_balloon)
		http_reply(rq, 400, no, sizeof(no) - 1);
	else
		http_reply(rq, 200, text, strlen(text));
}

static _Noreturn void play(int listen_fd, struct script *s)
{
	pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	struct fdtab *fds;
	struct http *http;
	struct loop *loop;
	struct err e;

	BUG_ON(fdtab_create(&fds, &e) || loop_create(&lock, &loop, &e) ||
	       http_open(loop, fds, listen_fd, answer, s, &http, &e));
	loop_run(loop, &e);
	_exit(1);
}

static int setup(void **state)
{
	struct world *w = calloc(1, sizeof(*w));
	struct err e;
	int fd;

	w->s = mmap(NULL, sizeof(*w->s), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(w->s, MAP_FAILED);
	w->dir = scratch_make();
	w->dir_fd = open(w->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	fd = sock_listen(w->dir_fd, "api.sock", SOCK_STREAM, &e);
	assert_true(fd >= 0);
	w->pid = fork();
	if (!w->pid)
		play(fd, w->s);
	close(fd);
	w->p = (struct vmproc){ .pidfd = -1, .fdsock = -1, .cancel_fd = -1 };
	vmdir_init(&w->p.dir);
	assert_int_equal(client_open(w->dir_fd, &w->p.api, &e), 0);
	*state = w;
	return 0;
}

static int teardown(void **state)
{
	struct world *w = *state;

	client_close(w->p.api);
	kill(w->pid, SIGKILL);
	waitpid(w->pid, NULL, 0);
	close(w->dir_fd);
	scratch_remove(w->dir);
	munmap(w->s, sizeof(*w->s));
	free(w);
	return 0;
}

static void test_target__is_waited_for_both_ways(void **state)
{
	struct world *w = *state;
	struct err e;

	*w->s = (struct script){ .actual_mib = { 0, 64, 128, 256, 999 }, .nr_actual = 5 };
	assert_int_equal(balloon_wait_target(&w->p, 0, MIB(256), &e), 0);
	assert_int_equal(w->s->asked, 4);
	*w->s = (struct script){ .actual_mib = { 300, 200, 0, 999 }, .nr_actual = 4 };
	assert_int_equal(balloon_wait_target(&w->p, MIB(300), 0, &e), 0);
	assert_int_equal(w->s->asked, 3);
	/* it is there already */
	*w->s = (struct script){ .actual_mib = { 5, 999 }, .nr_actual = 2 };
	assert_int_equal(balloon_wait_target(&w->p, MIB(5), MIB(5), &e), 0);
	assert_int_equal(w->s->asked, 1);
}

static void test_target__a_driver_that_gives_up_or_goes_to_and_fro_is_given_up(void **state)
{
	struct world *w = *state;
	uint64_t begin = time_mono_ns();
	struct err e;

	*w->s = (struct script){ .actual_mib = { 0, 100, 90, 100 }, .nr_actual = 4 };
	assert_int_equal(balloon_wait_target(&w->p, 0, MIB(256), &e), -ETIMEDOUT);
	/* 90 or 100 of them */
	assert_string_equal(strstr(e.msg, " in its"),
			    " in its balloon, not 256M, and made no progress for 5 s: it needs the "
			    "rest itself (it goes on trying)");
	assert_true(time_mono_ns() - begin >= 5 * NS_PER_SEC);
	*w->s = (struct script){ .actual_mib = { 64 }, .nr_actual = 1 };
	assert_int_equal(balloon_wait_target(&w->p, MIB(64), 0, &e), -ETIMEDOUT);
	assert_string_equal(e.msg, "the guest has 64.0M in its balloon, not 0B, and made no "
				   "progress for 5 s: its driver does not answer");
}

static void test_target__less_than_a_step_in_time_is_no_progress(void **state)
{
	struct world *w = *state;
	uint64_t begin = time_mono_ns();
	struct err e;

	/* 250 KiB in 5 s: it would be there after a minute */
	*w->s = (struct script){ .creep = 1024 };
	assert_int_equal(balloon_wait_target(&w->p, 0, MIB(3), &e), -ETIMEDOUT);
	assert_non_null(strstr(e.msg, " in its balloon, not 3.0M, and made no progress for 5 s: "));
	assert_in_range(time_mono_ns() - begin, 5 * NS_PER_SEC, 20 * NS_PER_SEC);
	/* of what is less than a step all must come in time */
	*w->s = (struct script){ .creep = 512 };
	begin = time_mono_ns();
	assert_int_equal(balloon_wait_target(&w->p, 0, 512 * 1000, &e), -ETIMEDOUT);
	assert_in_range(time_mono_ns() - begin, 5 * NS_PER_SEC, 15 * NS_PER_SEC);
	/* small steps add up: slow, but enough */
	*w->s = (struct script){ .creep = 32768 };
	begin = time_mono_ns();
	assert_int_equal(balloon_wait_target(&w->p, 0, MIB(10), &e), 0);
	assert_true(time_mono_ns() - begin > 6 * NS_PER_SEC);
	assert_int_equal(w->s->asked, 321);
}

static void test_hint__is_asked_for_once_and_waited_for(void **state)
{
	struct world *w = *state;
	struct err e;

	*w->s = (struct script){ .hints = 3 };
	assert_int_equal(balloon_hint(&w->p, 10000, &e), 0);
	assert_int_equal(w->s->hinted, 1);
	assert_int_equal(w->s->hints, 0);
	*w->s = (struct script){ .hints = 1000000 };
	assert_int_equal(balloon_hint(&w->p, 100, &e), -ETIMEDOUT);
	*w->s = (struct script){ .refuses = true };
	assert_int_equal(balloon_hint(&w->p, 10000, &e), -EREMOTEIO);
	assert_string_equal(e.msg, "the driver is not there");
}

static void test_refresh__asks_anew_at_the_same_pace_and_not_for_ever(void **state)
{
	struct world *w = *state;

	*w->s = (struct script){ .nr_actual = 1, .stats_after = 4 };
	balloon_refresh(&w->p);
	/* the period that there is stays */
	assert_int_equal(w->s->polled, 1);
	assert_int_equal(w->s->patched, 1);
	assert_int_equal(w->s->asked, 5);
	*w->s = (struct script){ .nr_actual = 1, .stats_after = -1 };
	balloon_refresh(&w->p);
	assert_int_equal(w->s->polled, 1);
	assert_true(w->s->asked > 5);
	*w->s = (struct script){ .nr_actual = 1, .refuses = true, .stats_after = -1 };
	balloon_refresh(&w->p);
	assert_int_equal(w->s->asked, 0);
}

static void test_reported__is_waited_for_until_nothing_more_comes(void **state)
{
	struct world *w = *state;
	uint64_t begin = time_mono_ns();
	struct err e;

	*w->s = (struct script){ .nr_actual = 1, .reports = 20 };
	assert_int_equal(balloon_wait_reported(&w->p, 60000, &e), 0);
	assert_true(time_mono_ns() - begin > 3 * NS_PER_SEC);
	assert_true(w->s->asked > 20);
	/* one that never ends is not waited for, for ever */
	*w->s = (struct script){ .nr_actual = 1, .reports = 1000000 };
	begin = time_mono_ns();
	assert_int_equal(balloon_wait_reported(&w->p, 200, &e), 0);
	assert_true(time_mono_ns() - begin < 3 * NS_PER_SEC);
	*w->s = (struct script){ .nr_actual = 1, .no_driver = true };
	assert_int_equal(balloon_wait_reported(&w->p, 60000, &e), 0);
	assert_int_equal(w->s->asked, 1);
	*w->s = (struct script){ .nr_actual = 1, .no_balloon = true };
	assert_int_equal(balloon_wait_reported(&w->p, 60000, &e), 0);
	assert_int_equal(w->s->asked, 1);
}

/* What `clone balloon VM` prints with these options, of a VM whose directory leads to the script.
 */
static char *shown(struct world *w, char **options)
{
	cleanup_free char *run = strdup(scratch_path(w->dir, "run"));
	cleanup_json json_t *info = json_pack("{s:s}", "name", "liar");
	struct vmdir d;
	struct err e;
	int fdsock, lock, status;
	pid_t pid;

	setenv("CLONE_RUN_DIR", run, 1);
	assert_int_equal(vmdir_create(PLACE_VM, "liar", 0, &d, &e), 0);
	assert_int_equal(linkat(w->dir_fd, "api.sock", d.fd, "api.sock", 0), 0);
	fdsock = sock_listen(d.fd, "fd.sock", SOCK_SEQPACKET, &e);
	assert_true(fdsock >= 0);
	procid_note(info, w->pid);
	lock = dup(d.lock_fd);
	assert_int_equal(vmdir_publish(&d, info, &e), 0);
	pid = fork();
	if (!pid) {
		char cmd[] = "balloon", vm[] = "liar", *argv[8] = { cmd, vm };
		int n = 2;

		while (*options)
			argv[n++] = *options++;
		if (!freopen(scratch_path(w->dir, "out"), "w", stdout))
			_exit(99);
		_exit(cmd_balloon(n, argv));
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	close(fdsock);
	close(lock);
	vmdir_close(&d);
	return scratch_sh("cat %s", scratch_path(w->dir, "out"));
}

static void test_balloon__words_of_the_process_do_nothing_to_a_terminal(void **state)
{
	struct world *w = *state;
	cleanup_free char *out = NULL;

	*w->s = (struct script){ .actual_mib = { 5 }, .nr_actual = 1, .rude = true };
	out = shown(w, (char *[]){ NULL });
	if (!strstr(out, "auto: a ]0;b  (c   d)\n") || strchr(out, '\x1b') || strchr(out, '\a'))
		fail_msg("it showed: %s", out);
}

static void test_balloon__a_policy_that_was_set_is_shown_to_programs(void **state)
{
	struct world *w = *state;
	cleanup_json json_t *j = NULL;
	cleanup_free char *out = NULL;

	*w->s = (struct script){ .nr_actual = 1 };
	out = shown(w, (char *[]){ "--auto", "-o", "json", NULL });
	assert_int_equal(w->s->policies, 1);
	j = json_loads(out, 0, NULL);
	/* the policy and nothing else */
	assert_int_equal(json_object_size(j), 3);
	assert_string_equal(json_string_value(json_object_get(j, "mode")), "auto");
	assert_string_equal(json_string_value(json_object_get(j, "state")), "idle");
	assert_int_equal(w->s->asked, 0);
}

static void test_balloon__a_policy_is_set_without_a_word_to_people(void **state)
{
	struct world *w = *state;
	cleanup_free char *out = NULL;

	*w->s = (struct script){ .nr_actual = 1 };
	out = shown(w, (char *[]){ "--manual", NULL });
	assert_int_equal(w->s->policies, 1);
	assert_string_equal(out, "");
}

static void test_wait__a_process_that_went_is_an_error(void **state)
{
	struct world *w = *state;
	uint64_t bytes = 77;
	struct err e;

	kill(w->pid, SIGKILL);
	assert_true(balloon_actual(&w->p, &bytes, &e) < 0);
	assert_int_equal(bytes, 77);
	assert_true(balloon_wait_reported(&w->p, 60000, &e) < 0);
}

#define CASE(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(test_target__is_waited_for_both_ways),
		CASE(test_target__a_driver_that_gives_up_or_goes_to_and_fro_is_given_up),
		CASE(test_target__less_than_a_step_in_time_is_no_progress),
		CASE(test_hint__is_asked_for_once_and_waited_for),
		CASE(test_refresh__asks_anew_at_the_same_pace_and_not_for_ever),
		CASE(test_reported__is_waited_for_until_nothing_more_comes),
		CASE(test_balloon__words_of_the_process_do_nothing_to_a_terminal),
		CASE(test_balloon__a_policy_that_was_set_is_shown_to_programs),
		CASE(test_balloon__a_policy_is_set_without_a_word_to_people),
		CASE(test_wait__a_process_that_went_is_an_error),
	};

	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
