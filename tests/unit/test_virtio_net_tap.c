/* SPDX-License-Identifier: MIT */
/*
 * virtio-net on a real TAP, in a network namespace: what the kernel is told of the driver's wishes
 * is seen in what arrives. The host sends frames by a packet socket. Skipped where there is no TAP.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <linux/virtio_net.h>
#include <net/if.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/endian.h"
#include "base/util.h"
#include "event/grants.h"
#include "tests/lib/kvm_model.h"
#include "tests/lib/vnic.h"

#define BIT(n) (1ull << (n))
#define NAME "tap0"
#define PAYLOAD 40000u
#define MSS 1400u
#define HEADERS (14u + 20u + 20u)

static int wire; /* the host's packet socket */

/* ---- the host ---- */

static int open_tap(bool several)
{
	struct ifreq r = { .ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR };
	int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC), n = TAP_HEADER;

	if (fd < 0)
		return -1;
	if (several)
		r.ifr_flags |= IFF_MULTI_QUEUE;
	snprintf(r.ifr_name, sizeof(r.ifr_name), NAME);
	assert_int_equal(ioctl(fd, TUNSETIFF, &r), 0);
	assert_int_equal(ioctl(fd, TUNSETVNETHDRSZ, &n), 0);
	return fd;
}

static void open_wire(void)
{
	struct sockaddr_ll ll = { .sll_family = AF_PACKET };
	struct ifreq r = { .ifr_flags = IFF_UP | IFF_RUNNING };
	int s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), one = 1;

	snprintf(r.ifr_name, sizeof(r.ifr_name), NAME);
	assert_int_equal(ioctl(s, SIOCSIFFLAGS, &r), 0);
	close(s);
	wire = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
	assert_int_equal(setsockopt(wire, SOL_PACKET, PACKET_VNET_HDR, &one, sizeof(one)), 0);
	ll.sll_ifindex = (int)if_nametoindex(NAME);
	assert_int_equal(bind(wire, (struct sockaddr *)&ll, sizeof(ll)), 0);
}

static void put16(uint8_t *p, unsigned int v)
{
	p[0] = (uint8_t)(v >> 8);
	p[1] = (uint8_t)v;
}

static uint32_t sum16(const uint8_t *p, size_t n, uint32_t sum)
{
	for (size_t i = 0; i < n; i += 2)
		sum += (uint32_t)p[i] << 8 | p[i + 1];
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return sum;
}

/* Ethernet, IPv4 and the addresses' sum; n: what follows. */
static uint32_t ip_header(uint8_t *p, uint8_t protocol, size_t n)
{
	static const uint8_t head[] = { 2, 9, 9, 9, 9, 9, 2, 8, 8, 8, 8, 8, 8, 0, 0x45, 0 };
	static const uint8_t addr[] = { 10, 0, 0, 1, 10, 0, 0, 2 };

	memset(p, 0, 34);
	memcpy(p, head, sizeof(head));
	put16(p + 16, (unsigned int)(20 + n));
	p[22] = 64;
	p[23] = protocol;
	memcpy(p + 26, addr, sizeof(addr));
	put16(p + 24, ~sum16(p + 14, 20, 0) & 0xffff);
	return sum16(addr, sizeof(addr), protocol + (uint32_t)n);
}

static void send_frame(const struct virtio_net_hdr *h, const uint8_t *p, size_t n)
{
	const struct iovec iov[2] = { { (void *)(uintptr_t)h, sizeof(*h) },
				      { (void *)(uintptr_t)p, n } };

	assert_int_equal(writev(wire, iov, 2), sizeof(*h) + n);
}

/* One TCP packet that is to be cut up by whoever cannot take it. */
static void send_tcp(void)
{
	static uint8_t p[HEADERS + PAYLOAD];
	const struct virtio_net_hdr h = { .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
					  .gso_type = VIRTIO_NET_HDR_GSO_TCPV4,
					  .hdr_len = HEADERS,
					  .gso_size = MSS,
					  .csum_start = 34,
					  .csum_offset = 16 };
	uint32_t sum = ip_header(p, 6, 20 + PAYLOAD);

	put16(p + 34, 1000);
	put16(p + 36, 2000);
	p[46] = 5 << 4;
	p[47] = 0x10;
	put16(p + 48, 0xffff);
	put16(p + 50, sum);
	for (unsigned int i = 0; i < PAYLOAD; i++)
		p[HEADERS + i] = (uint8_t)(i * 7 + i / 256);
	send_frame(&h, p, sizeof(p));
}

static void send_udp(uint16_t port)
{
	const struct virtio_net_hdr h = { 0 };
	uint8_t p[34 + 8 + 20] = { 0 };

	ip_header(p, 17, 28);
	put16(p + 34, port);
	put16(p + 36, port + 77u);
	put16(p + 38, 28);
	send_frame(&h, p, sizeof(p));
}

/* ---- the machine ---- */

static void make(struct vnic_rig *g, unsigned int pairs)
{
	vnic_make(g, pairs);
	for (unsigned int i = 0; i < pairs; i++) {
		char name[32] = "net/net0/tap";
		int fd = open_tap(pairs > 1);

		if (i)
			snprintf(name, sizeof(name), "net/net0/tap%u", i);
		BUG_ON(grants_put(g->fm.m.grants, name, fd, NULL));
	}
	open_wire();
	fm_start(&g->fm);
}

static int up(void **state)
{
	static struct vnic_rig g;

	make(&g, 1);
	*state = &g;
	return 0;
}

static int up_pairs(void **state)
{
	static struct vnic_rig g;

	make(&g, VNIC_PAIRS);
	*state = &g;
	return 0;
}

static int down(void **state)
{
	close(wire);
	vnic_end(*state);
	return 0;
}

static void offer(struct vnic_rig *g, unsigned int pair, unsigned int n)
{
	for (unsigned int i = 0; i < n; i++)
		vnic_offer(g, pair, VNIC_BUF);
}

/* What arrives of send_tcp(): how many packets. Their payload is what was sent, in order. */
static unsigned int tcp_arrives(struct vnic_rig *g, uint8_t *gso_type)
{
	static uint8_t p[VNIC_BIG];
	unsigned int n = 0, buffers;
	size_t at = 0, len;

	offer(g, 0, 60);
	send_tcp();
	vnic_settle(g);
	while ((len = vnic_take(g, 0, p, sizeof(p), &buffers))) {
		assert_true(len > TAP_HEADER + HEADERS);
		*gso_type = p[1];
		for (size_t i = TAP_HEADER + HEADERS; i < len; i++, at++)
			assert_int_equal(p[i], (uint8_t)(at * 7 + at / 256));
		n++;
	}
	assert_int_equal(at, PAYLOAD);
	return n;
}

#define CUT ((PAYLOAD + MSS - 1) / MSS)

static uint8_t set_offloads(struct vnic_rig *g, uint64_t f)
{
	le64 raw = le64_put(f);

	return vnic_command(g, 2, VIRTIO_NET_CTRL_GUEST_OFFLOADS,
			    VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET, &raw, sizeof(raw));
}

static void test_tap__gives_the_driver_what_it_negotiated(void **state)
{
	const uint64_t tso = BIT(VIRTIO_NET_F_GUEST_TSO4), tso6 = BIT(VIRTIO_NET_F_GUEST_TSO6),
		       csum = BIT(VIRTIO_NET_F_GUEST_CSUM), ecn = BIT(VIRTIO_NET_F_GUEST_ECN);
	struct vnic_rig *g = *state;
	uint8_t type = 9;

	vnic_drive(g, 0);
	assert_int_equal(tcp_arrives(g, &type), 1);
	assert_int_equal(type, VIRTIO_NET_HDR_GSO_TCPV4);
	vnic_drive(g, tso);
	assert_int_equal(tcp_arrives(g, &type), CUT);
	assert_int_equal(type, 0);
	vnic_drive(g, ecn);
	assert_int_equal(tcp_arrives(g, &type), 1);
	/* what makes no sense alone does not leave it as it was for the last one */
	vnic_drive(g, tso | tso6);
	assert_int_equal(tcp_arrives(g, &type), CUT);
	vnic_drive(g, 0);
	assert_int_equal(tcp_arrives(g, &type), 1);
	vnic_drive(g, csum);
	assert_int_equal(tcp_arrives(g, &type), CUT);
	/* while it runs */
	vnic_drive(g, 0);
	assert_int_equal(set_offloads(g, csum), VIRTIO_NET_OK);
	assert_int_equal(tcp_arrives(g, &type), CUT);
	assert_int_equal(set_offloads(g, csum | tso), VIRTIO_NET_OK);
	assert_int_equal(tcp_arrives(g, &type), 1);
	assert_int_equal(set_offloads(g, 0), VIRTIO_NET_OK);
	assert_int_equal(tcp_arrives(g, &type), CUT);
}

/* What the driver leaves to the device (checksum, cutting up) is the kernel's, and hostile headers
 * are refused by it. */
static void test_tap__takes_what_the_driver_sends(void **state)
{
	struct sockaddr_ll ll = { .sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL) };
	int s = socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	struct vnic_rig *g = *state;
	uint8_t p[TAP_HEADER + 62] = { 0 }, got[200];
	struct vd_buf b = { g->tx, sizeof(p), false };

	ll.sll_ifindex = (int)if_nametoindex(NAME);
	assert_int_equal(bind(s, (struct sockaddr *)&ll, sizeof(ll)), 0);
	vnic_drive(g, 0);
	ip_header(p + TAP_HEADER, 17, 28);
	BUG_ON(gmem_write(g->fm.m.mem, g->tx, p, sizeof(p)));
	vd_submit(&g->d, 1, &b, 1, false);
	vnic_settle(g);
	assert_int_equal(recv(s, got, sizeof(got), 0), 62);
	assert_memory_equal(got, p + TAP_HEADER, 62);
	p[0] = VIRTIO_NET_HDR_F_NEEDS_CSUM;
	put16(p + 6, 0xffff); /* csum_start: far behind the end */
	BUG_ON(gmem_write(g->fm.m.mem, g->tx, p, sizeof(p)));
	vd_submit(&g->d, 1, &b, 1, false);
	vnic_settle(g);
	assert_int_equal(vnic_sent(g, 0), 2);
	assert_int_equal(recv(s, got, sizeof(got), 0), -1);
	assert_int_equal(vnic_of(g)->dropped, 1);
	assert_false(vnic_broken(g));
	close(s);
}

#define FLOWS 60u

/* Of FLOWS flows, how many arrive on each pair; all do. */
static void flows_arrive(struct vnic_rig *g, unsigned int *n)
{
	static uint8_t p[VNIC_BIG];
	unsigned int all = 0, buffers;

	for (unsigned int i = 0; i < VNIC_PAIRS; i++)
		offer(g, i, FLOWS);
	for (unsigned int i = 0; i < FLOWS; i++)
		send_udp((uint16_t)(5000 + 13 * i));
	vnic_settle(g);
	for (unsigned int i = 0; i < VNIC_PAIRS; i++) {
		for (n[i] = 0; vnic_take(g, i, p, sizeof(p), &buffers); n[i]++)
			;
		all += n[i];
	}
	assert_int_equal(all, FLOWS);
}

static uint8_t set_pairs(struct vnic_rig *g, uint8_t n)
{
	return vnic_command(g, 2 * VNIC_PAIRS, VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET,
			    (const uint8_t[]){ n, 0 }, 2);
}

/* The kernel chooses the queue: it must know which of them somebody looks at. */
static void test_tap__only_queues_in_use_get_packets(void **state)
{
	struct vnic_rig *g = *state;
	unsigned int n[VNIC_PAIRS];

	vnic_drive(g, 0);
	flows_arrive(g, n);
	assert_int_equal(n[0], FLOWS);
	for (unsigned int round = 0; round < 2; round++) {
		assert_int_equal(set_pairs(g, 3), VIRTIO_NET_OK);
		flows_arrive(g, n);
		assert_true(n[0] && n[1] && n[2]);
		assert_int_equal(set_pairs(g, 2), VIRTIO_NET_OK);
		flows_arrive(g, n);
		assert_true(n[0] && n[1]);
		if (round) /* a driver that knows nothing of several */
			vnic_drive(g, BIT(VIRTIO_NET_F_MQ));
		else
			assert_int_equal(set_pairs(g, 1), VIRTIO_NET_OK);
	}
	offer(g, 0, FLOWS);
	for (unsigned int i = 0; i < FLOWS; i++)
		send_udp((uint16_t)(5000 + 13 * i));
	vnic_settle(g);
	assert_int_equal(vd_used_idx(&g->d, 0), FLOWS);
	/* offloads are the TAP's, however many queues take part */
	vnic_drive(g, BIT(VIRTIO_NET_F_GUEST_CSUM));
	assert_int_equal(tcp_arrives(g, (uint8_t[1]){ 0 }), CUT);
}

static void test_tap__its_device_goes_away(void **state)
{
	struct vnic_rig *g = *state;

	vnic_drive(g, 0);
	offer(g, 0, 10);
	vnic_settle(g);
	if (system("ip link del " NAME " 2>/dev/null || busybox ip link del " NAME))
		skip();
	vnic_settle(g); /* comes to an end */
	vnic_send(g, 0, 100, 1);
	vnic_settle(g);
	assert_int_equal(vnic_sent(g, 0), 1);
	assert_int_equal(vnic_of(g)->dropped, 1);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, up, down)
	const struct CMUnitTest tests[] = {
		T(test_tap__gives_the_driver_what_it_negotiated),
		T(test_tap__takes_what_the_driver_sends),
		cmocka_unit_test_setup_teardown(test_tap__only_queues_in_use_get_packets, up_pairs,
						down),
		T(test_tap__its_device_goes_away),
	};
	int fd;

	if (unshare(CLONE_NEWNET) || (fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC)) < 0) {
		printf("skipped: no network namespace, or no TAP\n");
		return 77;
	}
	close(fd);
	/* no packets of the kernel's own */
	fd = open("/proc/sys/net/ipv6/conf/default/disable_ipv6", O_WRONLY | O_CLOEXEC);
	if (fd >= 0)
		assert_int_equal(write(fd, "1", 1), 1);
	close(fd);
	vnic_taken = kvm_model_taken;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
