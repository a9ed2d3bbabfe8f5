/* SPDX-License-Identifier: MIT */
/*
 * Prints where tests that need KVM must run: "native", or "rig: REASON". Used by tests/rig/in;
 * compiled by it with plain cc. Exit code 0 either way, 2 when it could not find out.
 */
#include "kvm/probe.h"

#include <stdio.h>
#include <string.h>

int main(void)
{
	char why[160];
	int rc = kvm_probe_stock(1000, why, sizeof(why));

	if (rc < 0) {
		fprintf(stderr, "probe: %s\n", strerror(-rc));
		return 2;
	}
	if (rc)
		puts("native");
	else
		printf("rig: %s\n", why);
	return 0;
}
