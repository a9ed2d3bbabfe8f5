/* SPDX-License-Identifier: MIT */
/*
 * Who may have pages merged by KSM. The kernel merges whatever is offered on the whole host, and
 * that a page was merged can be seen by timing a write to it: a VM learns what others hold. So one
 * trust domain at a time has it, host-wide. In RUN:
 *     ksm/lock     held while a domain comes or goes
 *     ksm/domain   the name of the domain that has it; read-locked (fcntl, open file description)
 *                  by every VM of it, for life, by a descriptor that cannot write
 * A VM that lets go of its share while it lives is still seen by its vm.json. One thread.
 */
#ifndef CLONE_CLI_KSM_H
#define CLONE_CLI_KSM_H

#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"

#define KSM_DIR "/sys/kernel/mm/ksm"

/* A share of the domain, which has KSM as long as somebody has the descriptor or a VM of it lives.
 * It is the caller's, and for a VM to hold. -EBUSY: another domain has KSM, which e names; -EINVAL:
 * no domain's name. */
int ksm_claim(const char *domain, struct err *e);
/* A further one, for another VM: who has it cannot let go of the claim, nor of other shares. */
int ksm_share(int claim, struct err *e);
/* Who has it now; "?": what the file says is no name. False: nobody. */
bool ksm_holder(char *domain, size_t n);
/* What stands in the way at dir (KSM_DIR). -EOPNOTSUPP: this kernel has no KSM. 0 with a warning,
 * for people, when it is there and does nothing; "" otherwise. */
int ksm_there(const char *dir, char *warning, size_t n, struct err *e);

#endif
