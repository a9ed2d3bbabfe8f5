/* SPDX-License-Identifier: MIT */
/*
 * The kernel command line: root=/dev/NAME (none, or root=ram: stay in the initramfs) rootfstype=
 * rootflags= ro rw rootwait=SECONDS init= clone.overlay[=SIZE] clone.noagent.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "init.h"

#define ROOT_WAIT_S 30

/* The value if `word` is KEY=VALUE. */
static const char *value(const char *word, const char *key)
{
	size_t n = strlen(key);

	return !strncmp(word, key, n) && word[n] == '=' ? word + n + 1 : NULL;
}

static void root_word(struct cmdline *c, const char *v)
{
	if (!strcmp(v, "ram") || !strcmp(v, "none")) {
		c->root = NULL;
		return;
	}
	if (strncmp(v, "/dev/", 5) != 0) {
		errno = 0;
		fatal("root=%s: only root=/dev/NAME and root=ram are understood", v);
	}
	c->root = v;
}

static void word(struct cmdline *c, const char *w)
{
	const char *v;

	if ((v = value(w, "root")))
		root_word(c, v);
	else if ((v = value(w, "rootfstype")))
		c->rootfstype = v;
	else if ((v = value(w, "rootflags")))
		c->rootflags = v;
	else if ((v = value(w, "init")))
		c->init = v;
	else if ((v = value(w, "rootwait")))
		c->root_wait_s = (unsigned int)strtoul(v, NULL, 10);
	else if ((v = value(w, "clone.overlay")))
		c->overlay_size = v;
	if (!strcmp(w, "rw"))
		c->rw = true;
	else if (!strcmp(w, "ro"))
		c->rw = false;
	else if (!strcmp(w, "clone.overlay") || value(w, "clone.overlay"))
		c->overlay = true;
	else if (!strcmp(w, "clone.noagent"))
		c->noagent = true;
}

void cmdline_read(struct cmdline *c)
{
	int fd = open("/proc/cmdline", O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, c->text, sizeof(c->text) - 1);

	if (n < 0)
		fatal("/proc/cmdline");
	close(fd);
	c->text[n] = '\0';
	c->root_wait_s = ROOT_WAIT_S;
	strcpy(c->words, c->text);
	for (char *p = c->words, *start, *to; *p;) {
		bool quoted = false, more;

		p += strspn(p, " \t\n");
		for (start = to = p; *p && (quoted || !strchr(" \t\n", *p)); p++) {
			if (*p == '"')
				quoted = !quoted;
			else
				*to++ = *p;
		}
		more = *p != '\0';
		*to = '\0';
		if (!strcmp(start, "--")) /* the rest is for the distribution's init */
			return;
		if (*start)
			word(c, start);
		p += more;
	}
}
