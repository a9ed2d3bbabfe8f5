/* SPDX-License-Identifier: MIT */
/*
 * From the request to a running process: who, where, with which environment, on pipes or on a
 * pseudo-terminal. Called by exec.c on the agent's thread.
 */
#include "command.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "args.h"
#include "spawn.h"

#ifndef TIOCGPTPEER
#define TIOCGPTPEER 0x5441
#endif

static int fail(struct command *cmd, int err, unsigned int stage, const char *what,
		struct proto_slice name)
{
	cmd->errnum = err;
	cmd->stage = stage;
	snprintf(cmd->text, sizeof(cmd->text), "%s%.*s: %s", what,
		 (int)(name.len < 200 ? name.len : 200), name.p, strerror(err));
	return -1;
}

static void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

void command_close(struct command *cmd)
{
	close_fd(&cmd->in);
	close_fd(&cmd->out);
	close_fd(&cmd->err);
}

void command_resize(int fd, uint16_t rows, uint16_t cols)
{
	struct winsize ws = { .ws_row = rows, .ws_col = cols };

	ioctl(fd, TIOCSWINSZ, &ws);
}

static int nonblock(int fd)
{
	return fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
}

/* `mine` is the end that we keep: 0 reads, 1 writes. */
static int pipe_open(int *ours, int *theirs, int mine)
{
	int p[2];

	if (pipe2(p, O_CLOEXEC))
		return -errno;
	*ours = p[mine];
	*theirs = p[!mine];
	return nonblock(*ours) ? -errno : 0;
}

static int pipes_open(struct command *cmd, const struct proto_exec *x, int fd[3])
{
	int r = 0;

	if (x->flags & PROTO_EXEC_STDIN)
		r = pipe_open(&cmd->in, &fd[0], 1);
	else if ((fd[0] = open("/dev/null", O_RDONLY | O_CLOEXEC)) < 0)
		r = -errno;
	if (!r)
		r = pipe_open(&cmd->out, &fd[1], 0);
	if (!r)
		r = pipe_open(&cmd->err, &fd[2], 0);
	return r;
}

/*
 * The master twice, because input and output are watched apart. The peer comes from the master, so
 * that no path under /dev/pts, which may be of another mount, is trusted.
 */
static int tty_open(struct command *cmd, const struct proto_exec *x, uid_t uid, int fd[3])
{
	int unlock = 0;

	cmd->out = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
	if (cmd->out < 0 || ioctl(cmd->out, TIOCSPTLCK, &unlock))
		return -errno;
	command_resize(cmd->out, x->rows ? x->rows : 24, x->cols ? x->cols : 80);
	fd[0] = ioctl(cmd->out, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (fd[0] < 0)
		return -errno;
	if (uid && fchown(fd[0], uid, (gid_t)-1))
		return -errno;
	for (int i = 1; i < 3; i++) {
		fd[i] = fcntl(fd[0], F_DUPFD_CLOEXEC, 3);
		if (fd[i] < 0)
			return -errno;
	}
	cmd->in = fcntl(cmd->out, F_DUPFD_CLOEXEC, 3);
	return cmd->in < 0 ? -errno : 0;
}

static int run(struct command *cmd, const struct proto_exec *x, struct spawn *s,
	       struct proto_slice name)
{
	bool tty = x->flags & PROTO_EXEC_TTY, exec_failed = false;
	char cwd[PATH_MAX];
	struct proto_slice none = { "", 0 };
	int r = tty ? tty_open(cmd, x, s->user->uid, s->fd) : pipes_open(cmd, x, s->fd);

	if (r)
		return fail(cmd, -r, PROTO_STAGE_SETUP, tty ? "terminal" : "pipes", none);
	if (x->cwd.len >= sizeof(cwd))
		return fail(cmd, ENAMETOOLONG, PROTO_STAGE_SETUP, "cannot start in ", x->cwd);
	if (x->cwd.len) {
		memcpy(cwd, x->cwd.p, x->cwd.len);
		cwd[x->cwd.len] = '\0';
		s->cwd = cwd;
	}
	s->tty = tty;
	cmd->pid = spawn(s, &exec_failed);
	if (cmd->pid > 0)
		return 0;
	if (exec_failed)
		return fail(cmd, (int)-cmd->pid, PROTO_STAGE_COMMAND, "", name);
	return fail(cmd, (int)-cmd->pid, PROTO_STAGE_SETUP, "cannot start in ",
		    x->cwd.len ? x->cwd : (struct proto_slice){ "/", 1 });
}

int command_start(struct command *cmd, const struct proto_exec *x)
{
	struct proto_slice name = { "", 0 };
	struct proto_list argv = x->argv;
	struct spawn s = { .fd = { -1, -1, -1 } };
	struct user u;
	int r;

	*cmd = (struct command){ .in = -1, .out = -1, .err = -1 };
	proto_list_next(&argv, &name);
	r = user_find(x->user.p, x->user.len, &u);
	if (r)
		return fail(cmd, -r, PROTO_STAGE_SETUP, "user ", x->user);
	s.user = &u;
	s.argv = args_argv(x->argv);
	s.envp = args_envp(x->env, &u, x->flags & PROTO_EXEC_TTY);
	if (s.argv && s.envp)
		r = run(cmd, x, &s, name);
	else
		r = fail(cmd, ENOMEM, PROTO_STAGE_SETUP, "", name);
	for (int i = 0; i < 3; i++)
		close_fd(&s.fd[i]);
	if (r)
		command_close(cmd);
	free(s.argv);
	free(s.envp);
	return r;
}
