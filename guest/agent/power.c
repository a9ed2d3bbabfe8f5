/* SPDX-License-Identifier: MIT */
/*
 * SHUTDOWN and the power button: first the way the distribution wants it, with its own program,
 * then a signal to process 1, and after the grace period the system call. Event handlers of the
 * agent's thread.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/reboot.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent.h"
#include "spawn.h"

#define SYNC_MS 5000

/* systemd's meaning of real-time signals, counted from glibc's SIGRTMIN; musl's is another. */
#define SYSTEMD_RTMIN 34
#define SYSTEMD_POWEROFF (SYSTEMD_RTMIN + 4)
#define SYSTEMD_REBOOT (SYSTEMD_RTMIN + 5)

struct power {
	struct agent *agent;
	uint32_t mode;
	bool syncing, default_grace;
	struct child helper, sync;
	struct timer timer;
};

static void signal_init(uint32_t mode)
{
	bool off = mode == PROTO_SHUTDOWN_POWEROFF;

	if (!access("/run/systemd/system", F_OK))
		kill(1, off ? SYSTEMD_POWEROFF : SYSTEMD_REBOOT);
	else /* busybox and our own bare init */
		kill(1, off ? SIGUSR2 : SIGTERM);
}

static void on_helper_exit(struct child *c, int status)
{
	struct power *p = container_of(c, struct power, helper);

	if (!WIFEXITED(status) || WEXITSTATUS(status))
		signal_init(p->mode);
	else if (p->default_grace && !p->syncing) /* its services may need longer to stop */
		loop_timer(&p->agent->loop, &p->timer, PROTO_SHUTDOWN_TAKEN_MS);
}

static void force(struct power *p)
{
	agent_log("shutdown: the grace period is over: forced");
	reboot(p->mode == PROTO_SHUTDOWN_POWEROFF ? RB_POWER_OFF : RB_AUTOBOOT);
	agent_log("shutdown: the kernel refuses: %s", strerror(errno));
}

static void on_synced(struct child *c, int status)
{
	struct power *p = container_of(c, struct power, sync);

	(void)status;
	loop_timer_off(&p->timer);
	force(p);
}

/* The sync may hang with the disk it is for, so it is not ours to wait for without an end. */
static void on_timer(struct timer *t)
{
	struct power *p = container_of(t, struct power, timer);
	pid_t pid;

	if (p->syncing) {
		force(p);
		return;
	}
	p->syncing = true;
	pid = fork();
	if (!pid) {
		sync();
		_exit(0);
	}
	if (pid > 0) {
		p->sync = (struct child){ .pid = pid, .fn = on_synced };
		loop_child(&p->agent->loop, &p->sync);
	}
	loop_timer(&p->agent->loop, &p->timer, SYNC_MS);
}

static pid_t helper_spawn(uint32_t mode)
{
	char *argv[] = { mode == PROTO_SHUTDOWN_POWEROFF ? "poweroff" : "reboot", NULL };
	char *envp[] = { "PATH=/sbin:/usr/sbin:/bin:/usr/bin", NULL };
	struct spawn s = { .argv = argv, .envp = envp, .cwd = "/" };
	bool exec_failed;
	pid_t pid;
	int fd = open("/dev/null", O_RDWR | O_CLOEXEC);

	s.fd[0] = s.fd[1] = s.fd[2] = fd;
	pid = fd < 0 ? -errno : spawn(&s, &exec_failed);
	if (fd >= 0)
		close(fd);
	return pid;
}

void power_begin(struct agent *a, struct conn *c, uint32_t mode, uint32_t grace_ms)
{
	struct power *p;
	pid_t pid;

	if (!a->may_shut_down) {
		if (c)
			conn_error(c, EPERM, PROTO_STAGE_REQUEST, "this agent must not shut down");
		return;
	}
	p = a->power ? a->power : calloc(1, sizeof(*p));
	if (!p) {
		if (c)
			conn_error(c, ENOMEM, PROTO_STAGE_REQUEST, "out of memory");
		return;
	}
	a->power = p;
	p->agent = a;
	p->mode = mode;
	p->default_grace = !grace_ms;
	p->timer.fn = on_timer;
	if (!p->syncing)
		loop_timer(&a->loop, &p->timer, grace_ms ? grace_ms : PROTO_SHUTDOWN_MS);
	if (c)
		conn_ack(c, 0, "");
	if (p->helper.pid)
		return;
	pid = helper_spawn(mode);
	if (pid < 0) {
		signal_init(mode);
		return;
	}
	p->helper = (struct child){ .pid = pid, .fn = on_helper_exit };
	loop_child(&a->loop, &p->helper);
}
