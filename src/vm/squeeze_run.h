/* SPDX-License-Identifier: MIT */
/*
 * The balloon's policy at work in a VM process: a timer asks the guest's agent how it does, the
 * policy (vm/squeeze.h) says how much its balloon should hold, the device is told. Off until
 * somebody asks for it.
 *
 * Fork: keep. A live fork's child, and a seed's, has the settings of its parent and begins to watch
 * anew; what is in its balloon it has inherited. A snapshot has no settings: who restores says.
 *
 * Main, with the device lock. Called by control (vm.h has what it uses), vm and fork.
 */
#ifndef CLONE_VM_SQUEEZE_RUN_H
#define CLONE_VM_SQUEEZE_RUN_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "vm/squeeze.h"

struct loop_timer;
struct vm;

struct squeeze_run {
	bool on;
	struct squeeze_cfg cfg;
	struct squeeze s;
	struct loop_timer *timer; /* NULL: the machine is not there yet */
	bool asking;		  /* the agent owes an answer */
	uint64_t pushed_ns;	  /* when it last spoke unasked and was listened to */
};

/* The machine's devices and agent are there and adopted (also in a fork's child). -ENOMEM. */
int squeeze_run_adopt(struct vm *vm, struct err *e);
/* The VM stands still from now on: its agent is not asked any more, so nothing is owed to the
 * guest. */
void squeeze_run_parked(struct vm *vm);
/* In a fork's child, whose loop is not ours. */
void squeeze_run_forget(struct vm *vm);
/* Before the agent and the devices go. No-op when there is nothing. */
void squeeze_run_fini(struct vm *vm);

#endif
