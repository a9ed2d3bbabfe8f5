/* SPDX-License-Identifier: MIT */
/*
 * Making a template: boot (or fork), warm up, settle, snapshot, publish. One thread.
 */
#ifndef CLONE_CLI_TEMPLATE_MAKE_H
#define CLONE_CLI_TEMPLATE_MAKE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct balloon_option;
struct nic_options;

struct template_make {
	const char *name;
	const char *image, *append; /* image NULL: from a fork or a restored snapshot */
	const char *from;	    /* a template, a VM or a snapshot; NULL with an image */
	bool flat, no_settle;	    /* with from */
	const char *const *warm;    /* shell commands, run as root one after another */
	size_t nwarm;
	uint64_t mem_bytes;
	unsigned int vcpus;
	uint64_t bays;	 /* of image: empty disks */
	const char *ksm; /* trust domain of its forks; NULL: that of the source; "": none */
	const struct nic_options *net; /* of image: its networks */
	const struct balloon_option *balloon;
	uint64_t boot_ms, warm_ms, settle_ms; /* limits */
	/* Called when a step begins, for people who wait. */
	void (*step)(const char *what);
};

/* Publishes the template, or leaves nothing behind. */
int template_make(const struct template_make *m, int cancel_fd, struct err *e);

#endif
