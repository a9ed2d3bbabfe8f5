/* SPDX-License-Identifier: MIT */
/*
 * Processes by pid and start time. See procid.h.
 */
#include "cli/procid.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/util.h"
#include "control/json.h"

int procid_dir(pid_t pid)
{
	char path[32];

	snprintf(path, sizeof(path), "/proc/%d", pid);
	return open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

/* The whole of a small file of /proc. */
static bool slurp(int dir, const char *file, char *text, size_t n)
{
	cleanup_close int fd = openat(dir, file, O_RDONLY | O_CLOEXEC);
	ssize_t got = fd < 0 ? -1 : read(fd, text, n - 1);

	text[MAX(got, 0)] = '\0';
	return got > 0;
}

bool procid_look(int dir, struct procid *out)
{
	unsigned int real, effective;
	char text[4096], *p;

	*out = (struct procid){ .uid = UINT32_MAX };
	if (!slurp(dir, "stat", text, sizeof(text)))
		return false;
	p = strrchr(text, ')'); /* the name may hold anything */
	if (!p || sscanf(p, ") %*c %d", &out->parent) != 1)
		return false;
	/* field 22, in clock ticks since boot */
	for (int field = 2; p && field < 22; field++)
		p = strchr(p + 1, ' ');
	if (!p || sscanf(p, " %llu", &out->start_time) != 1)
		return false;
	/* by its status: a process that changed its user has /proc files of root's */
	if (!slurp(dir, "status", text, sizeof(text)))
		return false;
	p = strstr(text, "\nUid:");
	if (p && sscanf(p, "\nUid: %u %u", &real, &effective) == 2 && real == effective)
		out->uid = real;
	return true;
}

static bool look_at(pid_t pid, struct procid *out)
{
	cleanup_close int dir = procid_dir(pid);

	return dir >= 0 && procid_look(dir, out);
}

/* 0 when there is no such process. */
static unsigned long long start_time(pid_t pid)
{
	struct procid p;

	return look_at(pid, &p) ? p.start_time : 0;
}

static bool runs_as(pid_t pid, uint32_t uid)
{
	struct procid p;

	return look_at(pid, &p) && p.uid == uid;
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

/* The effective set of CAP_SYS_ADMIN alone: the kernel asks for it when the file is opened. */
static int set_admin(bool on, struct err *e)
{
	struct __user_cap_header_struct hdr = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2] = { 0 };
	const uint32_t bit = 1u << CAP_SYS_ADMIN;

	if (syscall(SYS_capget, &hdr, data) < 0)
		return err_sys(e, errno, "capabilities");
	if (on)
		data[0].effective |= data[0].permitted & bit;
	else
		data[0].effective &= ~bit;
	return syscall(SYS_capset, &hdr, data) < 0 ? err_sys(e, errno, "capabilities") : 0;
}

int procid_open(const struct vmdir *d, const char *what, struct err *e)
{
	cleanup_json json_t *info = NULL;
	cleanup_close int fd = -1;
	char path[64];
	pid_t pid;
	int r = vmdir_info(d, &info, e), err;

	if (r)
		return r;
	pid = procid_pid(info);
	snprintf(path, sizeof(path), "/proc/%d/%s", pid, what);
	r = set_admin(false, e);
	if (r)
		return r;
	fd = pid ? open(path, O_RDONLY | O_CLOEXEC) : -1;
	err = errno;
	r = set_admin(true, e);
	if (r)
		return r;
	/* what is open is that of whoever had the number then: look again who that is */
	if (!pid || procid_pid(info) != pid || (d->uid && !runs_as(pid, d->uid)))
		return err_set(e, ESRCH, "the process of %s cannot be identified", d->name);
	return fd < 0 ? err_sys(e, err, "%s", path) : take_fd(&fd);
}
