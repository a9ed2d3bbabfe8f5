/* SPDX-License-Identifier: MIT */
/*
 * clone top: what VMs cost in memory, again and again. It sleeps twenty times as long as a look
 * takes, so that it costs the host a twentieth of a processor at most.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/time.h"
#include "base/util.h"
#include "cli/cli.h"
#include "cli/commands.h"
#include "cli/measure.h"
#include "cli/term.h"

const char cmd_top_usage[] =
	"\n"
	"\n"
	"As `clone stats`, again every second or, where looking takes longer than 50 ms, every\n"
	"twenty times that. Keys: m, u, n sort by memory, unique memory, name; q quits.\n"
	"Not on a terminal it prints once.\n";

#define LEAST_MS 1000u
#define REST 20u    /* times what a look took */
#define CTRL_C 0x03 /* the terminal is raw */
#define SCREEN_ON "\033[?1049h\033[?25l"
#define SCREEN_OFF "\033[?25h\033[?1049l"

struct top {
	struct measure m;
	enum measure_order order;
	int signals, resized;
	int by; /* the signal that ended us */
};

/* As much of text as the terminal has room for: lines end where it does. */
static int draw_text(const char *text)
{
	cleanup_free char *out = NULL;
	uint16_t rows, cols, col = 0, row = 1;
	size_t n = 0;
	bool escape = false;
	FILE *f = open_memstream(&out, &n);

	if (!f)
		return -ENOMEM;
	term_size(STDOUT_FILENO, &rows, &cols);
	fputs("\033[H", f);
	for (const char *p = text; *p; p++) {
		if (*p == '\n') {
			if (row++ == rows)
				break;
			fputs("\033[K\r\n", f);
			col = 0;
		} else if (*p == '\033' || escape) {
			escape = *p != 'm';
			fputc(*p, f);
		} else if (col++ < cols) {
			fputc(*p, f);
		}
	}
	fputs("\033[J", f);
	if (fclose(f))
		return -ENOMEM;
	return fd_write_full(STDOUT_FILENO, out, n);
}

static int draw(struct top *t)
{
	cleanup_free char *text = NULL;
	bool colour = cli_colour();
	size_t n = 0;
	FILE *f = open_memstream(&text, &n);

	if (!f)
		return -ENOMEM;
	measure_sort(&t->m, t->order);
	measure_print(f, &t->m, NULL, 0, colour ? "\033[7m" : "", colour ? "\033[0m" : "");
	if (fclose(f))
		return -ENOMEM;
	return draw_text(text);
}

/* What was typed: false ends. */
static bool typed(struct top *t)
{
	char keys[32];
	ssize_t n = read(STDIN_FILENO, keys, sizeof(keys));

	if (n < 0)
		return errno == EINTR || errno == EAGAIN;
	for (ssize_t i = 0; i < n; i++) {
		if (keys[i] == 'q' || keys[i] == CTRL_C)
			return false;
		if (keys[i] == 'm')
			t->order = MEASURE_BY_MEM;
		else if (keys[i] == 'u')
			t->order = MEASURE_BY_UNIQUE;
		else if (keys[i] == 'n')
			t->order = MEASURE_BY_NAME;
	}
	return n > 0;
}

/* Until it is time to look again: 1; 0: it is over; -errno of drawing. */
static int rest(struct top *t, uint64_t until, bool keys)
{
	for (;;) {
		struct pollfd p[] = {
			{ .fd = keys ? STDIN_FILENO : -1, .events = POLLIN },
			{ .fd = t->signals, .events = POLLIN },
			{ .fd = t->resized, .events = POLLIN },
		};
		uint64_t now = time_mono_ns();
		struct signalfd_siginfo si;
		int r;

		if (now >= until)
			return 1;
		r = poll(p, ARRAY_SIZE(p), (int)((until - now) / NS_PER_MS) + 1);
		if (r < 0 && errno != EINTR)
			return -errno;
		if (r <= 0)
			continue;
		t->by = cli_signal_of(t->signals);
		if (t->by || (p[0].revents && !typed(t)))
			return 0;
		if (p[2].revents && read(t->resized, &si, sizeof(si)) < 0 && errno != EAGAIN)
			return -errno;
		r = draw(t);
		if (r)
			return r;
	}
}

static int look(struct top *t, bool keys, struct err *e)
{
	for (;;) {
		uint64_t pause;
		int r = measure_take(&t->m, e);

		if (r)
			return r;
		pause = MAX(LEAST_MS * NS_PER_MS, REST * t->m.spent_ns);
		r = draw(t);
		if (!r)
			r = rest(t, time_mono_ns() + pause, keys);
		measure_fini(&t->m);
		if (r <= 0)
			return r ? err_sys(e, -r, "cannot write to the terminal") : 0;
	}
}

/* The window's size is asked for at each drawing; this only says when. */
static int catch_resizing(struct err *e)
{
	sigset_t set;
	int fd;

	sigemptyset(&set);
	sigaddset(&set, SIGWINCH);
	fd = sigprocmask(SIG_BLOCK, &set, NULL) ? -1
						: signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	return fd < 0 ? err_sys(e, errno, "signalfd") : fd;
}

int cmd_top(int argc, char **argv)
{
	struct top t = { .order = MEASURE_BY_MEM };
	char *once[] = { argv[0], NULL };
	struct term term;
	struct err e;
	int r;

	if (argc > 1)
		return argv[1][0] == '-' ? cli_usage("top", "%s is unknown", argv[1])
					 : cli_usage("top", "'%s' is not expected", argv[1]);
	if (!isatty(STDOUT_FILENO)) {
		optind = 1;
		return cmd_stats(1, once);
	}
	t.signals = cli_catch_signals(&e);
	t.resized = t.signals < 0 ? t.signals : catch_resizing(&e);
	if (t.resized < 0)
		return cli_fail(&e);
	term_raw(&term, STDIN_FILENO);
	(void)fd_write_full(STDOUT_FILENO, SCREEN_ON, strlen(SCREEN_ON));
	r = look(&t, term.fd >= 0, &e);
	(void)fd_write_full(STDOUT_FILENO, SCREEN_OFF, strlen(SCREEN_OFF));
	term_restore(&term);
	close(t.signals);
	close(t.resized);
	if (r)
		return cli_fail(&e);
	return t.by ? CLI_SIGNAL + t.by : CLI_OK;
}
