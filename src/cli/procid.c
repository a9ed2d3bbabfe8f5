/* SPDX-License-Identifier: MIT */
/*
 * Processes by pid and start time. See procid.h.
 */
#include "cli/procid.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/util.h"
#include "control/json.h"

/* Field 22 of /proc/PID/stat, in clock ticks since boot; 0 when there is no such process. */
static unsigned long long start_time(pid_t pid)
{
	char path[64], line[1024];
	unsigned long long v = 0;
	size_t n;
	char *p;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	f = fopen(path, "re");
	if (!f)
		return 0;
	n = fread(line, 1, sizeof(line) - 1, f);
	fclose(f);
	line[n] = '\0';
	p = strrchr(line, ')'); /* the name may hold anything */
	for (int field = 2; p && field < 22; field++)
		p = strchr(p + 1, ' ');
	if (!p || sscanf(p, " %llu", &v) != 1)
		return 0;
	return v;
}

/* The user it runs as, by its status: a process that changed its user has /proc files of root's. */
static bool runs_as(pid_t pid, uint32_t uid)
{
	unsigned int real, effective;
	char path[64], line[256];
	bool found = false;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/status", pid);
	f = fopen(path, "re");
	while (f && !found && fgets(line, sizeof(line), f))
		found = sscanf(line, "Uid: %u %u", &real, &effective) == 2;
	if (f)
		fclose(f);
	return found && real == uid && effective == uid;
}

void procid_note(json_t *info, pid_t pid)
{
	json_object_set_new(info, "pid", json_integer(pid));
	json_object_set_new(info, "start_time", json_integer((json_int_t)start_time(pid)));
}

pid_t procid_pid(const json_t *info)
{
	json_int_t pid = json_integer_value(json_object_get(info, "pid"));
	json_int_t when = json_integer_value(json_object_get(info, "start_time"));

	if (pid <= 1 || pid > INT32_MAX || !when || start_time((pid_t)pid) != (uint64_t)when)
		return 0;
	return (pid_t)pid;
}

int procid_kill(const struct vmdir *d, struct err *e)
{
	cleanup_json json_t *info = NULL;
	cleanup_close int fd = -1;
	pid_t pid;
	int r = vmdir_info(d, &info, e);

	if (r)
		return r;
	pid = procid_pid(info);
	if (pid)
		fd = (int)syscall(SYS_pidfd_open, pid, 0);
	/* The descriptor pins whatever process it found: look again which one that is. The number
	 * came from a VM: it may name none but those of the VM's own user. */
	if (fd < 0 || procid_pid(info) != pid || (d->uid && !runs_as(pid, d->uid)))
		return err_set(e, ESRCH, "%s does not answer and its process cannot be identified",
			       d->name);
	if (syscall(SYS_pidfd_send_signal, fd, SIGKILL, NULL, 0))
		return err_sys(e, errno, "kill %s", d->name);
	return 0;
}
