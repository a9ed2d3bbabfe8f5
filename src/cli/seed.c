/* SPDX-License-Identifier: MIT */
/*
 * Starting and ending seeds. See seed.h.
 */
#include "cli/seed.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "base/util.h"
#include "cli/cli.h"
#include "cli/launch.h"
#include "cli/procid.h"
#include "control/json.h"

#define LOAD_MS 120000

/* RUN/seeds/NAME.<what>, locked. The fd, or -errno; -EWOULDBLOCK when not to wait. */
static int lock_file(const char *name, const char *what, int how, struct err *e)
{
	char path[128];
	int fd;

	snprintf(path, sizeof(path), "seeds/%s.%s", name, what);
	fd = run_open_file(path, e);
	if (fd < 0)
		return fd;
	while (flock(fd, how)) {
		int err = errno;

		if (err == EINTR)
			continue;
		close(fd);
		return err_sys(e, err, "template %s: locking %s", name, path);
	}
	return fd;
}

static int grant_file(struct vmproc *p, const char *name, int fd, struct err *e)
{
	int r = fd < 0 ? fd : client_grant(p->fdsock, &name, &fd, 1, e);

	if (fd >= 0)
		close(fd);
	return r;
}

static int grant_disks(struct vmproc *p, const struct template *t, struct err *e)
{
	for (size_t i = 0; i < t->ndisks; i++) {
		const struct template_disk *k = &t->disks[i];
		char name[64];
		int fd, r;

		snprintf(name, sizeof(name), "disk/%s/base", k->id);
		fd = open(k->base, O_RDONLY | O_CLOEXEC);
		if (fd < 0)
			return err_sys(e, errno, "disk %s: base %s", k->id, k->base);
		r = grant_file(p, name, fd, e);
		if (!r && k->layer >= 0) {
			snprintf(name, sizeof(name), "disk/%s/layer", k->id);
			r = grant_file(p, name, template_file_open(t, (size_t)k->layer, e), e);
		}
		if (r)
			return r;
	}
	return 0;
}

/* Anonymous ones, for those who ask. */
static bool host_has_huge_pages(void)
{
	cleanup_close int fd =
		open("/sys/kernel/mm/transparent_hugepage/enabled", O_RDONLY | O_CLOEXEC);
	char text[64] = "";

	return fd >= 0 && read(fd, text, sizeof(text) - 1) > 0 &&
	       (strstr(text, "[always]") || strstr(text, "[madvise]"));
}

static int load(struct vmproc *p, const struct template *t, struct err *e)
{
	cleanup_json json_t *body =
		json_pack("{s:s, s:{s:s, s:s}, s:b, s:i, s:b}", "snapshot_path", "state",
			  "mem_backend", "backend_type", "File", "backend_path", "ram", "seed", 1,
			  "spares", SEED_SPARES, "huge_pages", host_has_huge_pages());
	int r = grant_file(p, "state", template_file_open(t, TEMPLATE_STATE, e), e);

	if (!r)
		r = grant_file(p, "ram", template_file_open(t, TEMPLATE_RAM, e), e);
	if (!r)
		r = grant_disks(p, t, e);
	if (!r)
		r = vmproc_request(p, "PUT", "/snapshot/load", body, LOAD_MS, NULL, e);
	return r;
}

static int start(const struct template *t, int cancel_fd, struct err *e)
{
	cleanup_json json_t *info = NULL;
	cleanup_close int run = run_open(e);
	struct vmproc p;
	char now[64];
	int verified, r;

	if (run < 0)
		return run;
	verified = openat(run, "verified", O_DIRECTORY | O_CLOEXEC);
	r = template_check(t, verified, e);
	if (verified >= 0)
		close(verified);
	if (r)
		return r;
	r = vmproc_start(PLACE_SEED, t->name, SEED_LINGER_MS, cancel_fd, &p, e);
	if (r)
		return err_wrap(e, r, "seed");
	r = load(&p, t, e);
	if (!r) {
		cli_format_now(now, sizeof(now));
		info = json_pack("{s:s, s:s, s:s}", "name", t->name, "created", now,
				 "template_sha256", t->sha256);
		if (info)
			procid_note(info, p.pid);
		r = info ? vmdir_publish(&p.dir, info, e) : err_set(e, ENOMEM, "out of memory");
	}
	if (r) {
		vmproc_abort(&p);
		return err_wrap(e, r, "seed");
	}
	vmproc_close(&p);
	return 0;
}

/* Is the running seed one of this very template, not of an older one of its name? */
static bool seed_is_of(const struct vmdir *d, const struct template *t)
{
	cleanup_json json_t *info = NULL;
	const char *sha;

	if (vmdir_info(d, &info, NULL))
		return false;
	sha = json_string_value(json_object_get(info, "template_sha256"));
	return sha && !strcmp(sha, t->sha256);
}

static int drop_dead(const char *name, const struct template *t, struct err *e)
{
	struct vmdir d;
	int r;

	vmdir_init(&d);
	r = vmdir_open(PLACE_SEED, name, &d, NULL);
	if (r)
		return 0;
	if (vmdir_alive(&d) && t && seed_is_of(&d, t)) {
		vmdir_close(&d);
		return -EALREADY;
	}
	r = vmdir_alive(&d) ? vm_kill(&d, -1, e) : 0;
	if (!r)
		r = vmdir_remove(&d, e);
	vmdir_close(&d);
	return r;
}

int seed_get(const char *name, int cancel_fd, struct template *t, struct vmdir *d, int *use,
	     struct err *e)
{
	cleanup_close int starting = -1, using = -1;
	int r = template_open(name, t, e);

	if (r)
		return r;
	using = lock_file(name, "use", LOCK_SH, e);
	if (using < 0)
		return using;
	starting = lock_file(name, "start", LOCK_EX, e);
	if (starting < 0)
		return starting;
	r = drop_dead(name, t, e);
	if (!r)
		r = start(t, cancel_fd, e);
	if (r && r != -EALREADY)
		return err_wrap(e, r, "template %s", name);
	r = vmdir_open(PLACE_SEED, name, d, e);
	if (!r)
		*use = take_fd(&using);
	return r;
}

int seed_stop(const char *name, struct err *e)
{
	cleanup_close int using = lock_file(name, "use", LOCK_EX | LOCK_NB, NULL);
	cleanup_close int starting = -1;

	if (using < 0)
		return err_set(e, EBUSY, "template %s is being forked right now: try again", name);
	starting = lock_file(name, "start", LOCK_EX, e);
	if (starting < 0)
		return starting;
	return drop_dead(name, NULL, e);
}
