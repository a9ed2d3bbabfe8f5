/* SPDX-License-Identifier: MIT */
/*
 * /proc/PID/smaps (proc(5)): where a machine's guest memory is, which mappings hold any page, and
 * what the kernel itself says of them. Called by proc.c and by tests with texts of their own.
 *
 * Guest memory is known by its shape (mem/gmem.c): private mappings without a gap between two
 * guards, 64 MiB or more in whole blocks of 2 MiB. Nothing else in a VM process looks so.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "account/account.h"
#include "base/util.h"
#include "mem/gmem.h"

#define GUARD_BYTES MIB(2)
/* Of the VMM's own mappings larger ones, or more, are not walked: a process that was taken over
 * could map terabytes for a page. Of guest memory there is what a machine can have. */
#define OWN_EACH MIB(64)
#define OWN_ALL GIB(1)
#define LINE_MAX_BYTES 4400 /* a path is the longest part */
/* New ones of a process, programs and libraries among them: a chain of templates has 16. */
#define FILES_EACH 256u
/* Lines of mappings, some of them shown again. */
#define LINES_MAX (2 * ACCOUNT_RANGES_MAX)

/* Bytes, of one mapping. */
struct vma {
	uint64_t from, to, offset, dev, inode;
	bool guard, private_rw, ram;
	int file;
	uint64_t rss, pss, anon, priv, priv_dirty, huge, swap;
};

struct smaps {
	struct vma *v;
	size_t n, cap;
	size_t files, lines; /* that were there before us; mappings read */
	bool skip;	     /* what follows belongs to a mapping that we have */
};

bool account_kb(const char *line, const char *key, uint64_t *bytes)
{
	size_t n = strlen(key);
	uint64_t kb;

	if (strncmp(line, key, n) || line[n] != ':' ||
	    sscanf(line + n + 1, "%" SCNu64 " kB", &kb) != 1)
		return false;
	return mul_u64(kb, 1024, bytes);
}

/* "FROM-TO PERMS OFFSET MAJOR:MINOR INODE   PATH". False: it is no such line. */
static bool parse_head(const char *line, struct vma *v, const char **path)
{
	unsigned int major, minor;
	char perms[5];
	int at = 0;

	*v = (struct vma){ .file = -1 };
	if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %4s %" SCNx64 " %x:%x %" SCNu64 " %n", &v->from,
		   &v->to, perms, &v->offset, &major, &minor, &v->inode, &at) != 7 ||
	    !at || v->from >= v->to || v->from % ACCOUNT_PAGE || v->to % ACCOUNT_PAGE)
		return false;
	v->dev = (uint64_t)major << 32 | minor;
	v->guard = !strcmp(perms, "---p");
	v->private_rw = !strcmp(perms, "rw-p");
	*path = line + at;
	return true;
}

/* One of the lines that follow; they are many, so the first letter decides. */
static void parse_detail(const char *line, struct vma *v)
{
	uint64_t b;

	switch (line[0]) {
	case 'R':
		account_kb(line, "Rss", &v->rss);
		break;
	case 'P':
		account_kb(line, "Pss", &v->pss);
		account_kb(line, "Private_Dirty", &v->priv_dirty);
		if (account_kb(line, "Private_Clean", &b) || account_kb(line, "Private_Dirty", &b))
			v->priv += MIN(b, UINT64_MAX - v->priv);
		break;
	case 'A':
		account_kb(line, "Anonymous", &v->anon);
		account_kb(line, "AnonHugePages", &v->huge);
		break;
	case 'S':
		account_kb(line, "Swap", &v->swap);
		break;
	default:
		break;
	}
}

/* The number of the file that v maps. */
static int file_of(struct account *a, unsigned int proc, const struct smaps *s, const struct vma *v,
		   const char *path, struct err *e)
{
	struct account_file *f;

	for (size_t i = 0; i < a->nr_files; i++)
		if (a->files[i].dev == v->dev && a->files[i].inode == v->inode)
			return (int)i;
	if (a->nr_files == ACCOUNT_FILES_MAX || a->nr_files - s->files == FILES_EACH)
		return err_set(e, E2BIG, "it maps more than %u files, or all more than %u",
			       FILES_EACH, ACCOUNT_FILES_MAX);
	f = realloc(a->files, (a->nr_files + 1) * sizeof(*f));
	if (!f)
		return err_set(e, ENOMEM, "accounting: out of memory");
	a->files = f;
	f += a->nr_files;
	*f = (struct account_file){ .dev = v->dev,
				    .inode = v->inode,
				    .cached = ACCOUNT_UNKNOWN,
				    .proc = proc,
				    .from = v->from,
				    .to = v->to };
	snprintf(f->path, sizeof(f->path), "%.*s", (int)strcspn(path, "\n"), path);
	return (int)a->nr_files++;
}

static int add_vma(struct smaps *s, const struct vma *v, struct err *e)
{
	if (s->n == ACCOUNT_RANGES_MAX)
		return err_set(e, E2BIG, "more than %u mappings", ACCOUNT_RANGES_MAX);
	if (s->n == s->cap) {
		size_t cap = s->cap * 2 + 64;
		struct vma *w = realloc(s->v, cap * sizeof(*w));

		if (!w)
			return err_set(e, ENOMEM, "accounting: out of memory");
		s->v = w;
		s->cap = cap;
	}
	s->v[s->n++] = *v;
	return 0;
}

/*
 * What is read is not one moment: when neighbours merge between two read(2)s, the kernel shows the
 * merged one from its beginning. It replaces its parts; what else overlaps is cut. False: it is
 * known already.
 */
static bool is_news(struct smaps *s, struct vma *v)
{
	if (s->n && v->to <= s->v[s->n - 1].to)
		return false;
	while (s->n && s->v[s->n - 1].from >= v->from)
		s->n--;
	if (s->n && v->from < s->v[s->n - 1].to) {
		v->offset += s->v[s->n - 1].to - v->from;
		v->from = s->v[s->n - 1].to;
	}
	return true;
}

/* Files are numbered as they come; those that no guest memory maps go again (drop_files). */
static int parse_vma(struct account *a, unsigned int proc, struct smaps *s, struct vma *v,
		     const char *path, struct err *e)
{
	if (++s->lines > LINES_MAX)
		return err_set(e, E2BIG, "more than %u mappings", ACCOUNT_RANGES_MAX);
	s->skip = !is_news(s, v);
	if (s->skip)
		return 0;
	if (v->private_rw && v->inode) {
		v->file = file_of(a, proc, s, v, path, e);
		if (v->file < 0)
			return v->file;
	}
	return add_vma(s, v, e);
}

static int parse(struct account *a, unsigned int proc, FILE *f, struct smaps *s, struct err *e)
{
	char line[LINE_MAX_BYTES];
	bool whole = true;

	while (fgets(line, sizeof(line), f)) {
		bool begins = whole;
		const char *path;
		struct vma v;
		int r;

		whole = strchr(line, '\n') != NULL;
		if (!begins) /* the rest of a name */
			continue;
		if ((line[0] >= 'A' && line[0] <= 'Z') || !parse_head(line, &v, &path)) {
			if (!s->n)
				return err_set(e, EBADMSG,
					       "smaps: it does not begin with a mapping");
			if (!s->skip)
				parse_detail(line, &s->v[s->n - 1]);
			continue;
		}
		r = parse_vma(a, proc, s, &v, path, e);
		if (r)
			return r;
	}
	if (ferror(f) || !s->n)
		return err_set(e, ESRCH, "smaps: the process has ended");
	return 0;
}

/* Of one that was cut the kernel said what all of it has. */
static void bound(struct vma *v)
{
	uint64_t *const figures[] = { &v->rss,	      &v->pss,	&v->anon, &v->priv,
				      &v->priv_dirty, &v->huge, &v->swap };

	for (size_t i = 0; i < ARRAY_SIZE(figures); i++)
		*figures[i] = MIN(*figures[i], v->to - v->from);
}

static bool guards(const struct vma *v)
{
	return v->guard && v->to - v->from >= GUARD_BYTES;
}

static void find_ram(struct smaps *s)
{
	uint64_t all = 0;

	for (size_t i = 1; i < s->n; i++) {
		size_t end = i;
		uint64_t size;

		if (!guards(&s->v[i - 1]) || s->v[i].from != s->v[i - 1].to)
			continue;
		while (end < s->n && s->v[end].private_rw && s->v[end].from == s->v[end - 1].to)
			end++;
		if (end == i || end == s->n || !guards(&s->v[end]) ||
		    s->v[end].from != s->v[end - 1].to)
			continue;
		size = s->v[end].from - s->v[i].from;
		if (size < GMEM_MIN_BYTES || size % MIB(2) || s->v[i].from % MIB(2) ||
		    !range_ok(all, size, GMEM_MAX_BYTES))
			continue;
		all += size;
		for (size_t k = i; k < end; k++)
			s->v[k].ram = true;
	}
}

/* Of the files from `first` on only those that guest memory maps stay, with new numbers. */
static void drop_files(struct account *a, struct smaps *s, size_t first)
{
	size_t kept = first;

	for (size_t i = first; i < a->nr_files; i++) {
		bool used = false;

		for (size_t k = 0; k < s->n; k++) {
			struct vma *v = &s->v[k];

			if (v->file != (int)i)
				continue;
			v->file = v->ram ? (int)kept : -1;
			if (v->ram && !used) {
				a->files[i].from = v->from;
				a->files[i].to = v->to;
				used = true;
			}
		}
		if (used)
			a->files[kept++] = a->files[i];
	}
	a->nr_files = kept;
}

/* Who maps the files, and what of them. */
static void count_users(struct account *a, const struct smaps *s)
{
	for (size_t i = 0; i < a->nr_files; i++) {
		struct account_file *f = &a->files[i];
		bool used = false;

		for (size_t k = 0; k < s->n; k++) {
			const struct vma *v = &s->v[k];
			uint64_t end;

			if (!v->ram || v->file != (int)i)
				continue;
			if (!add_u64(v->offset, v->to - v->from, &end))
				end = UINT64_MAX;
			f->begin = f->users || used ? MIN(f->begin, v->offset) : v->offset;
			f->end = MAX(f->end, end);
			used = true;
		}
		f->users += used;
	}
}

/* Is it to be walked? */
static bool walked(const struct vma *v, uint64_t *own)
{
	uint64_t size = v->to - v->from;

	if (v->ram)
		return v->rss || v->swap;
	if (!v->anon || size > OWN_EACH || !range_ok(*own, size, OWN_ALL))
		return false;
	*own += size;
	return true;
}

/* Figures, and the ranges that hold anything: anonymous ones of the VMM, all of guest memory. */
static int conclude(struct account_proc *p, const struct smaps *s, struct err *e)
{
	struct account_figures *f = &p->fig;
	uint64_t rss = 0, own = 0;

	*f = (struct account_figures){ .kernel = ACCOUNT_UNKNOWN };
	free(p->ranges);
	p->nr_ranges = 0;
	p->not_walked = 0;
	p->ranges = calloc(s->n + 1, sizeof(*p->ranges));
	if (!p->ranges)
		return err_set(e, ENOMEM, "accounting: out of memory");
	for (size_t i = 0; i < s->n; i++) {
		const struct vma *v = &s->v[i];

		if (walked(v, &own))
			p->ranges[p->nr_ranges++] =
				(struct account_range){ v->from / ACCOUNT_PAGE,
							(v->to - v->from) / ACCOUNT_PAGE, v->file,
							v->ram };
		else if (!v->ram && v->anon)
			p->not_walked += v->pss;
		if (!v->ram) {
			f->vmm += v->pss;
			continue;
		}
		rss += v->rss;
		f->ram += v->to - v->from;
		f->pss += v->pss;
		f->huge += v->huge;
		f->swap += v->swap;
		/* a template's page is clean, whoever maps it */
		f->unique += v->file < 0 ? v->priv : v->priv_dirty;
	}
	f->shared = rss - MIN(f->unique, rss);
	f->untouched = f->ram - MIN(rss + f->swap, f->ram);
	f->template = f->relatives = f->ksm = f->zero = ACCOUNT_UNKNOWN;
	f->template_share = f->relatives_share = f->ksm_share = f->vmm_anon = ACCOUNT_UNKNOWN;
	return 0;
}

int account_smaps(struct account *a, unsigned int proc, FILE *smaps, struct err *e)
{
	size_t first = a->nr_files;
	struct smaps s = { .files = first };
	int r = parse(a, proc, smaps, &s, e);

	if (r) {
		a->nr_files = first;
	} else {
		for (size_t i = 0; i < s.n; i++)
			bound(&s.v[i]);
		find_ram(&s);
		drop_files(a, &s, first);
		count_users(a, &s);
		r = conclude(&a->procs[proc], &s, e);
	}
	free(s.v);
	return r;
}
