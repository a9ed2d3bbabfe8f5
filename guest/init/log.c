/* SPDX-License-Identifier: MIT */
/*
 * What clone-init has to say, and how it ends the machine.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/reboot.h>
#include <termios.h>
#include <unistd.h>

#include "init.h"

void say(const char *fmt, ...)
{
	char line[512] = "<5>clone-init: ";
	size_t n = strlen(line);
	va_list ap;
	int fd = open("/dev/kmsg", O_WRONLY | O_CLOEXEC | O_NOCTTY);

	va_start(ap, fmt);
	vsnprintf(line + n, sizeof(line) - n, fmt, ap);
	va_end(ap);
	/* Without /dev: the console we were started with. */
	if (fd < 0 || write(fd, line, strlen(line)) < 0)
		dprintf(2, "%s\n", line + 3);
	if (fd >= 0)
		close(fd);
}

void machine_end(int how)
{
	bool sysfs = !access("/sys/kernel", F_OK), acpi = !access("/sys/firmware/acpi", F_OK);

	sync();
	/* Without ACPI the kernel has no power-off and would halt: a reset ends the VM as well. */
	if (how == RB_POWER_OFF && sysfs && !acpi)
		how = RB_AUTOBOOT;
	reboot(how);
	for (;;)
		reboot(RB_AUTOBOOT);
}

void fatal(const char *fmt, ...)
{
	int err = errno, fd = open("/dev/console", O_WRONLY | O_CLOEXEC | O_NOCTTY);
	char line[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	if (fd < 0)
		fd = 2;
	/* To the console itself, which `quiet` does not silence. */
	dprintf(fd, "\r\nclone-init: %s%s%s: fatal\r\n", line, err ? ": " : "",
		err ? strerror(err) : "");
	tcdrain(fd);
	machine_end(RB_POWER_OFF);
}
