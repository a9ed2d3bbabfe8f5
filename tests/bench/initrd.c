/* SPDX-License-Identifier: MIT */
/*
 * Writes the initrd that we would boot an image with to a file, and prints the kernel's command
 * line: so that a peer can boot the same.
 *
 * usage: initrd IMAGE FILE
 */
#include <fcntl.h>
#include <stdio.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/util.h"
#include "cli/imageboot.h"
#include "cli/launch.h"

static int copy(int from, const char *path)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	struct stat st;
	off_t at = 0;

	if (fd < 0 || fstat(from, &st))
		return -1;
	while (at < st.st_size)
		if (sendfile(fd, from, &at, (size_t)(st.st_size - at)) <= 0)
			return -1;
	return close(fd);
}

int main(int argc, char **argv)
{
	struct launch_vm vm = { .initrd_fd = -1, .mem_bytes = MIB(128), .vcpus = 1 };
	struct image_boot ib = { .initrd_fd = -1 };
	struct err e;

	if (argc != 3) {
		fprintf(stderr, "usage: initrd IMAGE FILE\n");
		return 2;
	}
	if (image_boot_prepare(&ib, argv[1], NULL, &vm, &e)) {
		fprintf(stderr, "initrd: %s\n", e.msg);
		return 1;
	}
	if (copy(vm.initrd_fd, argv[2])) {
		perror(argv[2]);
		return 1;
	}
	puts(vm.cmdline);
	image_boot_fini(&ib);
	return 0;
}
