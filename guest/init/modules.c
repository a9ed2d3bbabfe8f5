/* SPDX-License-Identifier: MIT */
/*
 * Kernel modules: uncompressed files in /modules, loaded in the order of /modules/list. One that is
 * missing or does not load is a line in the log: what needs it will say more.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "init.h"

#define DIR_MODULES "/modules/"

/* "NNN-name.ko" or "name.ko" to "name", with the dashes that the kernel takes for underscores. */
static void module_name(const char *file, char *name, size_t cap)
{
	const char *p = file + strspn(file, "0123456789");
	size_t n;

	p = p != file && *p == '-' ? p + 1 : file;
	snprintf(name, cap, "%s", p);
	n = strlen(name);
	if (n > 3 && !strcmp(name + n - 3, ".ko"))
		name[n - 3] = '\0';
	for (char *c = name; *c; c++)
		if (*c == '-')
			*c = '_';
}

static bool same_name(const char *word, const char *name, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if ((word[i] == '-' ? '_' : word[i]) != name[i])
			return false;
	return word[n] == '.';
}

/* "name.param=value" words of the command line become the module's parameters. */
static void module_params(const struct cmdline *c, const char *name, char *params, size_t cap)
{
	size_t n = strlen(name), used = 0;

	params[0] = '\0';
	for (const char *p = c->text; *p;) {
		size_t len;

		p += strspn(p, " \t\n");
		len = strcspn(p, " \t\n");
		if (len > n + 1 && same_name(p, name, n) && used + len - n < cap) {
			memcpy(params + used, p + n + 1, len - n - 1);
			used += len - n - 1;
			params[used++] = ' ';
			params[used] = '\0';
		}
		p += len;
	}
}

static void load(const struct cmdline *c, const char *file)
{
	char path[300], name[256], params[1024];
	int fd;

	if (snprintf(path, sizeof(path), DIR_MODULES "%s", file) >= (int)sizeof(path))
		return;
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0) {
		say("module %s: %s", file, strerror(errno));
		return;
	}
	module_name(file, name, sizeof(name));
	module_params(c, name, params, sizeof(params));
	if (syscall(SYS_finit_module, fd, params, 0) && errno != EEXIST)
		say("module %s: %s", file, strerror(errno));
	close(fd);
}

void modules_load(const struct cmdline *c)
{
	int fd = open(DIR_MODULES "list", O_RDONLY | O_CLOEXEC);
	struct stat st;
	ssize_t n = -1;
	char *text, *save;

	if (fd < 0)
		return; /* everything is built in */
	if (fstat(fd, &st) || st.st_size > 1 << 20)
		st.st_size = 0;
	text = malloc((size_t)st.st_size + 1);
	if (text)
		n = read(fd, text, (size_t)st.st_size);
	close(fd);
	if (n < 0) {
		say(DIR_MODULES "list: %s", strerror(errno));
		free(text);
		return;
	}
	text[n] = '\0';
	for (char *f = strtok_r(text, "\n", &save); f; f = strtok_r(NULL, "\n", &save))
		load(c, f);
	free(text);
}
