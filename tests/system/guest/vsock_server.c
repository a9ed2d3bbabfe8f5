/* SPDX-License-Identifier: MIT */
/*
 * A server in a guest, static: answers each line on vsock port 7000 with "HOSTNAME LINE". One
 * process, many connections; says that it listens by making /run/up.
 */
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <linux/vm_sockets.h>

#define CONNS 64
#define LINE 256

static struct pollfd fds[CONNS + 1];
static char line[CONNS + 1][LINE];
static size_t len[CONNS + 1];

static void serve(int i)
{
	char name[65], answer[LINE + 80], c;
	int n;

	if (read(fds[i].fd, &c, 1) != 1) {
		close(fds[i].fd);
		fds[i].fd = -1;
		return;
	}
	if (c != '\n') {
		if (len[i] < LINE - 1)
			line[i][len[i]++] = c;
		return;
	}
	line[i][len[i]] = '\0';
	len[i] = 0;
	gethostname(name, sizeof(name));
	n = snprintf(answer, sizeof(answer), "%s %s\n", name, line[i]);
	if (write(fds[i].fd, answer, (size_t)n) != n)
		perror("write");
}

static void take(int listener)
{
	int fd = accept(listener, NULL, NULL);

	for (int i = 1; fd >= 0 && i <= CONNS; i++) {
		if (fds[i].fd >= 0)
			continue;
		fds[i] = (struct pollfd){ .fd = fd, .events = POLLIN };
		len[i] = 0;
		return;
	}
	close(fd);
}

int main(void)
{
	struct sockaddr_vm addr = { .svm_family = AF_VSOCK,
				    .svm_port = 7000,
				    .svm_cid = VMADDR_CID_ANY };

	for (int i = 0; i <= CONNS; i++)
		fds[i].fd = -1;
	fds[0] = (struct pollfd){ .fd = socket(AF_VSOCK, SOCK_STREAM, 0), .events = POLLIN };
	if (bind(fds[0].fd, (void *)&addr, sizeof(addr)) || listen(fds[0].fd, CONNS)) {
		perror("vsock");
		return 1;
	}
	close(open("/run/up", O_CREAT | O_WRONLY, 0644));
	while (poll(fds, CONNS + 1, -1) >= 0) {
		for (int i = 1; i <= CONNS; i++)
			if (fds[i].fd >= 0 && fds[i].revents)
				serve(i);
		if (fds[0].revents)
			take(fds[0].fd);
	}
	return 1;
}
