/* SPDX-License-Identifier: MIT */
/*
 * Fuzz target: virtio-net behind a hostile driver. Each 8 bytes of the input's first part are a
 * descriptor of one of the queues (queue and flags, 16-bit address and length, next, head), the
 * rest lies in guest memory where those point, and is a packet that arrives. Afterwards nothing may
 * be pinned, and the state is one that a snapshot could hold.
 */
#include <linux/virtio_net.h>
#include <sys/socket.h>

#include "base/util.h"
#include "event/grants.h"
#include "tests/lib/kvm_model.h"
#include "tests/lib/vdriver.h"
#include "virtio/net_internal.h"

#define ENTRIES 32u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct fake_machine *machine(struct vdriver *d)
{
	static const struct virtio_net_cfg cfg = { .queue_pairs = 2, .mtu = 1500 };
	static struct fake_machine fm;
	int sv[2];

	if (fm.nr_devs)
		return &fm;
	fm_init(&fm, MIB(64), -1);
	fm_add(&fm, &virtio_net_class, "net0", &cfg);
	BUG_ON(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, sv));
	BUG_ON(grants_put(fm.m.grants, "net/net0/tap", sv[0], NULL));
	BUG_ON(grants_put(fm.m.grants, "net/net0/keep", sv[1], NULL));
	fm_start(&fm);
	vd_probe(d, &fm, 1);
	return &fm;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct vdriver d;
	struct fake_machine *fm = machine(&d);
	int wire = ((struct vnet *)fm->dev[1])->keep[0];
	size_t n = MIN(size / 8, ENTRIES), rest = size - n * 8;

	fm->brk = FM_ALLOC_BASE; /* rings of every run in the same place */
	vd_start(&d, size % 3 ? ~0ull : ~(1ull << VIRTIO_NET_F_MRG_RXBUF), ENTRIES);
	BUG_ON(gmem_write(fm->m.mem, 0, data + n * 8, MIN(rest, 65536u)));
	(void)!send(wire, data + n * 8, MIN(rest, 65536u), MSG_DONTWAIT);
	for (unsigned int i = 0; i < n; i++) {
		const uint8_t *b = data + (size_t)i * 8;
		unsigned int q = (b[0] >> 4) % 3 == 2 ? 4 : (b[0] >> 4) % 3;

		vd_desc(&d, d.q[q].desc, i, b[1] | (gpa_t)b[2] << 8, b[3] | (uint32_t)b[4] << 8,
			b[0] & 7, b[5] % (ENTRIES + 1));
		if (b[6] & 1)
			vd_avail(&d, q, b[7]);
		if (b[6] & 2)
			vd_kick(&d, q);
	}
	for (unsigned int q = 0; q < d.nr_queues; q++)
		vd_kick(&d, q);
	fm_spin(fm);
	tap_drain(wire);
	fm_quiesce(fm);
	BUG_ON(gmem_pins(fm->m.mem));
	fm_assert_valid(fm->dev[1]);
	fm_resume(fm);
	return 0;
}
