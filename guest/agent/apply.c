/* SPDX-License-Identifier: MIT */
/*
 * The steps of IDENTITY that are done at once: entropy, clock, network, names, user data. Entropy
 * and clock come first: nothing that follows may draw random numbers its siblings draw too. Agent's
 * thread.
 */
#include "identity.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/random.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include "net.h"

#define MACHINE_ID "/etc/machine-id"
#define OWN_MACHINE_ID "/run/clone/machine-id"

char *identity_path(const struct agent *a, char *buf, const char *path)
{
	snprintf(buf, PATH_MAX, "%s%s", a->root, path);
	return buf;
}

void identity_remark(struct identity *id, const char *fmt, ...)
{
	size_t n = strlen(id->remarks);
	va_list ap;

	if (n)
		n += (size_t)snprintf(id->remarks + n, sizeof(id->remarks) - n, "; ");
	if (n >= sizeof(id->remarks))
		return;
	va_start(ap, fmt);
	vsnprintf(id->remarks + n, sizeof(id->remarks) - n, fmt, ap);
	va_end(ap);
}

/*
 * Crediting matters on a guest forked so early that its generator was not seeded yet; reseeding
 * matters on all others, whose generator otherwise goes on with its parent's key for a minute.
 */
static int add_entropy(struct identity *id, struct proto_slice seed)
{
	struct {
		struct rand_pool_info info;
		uint8_t bytes[PROTO_MAX_ENTROPY];
	} pool = { .info = { .entropy_count = (int)seed.len * 8, .buf_size = (int)seed.len } };
	int fd = open("/dev/urandom", O_RDWR | O_CLOEXEC), r = 0;

	if (fd < 0)
		return -errno;
	memcpy(pool.bytes, seed.p, seed.len);
	if (seed.len && ioctl(fd, RNDADDENTROPY, &pool))
		r = -errno;
	if (!r && ioctl(fd, RNDRESEEDCRNG)) {
		if (errno == ENODATA || errno == ENOTTY || errno == EINVAL)
			identity_remark(id, "the kernel did not reseed at once");
		else
			r = -errno;
	}
	close(fd);
	explicit_bzero(&pool, sizeof(pool));
	return r;
}

static int set_clock(uint64_t realtime_ns)
{
	struct timespec ts = { .tv_sec = (time_t)(realtime_ns / 1000000000u),
			       .tv_nsec = (long)(realtime_ns % 1000000000u) };

	if (!realtime_ns)
		return 0;
	return clock_settime(CLOCK_REALTIME, &ts) ? -errno : 0;
}

/*
 * Writes a small file in place: the names keep their length more often than not, and then nothing
 * is allocated and a crash leaves the old or the new one. (A new file and rename would make ext4
 * start writing at once.) `flags` is added to open's.
 */
int identity_write(const char *path, const void *data, size_t n, int flags, mode_t mode)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK | flags, mode), r = 0;
	struct stat st;

	if (fd < 0)
		return -errno;
	errno = 0;
	if (fstat(fd, &st))
		r = -errno;
	else if (!S_ISREG(st.st_mode))
		r = -EINVAL;
	else if (pwrite(fd, data, n, 0) != (ssize_t)n)
		r = errno ? -errno : -EIO;
	else if (st.st_size != (off_t)n && ftruncate(fd, (off_t)n))
		r = -errno;
	close(fd);
	return r;
}

static int set_hostname(struct identity *id)
{
	char path[PATH_MAX], line[PROTO_MAX_HOSTNAME + 2];
	int n, r;

	if (!id->hostname[0])
		return 0;
	if (sethostname(id->hostname, strlen(id->hostname)))
		return -errno;
	n = snprintf(line, sizeof(line), "%s\n", id->hostname);
	identity_path(id->agent, path, "/etc/hostname");
	r = identity_write(path, line, (size_t)n, O_CREAT, 0644);
	if (r)
		identity_remark(id, "/etc/hostname: %s", strerror(-r));
	return 0;
}

static void run_dir(const struct agent *a)
{
	char path[PATH_MAX];

	mkdir(identity_path(a, path, "/run"), 0755);
	mkdir(identity_path(a, path, "/run/clone"), 0755);
}

/* What systemd itself does on a read-only root: a file of ours bound over the real one. */
static int bind_machine_id(struct identity *id, const char *line, size_t n)
{
	char own[PATH_MAX], path[PATH_MAX];
	int r;

	run_dir(id->agent);
	r = identity_write(identity_path(id->agent, own, OWN_MACHINE_ID), line, n, O_CREAT, 0444);
	if (r)
		return r;
	if (mount(own, identity_path(id->agent, path, MACHINE_ID), NULL, MS_BIND, NULL))
		return -errno;
	identity_remark(id, MACHINE_ID " is read-only: " OWN_MACHINE_ID " is mounted over it");
	return 0;
}

static int set_machine_id(struct identity *id)
{
	char path[PATH_MAX], line[PROTO_MACHINE_ID + 2];
	struct stat st;
	int r;

	if (!id->machine_id[0])
		return 0;
	snprintf(line, sizeof(line), "%s\n", id->machine_id);
	identity_path(id->agent, path, MACHINE_ID);
	r = identity_write(path, line, sizeof(line) - 1, O_CREAT, 0444);
	if (r && !stat(path, &st)) {
		r = bind_machine_id(id, line, sizeof(line) - 1);
		if (r)
			return r;
	} else if (r) {
		/* There is none and there can be none: nobody in this guest asks for it. */
		identity_remark(id, MACHINE_ID ": %s", strerror(-r));
	}
	/* D-Bus's copy is usually a link to the other; its own file must not disagree. */
	identity_path(id->agent, path, "/var/lib/dbus/machine-id");
	if (lstat(path, &st) || !S_ISREG(st.st_mode))
		return 0;
	r = identity_write(path, line, sizeof(line) - 1, O_NOFOLLOW, 0);
	if (r)
		identity_remark(id, "/var/lib/dbus/machine-id: %s", strerror(-r));
	return 0;
}

/* A fork without user data must not find its parent's. */
static int set_userdata(struct identity *id, struct proto_slice data)
{
	char path[PATH_MAX];

	run_dir(id->agent);
	identity_path(id->agent, path, "/run/clone/userdata");
	if (!data.len)
		return unlink(path) && errno != ENOENT ? -errno : 0;
	return identity_write(path, data.p, data.len, O_CREAT | O_NOFOLLOW, 0600);
}

/* For the hooks: what they may find in files of the guest's and have to replace. */
static void remember(struct identity *id)
{
	char path[PATH_MAX];
	struct utsname uts;
	int fd;

	if (!uname(&uts))
		snprintf(id->old_hostname, sizeof(id->old_hostname), "%.64s", uts.nodename);
	fd = open(identity_path(id->agent, path, MACHINE_ID), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		return;
	if (read(fd, id->old_machine_id, PROTO_MACHINE_ID) != PROTO_MACHINE_ID ||
	    strspn(id->old_machine_id, "0123456789abcdef") != PROTO_MACHINE_ID)
		id->old_machine_id[0] = '\0';
	close(fd);
}

int identity_apply(struct identity *id, const struct proto_identity *x, const char **step)
{
	int r;

	*step = "entropy";
	r = add_entropy(id, x->entropy);
	if (r)
		return r;
	*step = "clock";
	r = set_clock(x->realtime_ns);
	if (r)
		return r;
	*step = id->step;
	r = net_apply(id, x);
	if (r)
		return r;
	remember(id);
	*step = "host name";
	r = set_hostname(id);
	if (r)
		return r;
	*step = "machine id";
	r = set_machine_id(id);
	if (r)
		return r;
	*step = "user data";
	return set_userdata(id, x->userdata);
}
