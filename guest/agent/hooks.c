/* SPDX-License-Identifier: MIT */
/*
 * The hooks of a fork: what the image's owner wants done in a guest with a new identity, such as
 * new SSH host keys. One after the other, in lexical order, with a time limit each; the first that
 * fails fails the IDENTITY. Event handlers of the agent's thread.
 */
#include "identity.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/utsname.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "spawn.h"

#define HOOKS_DIR "/etc/clone/fork.d"

static int by_name(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Hidden files and what is not an executable file are none of ours. */
static bool is_hook(int dir, const char *name)
{
	struct stat st;

	return name[0] != '.' && !fstatat(dir, name, &st, 0) && S_ISREG(st.st_mode) &&
	       (st.st_mode & 0111);
}

int hooks_list(struct identity *id)
{
	char path[PATH_MAX];
	struct dirent *e;
	DIR *d = opendir(identity_path(id->agent, path, HOOKS_DIR));
	int r = 0;

	if (!d)
		return errno == ENOENT || errno == ENOTDIR ? 0 : -errno;
	while (!r && (e = readdir(d))) {
		if (!is_hook(dirfd(d), e->d_name))
			continue;
		if (id->nhooks == HOOKS_MAX)
			r = -E2BIG;
		else if (!(id->hooks[id->nhooks] = strdup(e->d_name)))
			r = -ENOMEM;
		else
			id->nhooks++;
	}
	closedir(d);
	qsort(id->hooks, id->nhooks, sizeof(id->hooks[0]), by_name);
	return r;
}

/* The end of a hook's output goes to a drain: a daemon it started may hold on to it. */
static void hook_over(struct identity *id)
{
	struct agent *a = id->agent;

	loop_timer_off(&id->timer);
	loop_child_off(&id->child);
	loop_unwatch(&a->loop, &id->output);
	if (id->output.fd >= 0)
		drain_open(a, id->output.fd);
	id->output.fd = -1;
}

void hooks_fini(struct identity *id)
{
	if (id->child.pid)
		kill(-id->child.pid, SIGKILL);
	hook_over(id);
	for (size_t i = 0; i < id->nhooks; i++)
		free(id->hooks[i]);
	id->nhooks = 0;
}

/* Keeps the beginning of what the hook says, as one line. Returns what read(2) does. */
static ssize_t take_output(struct identity *id)
{
	char buf[1024];
	ssize_t n = read(id->output.fd, buf, sizeof(buf));

	for (ssize_t i = 0; i < n && id->nsaid < sizeof(id->said) - 1; i++)
		if (buf[i])
			id->said[id->nsaid++] = buf[i] == '\n' ? ' ' : buf[i];
	return n;
}

static void on_output(struct watch *w, uint32_t events)
{
	struct identity *id = container_of(w, struct identity, output);

	ssize_t n = take_output(id);

	(void)events;
	if (!n || (n < 0 && errno != EAGAIN && errno != EINTR))
		loop_close(&id->agent->loop, w);
}

static void on_timer(struct timer *t)
{
	struct identity *id = container_of(t, struct identity, timer);

	id->timed_out = true;
	kill(-id->child.pid, SIGKILL);
}

static void on_hook_exit(struct child *c, int status)
{
	struct identity *id = container_of(c, struct identity, child);
	const char *name = id->hooks[id->at];
	const char *sep;

	while (id->output.fd >= 0 && id->nsaid < sizeof(id->said) - 1 && take_output(id) > 0)
		;
	sep = id->nsaid ? ": " : "";
	hook_over(id);
	if (id->timed_out)
		identity_done(id, ETIMEDOUT, PROTO_STAGE_HOOK,
			      "hook %s: still running after %d s%s%s", name, PROTO_HOOK_MS / 1000,
			      sep, id->said);
	else if (WIFSIGNALED(status))
		identity_done(id, EIO, PROTO_STAGE_HOOK, "hook %s: killed by signal %d%s%s", name,
			      WTERMSIG(status), sep, id->said);
	else if (WEXITSTATUS(status))
		identity_done(id, EIO, PROTO_STAGE_HOOK, "hook %s: exit status %d%s%s", name,
			      WEXITSTATUS(status), sep, id->said);
	else {
		id->at++;
		hooks_next(id);
	}
}

static pid_t hook_spawn(struct identity *id, char *path, int out)
{
	char gen[64] = "CLONE_GENERATION=", host[160], machine[64], userdata[PATH_MAX + 32];
	char *argv[] = { path, NULL };
	char *envp[] = { "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
			 "HOME=/root",
			 "LANG=C.UTF-8",
			 gen,
			 host,
			 machine,
			 userdata,
			 NULL };
	struct spawn s = { .argv = argv, .envp = envp, .cwd = "/" };
	struct utsname uts = { .nodename = "" };
	char file[PATH_MAX];
	bool exec_failed;
	pid_t pid;

	uname(&uts);
	for (size_t i = 0, n = strlen(gen); i < PROTO_GEN; i++)
		snprintf(gen + n + 2 * i, 3, "%02x", id->gen[i]);
	snprintf(host, sizeof(host), "CLONE_HOSTNAME=%s",
		 id->hostname[0] ? id->hostname : uts.nodename);
	snprintf(machine, sizeof(machine), "CLONE_MACHINE_ID=%s", id->machine_id);
	snprintf(userdata, sizeof(userdata), "CLONE_USERDATA=%s",
		 identity_path(id->agent, file, "/run/clone/userdata"));
	s.fd[0] = open("/dev/null", O_RDONLY | O_CLOEXEC);
	s.fd[1] = s.fd[2] = out;
	pid = s.fd[0] < 0 ? -errno : spawn(&s, &exec_failed);
	if (s.fd[0] >= 0)
		close(s.fd[0]);
	return pid;
}

/* Starts one hook; returns 0 or -errno. */
static int hook_start(struct identity *id)
{
	char dir[PATH_MAX], path[2 * PATH_MAX];
	int p[2];
	pid_t pid;

	if (pipe2(p, O_CLOEXEC))
		return -errno;
	snprintf(path, sizeof(path), "%s/%s", identity_path(id->agent, dir, HOOKS_DIR),
		 id->hooks[id->at]);
	pid = hook_spawn(id, path, p[1]);
	close(p[1]);
	fcntl(p[0], F_SETFL, O_NONBLOCK);
	id->output = (struct watch){ .fd = p[0], .fn = on_output };
	if (pid < 0)
		return (int)pid;
	id->child = (struct child){ .pid = pid, .fn = on_hook_exit };
	loop_child(&id->agent->loop, &id->child);
	id->timer.fn = on_timer;
	loop_timer(&id->agent->loop, &id->timer, PROTO_HOOK_MS);
	return loop_watch(&id->agent->loop, &id->output, EPOLLIN);
}

void hooks_next(struct identity *id)
{
	int r;

	if (id->at == id->nhooks) {
		identity_done(id, 0, 0, "%s", id->remarks);
		return;
	}
	memset(id->said, 0, sizeof(id->said));
	id->nsaid = 0;
	r = hook_start(id);
	if (r)
		identity_done(id, -r, PROTO_STAGE_HOOK, "hook %s: %s", id->hooks[id->at],
			      strerror(-r));
}
