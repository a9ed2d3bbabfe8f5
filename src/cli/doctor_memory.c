/* SPDX-License-Identifier: MIT */
/*
 * clone doctor's checks of what the kernel does with memory: merging, groups, huge pages, swap. See
 * doctor.h.
 */
#include <errno.h>
#include <limits.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/vfs.h>

#include "base/util.h"
#include "cgroup/cgroup.h"
#include "cli/doctor.h"
#include "cli/ksm.h"

/* A setting in a directory of settings; fallback when there is none. */
static unsigned long setting(const char *dir, const char *name, unsigned long fallback)
{
	char path[PATH_MAX], line[32];

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	return doctor_line(path, line, sizeof(line)) ? strtoul(line, NULL, 10) : fallback;
}

/* The chosen word of "always [madvise] never"; "?" when it cannot be read. */
static void chosen(const char *dir, const char *name, char *word, size_t n)
{
	char path[PATH_MAX], line[128], *open, *end;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	snprintf(word, n, "?");
	if (!doctor_line(path, line, sizeof(line)))
		return;
	open = strchr(line, '[');
	end = open ? strchr(open, ']') : NULL;
	if (!end)
		return;
	*end = '\0';
	snprintf(word, n, "%s", open + 1);
}

enum status look_ksm(const struct check *c, struct finding *f)
{
	unsigned long run = setting(c->arg, "run", ULONG_MAX), pages, sleep;
	char domain[80], who[120] = "";
	bool held = ksm_holder(domain, sizeof(domain));

	if (run == ULONG_MAX)
		return doctor_say(f, WARN, "this kernel has none: --ksm is refused");
	if (held)
		snprintf(who, sizeof(who), "; the trust domain %s has it", domain);
	if (run != 1) {
		if (held)
			snprintf(f->advice, sizeof(f->advice), "echo 1 > %s/run", c->arg);
		return doctor_say(f, held ? WARN : OK,
				  "there, and off: --ksm would merge nothing%s", who);
	}
	pages = setting(c->arg, "pages_to_scan", 100);
	sleep = MAX(setting(c->arg, "sleep_millisecs", 20), 1ul);
	return doctor_say(f, OK,
			  "on: %lu pages each %lu ms, so 1 GiB is looked at in %lu s; at most %lu "
			  "share one; %s memory nodes; pages of zeroes %s%s",
			  pages, sleep, 262144 * MIN(sleep, 1000000ul) / MAX(pages, 1ul) / 1000,
			  setting(c->arg, "max_page_sharing", 256),
			  setting(c->arg, "merge_across_nodes", 1) ? "across" : "not across",
			  setting(c->arg, "use_zero_pages", 0) ? "become the kernel's one"
							       : "are merged like others",
			  who);
}

static bool favours_moves(void)
{
	FILE *mounts = fopen("/proc/self/mounts", "re");
	char line[1024];
	bool favor = false;

	while (mounts && fgets(line, sizeof(line), mounts))
		favor |= strstr(line, " cgroup2 ") && strstr(line, "favordynmods");
	if (mounts)
		fclose(mounts);
	return favor;
}

enum status look_cgroup(const struct check *c, struct finding *f)
{
	struct statfs fs;

	if (statfs(c->arg, &fs) || fs.f_type != CGROUP2_SUPER_MAGIC) {
		snprintf(f->advice, sizeof(f->advice),
			 "boot with systemd.unified_cgroup_hierarchy=1");
		return doctor_say(f, WARN, "%s is not cgroup v2", c->arg);
	}
	if (!favours_moves())
		return doctor_say(f, WARN,
				  "cgroup v2 without favordynmods: making a VM, and putting one "
				  "into its group, waits for the whole host");
	return doctor_say(f, OK, "cgroup v2 with favordynmods");
}

enum status look_quota(const struct check *c, struct finding *f)
{
	char base[PATH_MAX];
	struct err e;

	(void)c;
	if (cgroup_find(&cgroup_host_files, base, &e) || cgroup_can_prepare(base, &e)) {
		snprintf(f->advice, sizeof(f->advice),
			 "do without --memory-quota: VMs without one run as ever");
		return doctor_say(f, WARN, "--memory-quota is refused: %.340s", e.msg);
	}
	return doctor_say(f, OK, "--memory-quota makes its groups in %.350s", base);
}

enum status look_thp(const struct check *c, struct finding *f)
{
	char enabled[16], defrag[24], shmem[24];
	unsigned long collapse = setting(c->arg, "khugepaged/max_ptes_shared", 256);
	enum status s = OK;

	chosen(c->arg, "enabled", enabled, sizeof(enabled));
	chosen(c->arg, "defrag", defrag, sizeof(defrag));
	chosen(c->arg, "shmem_enabled", shmem, sizeof(shmem));
	if (!strcmp(enabled, "?"))
		return doctor_say(f, WARN, "this kernel has none: forks of big VMs are slower");
	if (!strcmp(enabled, "never"))
		s = WARN;
	if (!strcmp(defrag, "always")) {
		snprintf(f->advice, sizeof(f->advice), "echo madvise > %s/defrag", c->arg);
		s = WARN;
	}
	return doctor_say(
		f, s,
		"%s, of shared memory %s; defrag %s%s; khugepaged makes private huge pages "
		"of up to %lu shared ones in 512%s",
		enabled, shmem, defrag,
		strcmp(defrag, "always") ? "" : " (a guest's first touch may stall)", collapse,
		collapse && !strcmp(enabled, "always") ? ", which costs sharing" : "");
}

enum status look_swap(const struct check *c, struct finding *f)
{
	FILE *in = fopen(c->arg, "re");
	unsigned int n = 0;
	char line[256];

	if (!in)
		return doctor_say(f, WARN, "%s: %s", c->arg, strerrordesc_np(errno));
	while (fgets(line, sizeof(line), in))
		n++;
	fclose(in);
	if (n < 2)
		return doctor_say(f, OK, "none: when memory is full, something is killed");
	return doctor_say(f, OK,
			  "%u areas: a full host is slow before it kills; a VM with a quota is not "
			  "swapped out",
			  n - 1);
}

enum status look_overcommit(const struct check *c, struct finding *f)
{
	char line[16];

	if (!doctor_line(c->arg, line, sizeof(line)))
		return doctor_say(f, WARN, "%s: %s", c->arg, strerrordesc_np(errno));
	if (!strcmp(line, "2"))
		return doctor_say(f, WARN,
				  "2: the kernel refuses forks whose copies might not fit");
	return doctor_say(f, OK, "%s", line);
}
