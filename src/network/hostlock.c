/* SPDX-License-Identifier: MIT */
/*
 * The host lock: rules and TAP names are the network namespace's, so several run directories share
 * them. The lock's file is named after the namespace and holds what we changed of its settings, so
 * that whoever takes the last network down can undo it, whoever brought the first one up.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/util.h"
#include "control/json.h"
#include "network/private.h"

#define RECORD_MAX (64u << 10)
#define LOCK_DIR "/run/clone-network" /* ours alone: in /run/lock anybody may be first */

int hostlock_path(char *buf, size_t n, struct err *e)
{
	cleanup_close int sock = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	uint64_t cookie;
	socklen_t len = sizeof(cookie);

	/* never another's until the next boot, unlike the inode: a record that was left by a
	 * namespace that is no more must not be taken for this one's */
	if (sock < 0 || getsockopt(sock, SOL_SOCKET, SO_NETNS_COOKIE, &cookie, &len))
		return err_sys(e, errno, "which network namespace is this?");
	snprintf(buf, n, LOCK_DIR "/%llu", (unsigned long long)cookie);
	return 0;
}

int hostlock_take(struct hostlock *l, struct err *e)
{
	cleanup_close int fd = -1;
	char path[64], text[RECORD_MAX];
	struct stat st;
	size_t n;
	int r;

	*l = (struct hostlock){ .fd = -1 };
	r = hostlock_path(path, sizeof(path), e);
	if (r)
		return r;
	if (mkdir(LOCK_DIR, 0700) && errno != EEXIST)
		return err_sys(e, errno, LOCK_DIR);
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0 || fstat(fd, &st))
		return err_sys(e, errno, "%s", path);
	if (st.st_uid != geteuid() || !S_ISREG(st.st_mode) || st.st_nlink != 1)
		return err_set(e, EPERM, "%s is not ours (uid %u): remove it", path,
			       (unsigned int)st.st_uid);
	while (flock(fd, LOCK_EX))
		if (errno != EINTR)
			return err_sys(e, errno, "%s", path);
	if (fstat(fd, &st))
		return err_sys(e, errno, "%s", path);
	n = st.st_size > 0 && (uint64_t)st.st_size < sizeof(text) ? (size_t)st.st_size : 0;
	if (n && fd_pread_full(fd, text, n, 0))
		n = 0;
	l->rec = n ? json_loadb(text, n, 0, NULL) : NULL;
	if (!json_is_object(l->rec)) {
		json_decref(l->rec);
		l->rec = json_object();
	}
	if (!l->rec)
		return err_set(e, ENOMEM, "%s: out of memory", path);
	l->fd = take_fd(&fd);
	return 0;
}

int hostlock_save(const struct hostlock *l, struct err *e)
{
	cleanup_free char *text = json_text(l->rec, JSON_COMPACT);
	int r;

	if (!text)
		return err_set(e, ENOMEM, "record of the host's settings: out of memory");
	r = ftruncate(l->fd, 0) ? -errno : 0;
	if (!r && json_object_size(l->rec))
		r = fd_pwrite_full(l->fd, text, strlen(text), 0);
	return r ? err_sys(e, -r, "record of the host's settings") : 0;
}

void hostlock_drop(struct hostlock *l)
{
	if (l->fd >= 0)
		close(take_fd(&l->fd));
	json_decref(l->rec);
	l->rec = NULL;
}
