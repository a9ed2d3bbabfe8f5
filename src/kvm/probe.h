/* SPDX-License-Identifier: MIT */
/*
 * Can this machine's /dev/kvm run a stock kernel? Asked by `clone doctor` and by the tests, which
 * go to the emulated host (tests/rig) when it cannot. Needs nothing but libc and the kernel's
 * headers.
 */
#ifndef KVM_PROBE_H
#define KVM_PROBE_H

#include <stddef.h>

/*
 * Runs a tiny 64-bit guest that does what a stock kernel does and a KVM that interprets guest code
 * cannot: SSE and AVX arithmetic, and 100 million instructions before the deadline. Some KVMs have
 * the whole API and still run no kernel: only behaviour tells.
 *
 * Returns 1 if usable; 0 if not, with a one-line reason in why (cut to why_len, always terminated);
 * -EINVAL for deadline_ms < 1, other -errno when the question could not be asked (no memory, no
 * process). why is empty unless 0 is returned; it may be NULL if why_len is 0.
 *
 * deadline_ms is the probe's own CPU time, so that a busy machine gives the same answer, and a
 * tenth of the real time it takes at most. Native KVM needs about 100: give 1000. Any thread. Works
 * in a child process, which is gone on return, so no signal handler is needed.
 */
int kvm_probe_stock(int deadline_ms, char *why, size_t why_len);

#endif
