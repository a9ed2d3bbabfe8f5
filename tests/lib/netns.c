/* SPDX-License-Identifier: MIT */
/*
 * Network namespaces for tests. See netns.h.
 */
#include "tests/lib/netns.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/time.h"
#include "base/util.h"
#include "control/json.h"
#include "network/private.h"
#include "tests/lib/scratch.h"

bool netns_possible(void)
{
	pid_t pid = fork();
	int status;

	if (!pid)
		_exit(geteuid() || unshare(CLONE_NEWNET) || access("/dev/net/tun", R_OK | W_OK) ||
		      system("nft list ruleset >/dev/null 2>&1"));
	return pid > 0 && waitpid(pid, &status, 0) == pid && !status;
}

char *netns_begin(void)
{
	char *dir = scratch_make();

	setenv("CLONE_RUN_DIR", scratch_path(dir, "run"), 1);
	setenv("CLONE_STATE_DIR", scratch_path(dir, "state"), 1);
	assert_int_equal(unshare(CLONE_NEWNET), 0);
	assert_int_equal(system("ip link set lo up"), 0);
	return dir;
}

void netns_end(char *dir)
{
	char lock[64];

	/* the host's own would stay; this host ends */
	if (!hostlock_path(lock, sizeof(lock), NULL))
		unlink(lock);
	scratch_remove(dir);
}

static char *command(pid_t pid, const char *fmt, va_list ap)
{
	cleanup_free char *cmd = NULL;
	char *all = NULL;

	assert_true(vasprintf(&cmd, fmt, ap) > 0);
	if (pid)
		assert_true(asprintf(&all, "exec nsenter -t %d -n sh -c '%s'", (int)pid, cmd) > 0);
	return pid ? all : take_ptr(cmd);
}

static int run(const char *cmd)
{
	int status = system(cmd);

	assert_true(WIFEXITED(status));
	return WEXITSTATUS(status);
}

int netns_run(pid_t pid, const char *fmt, ...)
{
	cleanup_free char *cmd = NULL;
	va_list ap;

	va_start(ap, fmt);
	cmd = command(pid, fmt, ap);
	va_end(ap);
	return run(cmd);
}

bool netns_until(pid_t pid, const char *fmt, ...)
{
	uint64_t until = time_mono_ns() + 60 * NS_PER_SEC;
	cleanup_free char *cmd = NULL;
	va_list ap;

	va_start(ap, fmt);
	cmd = command(pid, fmt, ap);
	va_end(ap);
	while (run(cmd)) {
		if (time_mono_ns() > until)
			return false;
		usleep(20000);
	}
	return true;
}

char *netns_out(pid_t pid, const char *fmt, ...)
{
	cleanup_free char *cmd = NULL;
	va_list ap;
	char *out;

	va_start(ap, fmt);
	cmd = command(pid, fmt, ap);
	va_end(ap);
	out = scratch_sh("%s", cmd);
	if (*out && out[strlen(out) - 1] == '\n')
		out[strlen(out) - 1] = '\0';
	return out;
}

pid_t netns_start(pid_t pid, const char *fmt, ...)
{
	cleanup_free char *cmd = NULL, *exec_fmt = NULL;
	va_list ap;
	pid_t child;

	/* itself, not a shell that waits for it: what is started ends with the test */
	assert_true(asprintf(&exec_fmt, "exec %s", fmt) > 0);
	va_start(ap, fmt);
	cmd = command(pid, exec_fmt, ap);
	va_end(ap);
	child = fork();
	assert_true(child >= 0);
	if (!child) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		setpgid(0, 0);
		if (!freopen("/dev/null", "w", stdout) || !freopen("/dev/null", "w", stderr))
			_exit(127);
		syscall(SYS_close_range, 3u, ~0u, 0u);
		execl("/bin/sh", "sh", "-c", cmd, NULL);
		_exit(127);
	}
	setpgid(child, child);
	return child;
}

void netns_kill(pid_t pid)
{
	kill(-pid, SIGKILL);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

char *netns_state(void)
{
	return scratch_sh(
		"ip -d link; ip addr; ip route show table all; "
		"ip -6 route show table all; ip neigh show nud all; nft list ruleset; "
		"sysctl net.ipv4.ip_forward net.ipv4.conf net.ipv6.conf 2>/dev/null | sort");
}

/* A process in a namespace of its own, which says when it is set up. */
static pid_t in_own(void (*go)(void *arg, int ready), void *arg)
{
	char c = 0;
	pid_t pid;
	int p[2];

	assert_int_equal(pipe2(p, O_CLOEXEC), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(p[0]);
		if (!unshare(CLONE_NEWNET) && !system("ip link set lo up"))
			go(arg, p[1]);
		_exit(1);
	}
	close(p[1]);
	if (read(p[0], &c, 1) != 1)
		fail_msg("a namespace was not set up");
	close(p[0]);
	return pid;
}

static void be_outside(void *arg, int ready)
{
	(void)arg;
	if (write(ready, "!", 1) == 1)
		for (;;)
			pause();
}

pid_t netns_outside(void)
{
	pid_t pid = in_own(be_outside, NULL);

	assert_int_equal(netns_run(0,
				   "ip link add up0 type veth peer name eth0 netns %d && "
				   "ip addr add 192.0.2.1/24 dev up0 && "
				   "ip addr add 2001:db8::1/64 dev up0 nodad && ip link set up0 up",
				   (int)pid),
			 0);
	assert_int_equal(netns_run(pid, "ip addr add 192.0.2.2/24 dev eth0 && "
					"ip addr add 2001:db8::2/64 dev eth0 nodad && "
					"ip addr add 169.254.169.254/32 dev lo && "
					"ip addr add fd00:ec2::254/128 dev lo && "
					"ip link set eth0 up"),
			 0);
	assert_int_equal(netns_run(0, "ip route add default via 192.0.2.2 && "
				      "ip route add default via 2001:db8::2"),
			 0);
	return pid;
}

static void pump(int from, int to)
{
	char buf[70000];
	ssize_t n;

	while ((n = read(from, buf, sizeof(buf))) > 0)
		if (write(to, buf, (size_t)n) != n && errno != EAGAIN && errno != EIO)
			return;
}

static int own_eth0(const struct nic_address *a)
{
	struct ifreq ifr = { .ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR };
	int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC), header = 12;
	char cmd[700], ip4[64], gw4[64], ip6[64];
	int n;

	strcpy(ifr.ifr_name, "eth0");
	if (fd < 0 || ioctl(fd, TUNSETIFF, &ifr) || ioctl(fd, TUNSETVNETHDRSZ, &header))
		return -1;
	inet_ntop(AF_INET, a->ip4, ip4, sizeof(ip4));
	inet_ntop(AF_INET, a->gw4, gw4, sizeof(gw4));
	inet_ntop(AF_INET6, a->ip6, ip6, sizeof(ip6));
	n = snprintf(
		cmd, sizeof(cmd),
		"ip link set eth0 addrgenmode none address %02x:%02x:%02x:%02x:%02x:%02x mtu %u && "
		"ip link set eth0 up",
		a->mac[0], a->mac[1], a->mac[2], a->mac[3], a->mac[4], a->mac[5], a->mtu);
	if (a->prefix4)
		n += snprintf(cmd + n, sizeof(cmd) - (size_t)n, " && ip addr add %s/%d dev eth0",
			      ip4, a->respond ? 32 : a->prefix4);
	if (a->prefix4 && a->respond)
		n += snprintf(cmd + n, sizeof(cmd) - (size_t)n,
			      " && ip route add %s dev eth0 && ip route add default via %s", gw4,
			      gw4);
	if (a->prefix6)
		snprintf(cmd + n, sizeof(cmd) - (size_t)n,
			 " && ip addr add fe80::2/64 dev eth0 nodad && "
			 "ip addr add %s/%u dev eth0 nodad && "
			 "ip route add default via fe80::1 dev eth0",
			 ip6, a->prefix6);
	return system(cmd) ? -1 : fd;
}

static void be_guest(void *arg, int ready)
{
	const struct network_port *p = arg;
	struct pollfd pfd[2] = { { .events = POLLIN }, { .events = POLLIN } };

	pfd[0].fd = p->tap_fd[0];
	pfd[1].fd = own_eth0(&p->addr);
	if (pfd[1].fd < 0 || write(ready, "!", 1) != 1)
		return;
	while (poll(pfd, 2, -1) > 0) {
		pump(pfd[0].fd, pfd[1].fd);
		pump(pfd[1].fd, pfd[0].fd);
	}
}

pid_t netns_guest(const struct network_port *p)
{
	return in_own(be_guest, (void *)(uintptr_t)p);
}

void netns_attach(const struct network *nw, const char *vm, const struct network_publish *pub,
		  size_t n_pub, struct network_port *p)
{
	struct network_want w = { .vm = vm, .queues = 1, .publish = pub, .nr_publish = n_pub };
	struct err e;

	if (network_attach(nw, &w, 1, p, &e))
		fail_msg("%s", e.msg);
}

struct network netns_network(const char *name, const struct network_options *o)
{
	struct network nw;
	struct err e;

	if (network_create(name, o, &nw, &e))
		fail_msg("%s", e.msg);
	return nw;
}

struct network netns_nat(const char *name)
{
	return netns_network(name, &(struct network_options){ .mode = NETWORK_NAT });
}

size_t netns_waiting(const struct network *nw)
{
	cleanup_json json_t *j = NULL;
	struct err e;

	if (network_describe(nw, &j, &e))
		fail_msg("%s", e.msg);
	return (size_t)json_integer_value(json_object_get(j, "waiting"));
}

size_t netns_on_it(const struct network *nw)
{
	cleanup_json json_t *j = NULL;
	struct err e;

	if (network_describe(nw, &j, &e))
		fail_msg("%s", e.msg);
	return json_array_size(json_object_get(j, "vms"));
}

void netns_unchanged(const char *before)
{
	cleanup_free char *now = netns_state();

	assert_string_equal(now, before);
}
