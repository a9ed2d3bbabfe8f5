/* SPDX-License-Identifier: MIT */
/*
 * See tap.h. Linux Documentation/networking/tuntap.rst.
 */
#include "net/tap.h"

#include <errno.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <linux/vhost.h>
#include <linux/virtio_net.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/util.h"

#define DRAIN_MAX 2048 /* packets: a TAP's queue holds 1000, and a sender may be fast */
#define HAS(f, bit) (((f) >> (bit)) & 1u)

#define IOCTL(n, w, vcpu)                                                                          \
	{                                                                                          \
		n, #n, w, vcpu                                                                     \
	}
const struct net_ioctl net_ioctls[] = {
	IOCTL(TUNSETOFFLOAD, "what the guest's driver negotiated", true),
	IOCTL(TUNSETQUEUE, "how many queues it uses", false),
	IOCTL(VHOST_SET_OWNER, "vhost: each VM process, a fork's child too, has its own", false),
	IOCTL(VHOST_GET_FEATURES, "vhost: can it do what was negotiated", false),
	IOCTL(VHOST_SET_FEATURES, "vhost: start", false),
	IOCTL(VHOST_SET_MEM_TABLE, "vhost: guest RAM", false),
	IOCTL(VHOST_SET_VRING_NUM, "vhost: start", false),
	IOCTL(VHOST_SET_VRING_BASE, "vhost: start", false),
	IOCTL(VHOST_SET_VRING_ADDR, "vhost: start", false),
	IOCTL(VHOST_SET_VRING_KICK, "vhost: start", false),
	IOCTL(VHOST_SET_VRING_CALL, "vhost: start", false),
	IOCTL(VHOST_SET_VRING_ERR, "vhost: start", false),
	IOCTL(VHOST_GET_VRING_BASE, "vhost: stop; also a driver's reset, on a vCPU thread", true),
	IOCTL(VHOST_NET_SET_BACKEND, "vhost: start and stop, as above", true),
};
const unsigned int net_ioctls_count = ARRAY_SIZE(net_ioctls);

int tap_set_offloads(int fd, uint64_t features, struct err *e)
{
	unsigned int off = 0;

	if (HAS(features, VIRTIO_NET_F_GUEST_CSUM)) {
		off |= TUN_F_CSUM;
		off |= HAS(features, VIRTIO_NET_F_GUEST_TSO4) ? TUN_F_TSO4 : 0;
		off |= HAS(features, VIRTIO_NET_F_GUEST_TSO6) ? TUN_F_TSO6 : 0;
	}
	/* alone it would be refused, and all as it was for another driver */
	if (off & (TUN_F_TSO4 | TUN_F_TSO6))
		off |= HAS(features, VIRTIO_NET_F_GUEST_ECN) ? TUN_F_TSO_ECN : 0;
	if (ioctl(fd, TUNSETOFFLOAD, (unsigned long)off) < 0)
		return err_sys(e, errno, "TAP: offloads %#x", off);
	return 0;
}

int tap_enable(int fd, bool on, struct err *e)
{
	struct ifreq r = { .ifr_flags = on ? IFF_ATTACH_QUEUE : IFF_DETACH_QUEUE };

	/* EINVAL: it is as it was to be */
	if (ioctl(fd, TUNSETQUEUE, &r) < 0 && errno != EINVAL)
		return err_sys(e, errno, "TAP: a queue %s", on ? "on" : "off");
	return 0;
}

void tap_drain(int fd)
{
	char head[64]; /* the rest of a packet is cut off */

	for (unsigned int i = 0; i < DRAIN_MAX && read(fd, head, sizeof(head)) > 0; i++)
		;
}
