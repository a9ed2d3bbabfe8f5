/* SPDX-License-Identifier: MIT */
/*
 * Starts a program: a command of EXEC, a hook, a helper. The one place with vfork and execve.
 */
#ifndef CLONE_AGENT_SPAWN_H
#define CLONE_AGENT_SPAWN_H

#include <stdbool.h>
#include <sys/types.h>

#include "users.h"

struct spawn {
	char **argv, **envp;	 /* end with NULL; argv[0] is looked up in envp's PATH */
	int fd[3];		 /* become 0, 1, 2; must be above 2 */
	bool tty;		 /* fd[0] becomes the controlling terminal */
	const struct user *user; /* NULL: as the agent */
	const char *cwd;	 /* NULL: the user's home if it can be entered, else / */
};

/*
 * Returns the pid of the program, which leads its own session and process group, or -errno. Then
 * `*exec_failed` says whether it was execve that failed (the program is missing, is not executable)
 * rather than what comes before. Waits until execve is done: that is as long as the guest's disk
 * takes.
 */
pid_t spawn(const struct spawn *s, bool *exec_failed);

#endif
