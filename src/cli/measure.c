/* SPDX-License-Identifier: MIT */
/*
 * Finding the processes whose memory is accounted for, and looking at them. See measure.h.
 *
 * Those without a directory of their own are found as children of the others. All must be looked at
 * whatever was asked for: what is one machine's alone is known only of all together.
 */
#include "cli/measure.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/time.h"
#include "base/util.h"
#include "cli/procid.h"
#include "cli/state.h"
#include "control/json.h"

#define CHILDREN_MAX 4096u /* looked through of each, to find those that are no machine */

/* A line of /proc/PID/status of numbers, its first; -1: there is none. */
static long status_number(int dir, const char *key)
{
	FILE *f = fd_fopenat(dir, "status");
	size_t n = strlen(key);
	char line[256];
	long v = -1;

	while (f && v < 0 && fgets(line, sizeof(line), f))
		if (!strncmp(line, key, n) && line[n] == ':')
			v = strtol(line + n + 1, NULL, 10);
	if (f)
		fclose(f);
	return v;
}

static int proc_open(pid_t pid)
{
	char path[32];

	snprintf(path, sizeof(path), "/proc/%d", pid);
	return open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

/* What failed with this errno says nothing of a process: we have no descriptors, or no memory. */
static bool starved(int err)
{
	return err == EMFILE || err == ENFILE || err == ENOMEM;
}

/* The process of a directory, its /proc directory the caller's. -ESRCH: it has ended, or is only
 * half made. */
static int find(enum place place, const char *name, pid_t *pid, int *out, struct err *e)
{
	cleanup_json json_t *info = NULL;
	cleanup_close int dir = -1;
	struct vmdir d;
	uint32_t uid;
	int r = vmdir_open(place, name, &d, e);

	errno = 0;
	if (!r && !vmdir_alive(&d))
		r = starved(errno) ? err_sys(e, errno, "%s", name) : -ESRCH;
	if (!r)
		r = vmdir_info(&d, &info, e);
	uid = d.uid;
	vmdir_close(&d);
	if (r)
		return r == -ENOENT ? -ESRCH : r;
	errno = 0;
	*pid = procid_pid(info);
	if (*pid)
		dir = proc_open(*pid);
	/* the descriptor holds whatever process it found; the number may have come from a VM, which
	 * may name none but its own user's */
	if (dir < 0 || procid_pid(info) != *pid || (uid && status_number(dir, "Uid") != (long)uid))
		return starved(errno) ? err_sys(e, errno, "%s", name) : -ESRCH;
	*out = take_fd(&dir);
	return 0;
}

static const struct account_proc *known_as(const struct measure *m, pid_t pid)
{
	for (size_t i = 0; i < m->account.nr_procs; i++)
		if (m->account.procs[i].pid == pid)
			return &m->account.procs[i];
	return NULL;
}

/* One that cannot be looked at is there all the same; one that has ended is no error. */
static int add_machine(struct measure *m, enum place place, const char *name, struct err *e)
{
	enum account_kind kind = place == PLACE_SEED ? ACCOUNT_SEED : ACCOUNT_VM;
	const struct account_proc *other;
	cleanup_close int dir = -1;
	struct err why;
	pid_t pid = 0;
	int r = find(place, name, &pid, &dir, &why);

	if (r == -ESRCH)
		return 0;
	if (starved(-r))
		return err_set(e, -r, "%s", why.msg);
	other = r ? NULL : known_as(m, pid);
	if (!r && !other)
		return account_add(&m->account, name, kind, pid, take_fd(&dir), e);
	/* a source that was taken over can give a fork the number of another of its own */
	if (other)
		err_set(&why, EEXIST, "not looked at: its process %d is %s", pid, other->name);
	r = account_add(&m->account, name, kind, 0, -1, e);
	if (!r)
		account_unread(&m->account.procs[m->account.nr_procs - 1], why.msg);
	return r;
}

static int add_place(struct measure *m, enum place place, struct err *e)
{
	char **names = NULL;
	size_t n = 0;
	int r = vmdir_list(place, &names, &n, e);

	if (r)
		return r;
	for (size_t i = 0; i < n && !r; i++)
		r = add_machine(m, place, names[i], e);
	vmdir_list_free(names, n);
	return r;
}

/* May the machine have one more? A VM that was taken over makes as many as it likes. */
static bool has_room(const struct measure *m, unsigned int machine, bool *last)
{
	const struct account_proc *p = m->account.procs;
	unsigned int max =
		p[machine].kind == ACCOUNT_SEED ? ACCOUNT_SEED_HELPERS_MAX : ACCOUNT_HELPERS_MAX;
	unsigned int n = 0;

	for (size_t i = 0; i < m->account.nr_procs; i++)
		n += p[i].kind == ACCOUNT_HELPER && p[i].machine == machine;
	*last = n == max;
	return n <= max;
}

/* A helper of the machine; one too many stands for all that are. */
static int add_helper(struct measure *m, unsigned int machine, const char *name, pid_t pid, int dir,
		      bool last, struct err *e)
{
	struct account_proc *p;
	char why[160];
	int r = account_add(&m->account, name, ACCOUNT_HELPER, pid, dir, e);

	if (r)
		return r;
	p = &m->account.procs[m->account.nr_procs - 1];
	p->machine = machine;
	if (last) {
		snprintf(why, sizeof(why), "not walked, nor are more: %.64s has too many children",
			 m->account.procs[machine].name);
		account_unread(p, why);
	}
	return 0;
}

/* Children of process i, and of its own, that nothing else has named. */
static int add_children(struct measure *m, size_t i, struct err *e)
{
	pid_t parent = m->account.procs[i].pid;
	unsigned int machine = m->account.procs[i].machine;
	char path[64], name[96];
	bool last;
	int child, r = 0;
	FILE *f;

	snprintf(path, sizeof(path), "task/%d/children", parent);
	f = fd_fopenat(m->account.procs[i].dir, path);
	if (!f && starved(errno))
		return err_sys(e, errno, "%s: children", m->account.procs[i].name);
	for (unsigned int n = 0; f && !r && n < CHILDREN_MAX && fscanf(f, "%d", &child) == 1; n++) {
		int dir;

		errno = 0;
		dir = known_as(m, child) ? -1 : proc_open(child);
		if (dir < 0 || status_number(dir, "PPid") != parent) {
			if (starved(errno))
				r = err_sys(e, errno, "%s: children", m->account.procs[i].name);
			if (dir >= 0)
				close(dir);
			continue;
		}
		if (!has_room(m, machine, &last)) {
			close(dir);
			break;
		}
		snprintf(name, sizeof(name), "%.64s+%d", m->account.procs[i].name, child);
		r = add_helper(m, machine, name, child, dir, last, e);
	}
	if (f)
		fclose(f);
	return r;
}

/* A descriptor is kept of each process. */
static void raise_limit(void)
{
	struct rlimit l;

	if (!getrlimit(RLIMIT_NOFILE, &l) && l.rlim_cur < l.rlim_max) {
		l.rlim_cur = l.rlim_max;
		(void)setrlimit(RLIMIT_NOFILE, &l);
	}
}

int measure_take(struct measure *m, struct err *e)
{
	uint64_t start = time_mono_ns();
	int r;

	*m = (struct measure){ 0 };
	raise_limit();
	r = add_place(m, PLACE_VM, e);
	if (!r)
		r = add_place(m, PLACE_SEED, e);
	for (size_t i = 0; i < m->account.nr_procs && !r; i++)
		r = add_children(m, i, e);
	if (!r)
		r = account_measure(&m->account, true, e);
	if (!r)
		r = account_host_read(&m->host, e);
	if (r)
		measure_fini(m);
	m->spent_ns = time_mono_ns() - start;
	return r;
}

void measure_fini(struct measure *m)
{
	account_fini(&m->account);
}

uint64_t measure_cost(const struct measure *m, const struct account_proc *p)
{
	const struct account_figures *f = &p->fig;
	uint64_t ram = f->pss;

	if (p->why[0])
		return ACCOUNT_UNKNOWN;
	if (m->account.frames)
		ram = f->unique + f->template_share + f->relatives_share + f->ksm_share;
	return ram + f->vmm + (f->page_tables == ACCOUNT_UNKNOWN ? 0 : f->page_tables) +
	       (f->kernel == ACCOUNT_UNKNOWN ? 0 : f->kernel);
}

static int by_name(const void *a, const void *b, void *arg)
{
	const struct account_proc *p = a, *q = b;

	(void)arg;
	return strcmp(p->name, q->name);
}

static int by_mem(const void *a, const void *b, void *arg)
{
	uint64_t x = measure_cost(arg, a) + 1, y = measure_cost(arg, b) + 1; /* unknown: 0 */

	return x == y ? by_name(a, b, NULL) : x < y ? 1 : -1;
}

static int by_unique(const void *a, const void *b, void *arg)
{
	const struct account_proc *p = a, *q = b;

	(void)arg;
	if (p->fig.unique == q->fig.unique)
		return by_name(a, b, NULL);
	return p->fig.unique + 1 < q->fig.unique + 1 ? 1 : -1;
}

void measure_sort(struct measure *m, enum measure_order order)
{
	if (m->account.nr_procs)
		qsort_r(m->account.procs, m->account.nr_procs, sizeof(*m->account.procs),
			order == MEASURE_BY_MEM	     ? by_mem
			: order == MEASURE_BY_UNIQUE ? by_unique
						     : by_name,
			m);
}

bool measure_wanted(const struct account_proc *p, char *const *names, size_t n)
{
	if (p->gone)
		return false;
	for (size_t i = 0; i < n; i++)
		if (!strcmp(p->name, names[i]) && p->kind == ACCOUNT_VM)
			return true;
	return !n;
}
