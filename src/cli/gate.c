/* SPDX-License-Identifier: MIT */
/* See gate.h. */
#include "cli/gate.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/time.h"
#include "base/util.h"
#include "cgroup/cgroup.h"
#include "cli/group.h"
#include "cli/procid.h"
#include "control/json.h"

struct gate {
	const struct vmdir *d;
	int fd;	   /* ours; -1: it is over */
	pid_t pid; /* who was let through; 0: nobody */
	char why[ERR_MSG_MAX];
};

struct gates {
	const struct vmdir *source;
	bool live;
	pid_t parent;
	uint64_t since; /* of a running source: when its children begin at the earliest */
	int epoll;
	size_t n, max;
	struct gate v[];
};

/* As field 22 of /proc/PID/stat has it. */
static uint64_t now_ticks(void)
{
	struct timespec t;

	clock_gettime(CLOCK_BOOTTIME, &t);
	return ((uint64_t)t.tv_sec * NS_PER_SEC + (uint64_t)t.tv_nsec) /
	       (NS_PER_SEC / (uint64_t)sysconf(_SC_CLK_TCK));
}

struct gates *gates_new(size_t n, const struct vmdir *source, bool live)
{
	struct gates *g = calloc(1, sizeof(*g) + n * sizeof(g->v[0]));

	if (!g)
		return NULL;
	g->source = source;
	g->live = live;
	g->since = live ? now_ticks() : 0;
	g->max = n;
	g->epoll = epoll_create1(EPOLL_CLOEXEC);
	if (g->epoll < 0) {
		free(g);
		return NULL;
	}
	return g;
}

static void over(const struct gates *g, struct gate *t)
{
	if (t->fd < 0)
		return;
	(void)epoll_ctl(g->epoll, EPOLL_CTL_DEL, t->fd, NULL);
	close(take_fd(&t->fd));
}

void gates_free(struct gates *g)
{
	if (!g)
		return;
	for (size_t i = 0; i < g->n; i++)
		over(g, &g->v[i]);
	close(g->epoll);
	free(g);
}

int gates_add(struct gates *g, const struct vmdir *d, struct err *e)
{
	struct gate *t = &g->v[g->n];
	struct epoll_event ev = { .events = EPOLLIN, .data.ptr = t };
	const int on = 1;
	int pair[2];

	BUG_ON(g->n == g->max);
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
		return err_sys(e, errno, "memory quota: socketpair");
	if (setsockopt(pair[0], SOL_SOCKET, SO_PASSCRED, &on, sizeof(on)) ||
	    epoll_ctl(g->epoll, EPOLL_CTL_ADD, pair[0], &ev)) {
		int err = errno;

		close(pair[0]);
		close(pair[1]);
		return err_sys(e, err, "memory quota: a child's gate");
	}
	*t = (struct gate){ .d = d, .fd = pair[0] };
	g->n++;
	return pair[1];
}

/* Who sent what is there, which is of no interest. 0: nobody that we can see; -1: nobody, and
 * nobody will. */
static pid_t sender(int fd)
{
	union {
		char buf[CMSG_SPACE(sizeof(struct ucred))];
		struct cmsghdr align;
	} ctrl;
	char byte;
	struct iovec iov = { .iov_base = &byte, .iov_len = 1 };
	struct msghdr msg = { .msg_iov = &iov,
			      .msg_iovlen = 1,
			      .msg_control = ctrl.buf,
			      .msg_controllen = sizeof(ctrl.buf) };
	ssize_t n = recvmsg(fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	struct cmsghdr *c = n > 0 ? CMSG_FIRSTHDR(&msg) : NULL;
	struct ucred who;

	if (n <= 0)
		return -1;
	if (!c || c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_CREDENTIALS ||
	    c->cmsg_len != CMSG_LEN(sizeof(who)))
		return 0;
	memcpy(&who, CMSG_DATA(c), sizeof(who));
	return who.pid;
}

/* Why the process behind dir is none that this gate is for; NULL: it is. */
static const char *stranger(const struct gates *g, int dir)
{
	struct procid p;

	if (!procid_look(dir, &p))
		return "its process has ended";
	if (p.parent != g->parent)
		return "its process is no child of its source's";
	if (g->live && p.uid != (g->source->uid ? g->source->uid : geteuid()))
		return "its process runs as somebody else";
	if (p.start_time < g->since)
		return "its process is older than the request";
	return NULL;
}

/* By pid, which the descriptor of its directory in /proc says is still the same one afterwards. */
static const char *move(const struct gates *g, const struct gate *t, pid_t pid, struct err *e)
{
	cleanup_close int dir = procid_dir(pid);
	char path[PATH_MAX];
	const char *why = dir < 0 ? "its process has ended" : stranger(g, dir);
	struct procid p;

	if (why)
		return why;
	if (!group_path(t->d, path))
		return "it has no group";
	if (cgroup_add(path, pid, e)) {
		err_wrap(e, -EIO, "it cannot be put into its group");
		return e->msg;
	}
	if (procid_look(dir, &p))
		return NULL;
	/* the number may have been another's at that instant: nobody is ended for it */
	group_forget(t->d);
	return "its process ended while it was put into its group";
}

static void serve(struct gates *g, struct gate *t)
{
	pid_t pid = sender(t->fd);
	struct err e;
	const char *why = pid > 1 ? move(g, t, pid, &e) : "its process is hidden from us";

	if (pid < 0) {
		t->why[0] = '\0'; /* it has ended, and has perhaps said why */
	} else if (why) {
		snprintf(t->why, sizeof(t->why), "memory quota: %.480s", why);
	} else if (send(t->fd, "", 1, MSG_NOSIGNAL | MSG_DONTWAIT) == 1) {
		t->pid = pid;
	}
	over(g, t);
}

static void on_gates(void *arg)
{
	struct epoll_event ev[16];
	struct gates *g = arg;
	int n = epoll_wait(g->epoll, ev, ARRAY_SIZE(ev), 0);

	for (int i = 0; i < n; i++)
		serve(g, ev[i].data.ptr);
}

int gates_watch(struct gates *g, struct client *api, struct err *e)
{
	cleanup_json json_t *info = NULL;
	int r;

	if (!g->n)
		return 0;
	r = vmdir_info(g->source, &info, e);
	if (r)
		return err_wrap(e, r, "memory quota");
	g->parent = procid_pid(info);
	if (!g->parent)
		return err_set(e, ESRCH, "memory quota: the process of %s cannot be identified",
			       g->source->name);
	client_set_aside(api, g->epoll, on_gates, g);
	return 0;
}

const char *gates_verdict(const struct gates *g, const struct vmdir *d, pid_t pid,
			  const char *error)
{
	const struct gate *t = NULL;

	for (size_t i = 0; i < g->n && !t; i++)
		if (g->v[i].d == d)
			t = &g->v[i];
	if (!t || (t->pid && t->pid == pid))
		return error;
	if (t->why[0])
		return t->why; /* the child knows only that it was refused */
	if (error)
		return error;
	return t->pid ? "memory quota: the source names another process than the one in the group"
		      : "memory quota: it did not ask to be put into its group";
}
