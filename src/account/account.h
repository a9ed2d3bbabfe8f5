/* SPDX-License-Identifier: MIT */
/*
 * What machines cost in memory, so that a person can check it (doc/accounting.md). All processes of
 * a run directory are looked at together: a page is one machine's alone only if none of the
 * others maps it. The classification is pure, over a source of page table words
 * (account_classify); smaps.c, host.c and proc.c read /proc. One thread; for the CLI, which is
 * privileged. What a VM process could forge of its own (the layout of its memory) changes its own
 * figures only.
 */
#ifndef CLONE_ACCOUNT_ACCOUNT_H
#define CLONE_ACCOUNT_ACCOUNT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

#include "base/err.h"

#define ACCOUNT_PAGE 4096u
#define ACCOUNT_UNKNOWN UINT64_MAX /* a figure that the kernel does not tell: never guessed */
#define ACCOUNT_RANGES_MAX 65536u  /* mappings of a process that are looked at */
#define ACCOUNT_FILES_MAX 4096u
#define ACCOUNT_HELPERS_MAX 16u	     /* of a machine: a snapshot being written, forks begun */
#define ACCOUNT_SEED_HELPERS_MAX 80u /* of a seed, which has 64 spares */

/* Words of /proc/PID/pagemap: Documentation/admin-guide/mm/pagemap.rst. */
#define ACCOUNT_PRESENT (1ull << 63)
#define ACCOUNT_SWAPPED (1ull << 62)
#define ACCOUNT_FILE (1ull << 61)
#define ACCOUNT_PFN ((1ull << 55) - 1)

enum account_kind { ACCOUNT_VM, ACCOUNT_SEED, ACCOUNT_HELPER };

/* Pages of a process, by number (address / 4096), that have to be looked at. */
struct account_range {
	uint64_t first, pages;
	int file; /* its template's number in account.files; -1: anonymous */
	bool ram; /* guest memory; else the VMM's own */
};

/* Bytes. Of pages: each that is mapped counts whole, a "share" divides it by how often it is mapped
 * in all processes of the run directory. */
struct account_figures {
	uint64_t ram;	    /* guest memory, as the guest has it */
	uint64_t unique;    /* nobody else's */
	uint64_t template;  /* page cache of the template's memory file */
	uint64_t relatives; /* anonymous, shared by fork(2) */
	uint64_t ksm;	    /* merged */
	uint64_t zero;	    /* the zero page */
	uint64_t swap;	    /* swapped out */
	uint64_t untouched; /* of ram: nothing is mapped */
	uint64_t shared; /* template + relatives + ksm; all that is known without frame numbers */
	uint64_t template_share, relatives_share, ksm_share;
	uint64_t huge;	      /* of all these: in huge pages */
	uint64_t pss;	      /* of RAM, as the kernel divides it (smaps) */
	uint64_t vmm;	      /* of all other mappings, as the kernel divides it */
	uint64_t vmm_anon;    /* anonymous of these, divided by us */
	uint64_t page_tables; /* VmPTE */
	uint64_t kernel;      /* its cgroup's, if it has one for itself; else ACCOUNT_UNKNOWN */
};

struct account_proc {
	char name[80];
	enum account_kind kind;
	pid_t pid;
	int dir; /* /proc/PID, owned; -1: made up */
	bool gone;
	char why[160]; /* it is not looked at, because of this: no figure is known; else "" */
	unsigned int machine;	      /* number of the one whose helper it is; else its own */
	struct account_range *ranges; /* owned */
	size_t nr_ranges;
	uint64_t looked;     /* bytes of files that were asked for in its name */
	uint64_t helpers;    /* pages of its helpers that are walked */
	uint64_t not_walked; /* bytes of the VMM in mappings too large to walk, by the kernel */
	struct account_figures fig;
};

/* A file that guest memory is mapped from. */
struct account_file {
	char path[256]; /* as the kernel says it */
	uint64_t dev, inode;
	uint64_t begin, end; /* offsets that all that is mapped of it lies between */
	uint64_t mapped;     /* bytes of it that are mapped by anybody */
	uint64_t cached;     /* bytes from begin to end in the page cache, or ACCOUNT_UNKNOWN */
	unsigned int users;
	unsigned int proc; /* one that maps it, where: */
	uint64_t from, to;
};

struct account {
	bool frames; /* by frame numbers; else by smaps: "unique" and "shared" only */
	struct account_proc *procs;
	size_t nr_procs;
	struct account_file *files;
	size_t nr_files;
	uint64_t anon;	   /* distinct anonymous bytes of all looked at, or ACCOUNT_UNKNOWN */
	uint64_t moved;	   /* bytes that came or went while we looked */
	uint64_t spent_ns; /* what the measuring took */
};

/* Where the words come from. */
struct account_source {
	/* Words of n pages of process number `proc`, from page `first` on. 0; -ESRCH: it has ended;
	 * -errno. */
	int (*read)(void *arg, unsigned int proc, uint64_t first, uint64_t *words, size_t n);
	/* /proc/kpageflags; NULL: nothing on this host is merged. */
	int (*flags)(void *arg, uint64_t pfn, uint64_t *words, unsigned int n);
	void *arg;
	uint64_t zero_pfn, huge_zero_pfn; /* of the latter the first of 512; 0: there is none */
};

/* ---- classify.c: pure ---- */

/*
 * Fills in the figures that come from pages, `anon` and `moved`. Each process's memory is walked
 * twice: count, then classify. One that ends meanwhile is `gone`, and the walk begins again without
 * it (a few times; what is left of a later one is in `moved`); so it does without one that `read`
 * fails for, which is account_unread. fig.ram must be set. -ENOMEM.
 */
int account_classify(struct account *a, const struct account_source *s, struct err *e);

/* ---- smaps.c ---- */

/*
 * Reads /proc/PID/smaps of process number `proc`: finds guest memory, fills ranges and the figures
 * that smaps has; unique, shared and untouched as well as they are known without frame numbers.
 * Mappings that change meanwhile are shown twice in part: each address counts once. -ESRCH: it is
 * empty, as of a process that has ended; -E2BIG: more mappings or files than any machine of ours
 * has; -EBADMSG; -ENOMEM.
 */
int account_smaps(struct account *a, unsigned int proc, FILE *smaps, struct err *e);
/* "Key: N kB" of a line: true, with bytes, when it is key's. */
bool account_kb(const char *line, const char *key, uint64_t *bytes);

/* ---- proc.c ---- */

/* Adds a living process (taking over dir, also on failure). -ENOMEM. */
int account_add(struct account *a, const char *name, enum account_kind kind, pid_t pid, int dir,
		struct err *e);
/* p is not looked at (any more), for this reason: all its figures are ACCOUNT_UNKNOWN. */
void account_unread(struct account_proc *p, const char *why);
/*
 * Measures all that were added. Frame numbers need CAP_SYS_ADMIN; without, or when they are not
 * wanted, a->frames is false and unknown figures are ACCOUNT_UNKNOWN. What fails for one process
 * makes that one account_unread. -ENOMEM; -EACCES, -EPERM: nobody's smaps can be read.
 */
int account_measure(struct account *a, bool want_frames, struct err *e);
void account_fini(struct account *a);

/* ---- host.c ---- */

/*
 * The host's memory, bytes. MemTotal - MemAvailable is what is not available; the parts from
 * held_back to hugetlb are what is known of that, each page in one of them.
 */
struct account_host {
	uint64_t total, free, available;
	uint64_t held_back;    /* free or reclaimable, but kept: watermarks, reserves */
	uint64_t per_cpu_free; /* free, in processors' own lists */
	uint64_t anon;	       /* AnonPages: of everybody */
	uint64_t pinned_cache; /* page cache that cannot be dropped: tmpfs, mlocked */
	uint64_t slab_kept;    /* SUnreclaim */
	uint64_t page_tables;  /* PageTables */
	uint64_t kvm_tables;   /* SecPageTables; 0 where the kernel does not say */
	uint64_t vmalloc;      /* with kernel stacks */
	uint64_t percpu, hugetlb, zswap;
	int64_t unaccounted;  /* the rest */
	uint64_t error;	      /* how far counters may be off, in sum */
	uint64_t slab;	      /* Slab, with what can be reclaimed */
	uint64_t ksm_shared;  /* pages that others were merged into */
	uint64_t ksm_sharing; /* bytes that this saves */
};

/* From the texts of /proc/meminfo and /proc/zoneinfo. -EBADMSG: MemAvailable is not there. */
int account_host_parse(struct account_host *h, FILE *meminfo, FILE *zoneinfo, struct err *e);
int account_host_read(struct account_host *h, struct err *e);

#endif
