/* SPDX-License-Identifier: MIT */
/*
 * The account of living processes: /proc/PID/{smaps,pagemap,status,cgroup}, /proc/kpageflags and
 * the page cache of templates. Called by the CLI. A process is held by the descriptor of its /proc
 * directory, so that its number cannot become another's meanwhile.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "account/account.h"
#include "account/proc_int.h"
#include "base/fd.h"
#include "base/time.h"
#include "base/util.h"
#include "mem/gmem.h"

#define KPF_ZERO_PAGE (1ull << 24) /* linux/kernel-page-flags.h */

struct reader {
	const struct account *a;
	int fd;		   /* pagemap of: */
	unsigned int proc; /* valid with fd */
	int flags_fd;
};

/* Whole words from a file of them; how many, or -errno. */
static ssize_t read_words(int fd, uint64_t first, uint64_t *words, size_t n)
{
	size_t done = 0;

	while (done < n * sizeof(*words)) {
		ssize_t r = pread(fd, (char *)words + done, n * sizeof(*words) - done,
				  (off_t)(first * sizeof(*words) + done));

		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0)
			return -errno;
		if (!r)
			break;
		done += (size_t)r;
	}
	return (ssize_t)(done / sizeof(*words));
}

static int read_pagemap(void *arg, unsigned int proc, uint64_t first, uint64_t *words, size_t n)
{
	struct reader *rd = arg;
	ssize_t r;

	if (rd->fd < 0 || rd->proc != proc) {
		if (rd->fd >= 0)
			close(rd->fd);
		rd->proc = proc;
		rd->fd = openat(rd->a->procs[proc].dir, "pagemap", O_RDONLY | O_CLOEXEC);
		if (rd->fd < 0)
			return errno == ENOENT ? -ESRCH : -errno;
	}
	r = read_words(rd->fd, first, words, n);
	/* of a process that has ended there is nothing to read */
	return r < 0 ? (int)r : (size_t)r < n ? -ESRCH : 0;
}

static int read_flags(void *arg, uint64_t pfn, uint64_t *words, unsigned int n)
{
	struct reader *rd = arg;
	ssize_t r = read_words(rd->flags_fd, pfn, words, n);

	if (r < 0)
		return (int)r;
	memset(words + r, 0, (n - (size_t)r) * sizeof(*words));
	return 0;
}

/* The frame that a page of ours has that was only read; 0 when we are not told. */
static uint64_t frame_of(const volatile char *p)
{
	cleanup_close int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	uint64_t word = 0;

	(void)*p;
	if (fd < 0 || read_words(fd, (uintptr_t)p / ACCOUNT_PAGE, &word, 1) != 1)
		return 0;
	return word & ACCOUNT_PRESENT ? word & ACCOUNT_PFN : 0;
}

/* The kernel's pages of zeroes: what a read of fresh memory gives, small or, where asked for, huge.
 */
static void find_zero_pages(struct account_source *s, int flags_fd)
{
	size_t len = 2 * MIB(2);
	char *p = mmap(NULL, len, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	char *huge = (char *)ROUND_UP((uintptr_t)p, MIB(2));
	uint64_t flags = 0, pfn;

	s->zero_pfn = s->huge_zero_pfn = 0;
	if (p == MAP_FAILED)
		return;
	(void)madvise(p, len, MADV_NOHUGEPAGE);
	s->zero_pfn = frame_of(p + len - ACCOUNT_PAGE);
	if (s->zero_pfn && huge + MIB(2) < p + len && !madvise(huge, MIB(2), MADV_HUGEPAGE)) {
		pfn = frame_of(huge);
		if (pfn != s->zero_pfn && flags_fd >= 0 &&
		    read_words(flags_fd, pfn, &flags, 1) == 1 && flags & KPF_ZERO_PAGE)
			s->huge_zero_pfn = pfn - pfn % (MIB(2) / ACCOUNT_PAGE);
	}
	munmap(p, len);
}

static bool anything_merged(void)
{
	char text[32] = "";
	cleanup_close int fd = open("/sys/kernel/mm/ksm/pages_shared", O_RDONLY | O_CLOEXEC);

	return fd >= 0 && read(fd, text, sizeof(text) - 1) > 0 && strtoull(text, NULL, 10) > 0;
}

/* By frame numbers, if they are shown to us. */
static int classify(struct account *a, struct err *e)
{
	struct reader rd = { .a = a, .fd = -1 };
	struct account_source s = { .read = read_pagemap, .arg = &rd };
	int r = 0;

	rd.flags_fd = open("/proc/kpageflags", O_RDONLY | O_CLOEXEC);
	find_zero_pages(&s, rd.flags_fd);
	a->frames = s.zero_pfn != 0;
	if (a->frames) {
		s.flags = rd.flags_fd >= 0 && anything_merged() ? read_flags : NULL;
		r = account_classify(a, &s, e);
	}
	if (rd.fd >= 0)
		close(rd.fd);
	if (rd.flags_fd >= 0)
		close(rd.flags_fd);
	return r;
}

void account_unread(struct account_proc *p, const char *why)
{
	free(p->ranges);
	p->ranges = NULL;
	p->nr_ranges = 0;
	p->not_walked = 0;
	memset(&p->fig, 0xff, sizeof(p->fig));
	snprintf(p->why, sizeof(p->why), "%.*s", (int)sizeof(p->why) - 1, why);
}

/*
 * A VM that was taken over has as many helpers as it likes, each with as much "memory" as a machine
 * can have for a page that is there. Together they are walked as far as one machine goes; a seed
 * runs no guest, and has its spares.
 */
static int check_helper(struct account *a, unsigned int i, struct err *e)
{
	struct account_proc *p = &a->procs[i], *m = &a->procs[p->machine];
	uint64_t pages = 0, max = GMEM_MAX_BYTES / ACCOUNT_PAGE;

	for (size_t k = 0; k < p->nr_ranges; k++)
		pages += p->ranges[k].pages;
	if (m == p)
		return 0;
	if (m->kind == ACCOUNT_SEED)
		max *= ACCOUNT_SEED_HELPERS_MAX;
	if (!range_ok(m->helpers, pages, max))
		return err_set(e, E2BIG, "not walked: helpers of %s map more than %" PRIu64 " MiB",
			       m->name, max * ACCOUNT_PAGE >> 20);
	m->helpers += pages;
	return 0;
}

static int look_at(struct account *a, unsigned int i, struct err *e)
{
	struct account_proc *p = &a->procs[i];
	FILE *f = fd_fopenat(p->dir, "smaps");
	int r;

	if (!f && errno != ENOENT && errno != ESRCH)
		return err_sys(e, errno, "/proc/%d/smaps (run as root?)", p->pid);
	r = f ? account_smaps(a, i, f, e) : -ESRCH;
	if (f)
		fclose(f);
	if (r == -ESRCH) {
		p->gone = true;
		return 0;
	}
	if (!r)
		r = check_helper(a, i, e);
	if (r)
		return r;
	p->fig.page_tables = proc_kb(p, "status", "VmPTE");
	p->fig.kernel = proc_cgroup_kernel(p);
	return 0;
}

/* One that cannot be looked at takes nobody's figures but its own. */
static int look_at_all(struct account *a, struct err *e)
{
	struct err why, denied = { 0 };
	size_t seen = 0;
	int first = 0;

	for (unsigned int i = 0; i < a->nr_procs; i++) {
		struct account_proc *p = &a->procs[i];
		int r;

		p->looked = p->helpers = 0;
		if (p->why[0])
			continue;
		r = look_at(a, i, &why);
		seen += !r && !p->gone;
		if (!r)
			continue;
		if (r == -ENOMEM)
			return err_set(e, ENOMEM, "%s: %s", p->name, why.msg);
		account_unread(p, why.msg);
		if (!first && (r == -EACCES || r == -EPERM)) {
			first = r;
			snprintf(denied.msg, sizeof(denied.msg), "%s: %.400s", p->name, why.msg);
		}
	}
	return first && !seen ? err_set(e, -first, "%s", denied.msg) : 0;
}

/* What the kernel says itself, each page once: for want of frame numbers. */
static void add_up_anon(struct account *a)
{
	a->anon = 0;
	for (size_t i = 0; i < a->nr_procs; i++) {
		struct account_proc *p = &a->procs[i];
		uint64_t b = p->gone || p->why[0] ? 0 : proc_kb(p, "smaps_rollup", "Pss_Anon");

		a->anon = a->anon == ACCOUNT_UNKNOWN || b == ACCOUNT_UNKNOWN ? ACCOUNT_UNKNOWN
									     : a->anon + b;
	}
}

int account_measure(struct account *a, bool want_frames, struct err *e)
{
	uint64_t start = time_mono_ns();
	int r;

	free(a->files);
	a->files = NULL;
	a->nr_files = 0;
	a->frames = false;
	a->moved = 0;
	r = look_at_all(a, e);
	if (!r && want_frames)
		r = classify(a, e);
	if (r)
		return r;
	if (!a->frames) {
		add_up_anon(a);
		for (size_t i = 0; i < a->nr_files; i++)
			a->files[i].mapped = ACCOUNT_UNKNOWN;
	}
	for (size_t i = 0; i < a->nr_files; i++)
		a->files[i].cached = proc_cached(&a->procs[a->files[i].proc], &a->files[i]);
	a->spent_ns = time_mono_ns() - start;
	return 0;
}

int account_add(struct account *a, const char *name, enum account_kind kind, pid_t pid, int dir,
		struct err *e)
{
	struct account_proc *v = realloc(a->procs, (a->nr_procs + 1) * sizeof(*v));

	if (!v) {
		if (dir >= 0)
			close(dir);
		return err_set(e, ENOMEM, "accounting: out of memory");
	}
	a->procs = v;
	v += a->nr_procs++;
	*v = (struct account_proc){
		.kind = kind, .pid = pid, .dir = dir, .machine = (unsigned int)a->nr_procs - 1
	};
	snprintf(v->name, sizeof(v->name), "%s", name);
	return 0;
}

void account_fini(struct account *a)
{
	for (size_t i = 0; i < a->nr_procs; i++) {
		if (a->procs[i].dir >= 0)
			close(a->procs[i].dir);
		free(a->procs[i].ranges);
	}
	free(a->procs);
	free(a->files);
	*a = (struct account){ 0 };
}
