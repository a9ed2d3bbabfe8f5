/* SPDX-License-Identifier: MIT */
/*
 * Guest RAM pushed out to a file: what is this process's alone (written to since it was mapped or
 * forked) goes into the file and its memory back to the host; below it are zeroes or the template's
 * pages again, until all is read back and RAM is byte by byte what it was. Pages that others share
 * stay where they are: they cost nothing more, and read back they would cost everybody's.
 *
 * From gmem_out_begin until it is back nobody may look at RAM: gmem's copies and borrows are BUGs
 * then. The dirty bitmap (gmem.h) is left as it is, because no byte will have changed.
 *
 * Main, with vCPUs and devices stopped from gmem_out_begin to gmem_out_end.
 */
#ifndef CLONE_MEM_GMEM_OUT_H
#define CLONE_MEM_GMEM_OUT_H

#include <stdint.h>

#include "base/err.h"

struct gmem;
struct gmem_out;

/*
 * file: regular, empty, to read and write; pagemap: /proc/PID/pagemap of this process, which may
 * lie, since what it says decides only what is written, not what is read back. Both stay the
 * caller's, pagemap open until gmem_out_step says 0, file until gmem_out_end. -EINVAL; -ENOMEM.
 */
int gmem_out_begin(struct gmem *gm, int file, int pagemap, struct gmem_out **out, struct err *e);
/* Writes the next 32 MiB of RAM and waits for the disk: 1, 0 when that was the last, -errno. RAM is
 * whole in any case. */
int gmem_out_step(struct gmem_out *o, struct err *e);
/* After the last step: the memory goes back to the host. What it does not take costs memory, no
 * more. */
void gmem_out_discard(struct gmem_out *o);
/*
 * Reads back what was discarded; no-op when nothing was. -EIO and the like, -ENODATA (the file is
 * shorter than it was): RAM is out as before, and it may be tried again.
 */
int gmem_out_back(struct gmem_out *o, struct err *e);
/* Forgets it, also in the midst; RAM that was discarded and not read back is lost then, and nobody
 * may look at it any more. NULL is fine. */
void gmem_out_end(struct gmem_out *o);

/* In the file; and in pages of zeroes, of which it has none. */
uint64_t gmem_out_bytes(const struct gmem_out *o);
uint64_t gmem_out_zero_bytes(const struct gmem_out *o);

#endif
