/* SPDX-License-Identifier: MIT */
/*
 * Children of a fork that are refused after they were put into their group (in a model of cgroup
 * v2), and do not end: a process of this program is a source that was taken over, with a child that
 * keeps all that it was granted, and answers nobody.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "base/fd.h"
#include "base/util.h"
#include "cgroup/cgroup.h"
#include "cli/commands.h"
#include "cli/forkreq.h"
#include "cli/group.h"
#include "cli/procid.h"
#include "control/json.h"
#include "control/sock.h"
#include "tests/lib/cgroup_model.h"

#define GRANTS_MAX 64

struct world {
	char *dir;
	struct vmdir source;
};

/* All that was granted, and which of it is the child's gate, and its API. */
struct grants {
	int fd[GRANTS_MAX];
	size_t n;
	int gate, api;
};

/* It is not to be asked anything (-1: it may be): that it need not answer takes long. */
static _Noreturn void stay(int api)
{
	struct pollfd p = { .fd = api, .events = POLLIN };

	while (poll(&p, 1, -1) <= 0)
		;
	_exit(40);
}

static void take_grants(int sock, struct grants *g)
{
	cleanup_json json_t *msg = NULL;
	json_t *name;
	char buf[4096];
	size_t n = 0, i;
	struct err e;
	ssize_t len = fd_recv(sock, buf, sizeof(buf), g->fd + g->n, GRANTS_MAX - g->n, &n);

	if (len <= 0)
		_exit(10);
	msg = json_object_from(buf, (size_t)len, &e);
	json_array_foreach(json_object_get(msg, "grant"), i, name)
	{
		if (!strcmp(json_string_value(name), "child/a/cgroup/gate"))
			g->gate = g->fd[g->n + i];
		if (!strcmp(json_string_value(name), "child/a/api"))
			g->api = g->fd[g->n + i];
	}
	g->n += n;
	if (send(sock, "{\"ok\":true}", 11, MSG_NOSIGNAL) != 11)
		_exit(11);
}

/* It passes its gate, and then does nothing that it should. */
static pid_t hostile_child(const struct grants *g)
{
	int said[2];
	pid_t pid;
	char c;

	if (pipe(said))
		_exit(20);
	pid = fork();
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (write(g->gate, "x", 1) != 1 || read(g->gate, &c, 1) != 1 ||
		    write(said[1], "x", 1) != 1)
			_exit(21);
		stay(g->api);
	}
	close(said[1]);
	if (read(said[0], &c, 1) != 1)
		_exit(22);
	return pid;
}

static void answer(int conn, const char *child)
{
	char body[300], text[600];
	int n;

	snprintf(body, sizeof(body), "{\"pause_ns\":1,\"children\":[{\"name\":\"a\",%s}]}", child);
	n = snprintf(text, sizeof(text), "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\n\r\n%s",
		     strlen(body), body);
	if (send(conn, text, (size_t)n, MSG_NOSIGNAL) != n)
		_exit(30);
}

/* Its exit code says whether its child was killed. */
static _Noreturn void be_source(int api, int grants, const char *error)
{
	struct grants g = { .gate = -1, .api = -1 };
	int sock = accept(grants, NULL, NULL), conn, status;
	struct pollfd p[] = { { .fd = sock, .events = POLLIN }, { .fd = api, .events = POLLIN } };
	char says[200];
	pid_t pid;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	while (poll(p, 2, -1) > 0 && !(p[1].revents & POLLIN))
		take_grants(sock, &g);
	conn = accept(api, NULL, NULL);
	pid = hostile_child(&g);
	/* only the child is in its group: what the source keeps is the source's */
	for (size_t i = 0; i < g.n; i++)
		close(g.fd[i]);
	snprintf(says, sizeof(says), "\"pid\":%d%s", *error ? pid : getpid(), error);
	answer(conn, says);
	if (waitpid(pid, &status, 0) != pid)
		_exit(31);
	_exit(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL ? 0 : 32);
}

static pid_t start_source(struct world *w, const char *error)
{
	cleanup_close int api = sock_listen(w->source.fd, "api.sock", SOCK_STREAM, NULL);
	cleanup_close int grants = sock_listen(w->source.fd, "fd.sock", SOCK_SEQPACKET, NULL);
	cleanup_json json_t *info = json_object();
	pid_t pid;

	assert_true(api >= 0 && grants >= 0);
	pid = fork();
	if (!pid)
		be_source(api, grants, error);
	procid_note(info, pid);
	assert_int_equal(vmdir_rewrite(&w->source, info, NULL), 0);
	return pid;
}

static void must_be_gone(const char *name)
{
	assert_int_equal(vmdir_open(PLACE_VM, name, &(struct vmdir){ 0 }, NULL), -ENOENT);
	cgroup_model_assert_left("0\n");
}

/* A fork of which the source says that; why it failed. */
static void refused(struct world *w, const char *error, const char *why)
{
	cleanup_json json_t *info =
		json_pack("{s:I, s:[], s:I}", "memory_bytes", (json_int_t)MIB(64), "disks",
			  "memory_quota_bytes", (json_int_t)MIB(64));
	const struct fork_source src = { .dir = &w->source, .live = true, .info = info };
	const struct fork_how how = { .userdata_fd = -1, .timeout_ms = 60000 };
	struct fork_child_info c = { .name = "a" };
	pid_t pid = start_source(w, error);
	uint64_t pause_ns;
	struct err e;
	int status;

	if (fork_request(&src, &c, 1, &how, -1, &pause_ns, &e))
		fail_msg("%s", e.msg);
	assert_false(c.ok);
	assert_string_equal(c.why, why);
	must_be_gone("a");
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
}

static void
test_refused__a_child_that_its_source_says_has_failed_is_ended_by_its_group(void **state)
{
	refused(*state, ",\"error\":\"it would not\"", "it would not");
}

static void test_refused__a_child_that_its_source_does_not_name_is_ended_by_its_group(void **state)
{
	refused(*state, "",
		"memory quota: the source names another process than the one in the group");
}

/* A VM of this name whose process is in its group, and holds its lock. */
static pid_t stubborn(const char *name, bool listens, struct vmdir *d)
{
	int events = -1, api = -1, said[2];
	char path[PATH_MAX], c;
	struct err e;
	pid_t pid;

	assert_int_equal(vmdir_create(PLACE_VM, name, 0, d, &e), 0);
	assert_int_equal(group_make(d, MIB(64), MIB(64), &events, &e), 0);
	close(events);
	if (listens)
		api = sock_listen(d->fd, "api.sock", SOCK_STREAM, NULL);
	assert_int_equal(pipe(said), 0);
	pid = fork();
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(d->creator_fd); /* its maker's alone */
		(void)!write(said[1], "x", 1);
		stay(api);
	}
	assert_int_equal(read(said[0], &c, 1), 1);
	close(said[0]);
	close(said[1]);
	if (api >= 0)
		close(api);
	assert_true(group_path(d, path));
	assert_int_equal(cgroup_add(path, pid, &e), 0);
	close(take_fd(&d->lock_fd));
	return pid;
}

static void assert_killed(pid_t pid)
{
	int status;

	assert_int_equal(waitpid(pid, &status, WNOHANG), pid);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

static void test_refused__one_whose_maker_died_is_swept_by_its_group(void **state)
{
	struct vmdir d;
	pid_t pid = stubborn("half", true, &d);

	(void)state;
	/* its maker is there still */
	state_sweep();
	assert_int_equal(waitpid(pid, NULL, WNOHANG), 0);
	vmdir_close(&d);
	state_sweep();
	must_be_gone("half");
	assert_killed(pid);
}

static void test_kill__one_that_cannot_be_identified_is_ended_by_its_group(void **state)
{
	cleanup_json json_t *info = json_pack("{s:i, s:i}", "pid", getpid(), "start_time", 1);
	char arg[3][8] = { "rm", "-f", "a" };
	char *argv[] = { arg[0], arg[1], arg[2], NULL };
	struct vmdir d;
	struct err e;
	pid_t pid;

	(void)state;
	pid = stubborn("b", false, &d);
	assert_int_equal(vmdir_publish(&d, info, &e), 0);
	if (vm_kill(&d, -1, &e))
		fail_msg("%s", e.msg);
	assert_false(vmdir_alive(&d));
	assert_killed(pid);
	assert_int_equal(vmdir_remove(&d, &e), 0);
	vmdir_close(&d);
	must_be_gone("b");
	pid = stubborn("a", false, &d);
	assert_int_equal(vmdir_publish(&d, info, &e), 0);
	optind = 1;
	assert_int_equal(cmd_rm(3, argv), 0);
	must_be_gone("a");
	assert_killed(pid);
	vmdir_close(&d);
}

/* What the process that vm.json names has made has the lock too, and outlives it. */
static void test_kill__what_it_left_behind_is_ended_by_its_group(void **state)
{
	cleanup_json json_t *info = json_object();
	char path[PATH_MAX], both[64];
	pid_t pid, left;
	struct vmdir d;
	struct err e;

	(void)state;
	left = stubborn("a", false, &d);
	d.uid = 0; /* it runs as we do */
	pid = fork();
	if (!pid)
		stay(-1);
	procid_note(info, pid);
	assert_int_equal(vmdir_publish(&d, info, &e), 0);
	assert_true(group_path(&d, path));
	snprintf(both, sizeof(both), "%d\n%d\n", pid, left);
	scratch_text(path, "cgroup.procs", both);
	if (vm_kill(&d, -1, &e))
		fail_msg("%s", e.msg);
	assert_false(vmdir_alive(&d));
	assert_killed(pid);
	assert_killed(left);
	assert_int_equal(vmdir_remove(&d, &e), 0);
	vmdir_close(&d);
	must_be_gone("a");
}

static int make_world(void **state)
{
	struct world *w = calloc(1, sizeof(*w));
	struct err e;

	w->dir = scratch_make();
	setenv("CLONE_RUN_DIR", scratch_path(w->dir, "run.d"), 1);
	cgroup_model_mount(w->dir);
	cgroup_model_kills = true;
	if (vmdir_create(PLACE_VM, "source", 0, &w->source, &e)) {
		fprintf(stderr, "%s\n", e.msg);
		return -1;
	}
	w->source.uid = 0; /* it is one of ours */
	*state = w;
	return 0;
}

static int end_world(void **state)
{
	struct world *w = *state;

	vmdir_close(&w->source);
	cgroup_model_umount();
	scratch_remove(w->dir);
	free(w);
	return 0;
}

#define CASE(fn) cmocka_unit_test_setup_teardown(fn, make_world, end_world)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(test_refused__a_child_that_its_source_says_has_failed_is_ended_by_its_group),
		CASE(test_refused__a_child_that_its_source_does_not_name_is_ended_by_its_group),
		CASE(test_refused__one_whose_maker_died_is_swept_by_its_group),
		CASE(test_kill__one_that_cannot_be_identified_is_ended_by_its_group),
		CASE(test_kill__what_it_left_behind_is_ended_by_its_group),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
