/* SPDX-License-Identifier: MIT */
/*
 * Both ends of network measurements, one static program for host and guests:
 *
 * - serve PORT: TCP and UDP; each TCP connection begins with a letter: E echoes bytes, S swallows,
 *   G gives until it is closed
 * - rr HOST PORT SECONDS: one byte there and back, again and again
 * - send|recv HOST PORT SECONDS STREAMS
 * - udp HOST PORT SECONDS SIZE: datagrams there; what arrived is asked for afterwards
 * - hold HOST PORT SECONDS: a stream of numbers there and back, each checked: the longest time
 *   without one; SIGTERM ends it sooner
 * - first HOST PORT SECONDS: tries until a connection answers
 *
 * Prints one JSON object. An error is "error" in it, and exit 1.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MANY 200000
#define HOLD_LEAST 21 /* however slow: a stream of fewer says nothing */

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static _Noreturn void fail(const char *what)
{
	printf("{\"error\":\"%s: %s\"}\n", what, strerror(errno));
	exit(1);
}

static struct sockaddr_in address(const char *host, const char *port)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port)) };

	if (inet_pton(AF_INET, host, &a.sin_addr) != 1) {
		errno = EINVAL;
		fail(host);
	}
	return a;
}

static int dial(const char *host, const char *port, char letter)
{
	struct sockaddr_in a = address(host, port);
	int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;

	if (fd < 0 || connect(fd, (struct sockaddr *)&a, sizeof(a)))
		fail("connect");
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	if (write(fd, &letter, 1) != 1)
		fail("write");
	return fd;
}

static void serve_one(int fd)
{
	static char buf[1 << 17];
	char letter;
	ssize_t n;
	int one = 1;

	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	if (read(fd, &letter, 1) != 1)
		return;
	while (letter == 'G' && write(fd, buf, sizeof(buf)) > 0)
		;
	while ((n = read(fd, buf, sizeof(buf))) > 0)
		if (letter == 'E' && write(fd, buf, (size_t)n) != n)
			return;
}

/* Counts datagrams; one that begins with '?' is answered with how many there were. */
static void serve_udp(int fd)
{
	static char buf[1 << 16];
	unsigned long long count = 0;

	for (;;) {
		struct sockaddr_in from;
		socklen_t len = sizeof(from);
		ssize_t n = recvfrom(fd, buf, sizeof(buf), 0, (struct sockaddr *)&from, &len);

		if (n <= 0)
			continue;
		if (buf[0] != '?') {
			count++;
			continue;
		}
		n = snprintf(buf, sizeof(buf), "%llu", count);
		sendto(fd, buf, (size_t)n, 0, (struct sockaddr *)&from, len);
		count = 0;
	}
}

static int serve(const char *port)
{
	struct sockaddr_in any = address("0.0.0.0", port);
	int tcp = socket(AF_INET, SOCK_STREAM, 0), udp = socket(AF_INET, SOCK_DGRAM, 0), one = 1,
	    big = 8 << 20;

	setsockopt(tcp, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	setsockopt(udp, SOL_SOCKET, SO_RCVBUF, &big, sizeof(big));
	if (bind(tcp, (struct sockaddr *)&any, sizeof(any)) || listen(tcp, 128) ||
	    bind(udp, (struct sockaddr *)&any, sizeof(any)))
		fail("bind");
	signal(SIGCHLD, SIG_IGN);
	if (!fork())
		serve_udp(udp);
	for (;;) {
		int fd = accept(tcp, NULL, NULL);

		if (fd >= 0 && !fork()) {
			serve_one(fd);
			_exit(0);
		}
		close(fd);
	}
}

static int by_size(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return x < y ? -1 : x > y;
}

static int rr(const char *host, const char *port, double seconds)
{
	static uint32_t took[MANY];
	int fd = dial(host, port, 'E');
	uint64_t end = now_ns() + (uint64_t)(seconds * 1e9), t0 = now_ns(), t = t0;
	size_t n = 0;
	char c = 'x';

	while (n < MANY && t < end) {
		uint64_t before = t;

		if (write(fd, &c, 1) != 1 || read(fd, &c, 1) != 1)
			fail("rr");
		t = now_ns();
		took[n++] = (uint32_t)((t - before) / 1000);
	}
	qsort(took, n, sizeof(took[0]), by_size);
	printf("{\"count\":%zu,\"per_second\":%.1f,\"p50_us\":%u,\"p99_us\":%u,\"max_us\":%u}\n", n,
	       (double)n * 1e9 / (double)(t - t0), took[n / 2], took[n * 99 / 100], took[n - 1]);
	return 0;
}

/* One stream; its bytes and nanoseconds go into the pipe. */
static void stream(const char *host, const char *port, double seconds, bool out, int pipe_fd)
{
	static char buf[1 << 17];
	int fd = dial(host, port, out ? 'S' : 'G');
	uint64_t t0 = now_ns(), end = t0 + (uint64_t)(seconds * 1e9);
	uint64_t sum[2] = { 0, 0 };

	while (now_ns() < end) {
		ssize_t n = out ? write(fd, buf, sizeof(buf)) : read(fd, buf, sizeof(buf));

		if (n <= 0)
			fail("stream");
		sum[0] += (uint64_t)n;
	}
	/* until the other side has it all */
	shutdown(fd, SHUT_WR);
	if (out && read(fd, buf, 1) != 0)
		fail("stream's end");
	sum[1] = now_ns() - t0;
	if (write(pipe_fd, sum, sizeof(sum)) != sizeof(sum))
		_exit(1);
	_exit(0);
}

static int streams(const char *host, const char *port, double seconds, int n, bool out)
{
	uint64_t sum[2], bytes = 0, ns = 0;
	int p[2], status, bad = 0;

	if (pipe(p))
		fail("pipe");
	for (int i = 0; i < n; i++)
		if (!fork())
			stream(host, port, seconds, out, p[1]);
	for (int i = 0; i < n; i++)
		if (wait(&status) < 0 || status)
			bad++;
	if (bad)
		exit(1);
	for (int i = 0; i < n && read(p[0], sum, sizeof(sum)) == sizeof(sum); i++) {
		bytes += sum[0];
		ns = sum[1] > ns ? sum[1] : ns;
	}
	printf("{\"bytes\":%llu,\"seconds\":%.3f,\"mbit_per_second\":%.1f}\n",
	       (unsigned long long)bytes, (double)ns / 1e9, (double)bytes * 8e3 / (double)ns);
	return 0;
}

static int udp(const char *host, const char *port, double seconds, size_t size)
{
	struct sockaddr_in a = address(host, port);
	int fd = socket(AF_INET, SOCK_DGRAM, 0);
	uint64_t t0 = now_ns(), end = t0 + (uint64_t)(seconds * 1e9), t = t0;
	unsigned long long sent = 0, got = 0;
	char buf[2048] = "!", text[32];
	struct pollfd p = { .fd = fd, .events = POLLIN };

	if (connect(fd, (struct sockaddr *)&a, sizeof(a)) || size > sizeof(buf))
		fail("udp");
	while (t < end) {
		if (send(fd, buf, size, 0) == (ssize_t)size)
			sent++;
		if (sent % 16 == 0)
			t = now_ns();
	}
	usleep(300000);
	for (int i = 0; i < 10 && !got; i++) {
		send(fd, "?", 1, 0);
		if (poll(&p, 1, 1000) > 0) {
			ssize_t n = recv(fd, text, sizeof(text) - 1, 0);

			text[n > 0 ? n : 0] = '\0';
			got = strtoull(text, NULL, 10);
		}
	}
	printf("{\"sent\":%llu,\"arrived\":%llu,\"arrived_per_second\":%.0f}\n", sent, got,
	       (double)got * 1e9 / (double)(t - t0));
	return 0;
}

static volatile sig_atomic_t enough;

static void on_term(int sig)
{
	(void)sig;
	enough = 1;
}

static int hold(const char *host, const char *port, double seconds)
{
	int fd = dial(host, port, 'E');
	uint64_t t0 = now_ns(), end = t0 + (uint64_t)(seconds * 1e9), t = t0, worst = 0, at = 0;
	struct sigaction sa = { .sa_handler = on_term, .sa_flags = SA_RESTART };
	uint64_t n = 0;

	sigaction(SIGTERM, &sa, NULL); /* restarted: no read is cut short */
	while ((t < end && !enough) || n < HOLD_LEAST) {
		uint64_t back = 0, before = t;
		size_t have = 0;

		if (write(fd, &n, sizeof(n)) != sizeof(n))
			fail("hold: write");
		while (have < sizeof(back)) {
			ssize_t r = read(fd, (char *)&back + have, sizeof(back) - have);

			if (r <= 0) {
				errno = r ? errno : ECONNRESET;
				fail("hold: read");
			}
			have += (size_t)r;
		}
		if (back != n) {
			errno = EBADMSG;
			fail("hold");
		}
		t = now_ns();
		if (t - before > worst) {
			worst = t - before;
			at = before - t0;
		}
		n++;
	}
	printf("{\"count\":%llu,\"worst_ms\":%.3f,\"worst_at_s\":%.3f}\n", (unsigned long long)n,
	       (double)worst / 1e6, (double)at / 1e9);
	return 0;
}

static int first(const char *host, const char *port, double seconds)
{
	struct sockaddr_in a = address(host, port);
	uint64_t t0 = now_ns(), end = t0 + (uint64_t)(seconds * 1e9);
	unsigned int tries = 0;

	while (now_ns() < end) {
		int fd = socket(AF_INET, SOCK_STREAM, 0);
		struct timeval tv = { .tv_sec = 1 + tries };
		char c = 'E';

		tries++;
		setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof(tv));
		setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv));
		if (!connect(fd, (struct sockaddr *)&a, sizeof(a)) && write(fd, &c, 1) == 1 &&
		    write(fd, "y", 1) == 1 && read(fd, &c, 1) == 1 && c == 'y') {
			printf("{\"tries\":%u,\"monotonic_ns\":%llu}\n", tries,
			       (unsigned long long)now_ns());
			return 0;
		}
		close(fd);
		usleep(500);
	}
	errno = ETIMEDOUT;
	fail("first");
}

int main(int argc, char **argv)
{
	double seconds = argc > 4 ? atof(argv[4]) : 0;

	signal(SIGPIPE, SIG_IGN);
	if (argc == 3 && !strcmp(argv[1], "serve"))
		return serve(argv[2]);
	if (argc == 5 && !strcmp(argv[1], "rr"))
		return rr(argv[2], argv[3], seconds);
	if (argc == 6 && !strcmp(argv[1], "send"))
		return streams(argv[2], argv[3], seconds, atoi(argv[5]), true);
	if (argc == 6 && !strcmp(argv[1], "recv"))
		return streams(argv[2], argv[3], seconds, atoi(argv[5]), false);
	if (argc == 6 && !strcmp(argv[1], "udp"))
		return udp(argv[2], argv[3], seconds, (size_t)atoi(argv[5]));
	if (argc == 5 && !strcmp(argv[1], "hold"))
		return hold(argv[2], argv[3], seconds);
	if (argc == 5 && !strcmp(argv[1], "first"))
		return first(argv[2], argv[3], seconds);
	fprintf(stderr, "usage: netpeer serve PORT | rr|send|recv|udp|hold|first HOST PORT SECONDS "
			"[STREAMS|SIZE]\n");
	return 2;
}
