/* SPDX-License-Identifier: MIT */
/*
 * The life of a VM process as its maker sees it: spawn, hand over, watch, abort. See launch.h.
 */
#include "cli/launch.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/time.h"
#include "base/util.h"
#include "cli/cli.h"
#include "cli/group.h"
#include "cli/procid.h"
#include "control/json.h"
#include "control/sock.h"

extern char **environ;

#define BOOT_FD 3
#define ENV_MAX 32

/* Our caller's environment may hold secrets that a VM process has no use for. */
static void keep_env(char **env)
{
	static const char *const keep[] = { "CLONE_", "ASAN_", "UBSAN_", "TSAN_", "LSAN_" };
	size_t n = 0;

	for (char **v = environ; *v && n < ENV_MAX - 1; v++)
		for (size_t i = 0; i < ARRAY_SIZE(keep); i++)
			if (!strncmp(*v, keep[i], strlen(keep[i])))
				env[n++] = *v;
	env[n] = NULL;
}

/* In the new process; only async-signal-safe calls. */
static _Noreturn void become_vm(int boot, int log, const char *name)
{
	char title[80] = "clone vm ";
	char *argv[] = { title, "vm", "3", NULL }; /* the title is for ps(1) */
	char *env[ENV_MAX];
	sigset_t none;
	int null;

	strncat(title, name, sizeof(title) - strlen(title) - 1);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	setsid();
	null = open("/dev/null", O_RDWR);
	/* clear of the low numbers first: they may be among them */
	boot = fcntl(boot, F_DUPFD, 16);
	log = fcntl(log, F_DUPFD, 16);
	if (null >= 0 && boot >= 0 && log >= 0 && dup2(null, 0) == 0 && dup2(log, 1) == 1 &&
	    dup2(log, 2) == 2 && dup2(boot, BOOT_FD) == BOOT_FD) {
		close_range(BOOT_FD + 1, ~0u, 0);
		keep_env(env);
		execve("/proc/self/exe", argv, env);
	}
	_exit(127);
}

static int spawn(struct vmproc *p, int boot, int log, struct err *e)
{
	pid_t pid = fork();

	if (pid < 0)
		return err_sys(e, errno, "start the VM process");
	if (pid == 0)
		become_vm(boot, log, p->dir.name);
	p->pid = pid;
	p->pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	return p->pidfd < 0 ? err_sys(e, errno, "pidfd_open") : 0;
}

/* The last line of the process's own log: why it died when it could not say so otherwise. */
static void last_log_line(const struct vmdir *d, char *buf, size_t n)
{
	cleanup_close int fd = openat(d->fd, "vmm.log", O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	off_t size = fd >= 0 ? lseek(fd, 0, SEEK_END) : 0;
	char text[256];
	ssize_t got;
	char *line;

	buf[0] = '\0';
	if (size <= 0)
		return;
	got = pread(fd, text, sizeof(text) - 1, MAX(size - (off_t)sizeof(text) + 1, 0));
	if (got <= 0)
		return;
	while (got && text[got - 1] == '\n')
		got--;
	text[got] = '\0';
	line = strrchr(text, '\n');
	line = line ? line + 1 : text;
	if (!strncmp(line, "clone: ", 7))
		line += 7;
	snprintf(buf, n, "%.255s", line);
}

static int boot_answer(struct vmproc *p, int boot, struct err *e)
{
	cleanup_json json_t *reply = NULL;
	char buf[2048], line[256];
	const char *why;
	size_t nfds = 0;
	ssize_t n;
	int r;

	r = sock_wait(boot, POLLIN, time_mono_ns() + LAUNCH_MS * NS_PER_MS, p->cancel_fd);
	if (r == -EINTR)
		return err_set(e, EINTR, "interrupted");
	if (r)
		return err_sys(e, -r, "the VM process did not start");
	n = fd_recv(boot, buf, sizeof(buf), NULL, 0, &nfds);
	if (n <= 0) {
		last_log_line(&p->dir, line, sizeof(line));
		return err_set(e, ECHILD, "the VM process ended at its start%s%s",
			       line[0] ? ": " : "", line);
	}
	reply = json_object_from(buf, (size_t)n, e);
	if (!reply)
		return err_wrap(e, -EBADMSG, "the VM process's first answer");
	if (json_is_true(json_object_get(reply, "ok")))
		return 0;
	why = json_string_value(json_object_get(reply, "error"));
	return err_set(e, EREMOTEIO, "%s", why ? why : "the VM process refused to start");
}

/* The one message of vm/vm.h, "the process". */
static int send_boot(struct vmproc *p, int boot, const struct host_fds *h, int kvm,
		     uint32_t linger_ms, struct err *e)
{
	uint32_t uid = p->dir.uid ? p->dir.uid : geteuid();
	uint32_t gid = p->dir.uid ? p->dir.gid : getegid();
	json_t *names = json_array();
	cleanup_json json_t *msg = json_pack(
		"{s:s, s:I, s:I, s:b, s:b, s:I, s:o}", "name", p->dir.name, "uid", (json_int_t)uid,
		"gid", (json_int_t)gid, "chroot", p->dir.uid != 0, "seed",
		p->dir.place == PLACE_SEED, "linger_ms", (json_int_t)linger_ms, "fds", names);
	cleanup_free char *text = NULL;
	int fds[HOST_FDS + 3];
	size_t n = 0;
	int r;

	if (!msg)
		return err_set(e, ENOMEM, "out of memory");
	json_array_append_new(names, json_string("kvm"));
	fds[n++] = kvm;
	json_array_append_new(names, json_string("dir"));
	fds[n++] = p->dir.fd;
	json_array_append_new(names, json_string("lock"));
	fds[n++] = p->dir.lock_fd;
	/* "log", the last, is already its stderr */
	for (size_t i = 0; i < HOST_FDS - 1; i++) {
		json_array_append_new(names, json_string(host_fd_names[i]));
		fds[n++] = h->fd[i];
	}
	text = json_text(msg, JSON_COMPACT);
	if (!text)
		return err_set(e, ENOMEM, "out of memory");
	r = fd_send(boot, text, strlen(text), fds, n);
	return r ? err_sys(e, -r, "start the VM process") : 0;
}

/* Its two sockets. */
static int connect_to(struct vmproc *p, struct err *e)
{
	int r = client_open(p->dir.fd, &p->api, e);

	if (r)
		return r;
	client_set_cancel(p->api, p->cancel_fd);
	p->fdsock = client_fdsock(p->dir.fd, e);
	return MIN(p->fdsock, 0);
}

static int start(struct vmproc *p, uint32_t linger_ms, struct err *e)
{
	cleanup_close int kvm = launch_kvm(e);
	cleanup_close int boot = -1;
	struct host_fds h;
	int sv[2], r;

	if (kvm < 0)
		return kvm;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv))
		return err_sys(e, errno, "socketpair");
	boot = sv[0];
	r = host_fds_open(&p->dir, &h, e);
	if (!r) {
		r = spawn(p, sv[1], h.fd[HOST_FDS - 1], e);
		close(take_fd(&sv[1]));
		if (!r)
			r = send_boot(p, boot, &h, kvm, linger_ms, e);
		host_fds_close(&h);
	}
	if (sv[1] >= 0)
		close(sv[1]);
	if (!r)
		r = boot_answer(p, boot, e);
	return r ? r : connect_to(p, e);
}

int vmproc_start(enum place place, const char *name, uint32_t linger_ms, int cancel_fd,
		 struct vmproc *p, struct err *e)
{
	int r;

	*p = (struct vmproc){ .pidfd = -1, .fdsock = -1, .cancel_fd = cancel_fd };
	vmdir_init(&p->dir);
	r = vmdir_create(place, name, 0, &p->dir, e);
	if (r)
		return r;
	r = start(p, linger_ms, e);
	if (r)
		vmproc_abort(p);
	return r;
}

int vmproc_attach(const char *name, int cancel_fd, struct vmproc *p, struct err *e)
{
	int r;

	*p = (struct vmproc){ .pidfd = -1, .fdsock = -1, .cancel_fd = cancel_fd };
	vmdir_init(&p->dir);
	r = vmdir_open(PLACE_VM, name, &p->dir, e);
	if (!r && !vmdir_alive(&p->dir))
		r = err_set(e, EINVAL, "%s has ended", name);
	if (!r)
		r = connect_to(p, e);
	if (r)
		vmproc_close(p);
	return r;
}

void vmproc_close(struct vmproc *p)
{
	client_close(p->api);
	p->api = NULL;
	if (p->fdsock >= 0)
		close(take_fd(&p->fdsock));
	if (p->pidfd >= 0)
		close(take_fd(&p->pidfd));
	vmdir_close(&p->dir);
}

void vmproc_abort(struct vmproc *p)
{
	if (p->pid > 0) {
		/* ours and not waited for: the number cannot be anybody else's */
		kill(p->pid, SIGKILL);
		while (waitpid(p->pid, NULL, 0) < 0 && errno == EINTR)
			;
		p->pid = 0;
	}
	if (p->dir.lock_fd >= 0)
		close(take_fd(&p->dir.lock_fd));
	if (p->dir.fd >= 0 && vmdir_alive(&p->dir)) /* attached to: not our child */
		vm_kill(&p->dir, -1, NULL);
	if (p->dir.fd >= 0)
		vmdir_remove(&p->dir, NULL);
	vmproc_close(p);
}

static void end_words(const struct vmdir *d, char *buf, size_t n)
{
	cleanup_json json_t *rec = NULL;
	const char *reason, *detail;
	char line[256];

	if (vmdir_exit(d, &rec, NULL)) {
		if (!vmdir_alive(d))
			(void)group_settle(d, NULL);
		if (group_end_text(d, buf, n))
			return;
		last_log_line(d, line, sizeof(line));
		snprintf(buf, n, "it was killed%s%s", line[0] ? ": " : "", line);
		return;
	}
	reason = json_string_value(json_object_get(rec, "reason"));
	detail = json_string_value(json_object_get(rec, "detail"));
	snprintf(buf, n, "%s%s%s", reason ? reason : "for no reason", detail && *detail ? ": " : "",
		 detail ? detail : "");
}

/* They are the VM process's, in its record and in its log. */
void vmdir_end_text(const struct vmdir *d, char *buf, size_t n)
{
	end_words(d, buf, n);
	cli_clean(buf, buf, n);
}

int vmproc_request(struct vmproc *p, const char *method, const char *path, json_t *body,
		   uint64_t timeout_ms, json_t **reply, struct err *e)
{
	int r = client_request(p->api, method, path, body, timeout_ms, reply, e);
	char why[300];

	if (r == -ECONNRESET && !vmdir_wait_end(&p->dir, LAUNCH_MS, p->cancel_fd, NULL)) {
		vmdir_end_text(&p->dir, why, sizeof(why));
		return err_set(e, ECONNRESET, "the VM ended (%s)", why);
	}
	return r;
}
