/* SPDX-License-Identifier: MIT */
/*
 * The responder on a TAP, with a guest that is no model: another network namespace with a kernel's
 * own IPv6 and busybox's DHCP client. The test is the wire between the host's TAP and the guest's,
 * on the loop that the responder is on.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/time.h"
#include "base/util.h"
#include "event/fdtab.h"
#include "event/loop.h"
#include "net/responder.h"
#include "tests/lib/netframe.h"
#include "tests/lib/scratch.h"

struct wire {
	pthread_mutex_t lock;
	struct loop *loop;
	struct fdtab *fds;
	struct loop_io *io[2];
	struct loop_timer *poll;
	struct responder *r;
	int home, guest_ns, host_ns, null;
	int guest, host;      /* TAPs: what is read from one is what its kernel sends */
	unsigned int answers; /* frames that the host sent */
	pid_t pid;
	int status;
	char *dir, script[128], log[128];
	const char *line; /* what is waited for */
};

static int tap(const char *name, const uint8_t *mac)
{
	struct ifreq ifr = { .ifr_flags = IFF_TAP | IFF_NO_PI };
	int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);

	assert_true(fd >= 0);
	strcpy(ifr.ifr_name, name);
	assert_int_equal(ioctl(fd, TUNSETIFF, &ifr), 0);
	ifr.ifr_hwaddr.sa_family = ARPHRD_ETHER;
	memcpy(ifr.ifr_hwaddr.sa_data, mac, NIC_MAC);
	assert_int_equal(ioctl(fd, SIOCSIFHWADDR, &ifr), 0);
	return fd;
}

static void up(const char *name)
{
	int s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct ifreq ifr = { .ifr_flags = IFF_UP };

	strcpy(ifr.ifr_name, name);
	assert_int_equal(ioctl(s, SIOCSIFFLAGS, &ifr), 0);
	close(s);
}

static void from_guest(void *arg, int fd, unsigned int events)
{
	struct wire *w = arg;
	uint8_t b[2048];
	ssize_t n = read(fd, b, sizeof(b));

	(void)events;
	if (n > 0)
		(void)!write(w->host, b, (size_t)n);
}

static void to_guest(void *arg, int fd, unsigned int events)
{
	struct wire *w = arg;
	uint8_t b[2048];
	ssize_t n = read(fd, b, sizeof(b));

	(void)events;
	/* the host's kernel has no address there, but it does look for neighbours */
	w->answers += n > 14 && b[12] == 8;
	if (n > 0)
		(void)!write(w->guest, b, (size_t)n); /* fails while that is down */
}

static void on_poll(void *arg)
{
	(void)arg;
}

/* Lets frames flow until then; false: it did not come to that in time. */
static bool run_until(struct wire *w, bool (*until)(struct wire *w), unsigned int ms)
{
	uint64_t deadline = time_mono_ns() + ms * NS_PER_MS;

	while (!until(w)) {
		if (time_mono_ns() > deadline)
			return false;
		loop_set_timer(w->poll, 10 * NS_PER_MS);
		assert_int_equal(event_base_loop(loop_base(w->loop), EVLOOP_ONCE), 0);
	}
	return true;
}

static bool never(struct wire *w)
{
	(void)w;
	return false;
}

static bool one_answer(struct wire *w)
{
	return w->answers == 1;
}

static bool two_answers(struct wire *w)
{
	return w->answers >= 2;
}

static bool ended(struct wire *w)
{
	return waitpid(w->pid, &w->status, WNOHANG) == w->pid;
}

static void start(struct wire *w, char *const argv[])
{
	w->pid = fork();
	assert_true(w->pid >= 0);
	if (w->pid)
		return;
	if (setns(w->guest_ns, CLONE_NEWNET))
		_exit(126);
	dup2(w->null, STDOUT_FILENO);
	dup2(w->null, STDERR_FILENO);
	execvp(argv[0], argv);
	_exit(127);
}

/* Runs a command in the guest to its end and returns its exit code. */
static int guest(struct wire *w, char *const argv[])
{
	start(w, argv);
	assert_true(run_until(w, ended, 120000));
	assert_true(WIFEXITED(w->status));
	return WEXITSTATUS(w->status);
}

/* A file of the guest's namespace. */
static bool guest_file_has(struct wire *w, const char *path, const char *text)
{
	static char b[65536];
	int fd;
	ssize_t n;

	assert_int_equal(setns(w->guest_ns, CLONE_NEWNET), 0);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	n = fd < 0 ? 0 : read(fd, b, sizeof(b) - 1);
	b[MAX(n, 0)] = 0;
	close(fd);
	assert_int_equal(setns(w->host_ns, CLONE_NEWNET), 0);
	return strstr(b, text);
}

static bool logged(struct wire *w)
{
	return guest_file_has(w, w->log, w->line);
}

static void wait_line(struct wire *w, const char *line)
{
	w->line = line;
	if (!run_until(w, logged, 60000))
		fail_msg("the DHCP client did not say: %s", line);
	assert_int_equal(truncate(w->log, 0), 0);
}

static int bound_socket(void)
{
	struct sockaddr_ll ll = { .sll_family = AF_PACKET, .sll_protocol = htobe16(ETH_P_ALL) };
	int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);

	assert_int_equal(responder_filter(fd, NULL), 0);
	ll.sll_ifindex = (int)if_nametoindex("h0");
	assert_int_equal(bind(fd, (struct sockaddr *)&ll, sizeof(ll)), 0);
	return fd;
}

static void write_script(struct wire *w)
{
	w->dir = scratch_make();
	snprintf(w->script, sizeof(w->script), "%s/script", w->dir);
	snprintf(w->log, sizeof(w->log), "%s/log", w->dir);
	scratch_text(w->dir, "script",
		     "#!/bin/sh\n"
		     "echo \"$1 $ip/$mask $router $dns $mtu $lease $serverid $broadcast;\" "
		     ">>${0%/*}/log\n"
		     "case $1 in\n"
		     "deconfig) busybox ip addr flush dev g0 ;;\n"
		     "bound) busybox ip addr add $ip/$mask dev g0 && "
		     "busybox ip route add default via $router ;;\n"
		     "esac\n");
	assert_int_equal(chmod(w->script, 0755), 0);
}

static int setup(void **state)
{
	static struct wire w;

	w = (struct wire){ .lock = PTHREAD_MUTEX_INITIALIZER };
	w.null = open("/dev/null", O_WRONLY | O_CLOEXEC);
	w.home = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
	assert_int_equal(unshare(CLONE_NEWNET), 0);
	w.guest_ns = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
	w.guest = tap("g0", nf_mac);
	assert_int_equal(unshare(CLONE_NEWNET), 0);
	w.host_ns = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
	w.host = tap("h0", nf_gw_mac);
	up("h0");
	assert_int_equal(loop_create(&w.lock, &w.loop, NULL), 0);
	assert_int_equal(fdtab_create(&w.fds, NULL), 0);
	w.io[0] = loop_add_io(w.loop, w.guest, LOOP_READ, from_guest, &w);
	w.io[1] = loop_add_io(w.loop, w.host, LOOP_READ, to_guest, &w);
	w.poll = loop_add_timer(w.loop, on_poll, &w);
	write_script(&w);
	assert_int_equal(responder_create(w.loop, w.fds, bound_socket(), &nf_address, "responder",
					  &w.r, NULL),
			 0);
	assert_int_equal(setns(w.guest_ns, CLONE_NEWNET), 0);
	up("g0");
	assert_int_equal(setns(w.host_ns, CLONE_NEWNET), 0);
	*state = &w;
	return 0;
}

static int teardown(void **state)
{
	struct wire *w = *state;

	responder_destroy(w->r);
	assert_int_equal(fdtab_stale(w->fds, NULL), 0);
	loop_del_io(w->io[0]);
	loop_del_io(w->io[1]);
	loop_del_timer(w->poll);
	loop_destroy(w->loop);
	fdtab_destroy(w->fds);
	close(w->guest);
	close(w->host);
	close(w->guest_ns);
	close(w->host_ns);
	assert_int_equal(setns(w->home, CLONE_NEWNET), 0);
	close(w->home);
	close(w->null);
	scratch_remove(w->dir);
	return 0;
}

static void test_net__a_dhcp_client_gets_the_address_and_arp_says_who_is_there(void **state)
{
	struct wire *w = *state;
	char *dhcp[] = { "busybox", "udhcpc", "-i", "g0", "-n",	     "-t",
			 "20",	    "-q",     "-f", "-s", w->script, NULL };
	/* until the first answer */
	char *gw[] = { "busybox", "arping", "-f", "-w", "60", "-I", "g0", "10.1.0.1", NULL };
	char *there[] = { "busybox", "arping", "-f", "-w", "60", "-I", "g0", "10.1.2.77", NULL };
	char *peer[] = { "busybox", "arping", "-c", "1", "-w", "2", "-I", "g0", "10.1.2.77", NULL };
	char *own[] = { "busybox", "arping", "-D", "-c",       "1", "-w",
			"2",	   "-I",     "g0", "10.1.2.3", NULL };
	struct nic_address a = nf_address;

	assert_int_equal(guest(w, dhcp), 0);
	wait_line(w, "bound 10.1.2.3/20 10.1.0.1 1.1.1.1 9.9.9.9 1400 3600 10.1.0.1 10.1.15.255;");
	assert_int_equal(guest(w, gw), 0);
	assert_int_equal(guest(w, own), 0); /* nobody else has it */
	assert_int_not_equal(guest(w, peer), 0);
	a.peers = true;
	responder_set_address(w->r, &a);
	assert_int_equal(guest(w, there), 0);
	assert_int_equal(guest(w, own), 0);
}

static void test_net__a_client_that_renews_anothers_address_gets_a_nak_and_its_own(void **state)
{
	struct wire *w = *state;
	char *dhcp[] = { "busybox", "udhcpc", "-i", "g0", "-f", "-s", w->script, NULL };
	struct nic_address a = nf_address;

	start(w, dhcp);
	wait_line(w, "bound 10.1.2.3/20 ");
	kill(w->pid, SIGUSR1);
	wait_line(w, "renew 10.1.2.3/20 ");
	a.ip4[3] = 9;
	responder_set_address(w->r, &a);
	kill(w->pid, SIGUSR1);
	wait_line(w, "nak ");
	wait_line(w, "bound 10.1.2.9/20 ");
	kill(w->pid, SIGKILL);
	assert_true(run_until(w, ended, 60000));
}

static bool has_address(struct wire *w)
{
	/* the prefix, and of the MAC what SLAAC makes of it */
	return guest_file_has(w, "/proc/thread-self/net/if_inet6", w->line);
}

static bool has_route(struct wire *w)
{
	return guest_file_has(w, "/proc/thread-self/net/ipv6_route",
			      "00000000000000000000000000000000 00 "
			      "00000000000000000000000000000000 00 "
			      "fe800000000000000000000000000001 ");
}

static void test_net__a_kernel_configures_itself_from_its_solicitation(void **state)
{
	struct nic_address a = nf_address;
	struct wire *w = *state;

	w->line = "fdc100010002000300c100fffe000007 ";
	assert_true(run_until(w, has_address, 60000));
	assert_true(run_until(w, has_route, 60000));
	/* a new prefix is told without being asked for */
	a.ip6[7] = 4;
	responder_set_address(w->r, &a);
	w->line = "fdc100010002000400c100fffe000007 ";
	assert_true(run_until(w, has_address, 60000));
}

static void test_net__a_flood_is_answered_at_its_rate_and_only_for_a_time(void **state)
{
	struct nf_frame f = nf_dhcp(&(struct nf_ask){ .type = 1 });
	struct wire *w = *state;
	uint64_t t = time_mono_ns();

	for (unsigned int i = 0; i < 20; i++) {
		for (unsigned int k = 0; k < 50; k++)
			assert_int_equal(write(w->host, f.b, f.n), f.n);
		run_until(w, never, 20);
	}
	t = time_mono_ns() - t;
	assert_in_range(w->answers, RESPONDER_PER_SECOND,
			RESPONDER_PER_SECOND + t * RESPONDER_PER_SECOND / NS_PER_SEC + 1);
	run_until(w, never, 5000); /* what the kernel kept of it */
	w->answers = 0;
	assert_int_equal(write(w->host, f.b, f.n), f.n);
	assert_true(run_until(w, one_answer, 60000));
}

static void test_net__what_the_host_sends_and_frames_of_vlans_are_not_answered(void **state)
{
	struct nf_frame f = nf_dhcp(&(struct nf_ask){ .type = 1 }), tagged = { .n = 0 };
	struct wire *w = *state;
	int fd = bound_socket();

	/* the kernel takes a tag out: without a look at where it keeps it, this is the same frame
	 */
	nf_put_bytes(&tagged, f.b, 12);
	nf_put(&tagged, 0x81000001, 4);
	nf_put_bytes(&tagged, f.b + 12, f.n - 12);
	assert_int_equal(write(w->host, tagged.b, tagged.n), tagged.n);
	run_until(w, never, 300);
	assert_int_equal(w->answers, 0);
	assert_int_equal(send(fd, f.b, f.n, 0), f.n);
	assert_true(run_until(w, one_answer, 60000));
	run_until(w, never, 300);
	assert_int_equal(w->answers, 1); /* itself */
	close(fd);
	assert_int_equal(write(w->host, f.b, f.n), f.n);
	assert_true(run_until(w, two_answers, 60000));
	run_until(w, never, 300);
	assert_int_equal(w->answers, 2);
}

static void test_net__what_is_no_packet_socket_is_refused_and_closed(void **state)
{
	struct wire *w = *state;
	struct responder *r = NULL;
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	assert_int_equal(responder_create(w->loop, w->fds, fd, &nf_address, "none", &r, NULL),
			 -EINVAL);
	assert_null(r);
	assert_int_equal(fcntl(fd, F_GETFD), -1);
	fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0); /* bound to nothing */
	assert_int_equal(responder_create(w->loop, w->fds, fd, &nf_address, "none", &r, NULL),
			 -EINVAL);
	assert_int_equal(fcntl(fd, F_GETFD), -1);
	assert_int_equal(fdtab_stale(w->fds, NULL), 0);
}

static void test_net__a_tap_that_goes_away_is_survived(void **state)
{
	struct wire *w = *state;

	loop_del_io(w->io[1]);
	w->io[1] = NULL;
	close(w->host);
	w->host = -1;
	run_until(w, never, 300);
	responder_set_address(w->r, &nf_address);
}

static void test_net__a_forks_child_forgets_it_and_the_parent_goes_on(void **state)
{
	struct nf_frame f = nf_dhcp(&(struct nf_ask){ .type = 1 });
	struct wire *w = *state;

	w->pid = fork();
	assert_true(w->pid >= 0);
	if (!w->pid) {
		fdtab_child(w->fds);
		responder_forget(w->r);
		_exit(fdtab_stale(w->fds, NULL) != 0);
	}
	assert_true(run_until(w, ended, 60000));
	assert_int_equal(w->status, 0);
	assert_int_equal(write(w->host, f.b, f.n), f.n);
	assert_true(run_until(w, one_answer, 60000));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(
			test_net__a_dhcp_client_gets_the_address_and_arp_says_who_is_there, setup,
			teardown),
		cmocka_unit_test_setup_teardown(
			test_net__a_client_that_renews_anothers_address_gets_a_nak_and_its_own,
			setup, teardown),
		cmocka_unit_test_setup_teardown(
			test_net__a_kernel_configures_itself_from_its_solicitation, setup,
			teardown),
		cmocka_unit_test_setup_teardown(
			test_net__a_flood_is_answered_at_its_rate_and_only_for_a_time, setup,
			teardown),
		cmocka_unit_test_setup_teardown(
			test_net__what_the_host_sends_and_frames_of_vlans_are_not_answered, setup,
			teardown),
		cmocka_unit_test_setup_teardown(
			test_net__what_is_no_packet_socket_is_refused_and_closed, setup, teardown),
		cmocka_unit_test_setup_teardown(
			test_net__a_forks_child_forgets_it_and_the_parent_goes_on, setup, teardown),
		cmocka_unit_test_setup_teardown(test_net__a_tap_that_goes_away_is_survived, setup,
						teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
