/* SPDX-License-Identifier: MIT */
/*
 * Runs a program and follows its output line by line. Called by the builds; any one thread, which
 * must live as long as the call (the program is told to end when that thread does).
 */
#include "image/proc.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "base/buf.h"
#include "base/fd.h"
#include "base/util.h"

#define SEARCH_PATH "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#define LINE_MAX_BYTES 512
#define TAIL_LINES 2
#define ENV_MAX 32
#define CAPTURE_MAX MIB(1)

/* Handed through from the user's environment: where to put temporary files, how to get out. */
static const char *const kept_env[] = {
	"HOME",	      "TMPDIR",	     "http_proxy", "https_proxy", "no_proxy",
	"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY",  "all_proxy",
};

static int find_program(const char *name, char *buf, size_t n)
{
	const char *p = SEARCH_PATH;

	if (strchr(name, '/'))
		return access(name, X_OK) || (size_t)snprintf(buf, n, "%s", name) >= n ? -ENOENT
										       : 0;
	for (;;) {
		size_t len = strcspn(p, ":");

		if ((size_t)snprintf(buf, n, "%.*s/%s", (int)len, p, name) < n &&
		    !access(buf, X_OK))
			return 0;
		if (!p[len])
			return -ENOENT;
		p += len + 1;
	}
}

int proc_have(const char *program, const char *package, struct err *e)
{
	char path[PATH_MAX];

	if (!find_program(program, path, sizeof(path)))
		return 0;
	return err_set(e, ENOENT, "%s is not installed: apt-get install %s", program, package);
}

static void child_exec(pid_t parent, const char *path, const struct proc *p, char *const *env,
		       int in, int out, int err_fd)
{
	sigset_t none;
	unsigned first = 3;

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	signal(SIGPIPE, SIG_DFL);
	prctl(PR_SET_PDEATHSIG, SIGTERM);
	if (getppid() != parent) /* it died before we asked to be told */
		_exit(125);
	if (p->own_mounts &&
	    (unshare(CLONE_NEWNS) || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL)))
		_exit(125);
	if ((p->cwd && chdir(p->cwd)) || dup2(in, 0) < 0 || dup2(out, 1) < 0 || dup2(err_fd, 2) < 0)
		_exit(126);
	if (p->keep_fd >= 0) {
		/* dup2 of a descriptor onto itself would leave it close-on-exec */
		if (p->keep_fd == 3 ? fcntl(3, F_SETFD, 0) : dup2(p->keep_fd, 3) < 0)
			_exit(126);
		first = 4;
	}
	syscall(SYS_close_range, first, ~0u, 0u);
	execve(path, (char *const *)(uintptr_t)p->argv, env);
	_exit(127);
}

/* A minimal environment: fixed values, what is kept of ours, and what the caller adds. */
static void make_env(const struct proc *p, const char *env[ENV_MAX])
{
	size_t n = 0;

	env[n++] = "PATH=" SEARCH_PATH;
	env[n++] = "LC_ALL=C.UTF-8";
	env[n++] = "DEBIAN_FRONTEND=noninteractive";
	/* The first of a name is the one that counts. */
	for (size_t i = 0; p->env && p->env[i] && n < ENV_MAX / 2; i++)
		env[n++] = p->env[i];
	for (size_t i = 0; environ[i]; i++)
		for (size_t k = 0; k < ARRAY_SIZE(kept_env) && n < ENV_MAX - 1; k++)
			if (!strncmp(environ[i], kept_env[k], strlen(kept_env[k])) &&
			    environ[i][strlen(kept_env[k])] == '=')
				env[n++] = environ[i];
	env[n] = NULL;
}

/* What the program reads. A file in memory: whoever writes a pipe may have to wait for a reader
 * that waits for us. */
static int open_input(const char *text)
{
	cleanup_close int fd =
		text ? memfd_create("input", MFD_CLOEXEC) : open("/dev/null", O_RDONLY | O_CLOEXEC);
	int r = fd < 0 ? -errno : text ? fd_pwrite_full(fd, text, strlen(text), 0) : 0;

	return r ? r : take_fd(&fd);
}

/* Starts the program with its output in out_w and err_w. */
static int start(const struct proc *p, int out_w, int err_w, pid_t *pid, struct err *e)
{
	cleanup_close int in = open_input(p->input);
	const char *env[ENV_MAX];
	char path[PATH_MAX];
	pid_t self = getpid();

	if (find_program(p->argv[0], path, sizeof(path)))
		return err_set(e, ENOENT, "%s is not installed", p->argv[0]);
	if (in < 0)
		return err_sys(e, -in, "input of %s", p->argv[0]);
	make_env(p, env);
	*pid = fork();
	if (*pid < 0)
		return err_sys(e, errno, "start %s", p->argv[0]);
	if (!*pid)
		child_exec(self, path, p, (char *const *)(uintptr_t)env, in, out_w, err_w);
	return 0;
}

static int wait_for(pid_t pid, const char *name, const char *tail, struct err *e)
{
	int status;

	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return err_sys(e, errno, "wait for %s", name);
	if (WIFEXITED(status) && !WEXITSTATUS(status))
		return 0;
	return err_set(e, EIO, "%s %s %d%s%s", name,
		       WIFEXITED(status) ? "failed with status" : "was killed by signal",
		       WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status),
		       *tail ? ": " : "", tail);
}

/* Output cut into lines: for the story of a failure the first complaint and the last lines are
 * kept. */
struct follow {
	const struct proc *p;
	char line[LINE_MAX_BYTES], first[LINE_MAX_BYTES], tail[TAIL_LINES][LINE_MAX_BYTES];
	size_t len, lines, first_at;
};

static bool is_complaint(const char *s)
{
	return !strncmp(s, "E: ", 3) || !strncmp(s, "Err:", 4) || !strncmp(s, "W: Failed", 9) ||
	       !strncmp(s, "dpkg: error", 11) || strstr(s, ": Error: ");
}

static void end_line(struct follow *f)
{
	f->line[f->len] = '\0';
	f->len = 0;
	if (!f->line[0])
		return;
	if (strncmp(f->line, "I: ", 3) != 0) { /* how it went on after the failure is no reason */
		if (!f->first[0] && is_complaint(f->line)) {
			memcpy(f->first, f->line, sizeof(f->line));
			f->first_at = f->lines;
		}
		memcpy(f->tail[f->lines++ % TAIL_LINES], f->line, sizeof(f->line));
	}
	if (f->p->line)
		f->p->line(f->p->arg, f->line);
}

static void feed(struct follow *f, const char *data, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		if (data[i] == '\n' || data[i] == '\r')
			end_line(f);
		else if (f->len < LINE_MAX_BYTES - 1 && (unsigned char)data[i] >= ' ')
			f->line[f->len++] = data[i];
	}
}

static void join_tail(const struct follow *f, char *buf, size_t n)
{
	size_t first = f->lines > TAIL_LINES ? f->lines - TAIL_LINES : 0, used = 0;

	buf[0] = '\0';
	if (f->first[0] && f->first_at < first)
		used = (size_t)snprintf(buf, n, "%.140s", f->first);
	for (size_t i = first; i < f->lines && used < n; i++)
		used += (size_t)snprintf(buf + used, n - used, "%s%.100s", used ? " / " : "",
					 f->tail[i % TAIL_LINES]);
}

/*
 * Reads until the end of the output; once the program has ended, only what is there already (a
 * process it left behind may hold the pipe open). Calls take(arg, data, n) for every piece.
 */
static int drain(int fd, pid_t pid, int (*take)(void *, const char *, size_t), void *arg)
{
	cleanup_close int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	struct pollfd pfd[2] = { { .fd = fd, .events = POLLIN },
				 { .fd = pidfd, .events = POLLIN } };
	char buf[4096];
	ssize_t n;
	int r = 0;

	for (;;) {
		int ready = poll(pfd, 2, -1);

		if (ready < 0 && errno != EINTR)
			return -errno;
		if (ready <= 0)
			continue;
		if (pfd[0].revents) {
			n = read(fd, buf, sizeof(buf));
			if (!n)
				return r;
			if (n > 0 && !r)
				r = take(arg, buf, (size_t)n);
		} else if (pfd[1].revents && poll(pfd, 1, 0) <= 0) {
			return r; /* looked again: its last words may have come before its end */
		}
	}
}

static int take_log(void *arg, const char *data, size_t n)
{
	struct follow *f = arg;

	if (f->p->log >= 0)
		fd_write_full(f->p->log, data, n); /* the log is a help, not a duty */
	feed(f, data, n);
	return 0;
}

static int take_text(void *arg, const char *data, size_t n)
{
	struct wbuf *w = arg;

	wbuf_bytes(w, data, n);
	return w->bad ? -EFBIG : 0;
}

int proc_run(const struct proc *p, struct err *e)
{
	cleanup_close int rd = -1, wr = -1;
	struct follow f = { .p = p };
	char tail[400];
	int fds[2], r, waited;
	pid_t pid;

	if (pipe2(fds, O_CLOEXEC))
		return err_sys(e, errno, "pipe for %s", p->argv[0]);
	rd = fds[0];
	wr = fds[1];
	r = start(p, wr, wr, &pid, e);
	if (r)
		return r;
	close(take_fd(&wr));
	r = drain(rd, pid, take_log, &f);
	end_line(&f);
	join_tail(&f, tail, sizeof(tail));
	waited = wait_for(pid, p->argv[0], tail, e);
	return waited ? waited : r ? err_sys(e, -r, "output of %s", p->argv[0]) : 0;
}

int proc_capture(const char *const *argv, char **out, struct err *e)
{
	const struct proc p = { .argv = argv, .log = -1, .keep_fd = -1 };
	cleanup_close int rd = -1, wr = -1, null = open("/dev/null", O_WRONLY | O_CLOEXEC);
	struct wbuf w;
	int fds[2], r, waited;
	pid_t pid;

	if (null < 0 || pipe2(fds, O_CLOEXEC))
		return err_sys(e, errno, "pipe for %s", argv[0]);
	rd = fds[0];
	wr = fds[1];
	r = start(&p, wr, null, &pid, e);
	if (r)
		return r;
	close(take_fd(&wr));
	wbuf_init(&w, CAPTURE_MAX);
	r = drain(rd, pid, take_text, &w);
	waited = wait_for(pid, argv[0], "", e);
	wbuf_u8(&w, 0);
	if (!waited && (r || w.bad))
		waited = err_sys(e, r ? -r : EFBIG, "output of %s", argv[0]);
	if (waited)
		wbuf_fini(&w);
	else
		*out = (char *)w.data;
	return waited;
}
