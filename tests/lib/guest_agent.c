/* SPDX-License-Identifier: MIT */
/*
 * Starts the agent in its namespaces and speaks the protocol to it. Blocking, one thread.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "guest_agent.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <linux/capability.h>
#include <time.h>
#include <unistd.h>

#define PATIENCE_MS 60000

static void nap(void)
{
	struct timespec ts = { .tv_nsec = 5000000 };

	nanosleep(&ts, NULL);
}

/* What follows runs in the namespaces and reports by its exit status. */

static void must(bool ok, int code)
{
	if (!ok)
		_exit(code);
}

/*
 * /run and the system's own poweroff are hidden: what the agent does to shut down must not reach
 * the machine that runs the tests by any way.
 */
static void hide_power(const char *poweroff)
{
	int fd;

	must(!mount("none", "/run", "tmpfs", 0, NULL), 11);
	must(!mount("none", "/usr/sbin", "tmpfs", 0, "mode=0755"), 12);
	must(access("/sbin/init", F_OK) != 0 || !mount("none", "/sbin", "tmpfs", 0, "mode=0755"),
	     13);
	must(access("/sbin/poweroff", F_OK) != 0 && access("/usr/sbin/poweroff", F_OK) != 0, 14);
	if (!poweroff)
		return;
	fd = open("/sbin/poweroff", O_WRONLY | O_CREAT | O_CLOEXEC, 0755);
	must(fd >= 0 && write(fd, poweroff, strlen(poweroff)) == (ssize_t)strlen(poweroff), 15);
	close(fd);
}

static int told = -1; /* the pipe's end to write to, in process 1 */

/*
 * Said from the handler itself, to a pipe: a process 1 that had to come back from somewhere first,
 * or to make a file on a busy disk, might be killed before it said anything.
 */
static void on_init_signal(int sig)
{
	const uint8_t byte = (uint8_t)sig;
	int saved = errno;
	ssize_t n = write(told, &byte, 1);

	(void)n;
	errno = saved;
}

/* Process 1 of the namespace: passes on the signal that tells an init to shut down. */
__attribute__((noreturn)) static void ns_init(const struct guest *g, bool shutdown,
					      const char *poweroff, void (*prepare)(void),
					      const char *binary)
{
	const struct sigaction act = { .sa_handler = on_init_signal, .sa_flags = SA_RESTART };
	char listen[128], note[128];
	pid_t agent;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	must(!mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL), 10);
	must(!mount("proc", "/proc", "proc", 0, NULL), 10);
	hide_power(poweroff);
	must(!prctl(PR_CAPBSET_DROP, CAP_SYS_TIME, 0, 0, 0), 16);
	must(shutdown || !prctl(PR_CAPBSET_DROP, CAP_SYS_BOOT, 0, 0, 0), 16);
	sigaction(SIGUSR2, &act, NULL);
	sigaction(SIGTERM, &act, NULL);
	snprintf(listen, sizeof(listen), "unix:%s", g->sock);
	if (prepare)
		prepare();
	agent = fork();
	if (!agent) {
		snprintf(note, sizeof(note), "%s/log", g->dir);
		must(freopen(note, "w", stderr) != NULL, 18);
		/* Its commands must not inherit this. */
		signal(SIGUSR1, SIG_IGN);
		execl(binary, "clone-agent", "--listen", listen, "--root", g->root,
		      shutdown ? "--shutdown" : "--no-shutdown", (char *)NULL);
		_exit(17);
	}
	for (;;) {
		int status;
		pid_t pid = waitpid(-1, &status, 0);

		if (pid == agent)
			_exit(WIFEXITED(status) ? WEXITSTATUS(status) : 100 + WTERMSIG(status));
	}
}

/* True, and the socket in *fd, if the agent listens there. */
static bool try_connect(const char *path, int *fd)
{
	struct sockaddr_un un = { .sun_family = AF_UNIX };

	*fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	snprintf(un.sun_path, sizeof(un.sun_path), "%s", path);
	if (*fd >= 0 && !connect(*fd, (struct sockaddr *)&un, sizeof(un)))
		return true;
	if (*fd >= 0)
		close(*fd);
	return false;
}

void guest_start_with(struct guest *g, bool shutdown, const char *poweroff, void (*prepare)(void))
{
	const char *binary = getenv("CLONE_AGENT");
	char full[4096];
	int status, fd = -1, ends[2];

	strcpy(g->dir, "/tmp/clone-agent-XXXXXX");
	assert_non_null(mkdtemp(g->dir));
	assert_int_equal(chmod(g->dir, 0755), 0);
	snprintf(g->sock, sizeof(g->sock), "%s/sock", g->dir);
	snprintf(g->root, sizeof(g->root), "%s/root", g->dir);
	assert_int_equal(mkdir(g->root, 0755), 0);
	assert_non_null(realpath(binary ? binary : "build/guest/clone-agent", full));
	assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
	g->asked = ends[0];
	told = ends[1];
	/* fork(2), whose child is process 1 of its namespaces; libc has no other way to say so. */
	g->ns = (pid_t)syscall(SYS_clone,
			       SIGCHLD | CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWNET,
			       0, 0, 0, 0);
	assert_true(g->ns >= 0);
	if (!g->ns)
		ns_init(g, shutdown, poweroff, prepare, full);
	close(told);
	for (int i = 0; !try_connect(g->sock, &fd); i++) {
		if (waitpid(g->ns, &status, WNOHANG) == g->ns)
			fail_msg("the agent's namespace did not come up: status %x", status);
		assert_true(i < PATIENCE_MS / 5);
		nap();
	}
	close(fd);
}

void guest_start(struct guest *g, bool shutdown, const char *poweroff)
{
	guest_start_with(g, shutdown, poweroff, NULL);
}

int guest_asked(struct guest *g)
{
	struct pollfd p = { .fd = g->asked, .events = POLLIN };
	uint8_t sig = 0;

	assert_int_equal(poll(&p, 1, PATIENCE_MS), 1);
	assert_int_equal(read(g->asked, &sig, 1), 1);
	return sig;
}

int guest_wait(struct guest *g)
{
	int status;

	assert_int_equal(waitpid(g->ns, &status, 0), g->ns);
	g->ns = 0;
	return status;
}

void guest_stop(struct guest *g)
{
	char cmd[128];

	if (g->ns) {
		kill(g->ns, SIGKILL);
		waitpid(g->ns, NULL, 0);
	}
	g->ns = 0;
	close(g->asked);
	snprintf(cmd, sizeof(cmd), "rm -rf %s", g->dir);
	assert_int_equal(system(cmd), 0);
}

int guest_setup(void **state)
{
	static struct guest g;

	guest_start(&g, false, NULL);
	*state = &g;
	return 0;
}

int guest_teardown(void **state)
{
	guest_stop(*state);
	return 0;
}

void guest_write(struct guest *g, const char *path, const void *data, size_t n, mode_t mode)
{
	char full[512];
	int fd;

	snprintf(full, sizeof(full), "%s%s", g->root, path);
	for (char *s = full + strlen(g->root) + 1; (s = strchr(s, '/')); s++) {
		*s = '\0';
		mkdir(full, 0755);
		*s = '/';
	}
	fd = open(full, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode);
	assert_true(fd >= 0);
	assert_int_equal(fchmod(fd, mode), 0);
	assert_int_equal(write(fd, data, n), n);
	close(fd);
}

char *guest_read(struct guest *g, const char *path)
{
	char full[512], *text = calloc(1, 65536);
	ssize_t n;
	int fd;

	snprintf(full, sizeof(full), "%s%s", g->root, path);
	fd = open(full, O_RDONLY | O_CLOEXEC);
	if (fd < 0) {
		free(text);
		return NULL;
	}
	n = read(fd, text, 65535);
	assert_true(n >= 0);
	close(fd);
	return text;
}

void guest_await(struct guest *g, const char *path)
{
	char full[512];

	snprintf(full, sizeof(full), "%s%s", g->root, path);
	for (int i = 0; access(full, F_OK); i++) {
		assert_true(i < PATIENCE_MS / 5);
		nap();
	}
}

void link_open(struct link *l, struct guest *g)
{
	l->len = l->used = 0;
	assert_true(try_connect(g->sock, &l->fd));
}

void link_close(struct link *l)
{
	close(l->fd);
	l->fd = -1;
}

/* What a closed connection does not take is lost; the test sees that in the answers. */
void link_send(struct link *l, const void *p, size_t n)
{
	const char *at = p;

	assert_true(n > 0);
	while (n) {
		struct pollfd pfd = { .fd = l->fd, .events = POLLOUT };
		ssize_t r;

		assert_int_equal(poll(&pfd, 1, PATIENCE_MS), 1);
		r = send(l->fd, at, n, MSG_NOSIGNAL);
		if (r < 0)
			return;
		at += r;
		n -= (size_t)r;
	}
}

static bool link_fill(struct link *l)
{
	struct pollfd pfd = { .fd = l->fd, .events = POLLIN };
	ssize_t n;

	l->len -= l->used;
	memmove(l->buf, l->buf + l->used, l->len);
	l->used = 0;
	assert_int_equal(poll(&pfd, 1, PATIENCE_MS), 1);
	n = recv(l->fd, l->buf + l->len, sizeof(l->buf) - l->len, 0);
	if (n > 0)
		l->len += (size_t)n;
	return n > 0;
}

static bool link_have(struct link *l, struct proto_frame *f)
{
	int n = proto_frame(l->buf + l->used, l->len - l->used, f);

	assert_true(n >= 0);
	l->used += (size_t)n;
	return n > 0;
}

bool link_next(struct link *l, struct proto_frame *f)
{
	while (!link_have(l, f))
		if (!link_fill(l))
			return false;
	return true;
}

void exec_send(struct link *l, const struct proto_exec_args *a, const char *const *argv)
{
	static uint8_t zero[PROTO_GEN];
	uint8_t frame[PROTO_MAX_FRAME];
	struct proto_exec_args x = *a;

	x.argv = argv;
	x.gen = x.gen ? x.gen : zero;
	link_send(l, frame, proto_put_exec(frame, sizeof(frame), &x));
}

static void append(char **text, size_t *len, struct proto_rd data)
{
	*text = realloc(*text, *len + data.left + 1);
	assert_non_null(*text);
	memcpy(*text + *len, data.p, data.left);
	*len += data.left;
	(*text)[*len] = '\0';
}

static void take(struct outcome *o, const struct proto_frame *f)
{
	struct proto_error e;
	struct proto_ack a;
	uint32_t n;

	assert_false(o->exited || o->stage); /* nothing may follow the last frame */
	switch (f->type) {
	case PROTO_STARTED:
		assert_true(proto_get_one_u32(f->payload, &o->pid));
		o->started = true;
		break;
	case PROTO_STDOUT:
		append(&o->out, &o->nout, f->payload);
		break;
	case PROTO_STDERR:
		append(&o->err, &o->nerr, f->payload);
		break;
	case PROTO_STDIN_ACK:
		assert_true(proto_get_one_u32(f->payload, &n));
		o->acked += n;
		break;
	case PROTO_EXIT:
		assert_true(proto_get_exit(f->payload, &o->kind, &o->value));
		o->exited = true;
		break;
	case PROTO_ERROR:
		assert_true(proto_get_error(f->payload, &e));
		o->error = e.err;
		o->stage = e.stage;
		snprintf(o->text, sizeof(o->text), "%.*s", (int)e.text.len, e.text.p);
		break;
	case PROTO_ACK:
		assert_true(proto_get_ack(f->payload, &a));
		assert_int_equal(a.version, PROTO_VERSION);
		snprintf(o->text, sizeof(o->text), "%.*s", (int)a.text.len, a.text.p);
		break;
	case PROTO_REPORT:
		break;
	default:
		fail_msg("frame of type %u", f->type);
	}
}

static void outcome_init(struct outcome *o)
{
	memset(o, 0, sizeof(*o));
	o->out = calloc(1, 1);
	o->err = calloc(1, 1);
}

void outcome_free(struct outcome *o)
{
	free(o->out);
	free(o->err);
}

void exec_collect(struct link *l, struct outcome *o)
{
	struct proto_frame f;

	outcome_init(o);
	while (link_next(l, &f))
		take(o, &f);
	link_close(l);
}

/* Sends what the socket takes of data in frames and of the final STDIN_EOF, without blocking. */
static void feed_some(struct link *l, const uint8_t *all, size_t total, size_t *sent)
{
	ssize_t n = send(l->fd, all + *sent, total - *sent, MSG_NOSIGNAL | MSG_DONTWAIT);

	assert_true(n > 0 || errno == EAGAIN || errno == EPIPE || errno == ECONNRESET);
	*sent = n >= 0 ? *sent + (size_t)n : errno == EAGAIN ? *sent : total;
}

void exec_feed(struct link *l, const void *input, size_t n, struct outcome *o)
{
	size_t total = 0, sent = 0, piece;
	uint8_t *all = malloc(n + (n / 60000 + 2) * PROTO_HEADER);
	struct proto_frame f;

	assert_non_null(all);
	for (size_t at = 0; at < n; at += piece) {
		piece = n - at < 60000 ? n - at : 60000;
		proto_header(all + total, PROTO_STDIN, (uint32_t)piece);
		memcpy(all + total + PROTO_HEADER, (const char *)input + at, piece);
		total += PROTO_HEADER + piece;
	}
	proto_header(all + total, PROTO_STDIN_EOF, 0);
	total += PROTO_HEADER;
	outcome_init(o);
	for (;;) {
		struct pollfd p = { .fd = l->fd, .events = POLLIN };

		if (sent < total)
			p.events |= POLLOUT;
		assert_int_equal(poll(&p, 1, PATIENCE_MS), 1);
		if (p.revents & POLLOUT)
			feed_some(l, all, total, &sent);
		if (!(p.revents & (POLLIN | POLLHUP | POLLERR)))
			continue;
		if (!link_fill(l))
			break;
		while (link_have(l, &f))
			take(o, &f);
	}
	free(all);
	link_close(l);
}

void exec_shell(struct guest *g, const char *command, struct outcome *o)
{
	const char *const argv[] = { "/bin/sh", "-c", command, NULL };
	struct link l;

	link_open(&l, g);
	exec_send(&l, &(struct proto_exec_args){ 0 }, argv);
	exec_collect(&l, o);
}

uint8_t ask(struct guest *g, const void *frame, size_t n, struct outcome *o)
{
	struct proto_frame f = { 0 };
	struct link l;

	outcome_init(o);
	link_open(&l, g);
	link_send(&l, frame, n);
	if (link_next(&l, &f)) {
		take(o, &f);
		/* Such a session is one answer and the end. */
		if (f.type != PROTO_STARTED) {
			struct proto_frame rest;

			assert_false(link_next(&l, &rest));
		}
	}
	link_close(&l);
	return f.type;
}
