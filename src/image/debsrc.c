/* SPDX-License-Identifier: MIT */
/*
 * Picks the mirror out of the host's own source lists, in both formats that apt reads (one line an
 * entry, or stanzas of fields). Called by the builds; any one thread.
 */
#include "image/debsrc.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "base/util.h"
#include "image/tree.h"

#define DEFAULT_MIRROR "http://deb.debian.org/debian"
#define LIST_MAX KIB(256)
#define URI_MAX 256
#define FIELD_MAX 1024

struct mirrors {
	const char *release;
	char main[URI_MAX], security[URI_MAX];
};

static bool has_word(const char *words, const char *word)
{
	size_t n = strlen(word);

	for (const char *p = words; (p = strstr(p, word)); p += n)
		if ((p == words || isspace((unsigned char)p[-1])) &&
		    (!p[n] || isspace((unsigned char)p[n])))
			return true;
	return false;
}

static bool uri_ok(const char *uri)
{
	if (strncmp(uri, "http://", 7) && strncmp(uri, "https://", 8))
		return false;
	for (const char *p = uri; *p; p++)
		if (!isalnum((unsigned char)*p) && !strchr(":/.-_~%@+", *p))
			return false;
	return strlen(uri) < URI_MAX;
}

static bool ends_with(const char *s, const char *end)
{
	size_t n = strlen(s), m = strlen(end);

	return n >= m && !strcmp(s + n - m, end);
}

/* Takes one entry if it is Debian's own archive of our release: others use its names too. */
static void take(struct mirrors *m, const char *uris, const char *suites, const char *components)
{
	char uri[URI_MAX], security[80];
	size_t n;

	if (sscanf(uris, "%255s", uri) != 1 || !uri_ok(uri) || !has_word(components, "main"))
		return;
	for (n = strlen(uri); n && uri[n - 1] == '/'; n--)
		uri[n - 1] = '\0';
	snprintf(security, sizeof(security), "%s-security", m->release);
	if (!m->main[0] && ends_with(uri, "/debian") && has_word(suites, m->release))
		memcpy(m->main, uri, sizeof(uri));
	if (!m->security[0] && ends_with(uri, "/debian-security") && has_word(suites, security))
		memcpy(m->security, uri, sizeof(uri));
}

/* "deb [options] URI SUITE COMPONENTS..." */
static void read_list(struct mirrors *m, char *text)
{
	char *line;

	while ((line = strsep(&text, "\n"))) {
		char uri[FIELD_MAX], suite[FIELD_MAX];
		int used = 0;

		line += strspn(line, " \t");
		if (strncmp(line, "deb ", 4))
			continue;
		line += 4;
		line += strspn(line, " \t");
		if (*line == '[')
			line += strcspn(line, "]") + (strchr(line, ']') != NULL);
		if (sscanf(line, "%1023s %1023s%n", uri, suite, &used) == 2)
			take(m, uri, suite, line + used);
	}
}

/* Stanzas of "Field: value", continued by lines that begin with a blank. */
static void read_sources(struct mirrors *m, char *text)
{
	static const char *const names[] = { "URIs", "Suites", "Components", "Enabled", "Types" };
	char field[ARRAY_SIZE(names)][FIELD_MAX] = { "" }, *line, *into = NULL;

	for (;;) {
		line = strsep(&text, "\n");
		if (!line || !line[strspn(line, " \t\r")]) {
			if (strcasecmp(field[3], " no") && has_word(field[4], "deb"))
				take(m, field[0], field[1], field[2]);
			memset(field, 0, sizeof(field));
			into = NULL;
			if (!line)
				return;
			continue;
		}
		if (*line == '#')
			continue;
		if (*line != ' ' && *line != '\t') {
			size_t n = strcspn(line, ":");

			into = NULL;
			for (size_t i = 0; i < ARRAY_SIZE(names); i++)
				if (n == strlen(names[i]) && !strncasecmp(line, names[i], n))
					into = field[i];
			line += n + (line[n] == ':');
			line += strspn(line, " \t");
		}
		if (into)
			snprintf(into + strlen(into), FIELD_MAX - strlen(into), " %s", line);
	}
}

static void read_file(struct mirrors *m, const char *path)
{
	cleanup_free char *text = NULL;

	if (tree_read_text(path, LIST_MAX, &text, NULL))
		return;
	if (ends_with(path, ".sources"))
		read_sources(m, text);
	else
		read_list(m, text);
}

static void read_host(struct mirrors *m, const char *etc)
{
	char path[PATH_MAX];
	struct dirent *de;
	DIR *d;

	if (!tree_path(path, sizeof(path), NULL, "%s/sources.list", etc))
		read_file(m, path);
	if (tree_path(path, sizeof(path), NULL, "%s/sources.list.d", etc))
		return;
	d = opendir(path);
	while (d && (de = readdir(d)))
		if ((ends_with(de->d_name, ".list") || ends_with(de->d_name, ".sources")) &&
		    !tree_path(path, sizeof(path), NULL, "%s/sources.list.d/%s", etc, de->d_name))
			read_file(m, path);
	if (d)
		closedir(d);
}

static int pick(struct mirrors *m, const char *mirror, const char *etc, struct err *e)
{
	if (!mirror) {
		read_host(m, etc);
		if (!m->main[0])
			snprintf(m->main, sizeof(m->main), DEFAULT_MIRROR);
	} else {
		size_t n = strlen(mirror);

		while (n && mirror[n - 1] == '/')
			n--;
		if (!uri_ok(mirror) || n + strlen("-security") >= URI_MAX)
			return err_set(e, EINVAL, "mirror '%.80s': must be an http or https URI",
				       mirror);
		snprintf(m->main, sizeof(m->main), "%.*s", (int)n, mirror);
	}
	/* Mirrors keep the two side by side. */
	if (!m->security[0] && ends_with(m->main, "/debian") &&
	    (size_t)snprintf(m->security, sizeof(m->security), "%s-security", m->main) >=
		    sizeof(m->security))
		return err_set(e, EINVAL, "mirror '%.80s' is too long", m->main);
	return 0;
}

int debsrc_lines(const char *release, const char *mirror, const char *etc, char **out,
		 struct err *e)
{
	struct mirrors m = { .release = release };
	bool rolling = !strcmp(release, "sid") || !strcmp(release, "unstable");
	cleanup_free char *extra = NULL;
	size_t n = strlen(release);
	int r;

	if (!n || n > 31 || n != strspn(release, "abcdefghijklmnopqrstuvwxyz-"))
		return err_set(e, EINVAL, "'%.40s' is no release of Debian", release);
	if (access(DEBSRC_KEYRING, R_OK))
		return err_set(e, ENOENT,
			       DEBSRC_KEYRING " is not installed: apt-get install "
					      "debian-archive-keyring");
	r = pick(&m, mirror, etc, e);
	if (r)
		return r;
	if (!rolling &&
	    asprintf(&extra, "deb [signed-by=%s] %s %s-updates main\n%s%s%s%s%s%s", DEBSRC_KEYRING,
		     m.main, release, m.security[0] ? "deb [signed-by=" DEBSRC_KEYRING "] " : "",
		     m.security, m.security[0] ? " " : "", m.security[0] ? release : "",
		     m.security[0] ? "-security main" : "", m.security[0] ? "\n" : "") < 0)
		extra = NULL;
	if ((!rolling && !extra) ||
	    asprintf(out, "deb [signed-by=%s] %s %s main\n%s", DEBSRC_KEYRING, m.main, release,
		     extra ? extra : "") < 0)
		return err_sys(e, ENOMEM, "sources list");
	return 0;
}
