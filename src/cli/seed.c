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
#include "cli/group.h"
#include "cli/launch.h"
#include "cli/machine.h"
#include "cli/procid.h"
#include "control/json.h"
#include "snapshot/snapshot.h"

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

static int set_option(struct seed_options *o, const char *key, const char *value, struct err *e)
{
	bool yes = !strcmp(value, "yes");
	uint64_t n;

	if (!strcmp(key, "spares")) {
		int r = cli_parse_uint(value, 0, VM_SPARES_MAX, &n, e);

		if (!r)
			o->spares = (unsigned int)n;
		return r;
	}
	if (!yes && strcmp(value, "no"))
		return err_set(e, EINVAL, "%s: must be yes or no", key);
	if (!strcmp(key, "huge-pages"))
		o->huge_pages = yes;
	else if (!strcmp(key, "working-set"))
		o->working_set = yes;
	else
		return err_set(e, EINVAL, "%s: is not spares, huge-pages or working-set", key);
	return 0;
}

int seed_options(struct seed_options *o, struct err *e)
{
	const char *env = getenv("CLONE_SEED");
	cleanup_free char *text = strdup(env ? env : "");
	char *save = NULL;

	*o = (struct seed_options){ SEED_SPARES, true, true };
	if (!text)
		return err_set(e, ENOMEM, "out of memory");
	for (char *word = strtok_r(text, ",", &save); word; word = strtok_r(NULL, ",", &save)) {
		char *value = strchr(word, '=');
		int r;

		if (value)
			*value++ = '\0';
		r = set_option(o, word, value ? value : "", e);
		if (r)
			return err_wrap(e, r, "CLONE_SEED");
	}
	return 0;
}

static int start(const struct template *t, int cancel_fd, struct err *e)
{
	cleanup_json json_t *info = NULL;
	struct vmproc p;
	char now[64];
	int r;

	r = vmproc_start(PLACE_SEED, t->name, SEED_LINGER_MS, cancel_fd, &p, e);
	if (r)
		return err_wrap(e, r, "seed");
	group_add_seed(p.pid);
	r = machine_load(&p, t, true, 0, NULL, e);
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
	int r = template_open(STORE_TEMPLATES, name, t, e);

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
	if (!r || r == -EALREADY)
		r = vmdir_open(PLACE_SEED, name, d, e);
	if (r) /* there is that template: whatever else is not there */
		return err_wrap(e, r == -ENOENT ? -EIO : r, "template %s", name);
	*use = take_fd(&using);
	return 0;
}

int seed_stop(const char *name, struct err *e)
{
	cleanup_close int using = lock_file(name, "use", LOCK_EX | LOCK_NB, e);
	cleanup_close int starting = -1;

	if (using < 0 && using != -EWOULDBLOCK)
		return using;
	if (using < 0)
		return err_set(e, EBUSY, "template %s is being forked right now: try again", name);
	starting = lock_file(name, "start", LOCK_EX, e);
	if (starting < 0)
		return starting;
	return drop_dead(name, NULL, e);
}
