/* SPDX-License-Identifier: MIT */
/*
 * From where Debian packages come: the lines of a sources.list for one release, from the mirror the
 * user names, or the one this host uses, or deb.debian.org. Used by the builds; any one thread.
 */
#ifndef CLONE_IMAGE_DEBSRC_H
#define CLONE_IMAGE_DEBSRC_H

#include "base/err.h"

#define DEBSRC_KEYRING "/usr/share/keyrings/debian-archive-keyring.gpg"

/*
 * Writes the lines into *out (freed by the caller). mirror: a URI ending in "/debian", or NULL.
 * etc: "/etc/apt", where the host's own lists are looked for. -EINVAL for a release or mirror that
 * cannot be one, -ENOENT when Debian's keys are not installed.
 */
int debsrc_lines(const char *release, const char *mirror, const char *etc, char **out,
		 struct err *e);

#endif
