/* SPDX-License-Identifier: MIT */
/*
 * Arbitrary bytes on the control socket of a VM that has not started: parser, resources, answers.
 * The first byte says where the stream is cut in two writes.
 */
#include <event2/event.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/util.h"
#include "control/control.h"
#include "event/loop.h"
#include "vm/vm.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static int listener(struct sockaddr_un *sun, char kind, int type)
{
	int fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0), len;

	*sun = (struct sockaddr_un){ .sun_family = AF_UNIX };
	len = snprintf(sun->sun_path + 1, sizeof(sun->sun_path) - 1, "clone-fuzz-%d-%c", getpid(),
		       kind);
	BUG_ON(len < 0 || bind(fd, (const struct sockaddr *)sun, sizeof(*sun)) || listen(fd, 8));
	return fd;
}

static void turn(struct loop *l)
{
	for (int i = 0; i < 4; i++)
		event_base_loop(loop_base(l), EVLOOP_NONBLOCK);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	struct sockaddr_un api, fd;
	struct control *control;
	struct loop *l;
	struct vm *vm;
	size_t cut;
	int c;

	if (n < 1)
		return 0;
	cut = MIN((size_t)data[0] * 4, n - 1);
	BUG_ON(vm_create("fuzz", &vm, NULL));
	l = vm_machine(vm)->loop;
	BUG_ON(control_open(vm, l, vm_machine(vm)->fds, listener(&api, 'a', SOCK_STREAM),
			    listener(&fd, 'f', SOCK_SEQPACKET), &control, NULL));
	c = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	BUG_ON(connect(c, (const struct sockaddr *)&api, sizeof(api)));
	(void)!send(c, data + 1, cut, MSG_NOSIGNAL);
	turn(l);
	(void)!send(c, data + 1 + cut, n - 1 - cut, MSG_NOSIGNAL);
	turn(l);
	close(c);
	turn(l);
	control_close(control);
	vm_destroy(vm);
	return 0;
}
