/* SPDX-License-Identifier: MIT */
/*
 * The pool of TAPs is filled by ourselves, run once more in the background.
 */
#include "cli/netpool.h"

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/util.h"
#include "cli/cli.h"

#define POOL_DEFAULT 8u
#define POOL_MAX 64u

unsigned int network_pool_size(void)
{
	const char *s = getenv("CLONE_TAP_POOL");
	uint64_t v;

	return s && !cli_parse_uint(s, 0, POOL_MAX, &v, NULL) ? (unsigned int)v : POOL_DEFAULT;
}

static void become_refill(const char *name)
{
	const char *const argv[] = { "clone", "network", "refill", name, NULL };
	int null = open("/dev/null", O_RDWR);
	sigset_t none;

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	for (int fd = 0; fd < 3; fd++)
		if (dup2(null, fd) < 0)
			_exit(126);
	/* no lock or pipe of ours may live on in it */
	syscall(SYS_close_range, 3u, ~0u, 0u);
	setsid();
	execv("/proc/self/exe", (char *const *)(uintptr_t)argv);
	_exit(127);
}

void network_refill_later(const char *name)
{
	pid_t pid;

	if (!network_pool_size())
		return;
	pid = fork();
	if (!pid) {
		pid = fork();
		if (!pid)
			become_refill(name);
		_exit(0);
	}
	if (pid > 0)
		waitpid(pid, NULL, 0);
}
