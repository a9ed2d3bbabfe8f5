/* SPDX-License-Identifier: MIT */
/*
 * The pool of TAPs is filled by ourselves, run once more in the background.
 */
#include "cli/netpool.h"

#include <fcntl.h>
#include <net/if.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/util.h"
#include "cli/cli.h"
#include "network/network.h"

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

#define TAP_WAIT_MS 1000

static bool tap_is_there(const json_t *networks)
{
	const json_t *j;
	size_t i;

	json_array_foreach(networks, i, j)
	{
		const char *tap = json_string_value(json_object_get(j, "tap"));

		if (tap && if_nametoindex(tap))
			return true;
	}
	return false;
}

void network_vm_ended(const json_t *info)
{
	const json_t *networks = json_object_get(info, "networks");

	if (!json_array_size(networks))
		return;
	for (int i = 0; i < TAP_WAIT_MS && tap_is_there(networks); i++)
		usleep(1000);
	network_sweep();
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
