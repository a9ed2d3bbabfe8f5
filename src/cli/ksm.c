/* SPDX-License-Identifier: MIT */
/* See ksm.h. */
#include "cli/ksm.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/util.h"
#include "cli/cli.h"
#include "cli/procid.h"
#include "cli/state.h"
#include "control/json.h"
#include "image/rundir.h"

/* RUN/ksm, made when missing. */
static int open_dir(struct err *e)
{
	cleanup_close int run = run_open(e);
	int fd;

	if (run < 0)
		return run;
	if (mkdirat(run, "ksm", 0700) && errno != EEXIST)
		return err_sys(e, errno, "run directory: ksm");
	fd = openat(run, "ksm", O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	return fd < 0 ? err_sys(e, errno, "run directory: ksm") : fd;
}

static int take_lock(int dir, struct err *e)
{
	cleanup_close int fd = openat(dir, "lock", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);

	if (fd < 0)
		return err_sys(e, errno, "run directory: ksm/lock");
	while (flock(fd, LOCK_EX))
		if (errno != EINTR)
			return err_sys(e, errno, "run directory: ksm/lock");
	return take_fd(&fd);
}

/* Does anybody hold the file, and whose is it? "?" when what it says is no domain's name. */
static bool held(int fd, char *domain, size_t n)
{
	struct flock fl = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
	ssize_t got = pread(fd, domain, n - 1, 0);

	domain[MAX(got, 0)] = '\0';
	if (!cli_name_ok(domain))
		snprintf(domain, n, "?");
	return !fcntl(fd, F_OFD_GETLK, &fl) && fl.l_type != F_UNLCK;
}

/* A VM that was taken over can let go of its share, and its pages stay offered: does one of another
 * domain live? 1, 0, or -errno. */
static int lives_in_another(const char *domain, char *other, size_t n, struct err *e)
{
	bool found = false;
	char **names = NULL;
	size_t nr = 0;
	int r = vmdir_list(PLACE_VM, &names, &nr, e);

	if (r)
		return r;
	for (size_t i = 0; i < nr && !found; i++) {
		cleanup_json json_t *info = NULL;
		const char *has = NULL;
		struct vmdir d;

		if (!vmdir_open(PLACE_VM, names[i], &d, NULL) && !vmdir_info(&d, &info, NULL))
			has = json_string_value(json_object_get(info, "ksm"));
		found = has && strcmp(has, domain) != 0 && cli_name_ok(has) &&
			(procid_pid(info) || vmdir_alive(&d));
		if (found)
			snprintf(other, n, "%s", has);
		vmdir_close(&d);
	}
	vmdir_list_free(names, nr);
	return found;
}

/* Read-locked: a VM that has it can take it away from nobody. */
static int read_lock(int fd, struct err *e)
{
	struct flock fl = { .l_type = F_RDLCK, .l_whence = SEEK_SET };

	return fcntl(fd, F_OFD_SETLK, &fl) ? err_sys(e, errno, "run directory: ksm/domain") : 0;
}

static int write_domain(int fd, const char *domain, struct err *e)
{
	int r = ftruncate(fd, 0) ? -errno : fd_pwrite_full(fd, domain, strlen(domain), 0);

	return r ? err_sys(e, -r, "run directory: ksm/domain") : 0;
}

int ksm_claim(const char *domain, struct err *e)
{
	cleanup_close int dir = -1, lock = -1, file = -1, fd = -1;
	char has[80];
	int r = cli_name_check("--ksm", domain, e);

	if (r)
		return r;
	dir = open_dir(e);
	lock = dir < 0 ? dir : take_lock(dir, e);
	if (lock < 0)
		return lock;
	file = openat(dir, "domain", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	fd = file < 0 ? -1 : openat(dir, "domain", O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0)
		return err_sys(e, errno, "run directory: ksm/domain");
	if (held(file, has, sizeof(has))) {
		r = strcmp(has, domain) != 0;
	} else {
		r = lives_in_another(domain, has, sizeof(has), e);
		if (!r)
			r = write_domain(file, domain, e);
	}
	if (r > 0)
		return err_set(e, EBUSY,
			       "KSM is in use by the trust domain %s, and merges on the "
			       "whole host: end its VMs (`clone ls -o json`, \"ksm\"), or "
			       "do without --ksm %s",
			       has, domain);
	if (!r)
		r = read_lock(fd, e);
	return r ? r : take_fd(&fd);
}

int ksm_share(int claim, struct err *e)
{
	cleanup_close int fd = -1;
	char path[64];
	int r;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", claim);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return err_sys(e, errno, "run directory: ksm/domain");
	r = read_lock(fd, e);
	return r ? r : take_fd(&fd);
}

bool ksm_holder(char *domain, size_t n)
{
	char run[PATH_MAX - 16], path[PATH_MAX];
	cleanup_close int fd = -1;

	if (run_path(run, sizeof(run), NULL))
		return false;
	snprintf(path, sizeof(path), "%s/ksm/domain", run);
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	return fd >= 0 && held(fd, domain, n);
}

int ksm_there(const char *dir, char *warning, size_t n, struct err *e)
{
	char path[PATH_MAX], run[8] = "";
	cleanup_close int fd = -1;

	*warning = '\0';
	snprintf(path, sizeof(path), "%s/run", dir);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 && errno == ENOENT)
		return err_set(e, EOPNOTSUPP,
			       "this host's kernel has no KSM (CONFIG_KSM): do without --ksm, or "
			       "say --ksm none");
	if (fd < 0 || read(fd, run, sizeof(run) - 1) < 0)
		return err_sys(e, errno, "%s", path);
	if (*run != '1')
		snprintf(warning, n,
			 "KSM is off on this host, so nothing is merged yet: echo 1 > %s", path);
	return 0;
}
