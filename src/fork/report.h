/* SPDX-License-Identifier: MIT */
/*
 * The one message that a fork's child sends its parent: how it went, and its clocks.
 */
#ifndef CLONE_FORK_REPORT_H
#define CLONE_FORK_REPORT_H

#include "fork/fork.h"
#include "vm/vm.h"

/* The child's side: one write; the fd stays open. */
int report_send(int fd, const struct vm_child_result *r);
/* The parent's side: fills everything but name and pid. -EPIPE: the child died without a word. */
int report_recv(int fd, struct vm_child_result *r);

#endif
