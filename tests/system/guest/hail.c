/* SPDX-License-Identifier: MIT */
/*
 * Connects to the port of the host where a guest's agent says that it is there. Exits with 0 when
 * it is let in, else with what errno said. A static program without libraries;
 * tests/system/test_reconcile.py runs it as root and as somebody else.
 *
 *     hail PORT        from that port of the guest's; 0: any
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>

#include <linux/vm_sockets.h>

#include "../../../guest/proto.h"

int main(int argc, char **argv)
{
	struct sockaddr_vm own = { .svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY };
	struct sockaddr_vm host = { .svm_family = AF_VSOCK,
				    .svm_cid = VMADDR_CID_HOST,
				    .svm_port = PROTO_READY_PORT };
	int fd = socket(AF_VSOCK, SOCK_STREAM, 0);

	if (argc != 2)
		return 2;
	own.svm_port = (unsigned int)strtoul(argv[1], NULL, 10);
	if (own.svm_port && bind(fd, (struct sockaddr *)&own, sizeof(own)))
		return errno;
	return connect(fd, (struct sockaddr *)&host, sizeof(host)) ? errno : 0;
}
