/* SPDX-License-Identifier: MIT */
/*
 * rigd: PID 1 of the rig's emulated host. Started by l1-init after the root is in place; listens on
 * TCP port 1 (reached from outside only through QEMU's forward on 127.0.0.1), runs one command per
 * connection in a process of its own (rigd_session.c), reaps orphans, and powers the machine off
 * when nobody has used it for a while. Static, single-threaded.
 */
#include "rigd.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/reboot.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define RIG_PORT 1
#define SERVED_MAX 1024

static int listen_tcp(void)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(RIG_PORT) };
	int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof(a)) || listen(fd, 128)) {
		perror("rigd: listen");
		return -1;
	}
	return fd;
}

static void announce(void)
{
	/* Without O_NONBLOCK, open waits for a carrier. */
	int fd = open("/dev/ttyS1", O_WRONLY | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);

	if (fd < 0 || write(fd, "ready\n", 6) != 6)
		perror("rigd: ttyS1");
	if (fd >= 0)
		close(fd);
}

/* The number of connections that ended. Reaps the orphans of all commands too. */
static int reap(int sfd, pid_t *served, int n)
{
	struct signalfd_siginfo si;
	int ended = 0;
	pid_t pid;

	if (read(sfd, &si, sizeof(si)) < 0)
		return 0;
	while ((pid = waitpid(-1, NULL, WNOHANG)) > 0)
		for (int i = 0; i < n; i++)
			if (served[i] == pid) {
				served[i] = 0;
				ended++;
			}
	return ended;
}

int main(int argc, char **argv)
{
	static pid_t served[SERVED_MAX];
	const char *token = getenv("RIG_TOKEN");
	int idle_s = argc > 1 ? atoi(argv[1]) : 0, active = 0, sock, sfd;
	sigset_t chld;

	if (argc != 2 || !token) {
		fprintf(stderr, "usage: RIG_TOKEN=T rigd IDLE_SECONDS\n");
		return 2;
	}
	signal(SIGPIPE, SIG_IGN);
	sigemptyset(&chld);
	sigaddset(&chld, SIGCHLD);
	sigprocmask(SIG_BLOCK, &chld, NULL);
	sfd = signalfd(-1, &chld, SFD_CLOEXEC | SFD_NONBLOCK);
	rigd_keep();
	sock = listen_tcp();
	if (sock < 0)
		return 1;
	announce();
	for (;;) {
		struct pollfd p[2] = { { active < SERVED_MAX ? sock : -1, POLLIN, 0 },
				       { sfd, POLLIN, 0 } };
		int n = poll(p, 2, active || !idle_s ? -1 : idle_s * 1000);

		if (n == 0) {
			fprintf(stderr, "rigd: unused for %d s: powering off\n", idle_s);
			sync();
			reboot(RB_POWER_OFF);
		}
		if (n > 0 && p[0].revents) {
			int c = accept4(sock, NULL, NULL, SOCK_CLOEXEC);
			pid_t pid = c < 0 ? -1 : fork();

			if (!pid)
				rigd_serve(c, token);
			for (int i = 0; pid > 0 && i < SERVED_MAX; i++)
				if (!served[i]) {
					served[i] = pid;
					active++;
					break;
				}
			if (c >= 0)
				close(c);
		}
		if (n > 0 && p[1].revents)
			active -= reap(sfd, served, SERVED_MAX);
	}
}
