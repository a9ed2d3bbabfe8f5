/* SPDX-License-Identifier: MIT */
/*
 * One run directory: making, opening, publishing, watching, removing. See state.h.
 */
#include "cli/group.h"
#include "cli/netpool.h"
#include "cli/state.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/time.h"
#include "base/util.h"
#include "cli/cli.h"
#include "cli/state_private.h"
#include "control/json.h"
#include "control/sock.h"

#define INFO_MAX (256u << 10)
#define LOCK_POLL_NS (2 * NS_PER_MS)

static const char *const place_dir[] = { "vms", "seeds" };

int run_lock(int run, struct err *e)
{
	cleanup_close int fd = openat(run, "lock", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);

	if (fd < 0)
		return err_sys(e, errno, "run directory: lock");
	while (flock(fd, LOCK_EX))
		if (errno != EINTR)
			return err_sys(e, errno, "run directory: lock");
	return take_fd(&fd);
}

int place_open(int run, enum place place, struct err *e)
{
	int fd = openat(run, place_dir[place], O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	return fd < 0 ? err_sys(e, errno, "run directory: %s", place_dir[place]) : fd;
}

/* Write-locks a new file for as long as any copy of the descriptor is open anywhere. */
static int make_locked(int dir, const char *name, struct err *e)
{
	cleanup_close int fd = openat(dir, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	struct flock fl = { .l_type = F_WRLCK, .l_whence = SEEK_SET };

	if (fd < 0 || fcntl(fd, F_OFD_SETLK, &fl))
		return err_sys(e, errno, "%s", name);
	return take_fd(&fd);
}

bool dir_locked(int dir, const char *name)
{
	cleanup_close int fd = openat(dir, name, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
	struct flock fl = { .l_type = F_WRLCK, .l_whence = SEEK_SET };

	return fd >= 0 && !fcntl(fd, F_OFD_GETLK, &fl) && fl.l_type != F_UNLCK;
}

void vmdir_init(struct vmdir *d)
{
	*d = (struct vmdir){ .fd = -1, .lock_fd = -1, .creator_fd = -1 };
}

void vmdir_close(struct vmdir *d)
{
	int *fds[] = { &d->fd, &d->lock_fd, &d->creator_fd };

	for (size_t i = 0; i < ARRAY_SIZE(fds); i++)
		if (*fds[i] >= 0)
			close(take_fd(fds[i]));
}

/* A uid of its own, from a random start so that one just freed is not soon another's. */
static int take_uid(int run, uint32_t share, struct vmdir *d, struct err *e)
{
	uint32_t at = 0;

	if (geteuid() != 0)
		return 0;
	if (share) {
		d->uid = d->gid = share;
		return 0;
	}
	if (getrandom(&at, sizeof(at), 0) != sizeof(at))
		return err_sys(e, errno, "getrandom");
	for (unsigned int i = 0; i < 1000; i++) {
		uint32_t uid = UID_FIRST + (at + i) % UID_COUNT;
		char path[32];

		snprintf(path, sizeof(path), "uids/%u", uid);
		if (!symlinkat(d->name, run, path)) {
			d->uid = d->gid = uid;
			return 0;
		}
		if (errno != EEXIST)
			return err_sys(e, errno, "run directory: %s", path);
	}
	return err_set(e, EAGAIN, "no free uid found for %s", d->name);
}

/* Everything in the directory; it is flat. */
static void remove_files(int dir)
{
	int fd = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *list = fd >= 0 ? fdopendir(fd) : NULL;
	struct dirent *de;

	while (list && (de = readdir(list)))
		if (strcmp(de->d_name, ".") && strcmp(de->d_name, ".."))
			unlinkat(dir, de->d_name, 0);
	if (list)
		closedir(list);
	else if (fd >= 0)
		close(fd);
}

int remove_dir(int run, enum place place, const char *name, int dir)
{
	cleanup_close int parent = place_open(run, place, NULL);
	uint32_t uid = 0;
	struct stat st;

	if (!fstat(dir, &st))
		uid = st.st_gid;
	remove_files(dir);
	if (unlinkat(parent, name, AT_REMOVEDIR))
		return -errno;
	release_uid(run, uid);
	return 0;
}

/* Under the run lock, so that nobody sees the directory before its locks are taken. */
static int create_locked(int run, int parent, uint32_t share_uid, struct vmdir *d, struct err *e)
{
	int r = mkdirat(parent, d->name, 0700) ? -errno : 0;

	if (r == -EEXIST)
		return err_set(e, EEXIST, "the name %s is taken: see `clone ls -a`, `clone rm`",
			       d->name);
	if (r)
		return err_sys(e, -r, "make the directory of %s", d->name);
	d->fd = openat(parent, d->name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	r = d->fd < 0 ? err_sys(e, errno, "open the directory of %s", d->name) : 0;
	if (!r)
		r = take_uid(run, share_uid, d, e);
	/* setgid: listeners that people add for the guest belong to the VM's group */
	if (!r && d->uid && (fchown(d->fd, 0, d->gid) || fchmod(d->fd, 02710)))
		r = err_sys(e, errno, "directory of %s", d->name);
	if (!r) {
		d->creator_fd = make_locked(d->fd, "creator", e);
		r = MIN(d->creator_fd, 0);
	}
	if (!r) {
		d->lock_fd = make_locked(d->fd, "lock", e);
		r = MIN(d->lock_fd, 0);
	}
	if (r && d->fd >= 0)
		remove_dir(run, d->place, d->name, d->fd);
	else if (r)
		unlinkat(parent, d->name, AT_REMOVEDIR);
	return r;
}

int vmdir_create(enum place place, const char *name, uint32_t share_uid, struct vmdir *d,
		 struct err *e)
{
	cleanup_close int run = run_open(e);
	cleanup_close int lock = run < 0 ? run : run_lock(run, e);
	cleanup_close int parent = lock < 0 ? lock : place_open(run, place, e);
	int r;

	vmdir_init(d);
	if (parent < 0)
		return parent;
	d->place = place;
	snprintf(d->name, sizeof(d->name), "%s", name);
	r = create_locked(run, parent, share_uid, d, e);
	if (r)
		vmdir_close(d);
	return r;
}

int vmdir_rewrite(const struct vmdir *d, const json_t *info, struct err *e)
{
	int r = json_write_file(d->fd, "vm.json", 0600, info, e);

	return r ? err_wrap(e, r, "%s", d->name) : 0;
}

int vmdir_publish(struct vmdir *d, const json_t *info, struct err *e)
{
	int r = vmdir_rewrite(d, info, e);

	if (r)
		return r;
	if (d->lock_fd >= 0)
		close(take_fd(&d->lock_fd));
	if (json_is_true(json_object_get(info, "owned")))
		return 0;
	unlinkat(d->fd, "creator", 0);
	if (d->creator_fd >= 0)
		close(take_fd(&d->creator_fd));
	return 0;
}

int vmdir_open(enum place place, const char *name, struct vmdir *d, struct err *e)
{
	cleanup_close int run = -1;
	cleanup_close int parent = -1;
	struct stat st;

	vmdir_init(d);
	if (!cli_name_ok(name))
		return cli_name_check("VM", name, e);
	run = run_open(e);
	parent = run < 0 ? run : place_open(run, place, e);
	if (parent < 0)
		return parent;
	d->place = place;
	snprintf(d->name, sizeof(d->name), "%s", name);
	d->fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	if (d->fd < 0 && errno == ENOENT)
		return err_set(e, ENOENT, "no VM is called %s: see `clone ls -a`", name);
	if (d->fd < 0 || fstat(d->fd, &st))
		return err_sys(e, errno, "%s", name);
	if (st.st_gid >= UID_FIRST && st.st_gid - UID_FIRST < UID_COUNT)
		d->uid = d->gid = st.st_gid;
	return 0;
}

bool vmdir_alive(const struct vmdir *d)
{
	return dir_locked(d->fd, "lock");
}

int vmdir_wait_end(const struct vmdir *d, uint64_t timeout_ms, int cancel_fd, struct err *e)
{
	cleanup_close int lock = openat(d->fd, "lock", O_RDWR | O_CLOEXEC | O_NOFOLLOW);
	cleanup_close int sock = sock_connect(d->fd, "fd.sock", SOCK_SEQPACKET, NULL);
	uint64_t deadline = timeout_ms ? time_mono_ns() + timeout_ms * NS_PER_MS : 0;
	struct flock fl = { .l_type = F_RDLCK, .l_whence = SEEK_SET };

	if (lock < 0)
		return 0;
	/* The process keeps this connection for as long as it lives... */
	if (sock >= 0) {
		int r = sock_wait(sock, POLLIN, deadline, cancel_fd);

		if (r == -EINTR)
			return err_set(e, EINTR, "interrupted");
		if (r == -ETIMEDOUT)
			return err_set(e, ETIMEDOUT, "%s did not end in time", d->name);
		if (r)
			return err_sys(e, -r, "%s", d->name);
	}
	/* ...and its last descriptors are gone a moment later, unless it only says that it ends. */
	while (fcntl(lock, F_OFD_SETLK, &fl)) {
		if (errno != EINTR && errno != EAGAIN && errno != EACCES)
			return err_sys(e, errno, "%s: lock", d->name);
		if (deadline && time_mono_ns() >= deadline)
			return err_set(e, ETIMEDOUT, "%s did not end in time", d->name);
		if (cancel_fd >= 0 &&
		    !sock_wait(cancel_fd, POLLIN, time_mono_ns() + LOCK_POLL_NS, -1))
			return err_set(e, EINTR, "interrupted");
		if (cancel_fd < 0)
			usleep(LOCK_POLL_NS / 1000);
	}
	return 0;
}

int vmdir_info(const struct vmdir *d, json_t **info, struct err *e)
{
	int r = json_read_file(d->fd, "vm.json", INFO_MAX, info, e);

	return r ? err_wrap(e, r, "%s", d->name) : 0;
}

int vmdir_exit(const struct vmdir *d, json_t **record, struct err *e)
{
	int r = json_read_file(d->fd, "exit.json", INFO_MAX, record, e);

	return r ? err_wrap(e, r, "%s", d->name) : 0;
}

int vmdir_remove(struct vmdir *d, struct err *e)
{
	cleanup_close int run = run_open(e);
	cleanup_close int lock = -1;
	cleanup_json json_t *info = NULL;
	struct err why;
	int r = MIN(run, 0);

	if (r)
		return r;
	/* its last process may be slow to end: nobody else is to wait for that */
	r = vmdir_alive(d) ? 0 : group_settle(d, &why);
	if (r == -EBUSY)
		return err_set(e, EBUSY, "%s", why.msg);
	if (r) /* the directory of a VM that has ended is of no use without it, nor in its way */
		fprintf(stderr, "clone: %s: its group is left: %s\n", d->name, why.msg);
	lock = run_lock(run, e);
	if (lock < 0)
		return lock;
	if (vmdir_alive(d))
		return err_set(e, EBUSY, "%s is running: stop it first, or use `clone rm -f`",
			       d->name);
	(void)vmdir_info(d, &info, NULL);
	r = remove_dir(run, d->place, d->name, d->fd);
	close(take_fd(&lock));
	network_vm_ended(info);
	return r && r != -ENOENT ? err_sys(e, -r, "remove the directory of %s", d->name) : 0;
}
