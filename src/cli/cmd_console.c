/* SPDX-License-Identifier: MIT */
/*
 * clone console and clone logs: a VM's serial port, now and so far.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/util.h"
#include "cli/cli.h"
#include "cli/commands.h"
#include "cli/state.h"
#include "cli/term.h"
#include "control/sock.h"

const char cmd_console_usage[] =
	"VM\n"
	"\n"
	"Connects this terminal to the VM's serial console; Ctrl-] detaches.\n";
const char cmd_logs_usage[] =
	"[-f] [--vmm] VM\n"
	"\n"
	"  -f, --follow   go on until the VM ends\n"
	"      --vmm      what the VM process itself said, instead of the guest's console\n";

int cmd_console(int argc, char **argv)
{
	cleanup_close int sock = -1;
	struct vmdir d;
	struct err e;
	int r, signals;

	opterr = 0;
	if (getopt(argc, argv, "+") != -1)
		return cli_bad_option("console", argv);
	if (argc - optind != 1)
		return cli_usage("console", "one VM, please");
	signals = cli_catch_signals(&e);
	r = signals < 0 ? signals : vmdir_open(PLACE_VM, argv[optind], &d, &e);
	if (r)
		return cli_fail(&e);
	sock = sock_connect(d.fd, "console.sock", SOCK_STREAM, &e);
	if (sock == -ECONNREFUSED || sock == -ENOENT)
		err_set(&e, ESRCH, "%s is not running: `clone logs %s` shows what it said", d.name,
			d.name);
	vmdir_close(&d);
	if (sock < 0)
		return cli_fail(&e);
	if (isatty(STDIN_FILENO))
		fprintf(stderr, "clone: console of %s; Ctrl-] detaches\n", argv[optind]);
	r = console_session(sock, signals, &e);
	if (r < 0)
		return cli_fail(&e);
	if (isatty(STDIN_FILENO))
		fprintf(stderr, "\nclone: %s\n",
			r == CONSOLE_CLOSED ? "the console was closed" : "detached");
	return r == CONSOLE_SIGNAL ? CLI_SIGNAL + cli_signal_of(signals) : CLI_OK;
}

static int copy_rest(int fd, struct err *e)
{
	char buf[65536];
	ssize_t n;
	int r;

	while ((n = read(fd, buf, sizeof(buf))) > 0) {
		r = fd_write_full(STDOUT_FILENO, buf, (size_t)n);
		if (r)
			return err_sys(e, -r, "cannot write the output");
	}
	return n < 0 ? err_sys(e, errno, "cannot read the log") : 0;
}

/* inotify says when the file grew; the descriptor socket's end says when the VM did. */
static int follow(const struct vmdir *d, const char *file, int fd, struct err *e)
{
	cleanup_close int life = sock_connect(d->fd, "fd.sock", SOCK_SEQPACKET, NULL);
	cleanup_close int notify = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
	char path[64], drain[4096];
	int r;

	snprintf(path, sizeof(path), "/proc/self/fd/%d/%s", d->fd, file);
	if (notify < 0 || inotify_add_watch(notify, path, IN_MODIFY) < 0)
		return err_sys(e, errno, "inotify");
	for (;;) {
		struct pollfd p[2] = { { .fd = notify, .events = POLLIN },
				       { .fd = life, .events = POLLIN } };

		r = copy_rest(fd, e);
		if (r || life < 0)
			return r;
		if (poll(p, 2, -1) < 0 && errno != EINTR)
			return err_sys(e, errno, "poll");
		while (read(notify, drain, sizeof(drain)) > 0)
			;
		if (p[1].revents)
			return copy_rest(fd, e);
	}
}

int cmd_logs(int argc, char **argv)
{
	static const struct option opts[] = {
		{ "follow", no_argument, NULL, 'f' },
		{ "vmm", no_argument, NULL, 'v' },
		{ NULL, 0, NULL, 0 },
	};
	const char *file = "console.log";
	cleanup_close int fd = -1;
	bool more = false;
	struct vmdir d;
	struct err e;
	int opt, r;

	opterr = 0;
	while ((opt = getopt_long(argc, argv, "+f", opts, NULL)) != -1) {
		if (opt == 'f')
			more = true;
		else if (opt == 'v')
			file = "vmm.log";
		else
			return cli_bad_option("logs", argv);
	}
	if (argc - optind != 1)
		return cli_usage("logs", "one VM, please");
	r = vmdir_open(PLACE_VM, argv[optind], &d, &e);
	if (r)
		return cli_fail(&e);
	fd = openat(d.fd, file, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0)
		r = err_sys(&e, errno, "%s: %s", d.name, file);
	else
		r = more ? follow(&d, file, fd, &e) : copy_rest(fd, &e);
	vmdir_close(&d);
	return r ? cli_fail(&e) : CLI_OK;
}
