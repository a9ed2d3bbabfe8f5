/* SPDX-License-Identifier: MIT */
/*
 * vfork and not fork, because in a guest that has just been forked itself every page touched for
 * the first time is a copy made by the host: fork(2) touches many, vfork nearly none. So the child
 * runs on our memory: it makes system calls, writes nothing but its report, and calls nothing of
 * libc that might keep state (hence setuid and friends as raw system calls). Agent's thread.
 */
#include "spawn.h"

#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "procfs.h"

struct report {
	volatile int err;
	volatile bool in_exec;
};

static const char *env_path(char **envp)
{
	for (; *envp; envp++)
		if (!strncmp(*envp, "PATH=", 5))
			return *envp + 5;
	return "/usr/local/bin:/usr/bin:/bin";
}

/* execve along PATH. Goes on after what cannot be run, but remembers that it was there. */
static int exec_path(const struct spawn *s)
{
	const char *name = s->argv[0], *dir = env_path(s->envp), *end;
	size_t namelen = strlen(name);
	int err = ENOENT;
	char path[PATH_MAX];

	if (strchr(name, '/')) {
		execve(name, s->argv, s->envp);
		return errno;
	}
	for (; namelen && dir; dir = *end ? end + 1 : NULL) {
		size_t n;

		end = strchrnul(dir, ':');
		n = (size_t)(end - dir);
		if (n + namelen + 2 > sizeof(path))
			continue;
		memcpy(path, dir, n);
		if (n)
			path[n++] = '/';
		memcpy(path + n, name, namelen + 1);
		execve(path, s->argv, s->envp);
		if (errno != ENOENT && errno != ENOTDIR)
			err = errno;
		if (err != ENOENT && err != EACCES)
			return err;
	}
	return err;
}

static int become(const struct user *u)
{
	uint32_t groups[USER_MAX_GROUPS];

	for (size_t i = 0; i < u->ngroups; i++)
		groups[i] = u->groups[i];
	if (syscall(SYS_setgroups, u->ngroups, groups) || syscall(SYS_setgid, u->gid) ||
	    syscall(SYS_setuid, u->uid))
		return errno;
	return 0;
}

static int enter(const struct spawn *s)
{
	if (s->cwd)
		return chdir(s->cwd) ? errno : 0;
	if (s->user && !chdir(s->user->home))
		return 0;
	return chdir("/") ? errno : 0;
}

/*
 * What is ignored stays ignored through execve: SIGPIPE by the agent, others by whatever started
 * it. By the system call, for libc refuses the numbers that it keeps for its threads (32 to 34).
 */
static void default_signals(void)
{
	const struct {
		unsigned long handler, flags, restorer, mask;
	} dfl = { 0 };

	for (int n = 1; n < _NSIG; n++)
		syscall(SYS_rt_sigaction, n, &dfl, NULL, sizeof dfl.mask);
}

static int set_up(const struct spawn *s)
{
	struct rlimit lim;
	sigset_t none;
	int err;

	if (setsid() < 0)
		return errno;
	if (s->tty && ioctl(s->fd[0], TIOCSCTTY, 0))
		return errno;
	for (int i = 0; i < 3; i++)
		if (dup2(s->fd[i], i) < 0)
			return errno;
	/* The agent's own limit is high; programs that loop over all descriptors expect this one.
	 */
	if (!getrlimit(RLIMIT_NOFILE, &lim) && lim.rlim_cur > 1024) {
		lim.rlim_cur = 1024;
		setrlimit(RLIMIT_NOFILE, &lim);
	}
	/* Nor is it to be spared when memory runs out; the kernel gives a vfork child its own. */
	(void)procfs_write("/proc/self/oom_score_adj", "0");
	umask(022);
	err = s->user ? become(s->user) : 0;
	if (!err)
		err = enter(s);
	default_signals();
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	return err;
}

__attribute__((noinline, noreturn)) static void child_main(const struct spawn *s, struct report *r)
{
	int err = set_up(s);

	if (!err) {
		r->in_exec = true;
		err = exec_path(s);
	}
	r->err = err;
	_exit(127);
}

pid_t spawn(const struct spawn *s, bool *exec_failed)
{
	struct report r = { 0 };
	pid_t pid = vfork();

	if (!pid)
		child_main(s, &r);
	if (pid < 0)
		return -errno;
	if (!r.err)
		return pid;
	*exec_failed = r.in_exec;
	return -r.err;
}
