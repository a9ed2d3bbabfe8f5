/* SPDX-License-Identifier: MIT */
/*
 * Output, errors and signals of the CLI. See cli.h.
 */
#include "cli/cli.h"

#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

const struct command *cli_find(const char *name)
{
	for (const struct command *c = cli_commands; c->name; c++)
		if (!strcmp(c->name, name))
			return c;
	return NULL;
}

void cli_clean(const char *text, char *buf, size_t n)
{
	size_t i;

	for (i = 0; i < n - 1 && text[i]; i++)
		buf[i] = (unsigned char)text[i] < ' ' || text[i] == 127 ? ' ' : text[i];
	buf[i] = '\0';
	/* U+0080 to U+009F: terminals take some for an escape sequence's beginning */
	for (i = 0; buf[i]; i++)
		if ((unsigned char)buf[i] == 0xc2 && (unsigned char)buf[i + 1] >= 0x80 &&
		    (unsigned char)buf[i + 1] < 0xa0)
			buf[i] = buf[i + 1] = ' ';
}

int cli_fail(const struct err *e)
{
	char line[ERR_MSG_MAX];

	cli_clean(e->msg, line, sizeof(line));
	fflush(stdout);
	fprintf(stderr, "clone: %s\n", line);
	return CLI_FAIL;
}

int cli_usage(const char *cmd, const char *fmt, ...)
{
	va_list ap;

	fputs("clone: ", stderr);
	if (cmd)
		fprintf(stderr, "%s: ", cmd);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fprintf(stderr, "; see `clone help%s%s`\n", cmd ? " " : "", cmd ? cmd : "");
	return CLI_USAGE;
}

int cli_bad_option(const char *cmd, char **argv)
{
	const char *arg = argv[optind - 1];

	if (optopt && (!arg || strncmp(arg, "--", 2)))
		return cli_usage(cmd, "-%c is unknown or lacks its value", optopt);
	return cli_usage(cmd, "%s is unknown or lacks its value", arg);
}

int cli_options(const char *cmd, int argc, char **argv, const char *letters,
		const struct option *opts, int (*take)(void *arg, int opt, struct err *e),
		void *arg)
{
	struct err e;
	int opt;

	opterr = 0;
	while ((opt = getopt_long(argc, argv, letters, opts, NULL)) != -1) {
		int r = take(arg, opt, &e);

		if (r == -ENOSYS)
			return cli_bad_option(cmd, argv);
		if (r == -ECANCELED)
			return CLI_USAGE;
		if (r)
			return cli_usage(cmd, "%s", e.msg);
	}
	return CLI_OK;
}

int cli_print_help(const struct command *c)
{
	printf("usage: clone %s %s\n", c->name, c->usage);
	return cli_flush();
}

bool cli_output_json(const char *cmd, const char *arg, bool *json)
{
	*json = !strcmp(arg, "json");
	if (*json || !strcmp(arg, "text"))
		return true;
	cli_usage(cmd, "-o %s: json or text", arg);
	return false;
}

int cli_flush(void)
{
	if (!fflush(stdout) && !ferror(stdout))
		return CLI_OK;
	fprintf(stderr, "clone: cannot write the output: %s\n", strerrordesc_np(errno));
	return CLI_FAIL;
}

/* DEL is in strings only, and is ASCII to jansson. */
static int put_json(const char *text, size_t n, void *out)
{
	for (size_t i = 0; i < n; i++)
		if ((text[i] == 127 ? fputs("\\u007F", out) : putc(text[i], out)) == EOF)
			return -1;
	return 0;
}

int cli_print_json(json_t *obj)
{
	int r = obj ? json_dump_callback(obj, put_json, stdout, JSON_INDENT(2) | JSON_ENSURE_ASCII)
		    : -1;

	json_decref(obj);
	if (r) {
		fprintf(stderr, "clone: cannot write the output\n");
		return CLI_FAIL;
	}
	putchar('\n');
	return cli_flush();
}

bool cli_colour(void)
{
	return isatty(STDOUT_FILENO) && !getenv("NO_COLOR");
}

int cli_catch_signals(struct err *e)
{
	sigset_t set;
	int fd;

	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGHUP);
	fd = sigprocmask(SIG_BLOCK, &set, NULL) ? -1
						: signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	return fd < 0 ? err_sys(e, errno, "signalfd") : fd;
}

int cli_signal_of(int signal_fd)
{
	struct signalfd_siginfo si;

	if (signal_fd < 0 || read(signal_fd, &si, sizeof(si)) != sizeof(si))
		return 0;
	return (int)si.ssi_signo;
}
