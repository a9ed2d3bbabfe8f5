/* SPDX-License-Identifier: MIT */
/*
 * Starts clone-agent. The binary comes from the initrd, so that an image need not contain it and it
 * always fits the host; it is run from its descriptor, because its file is gone by then.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "init.h"

int agent_find(void)
{
	int fd = open("/clone-agent", O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		say("/clone-agent: %s", strerror(errno));
	return fd;
}

void agent_start(int fd)
{
	static char *const argv[] = { "clone-agent", NULL };
	static char *const envp[] = { "PATH=/usr/sbin:/usr/bin:/sbin:/bin", NULL };
	volatile int err = 0;
	pid_t pid;

	if (fd < 0)
		return;
	pid = vfork();
	if (!pid) {
		syscall(SYS_execveat, fd, "", argv, envp, AT_EMPTY_PATH);
		err = errno;
		_exit(127);
	}
	if (pid < 0)
		err = errno;
	if (err)
		say("start the agent: %s", strerror(err));
	close(fd);
}
