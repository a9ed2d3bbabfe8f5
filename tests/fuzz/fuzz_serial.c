/* SPDX-License-Identifier: MIT */
/*
 * Fuzz target: the serial port. Pairs of bytes are what the guest and a typing client do; in
 * between the port is saved and loaded, which must change nothing that the guest can see.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/util.h"
#include "device/serial.h"
#include "event/grants.h"
#include "tests/lib/fake_machine.h"
#include "tests/lib/kvm_model.h"
#include "x86/platform.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A listener with an address of the kernel's choice, and a client of it. */
static int console(struct fake_machine *fm)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	socklen_t len = sizeof(a);
	int l = socket(AF_UNIX, SOCK_STREAM, 0), c = socket(AF_UNIX, SOCK_STREAM, 0);

	BUG_ON(bind(l, (void *)&a, sizeof(a.sun_family)) || listen(l, 1));
	BUG_ON(getsockname(l, (void *)&a, &len) || connect(c, (void *)&a, len));
	BUG_ON(grants_put(fm->m.grants, "console", l, NULL));
	return c;
}

static void save_and_load(struct device *d)
{
	struct wbuf a, b;
	struct err e;

	fm_save(d, &a);
	BUG_ON(fm_load(d, a.data, a.len, &e));
	fm_save(d, &b);
	BUG_ON(a.len != b.len || memcmp(a.data, b.data, a.len));
	wbuf_fini(&a);
	wbuf_fini(&b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct fake_machine fm;
	static struct device *d;
	static int client;
	char sink[4096];

	if (!d) {
		fm_init(&fm, GMEM_MIN_BYTES, -1);
		d = fm_add(&fm, &serial_class, "serial", NULL);
		client = console(&fm);
		fm_start(&fm);
	}
	d->cls->reset(d);
	for (size_t i = 0; i + 1 < size; i += 2) {
		uint16_t port = (uint16_t)(PLAT_COM1_PORT + (data[i] & 7));

		if (data[i] & 0x80)
			fm_out(&fm, port, 1, data[i + 1]);
		else if (!(data[i] & 0x40))
			fm_in(&fm, port, 1);
		else if (data[i] & 0x20)
			save_and_load(d);
		else
			(void)send(client, data + i + 1, 1, MSG_DONTWAIT | MSG_NOSIGNAL);
		fm_spin(&fm);
	}
	while (recv(client, sink, sizeof(sink), MSG_DONTWAIT) > 0)
		;
	return 0;
}
