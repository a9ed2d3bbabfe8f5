/* SPDX-License-Identifier: MIT */
/*
 * The balloon's policy as a state machine: from what a guest reports of itself to how much its
 * balloon should hold. An idle guest is squeezed in steps until only the floor is left available to
 * it; one that works has a cushion, one that is short of memory gets it back at once, and a while
 * passes before it is squeezed again. No I/O and no clock of its own (vm/squeeze_run.h has both):
 * plain memory, any thread.
 *
 * Between floor and low mark nothing moves, so noise does not; what is given back goes up to the
 * high mark, so the next page that is needed does not ask again:
 *
 *     0 .. low mark | .. floor | .. high mark | .. RAM      available in the guest
 *     give to high  | rest     | squeeze when idle, give to high when at work
 *
 * The guest's numbers are not trusted: whatever they are, the target is at most RAM without the
 * floor, and falls when in doubt.
 */
#ifndef CLONE_VM_SQUEEZE_H
#define CLONE_VM_SQUEEZE_H

#include <stdbool.h>
#include <stdint.h>

#include "guest/proto.h"

struct squeeze_cfg {
	uint32_t idle_s;	/* nothing is taken before it was idle for so long */
	uint32_t step_percent;	/* of what is available, at a time ... */
	uint32_t step_s;	/* ... and not before so long */
	uint32_t floor_mib;	/* this much stays available, */
	uint32_t floor_percent; /* or this much of RAM, if it is more */
	uint32_t low_percent;	/* of the floor: less is too little */
	uint32_t high_percent;	/* of the floor: so much it has again then */
	uint32_t psi_some;	/* percent of the time in which a task stood still: pressure */
	uint32_t psi_full;	/* in which all did: all is given back */
	uint32_t cpu_percent;	/* of its CPUs' time: more is work */
	uint32_t cool_s;	/* after pressure nothing is taken for so long */
	uint32_t period_s;	/* it is asked so often, a quarter of that at the floor */
	uint32_t hold_s;	/* when it was silent for so long it gets all back */
};

/* What holds when nobody says otherwise. */
extern const struct squeeze_cfg squeeze_defaults;

/* What each may be; the names are those of the members, in the API and in --balloon auto,... */
struct squeeze_limit {
	const char *name;
	size_t offset; /* of the uint32_t in squeeze_cfg */
	uint32_t min, max;
};
#define SQUEEZE_LIMITS 13
extern const struct squeeze_limit squeeze_limits[SQUEEZE_LIMITS];

enum squeeze_state {
	SQUEEZE_WAITING,  /* for a driver, or for what the guest has to say */
	SQUEEZE_WATCHING, /* it works, or was not idle for long enough */
	SQUEEZE_TAKING,
	SQUEEZE_RESTING, /* at the floor */
	SQUEEZE_COOLING,
	SQUEEZE_BLIND, /* it has gone silent */
};
/* "waiting", "watching", "squeezing", "floor", "cooling", "blind" */
const char *squeeze_state_word(enum squeeze_state s);

/* Why it was decided so. The word for programs is squeeze_why_word's. */
enum squeeze_why {
	SQUEEZE_WHY_NONE,
	SQUEEZE_WHY_NO_DRIVER, /* nothing can be taken */
	SQUEEZE_WHY_FIRST,     /* the first report, or counters that begin anew */
	SQUEEZE_WHY_ACTIVE,    /* it works: it has its cushion */
	SQUEEZE_WHY_IDLE,      /* but not for long enough */
	SQUEEZE_WHY_STEP,      /* taken */
	SQUEEZE_WHY_SLOW,      /* its driver is still at the last step */
	SQUEEZE_WHY_FLOOR,
	SQUEEZE_WHY_COOLING,
	SQUEEZE_WHY_FADING, /* it was short of memory a moment ago, perhaps by our own doing */
	SQUEEZE_WHY_STUCK,  /* its driver finds no more: what it has is enough */
	/* given back: */
	SQUEEZE_WHY_LOW,      /* too little is available */
	SQUEEZE_WHY_PRESSURE, /* tasks stand still */
	SQUEEZE_WHY_SWAP,     /* it swaps */
	SQUEEZE_WHY_SEVERE,   /* all tasks stand still, or next to nothing is available: all */
	SQUEEZE_WHY_OOM,      /* its OOM killer has killed: all */
	SQUEEZE_WHY_TOOK,     /* its driver took pages by itself, before its OOM killer: all */
	SQUEEZE_WHY_SILENT,   /* held, */
	SQUEEZE_WHY_RELEASED, /* then all */
};
const char *squeeze_why_word(enum squeeze_why w);

struct squeeze_decision {
	uint64_t at_ns; /* 0: there was none */
	enum squeeze_why why;
	uint64_t from_bytes, to_bytes;
};

struct squeeze {
	enum squeeze_state state;
	struct squeeze_decision last;  /* of the last tick */
	struct squeeze_decision moved; /* the last one that changed the target */
	uint64_t steps, gave_back;     /* how often */
	bool known;		       /* `report` is the one before */
	bool psi;		       /* the guest tells of pressure by itself */
	struct proto_report report;
	uint64_t report_ns, actual_bytes; /* as of the last tick with a report */
	uint64_t heard_ns;		  /* the last report, or since when we listen */
	uint64_t idle_ns;		  /* since when it has been idle */
	uint64_t step_ns;		  /* of the last step */
	uint64_t cool_ns;		  /* until when nothing is taken */
	unsigned int presses, stuck;	  /* ticks in a row */
};

/* What a tick looks at. */
struct squeeze_in {
	uint64_t now_ns;		   /* CLOCK_MONOTONIC, not 0, never less than before */
	const struct proto_report *report; /* NULL: it did not answer */
	bool urgent;			   /* it reported by itself: it is short of memory */
	bool driver;
	uint64_t ram_bytes, target_bytes, actual_bytes;
};

/* As of now_ns nothing is known. Decisions and counts are forgotten. */
void squeeze_init(struct squeeze *s, uint64_t now_ns);
/* Returns the new target in bytes, whole pages; s->last says why. */
uint64_t squeeze_tick(struct squeeze *s, const struct squeeze_cfg *c, const struct squeeze_in *in);
/* When to ask again, in milliseconds. */
uint64_t squeeze_next_ms(const struct squeeze *s, const struct squeeze_cfg *c);

#endif
