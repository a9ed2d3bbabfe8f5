/* SPDX-License-Identifier: MIT */
/*
 * The hooks of a fork: what the image's owner wants done in a guest with a new identity, such as
 * new SSH host keys. One after the other, in lexical order, with a time limit each; the first that
 * fails fails the IDENTITY. The restart of systemd's clone-fork.target is like a last hook, and is
 * left out where it would do nothing: asking systemd costs more than all the rest of a fork. Event
 * handlers of the agent's thread.
 */
#include "identity.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/utsname.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "spawn.h"

#define HOOKS_DIR "/etc/clone/fork.d"
#define TARGET "clone-fork.target"

#define ENV_MAX 12
#define ENV_BYTES (PATH_MAX + 1024)

struct hook_env {
	char *p[ENV_MAX]; /* ends with NULL */
	size_t n, used;
	char text[ENV_BYTES];
};

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

static bool has_entries(const struct identity *id, const char *dir, const char *suffix)
{
	char path[PATH_MAX], rooted[PATH_MAX];
	struct dirent *e;
	bool found = false;
	DIR *d;

	snprintf(path, sizeof(path), "%s/systemd/system/" TARGET "%s", dir, suffix);
	d = opendir(identity_path(id->agent, rooted, path));
	while (d && !found && (e = readdir(d)))
		found = e->d_name[0] != '.';
	if (d)
		closedir(d);
	return found;
}

/* True if a unit says WantedBy= or RequiredBy= the target, and systemd is there to know. */
static bool target_in_use(const struct identity *id)
{
	static const char *const dirs[] = { "/etc", "/run", "/usr/lib", "/lib" };
	char path[PATH_MAX];

	if (access(identity_path(id->agent, path, "/run/systemd/system"), F_OK))
		return false;
	for (size_t i = 0; i < sizeof(dirs) / sizeof(dirs[0]); i++)
		if (has_entries(id, dirs[i], ".wants") || has_entries(id, dirs[i], ".requires"))
			return true;
	return false;
}

static int add_hook(struct identity *id, const char *name)
{
	if (id->nhooks == HOOKS_MAX)
		return -E2BIG;
	id->hooks[id->nhooks] = strdup(name);
	if (!id->hooks[id->nhooks])
		return -ENOMEM;
	id->nhooks++;
	return 0;
}

int hooks_list(struct identity *id)
{
	char path[PATH_MAX];
	struct dirent *e;
	DIR *d = opendir(identity_path(id->agent, path, HOOKS_DIR));
	int r = 0;

	if (!d && errno != ENOENT && errno != ENOTDIR)
		return -errno;
	while (d && !r && (e = readdir(d)))
		if (is_hook(dirfd(d), e->d_name))
			r = add_hook(id, e->d_name);
	if (d)
		closedir(d);
	qsort(id->hooks, id->nhooks, sizeof(id->hooks[0]), by_name);
	if (!r && id->fork && target_in_use(id)) {
		r = add_hook(id, TARGET);
		id->target = !r;
	}
	return r;
}

/* True if the hook at hand is none of the directory but systemd's target. */
static bool is_target(const struct identity *id)
{
	return id->target && id->at == id->nhooks - 1;
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
			      "hook %s: still running after %u.%u s%s%s", name,
			      (unsigned int)(id->limit_ms / 1000),
			      (unsigned int)(id->limit_ms % 1000 / 100), sep, id->said);
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

/* One "NAME=value"; the whole environment of a hook lives in `text`. */
__attribute__((format(printf, 2, 3))) static void env_add(struct hook_env *env, const char *fmt,
							  ...)
{
	size_t left = sizeof(env->text) - env->used;
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(env->text + env->used, left, fmt, ap);
	va_end(ap);
	env->p[env->n++] = env->text + env->used; /* ENV_BYTES holds the longest of everything */
	env->used += (size_t)n + 1;
}

static void env_make(const struct identity *id, struct hook_env *env)
{
	char gen[2 * PROTO_GEN + 1], file[PATH_MAX];
	struct utsname uts = { .nodename = "" };

	uname(&uts);
	for (size_t i = 0; i < PROTO_GEN; i++)
		snprintf(gen + 2 * i, 3, "%02x", id->gen[i]);
	env_add(env, "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
	env_add(env, "HOME=/root");
	env_add(env, "LANG=C.UTF-8");
	env_add(env, "CLONE_REASON=%s", id->fork ? "fork" : "boot");
	env_add(env, "CLONE_NAME=%s", id->name);
	env_add(env, "CLONE_GENERATION=%s", gen);
	env_add(env, "CLONE_HOSTNAME=%.64s", uts.nodename);
	env_add(env, "CLONE_MACHINE_ID=%s",
		id->machine_id[0] ? id->machine_id : id->old_machine_id);
	env_add(env, "CLONE_OLD_HOSTNAME=%s", id->old_hostname);
	env_add(env, "CLONE_OLD_MACHINE_ID=%s", id->old_machine_id);
	env_add(env, "CLONE_USERDATA=%s", identity_path(id->agent, file, "/run/clone/userdata"));
}

static pid_t hook_spawn(struct identity *id, char *path, int out)
{
	char *hook[] = { path, NULL }, *restart[] = { "systemctl", "restart", TARGET, NULL };
	struct hook_env env = { .n = 0 };
	struct spawn s = { .argv = is_target(id) ? restart : hook, .envp = env.p, .cwd = "/" };
	bool exec_failed;
	pid_t pid;

	env_make(id, &env);
	s.fd[0] = open("/dev/null", O_RDONLY | O_CLOEXEC);
	s.fd[1] = s.fd[2] = out;
	pid = s.fd[0] < 0 ? -errno : spawn(&s, &exec_failed);
	if (s.fd[0] >= 0)
		close(s.fd[0]);
	return pid;
}

static uint64_t hook_limit_ms(const struct identity *id)
{
	uint64_t now = loop_now_ms();

	if (!id->deadline_ms)
		return PROTO_HOOK_MS;
	return id->deadline_ms > now ? id->deadline_ms - now : 1;
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
	id->limit_ms = hook_limit_ms(id);
	loop_timer(&id->agent->loop, &id->timer, id->limit_ms);
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
