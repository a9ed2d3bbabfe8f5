/* SPDX-License-Identifier: MIT */
/*
 * What `clone fork` prints of a source that was taken over: a VM process that is a script says why
 * its children failed.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/util.h"
#include "cli/cli.h"
#include "cli/commands.h"
#include "cli/procid.h"
#include "control/http.h"
#include "control/json.h"
#include "control/sock.h"
#include "event/fdtab.h"
#include "event/loop.h"
#include "tests/lib/scratch.h"

struct world {
	char *dir;
	struct vmdir d;
	int lock;
	pid_t api, fds;
};

static void answer(void *arg, struct http_request *rq)
{
	static const char no[] = "{\"pause_ns\": 1, \"children\": [{\"name\": \"kid\", \"error\": "
				 "\"a\\u001b]0;b\\u0007\\nclone: c\\u009bd\"}]}";

	(void)arg;
	http_reply(rq, 200, no, sizeof(no) - 1);
}

static _Noreturn void play_api(int listener)
{
	pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	struct fdtab *fds;
	struct http *http;
	struct loop *loop;
	struct err e;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	BUG_ON(fdtab_create(&fds, &e) || loop_create(&lock, &loop, &e) ||
	       http_open(loop, fds, listener, answer, NULL, &http, &e));
	loop_run(loop, &e);
	_exit(1);
}

/* Takes all that is granted. */
static _Noreturn void play_fds(int listener)
{
	static const char ok[] = "{\"ok\": true}";
	char buf[4096];
	int fds[64];

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (;;) {
		cleanup_close int conn = accept(listener, NULL, NULL);
		size_t n = 0;

		while (fd_recv(conn, buf, sizeof(buf), fds, ARRAY_SIZE(fds), &n) > 0) {
			for (; n; n--)
				close(fds[n - 1]);
			if (fd_send(conn, ok, sizeof(ok) - 1, NULL, 0))
				_exit(1);
		}
	}
}

static pid_t play(int dir, const char *name, int type, void (*fn)(int listener))
{
	struct err e;
	int fd = sock_listen(dir, name, type, &e);
	pid_t pid;

	assert_true(fd >= 0);
	pid = fork();
	if (!pid)
		fn(fd);
	close(fd);
	return pid;
}

static int setup(void **state)
{
	struct world *w = calloc(1, sizeof(*w));
	cleanup_json json_t *info = json_pack("{s:s, s:[]}", "name", "liar", "disks");
	struct err e;

	w->dir = scratch_make();
	setenv("CLONE_RUN_DIR", scratch_path(w->dir, "run"), 1);
	setenv("CLONE_STATE_DIR", scratch_path(w->dir, "state"), 1);
	if (vmdir_create(PLACE_VM, "liar", 0, &w->d, &e))
		fail_msg("%s", e.msg);
	w->api = play(w->d.fd, "api.sock", SOCK_STREAM, play_api);
	w->fds = play(w->d.fd, "fd.sock", SOCK_SEQPACKET, play_fds);
	procid_note(info, w->api);
	w->lock = dup(w->d.lock_fd);
	assert_int_equal(vmdir_publish(&w->d, info, &e), 0);
	*state = w;
	return 0;
}

static int teardown(void **state)
{
	struct world *w = *state;

	kill(w->api, SIGKILL);
	kill(w->fds, SIGKILL);
	waitpid(w->api, NULL, 0);
	waitpid(w->fds, NULL, 0);
	close(w->lock);
	vmdir_close(&w->d);
	scratch_remove(w->dir);
	free(w);
	return 0;
}

/* What the command says on stderr, which ends with that code. */
static char *said(struct world *w, int argc, char **argv, int code)
{
	pid_t pid = fork();
	int status;

	if (!pid) {
		if (!freopen(scratch_path(w->dir, "said"), "w", stderr))
			_exit(99);
		status = cmd_fork(argc, argv);
		fflush(stderr);
		_exit(status);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), code);
	return scratch_sh("cat %s", scratch_path(w->dir, "said"));
}

static void test_fork__why_a_child_failed_is_one_line_without_escapes(void **state)
{
	char *one[] = { "fork", "liar", "--name", "kid", NULL };
	char *command[] = { "fork", "liar", "--name", "kid", "--", "true", NULL };
	struct world *w = *state;
	char *text;

	text = said(w, 4, one, CLI_FAIL);
	assert_string_equal(text, "clone: fork kid: a ]0;b  clone: c  d\n");
	free(text);
	text = said(w, 6, command, CLI_EXEC_FAILED);
	assert_string_equal(text, "clone: fork kid: a ]0;b  clone: c  d\n");
	free(text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(
			test_fork__why_a_child_failed_is_one_line_without_escapes, setup, teardown),
	};

	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
