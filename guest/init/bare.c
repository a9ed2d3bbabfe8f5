/* SPDX-License-Identifier: MIT */
/*
 * The init of a guest that has none: a busybox initrd, or a root disk with just a program on it.
 * Runs /etc/rc, then keeps a shell on the console if there is one to run, reaps, and ends the
 * machine on the signals that busybox's poweroff, halt and reboot send: SIGUSR2, SIGUSR1, SIGTERM.
 */
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "init.h"

#define STOP_S 2

static char *const envp[] = { "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
			      "HOME=/root", "TERM=linux", NULL };

/* The device behind /dev/console, for that one cannot be a controlling terminal. */
static int console_open(void)
{
	char name[64] = "", path[80], *p;
	int fd = open("/sys/class/tty/console/active", O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, name, sizeof(name) - 1);

	if (fd >= 0)
		close(fd);
	name[n < 0 ? 0 : n] = '\0';
	name[strcspn(name, "\n")] = '\0';
	p = strrchr(name, ' '); /* the last one is /dev/console */
	snprintf(path, sizeof(path), "/dev/%s", *name ? (p ? p + 1 : name) : "console");
	return open(path, O_RDWR | O_NOCTTY);
}

/* Runs a program in a session of its own; `tty` gives it the console as its terminal. */
static pid_t run(char *const argv[], bool tty)
{
	sigset_t none;
	pid_t pid = fork();
	int fd;

	if (pid)
		return pid;
	setsid();
	if (tty) {
		fd = console_open();
		if (fd < 0 || ioctl(fd, TIOCSCTTY, 1))
			_exit(126);
		for (int i = 0; i < 3; i++)
			dup2(fd, i);
		if (fd > 2)
			close(fd);
	}
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	execve(argv[0], argv, envp);
	say("%s: %s", argv[0], strerror(errno));
	_exit(127);
}

/* Returns its pid, or 0 if there is none. */
static pid_t rc_run(void)
{
	static char *const direct[] = { "/etc/rc", NULL };
	static char *const by_shell[] = { "/bin/sh", "/etc/rc", NULL };
	pid_t pid;

	if (access("/etc/rc", F_OK))
		return 0;
	pid = run(access("/etc/rc", X_OK) ? by_shell : direct, false);
	return pid > 0 ? pid : 0;
}

/* An initrd with nothing but busybox in it: makes its commands, before anybody can ask for one. */
void busybox_install(void)
{
	static char *const install[] = { "/bin/busybox", "--install", "-s", "/bin", NULL };
	pid_t pid;

	if (access("/bin/busybox", X_OK) || !access("/bin/sh", X_OK))
		return;
	pid = run(install, false);
	while (pid > 0 && waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		;
}

/* What a distribution's init would have made, and C libraries count on. */
static void shm_mount(void)
{
	mkdir("/dev/shm", 01777);
	mount("tmpfs", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777");
}

static void loopback_up(void)
{
	struct ifreq r = { .ifr_name = "lo", .ifr_flags = IFF_UP };
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return;
	ioctl(fd, SIOCSIFFLAGS, &r);
	close(fd);
}

/* Asks every process to end, gives them a little time, and makes them. */
static void stop_all(void)
{
	struct timespec second = { .tv_sec = 1 };
	sigset_t chld;
	int waits = 0;

	sigemptyset(&chld);
	sigaddset(&chld, SIGCHLD);
	kill(-1, SIGTERM);
	kill(-1, SIGHUP); /* interactive shells do not mind SIGTERM */
	kill(-1, SIGCONT);
	while (waits < STOP_S) {
		pid_t pid = waitpid(-1, NULL, WNOHANG);

		if (pid < 0 && errno == ECHILD)
			return;
		if (!pid && sigtimedwait(&chld, NULL, &second) < 0)
			waits++;
	}
	kill(-1, SIGKILL);
}

__attribute__((noreturn)) static void end(int how)
{
	say("%s", how == RB_AUTOBOOT ? "restarting" : "powering off");
	stop_all();
	sync();
	mount(NULL, "/", NULL, MS_REMOUNT | MS_RDONLY, NULL);
	machine_end(how);
}

void bare_run(void)
{
	static char *const shell_argv[] = { "/bin/sh", "-l", NULL };
	struct timespec second = { .tv_sec = 1 };
	pid_t rc, shell = 0, pid;
	sigset_t set;

	sigemptyset(&set);
	for (size_t i = 0; i < 5; i++)
		sigaddset(&set, (int[]){ SIGCHLD, SIGUSR1, SIGUSR2, SIGTERM, SIGINT }[i]);
	sigprocmask(SIG_BLOCK, &set, NULL);
	reboot(RB_DISABLE_CAD); /* Ctrl-Alt-Del is SIGINT from here */
	shm_mount();
	loopback_up();
	rc = rc_run();
	for (;;) {
		bool want = !rc && !shell && !access("/bin/sh", X_OK);
		int sig;

		if (want)
			shell = run(shell_argv, true);
		sig = sigwaitinfo(&set, NULL);
		if (sig == SIGUSR1 || sig == SIGUSR2)
			end(RB_POWER_OFF);
		if (sig == SIGTERM || sig == SIGINT)
			end(RB_AUTOBOOT);
		while ((pid = waitpid(-1, NULL, WNOHANG)) > 0) {
			rc = pid == rc ? 0 : rc;
			if (pid != shell)
				continue;
			shell = 0; /* a shell that cannot run must not be started in a loop */
			nanosleep(&second, NULL);
		}
	}
}
