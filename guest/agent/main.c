/* SPDX-License-Identifier: MIT */
/*
 * clone-agent: answers the host from inside a guest. Options, the supervisor, and the start of the
 * event loop. Read proto.h for what it does, then loop.h, agent.h, conn.c, exec.c, identity.c.
 *
 * In a guest it is started by clone-init before the distribution's init, and is two processes: a
 * supervisor that does nothing but start the agent again if it dies, and the agent. Neither belongs
 * to any service: systemd moves both into init.scope, and they end with the machine.
 */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "agent.h"
#include "procfs.h"

#define RESTART_MS 200
#define EXIT_TAKEN 3 /* another agent is there: no use in starting again */

void agent_log(const char *fmt, ...)
{
	char line[1100] = "clone-agent: ";
	size_t n = strlen(line);
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(line + n, sizeof(line) - n - 1, fmt, ap);
	va_end(ap);
	n = strlen(line);
	line[n++] = '\n';
	if (write(2, line, n) < 0)
		return; /* there is nobody left to tell */
}

/*
 * Nothing else that our parent had open stays: commands would inherit it. 0, 1 and 2 exist,
 * whatever we were started with: /dev/null, and the kernel's log for what there is to say when we
 * are a daemon. Then no descriptor of ours is ever one of these.
 */
static void standard_fds(bool daemon)
{
	int fd;

	syscall(SYS_close_range, 3u, ~0u, 0u);
	do
		fd = open("/dev/null", O_RDWR);
	while (fd >= 0 && fd < 3);
	if (fd < 0)
		return;
	if (daemon) {
		int log = open("/dev/kmsg", O_WRONLY | O_CLOEXEC);

		dup2(fd, 0);
		dup2(fd, 1);
		dup2(log < 0 ? fd : log, 2);
		if (log >= 0)
			close(log);
	}
	close(fd);
}

static void raise_limits(void)
{
	struct rlimit want = { .rlim_cur = 8192, .rlim_max = 524288 }, have;

	if (!setrlimit(RLIMIT_NOFILE, &want) || getrlimit(RLIMIT_NOFILE, &have))
		return;
	have.rlim_cur = have.rlim_max;
	setrlimit(RLIMIT_NOFILE, &have);
}

/*
 * A fork's identity must not wait for the guest's own work: until the agent has reseeded, what runs
 * draws the same random numbers as in the fork's twins. Commands do not inherit it. (musl's wrapper
 * refuses.) Where it is not allowed the agent is merely later.
 */
static void run_first(void)
{
	struct sched_param p = { .sched_priority = 1 };

	syscall(SYS_sched_setscheduler, 0, SCHED_FIFO | SCHED_RESET_ON_FORK, &p);
}

/* A guest that runs out of memory ends something else: without us nobody could look at it. What we
 * start is like any other process again (spawn.c). Best effort, as run_first. */
static void die_last(void)
{
	(void)procfs_write("/proc/self/oom_score_adj", "-1000");
}

/* By itself Linux tells the host of free memory in blocks of 2 MiB only. What a fork's programs
 * have used and freed is scattered: it is told of page by page. Best effort: what the balloon's
 * driver stands on may not be there. */
static void report_all_that_is_free(void)
{
	(void)procfs_write("/sys/module/page_reporting/parameters/page_reporting_order", "0");
}

static int agent_main(const char *where, const char *root, bool may_shut_down)
{
	struct agent *a = calloc(1, sizeof(*a));
	int r = a ? loop_init(&a->loop) : -ENOMEM;

	if (r) {
		agent_log("start: %s", strerror(-r));
		return 1;
	}
	a->root = root;
	a->may_shut_down = may_shut_down;
	r = listen_open(a, where);
	if (r) {
		agent_log("listen on %s: %s", where, strerror(-r));
		return 1;
	}
	if (may_shut_down)
		button_open(a);
	if (!strcmp(where, "vsock")) { /* a guest's agent, not one that is tested */
		pressure_open(a);
		report_all_that_is_free();
	}
	run_first();
	r = loop_run(&a->loop);
	if (r)
		agent_log("event loop: %s", strerror(-r));
	if (a->taken)
		return EXIT_TAKEN;
	return r ? 1 : 0;
}

/* Returns only in the agent. */
static void supervise(void)
{
	struct timespec pause = { .tv_nsec = RESTART_MS * 1000000L };

	setsid();
	for (;;) {
		pid_t pid = fork(), got;
		int status = 0;

		if (!pid)
			return;
		do
			got = waitpid(pid, &status, 0);
		while (pid > 0 && got < 0 && errno == EINTR);
		if (got > 0 && WIFEXITED(status) && WEXITSTATUS(status) == EXIT_TAKEN)
			exit(0);
		agent_log("%s: starting again", pid < 0 ? strerror(errno) : "the agent has died");
		nanosleep(&pause, NULL);
	}
}

static void usage(FILE *f)
{
	fputs("usage: clone-agent [--listen vsock|unix:PATH] [--root DIR] [--foreground]\n"
	      "                   [--shutdown|--no-shutdown]\n"
	      "Answers the host of a clone virtual machine. With --listen unix: it stays in the\n"
	      "foreground and never shuts the machine down unless --shutdown is given.\n",
	      f);
}

struct options {
	const char *where, *root;
	bool foreground, shutdown, no_shutdown, help;
};

/* By hand: getopt_long would be a tenth of the program. */
static bool parse(struct options *o, char **argv)
{
	for (argv++; *argv; argv++) {
		if (!strcmp(*argv, "--foreground"))
			o->foreground = true;
		else if (!strcmp(*argv, "--shutdown"))
			o->shutdown = true;
		else if (!strcmp(*argv, "--no-shutdown"))
			o->no_shutdown = true;
		else if (!strcmp(*argv, "--help"))
			o->help = true;
		else if (!strcmp(*argv, "--listen") && argv[1])
			o->where = *++argv;
		else if (!strcmp(*argv, "--root") && argv[1])
			o->root = *++argv;
		else
			return false;
	}
	return true;
}

int main(int argc, char **argv)
{
	struct options o = { .where = "vsock", .root = "" };
	bool vsock;

	(void)argc;
	if (!parse(&o, argv)) {
		usage(stderr);
		return 2;
	}
	if (o.help) {
		usage(stdout);
		return 0;
	}
	vsock = !strcmp(o.where, "vsock");
	o.foreground = o.foreground || !vsock;
	o.shutdown = o.shutdown || (vsock && !o.no_shutdown);
	prctl(PR_SET_NAME, "clone-agent");
	standard_fds(!o.foreground);
	die_last();
	if (chdir("/"))
		agent_log("cannot enter /: %s", strerror(errno));
	umask(022);
	raise_limits();
	if (!o.foreground)
		supervise();
	return agent_main(o.where, o.root, o.shutdown);
}
