/* SPDX-License-Identifier: MIT */
/*
 * What every command shares: exit codes, the table's row, and the reading of arguments. The CLI is
 * one thread; its functions print errors themselves only where they return an exit code.
 */
#ifndef CLONE_CLI_CLI_H
#define CLONE_CLI_CLI_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

/*
 * Exit codes, here and in clone(1), nowhere else. A foreground `run` ends with enum vm_end (0
 * power-off, 10 reset, 11 panic, 12 error, 13 killed); `exec` with the guest's code.
 */
enum cli_exit {
	CLI_OK = 0,
	CLI_FAIL = 1,		/* said on stderr */
	CLI_USAGE = 2,		/* the command line makes no sense */
	CLI_EXEC_TIMEOUT = 124, /* exec: --timeout ended the command */
	CLI_EXEC_FAILED = 125,	/* exec: clone itself failed; nothing is known about the command */
	CLI_EXEC_CANNOT = 126,	/* exec: found but cannot be executed */
	CLI_EXEC_NOT_FOUND = 127,
	CLI_SIGNAL = 128, /* + the number of the signal that ended the command, or us */
};

struct command {
	const char *name;
	int (*run)(int argc,
		   char **argv); /* argv[0] is the command's name; returns the exit code */
	const char *summary;	 /* NULL: hidden */
	const char *usage;	 /* synopsis after "clone NAME", then option lines */
};

extern const struct command cli_commands[]; /* ends with a NULL name */
const struct command *cli_find(const char *name);

/* Prints "clone: story"; returns CLI_FAIL. */
int cli_fail(const struct err *e);
/* text in one line and without what a terminal acts on: parts of it come from guests and files. buf
 * may be text. */
void cli_clean(const char *text, char *buf, size_t n);
/* Prints "clone: ..." and where help is; returns CLI_USAGE. */
int cli_usage(const char *cmd, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* What getopt_long's '?' and ':' mean, for optopt or the argument before optind. CLI_USAGE. */
int cli_bad_option(const char *cmd, char **argv);
int cli_print_help(const struct command *c);
/*
 * Reads a command's options by getopt_long(3): `take` is given each, with its value in optarg, and
 * returns 0, -ENOSYS for one that is not its own, -ECANCELED when it has said what is wrong, else e
 * says it. CLI_OK with optind at the first word that is no option, or CLI_USAGE.
 */
struct option;
int cli_options(const char *cmd, int argc, char **argv, const char *letters,
		const struct option *opts, int (*take)(void *arg, int opt, struct err *e),
		void *arg);

/* -o json or -o text. False (and said so) for others. */
bool cli_output_json(const char *cmd, const char *arg, bool *json);
/* Prints obj (reference taken over) indented on stdout, in ASCII: strings may be a guest's. CLI_OK,
 * or CLI_FAIL when stdout is closed. */
int cli_print_json(json_t *obj);
/* Flushes stdout: a full disk or closed pipe must not look like success. */
int cli_flush(void);
bool cli_colour(void);

/* ---- arguments ---- */

/* true for [A-Za-z0-9][A-Za-z0-9_.-]{0,63}. */
bool cli_name_ok(const char *name);
int cli_name_check(const char *what, const char *name, struct err *e);
/* "512M", "2G", "1T": a unit is needed. -EINVAL. */
int cli_parse_size(const char *s, uint64_t *bytes, struct err *e);
/* "500ms", "10s", "2m", "1h", or seconds without a unit. -EINVAL. */
int cli_parse_duration(const char *s, uint64_t *ms, struct err *e);
int cli_parse_uint(const char *s, uint64_t min, uint64_t max, uint64_t *v, struct err *e);
/* "adjective-noun", or PREFIX-xxxx with a prefix: for people, not for secrecy. */
void cli_auto_name(const char *prefix, char *buf, size_t n);
void cli_format_size(uint64_t bytes, char *buf, size_t n);
/* "3m", "2h", "5d" since an RFC 3339 time; "" when that is not one. */
void cli_format_age(const char *created, char *buf, size_t n);
void cli_format_now(char *buf, size_t n);

/*
 * From now on SIGINT, SIGTERM and SIGHUP arrive on the returned descriptor instead of ending us, so
 * that whoever waits can clean up. It is made once and stays open; -errno.
 */
int cli_catch_signals(struct err *e);
/* The number of the signal waiting there, 0 when none. */
int cli_signal_of(int signal_fd);

#endif
