/* SPDX-License-Identifier: MIT */
/*
 * Root of a user namespace for the length of a function call. newuidmap and newgidmap (uidmap),
 * which may map what /etc/subuid allows, are run from outside while the child waits. Called by the
 * builds and the store's clean-up; any one thread.
 */
#include "image/userns.h"

#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "base/fd.h"
#include "base/util.h"
#include "image/proc.h"
#include "image/tree.h"

#define SUBID_MAX MIB(1)

/* The first range of `user` (or its number) in /etc/subuid or /etc/subgid. */
static int find_range(const char *file, const char *user, unsigned id, unsigned *first,
		      unsigned *count, struct err *e)
{
	cleanup_free char *text = NULL;
	char number[16], *rest, *line;
	int r = tree_read_text(file, SUBID_MAX, &text, e);

	snprintf(number, sizeof(number), "%u", id);
	rest = text;
	while (!r && (line = strsep(&rest, "\n"))) {
		char *colon = strchr(line, ':');

		if (!colon)
			continue;
		*colon = '\0';
		if ((!strcmp(line, user) || !strcmp(line, number)) &&
		    sscanf(colon + 1, "%u:%u", first, count) == 2 && *count >= 65535)
			return 0;
	}
	return err_set(e, EPERM,
		       "not root, and %s gives %s no range of 65535 users: run as root, or "
		       "usermod --add-subuids 100000-165535 --add-subgids 100000-165535 %s",
		       file, user, user);
}

/* Our name in /etc/passwd. Not getpwuid: a static program has no other places to look in, and
 * /etc/subuid may give the number instead. */
static void own_name(char *buf, size_t n)
{
	FILE *f = fopen("/etc/passwd", "re");
	struct passwd line, *pw = NULL;
	char text[1024];

	while (f && !fgetpwent_r(f, &line, text, sizeof(text), &pw) && pw->pw_uid != getuid())
		pw = NULL;
	snprintf(buf, n, "%s", pw ? pw->pw_name : "?");
	if (f)
		fclose(f);
}

static int map_many(pid_t pid, struct err *e)
{
	static const struct {
		const char *file, *program;
	} kind[] = { { "/etc/subuid", "newuidmap" }, { "/etc/subgid", "newgidmap" } };
	char user[64];
	int r = 0;

	own_name(user, sizeof(user));
	for (size_t i = 0; !r && i < ARRAY_SIZE(kind); i++) {
		char num[4][16];
		const char *argv[] = { kind[i].program, num[0],	 "0", num[1], "1", "1",
				       num[2],		"65535", NULL };
		const struct proc p = { .argv = argv, .log = -1, .keep_fd = -1 };
		unsigned first = 0, count = 0;

		r = find_range(kind[i].file, user, getuid(), &first, &count, e);
		if (r)
			break;
		snprintf(num[0], sizeof(num[0]), "%d", (int)pid);
		snprintf(num[1], sizeof(num[1]), "%u", i ? getgid() : getuid());
		snprintf(num[2], sizeof(num[2]), "%u", first);
		r = proc_have(kind[i].program, "uidmap", e);
		if (!r)
			r = proc_run(&p, e);
	}
	return r;
}

static int write_proc(pid_t pid, const char *file, const char *text, struct err *e)
{
	char path[64];
	FILE *f;
	bool ok;

	snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, file);
	f = fopen(path, "we");
	ok = f && fputs(text, f) >= 0;
	if ((f && fclose(f)) || !ok)
		return err_sys(e, errno, "write %s", path);
	return 0;
}

static int map_one(pid_t pid, struct err *e)
{
	char uid[32], gid[32];
	int r;

	snprintf(uid, sizeof(uid), "0 %u 1", getuid());
	snprintf(gid, sizeof(gid), "0 %u 1", getgid());
	r = write_proc(pid, "setgroups", "deny", e);
	if (!r)
		r = write_proc(pid, "uid_map", uid, e);
	return r ? r : write_proc(pid, "gid_map", gid, e);
}

struct answer {
	int ret;
	struct err e;
};

/* The child: makes its namespace, waits until it is mapped, does the work, says how it went. */
static void child(int sock, int (*fn)(void *, struct err *), void *arg)
{
	struct answer a = { 0 };
	char go = 0;

	prctl(PR_SET_PDEATHSIG, SIGTERM);
	if (unshare(CLONE_NEWUSER))
		a.ret = err_sys(&a.e, errno,
				"user namespace (run as root, or allow them: sysctl "
				"kernel.unprivileged_userns_clone=1)");
	if (fd_write_full(sock, &a, sizeof(a)) || a.ret || fd_read_full(sock, &go, 1))
		_exit(1);
	if (setresgid(0, 0, 0) || setresuid(0, 0, 0))
		a.ret = err_sys(&a.e, errno, "become root of a user namespace");
	else
		a.ret = fn(arg, &a.e);
	_exit(fd_write_full(sock, &a, sizeof(a)) ? 1 : 0);
}

int userns_call(bool many, int (*fn)(void *arg, struct err *e), void *arg, struct err *e)
{
	cleanup_close int ours = -1, theirs = -1;
	struct answer a;
	int sv[2], r;
	pid_t pid;

	if (!geteuid())
		return fn(arg, e);
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv))
		return err_sys(e, errno, "socketpair");
	ours = sv[0];
	theirs = sv[1];
	fflush(NULL); /* or the child might print it again */
	pid = fork();
	if (pid < 0)
		return err_sys(e, errno, "fork");
	if (!pid) {
		close(take_fd(&ours));
		child(theirs, fn, arg);
	}
	close(take_fd(&theirs));
	r = fd_read_full(ours, &a, sizeof(a));
	if (!r && !(r = a.ret))
		r = many ? map_many(pid, &a.e) : map_one(pid, &a.e);
	if (!r && !fd_write_full(ours, "g", 1) && !fd_read_full(ours, &a, sizeof(a)))
		r = a.ret;
	else if (!r)
		r = err_set(&a.e, EIO, "the child in the user namespace died");
	if (r && e)
		*e = a.e;
	close(take_fd(&ours)); /* a child still waiting for us gives up */
	while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		;
	return r;
}

static int remove_fn(void *arg, struct err *e)
{
	return tree_remove(arg, e);
}

int userns_remove(const char *path, struct err *e)
{
	cleanup_free char *copy = strdup(path);
	int r = tree_remove(path, e);

	/* Ours in the end, but not by our own number: extracted for other users. */
	if ((r == -EACCES || r == -EPERM) && geteuid() && copy)
		r = userns_call(true, remove_fn, copy, e);
	return r;
}
