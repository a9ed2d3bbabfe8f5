/* SPDX-License-Identifier: MIT */
/*
 * What the parts of clone-init share. One process, one thread, straight on: a step either works,
 * or says so and is done without, or is fatal.
 */
#ifndef CLONE_INIT_INIT_H
#define CLONE_INIT_INIT_H

#include <stdbool.h>
#include <stddef.h>

#define NEW_ROOT "/sysroot"

struct cmdline {
	char text[4096], words[4096]; /* as it was; cut into words */
	const char *root;	      /* NULL: no disk */
	const char *rootfstype, *rootflags, *init, *overlay_size;
	bool rw, overlay, noagent;
	unsigned int root_wait_s;
};

/* A line in the kernel's log: log.c. */
void say(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* A line on the console that ends in ": fatal", then the machine is off. Shows errno unless 0. */
void fatal(const char *fmt, ...) __attribute__((format(printf, 1, 2), noreturn));
/* RB_POWER_OFF or RB_AUTOBOOT; without a working power-off the machine is reset: never hangs. */
void machine_end(int how) __attribute__((noreturn));

/* cmdline.c: reads /proc/cmdline; fatal if it asks for what we cannot do. */
void cmdline_read(struct cmdline *c);

/* modules.c: loads what /modules/list names, with "module.parameter=" of the command line. */
void modules_load(const struct cmdline *c);

/* A socket that hears of new devices from now on, or -1: root.c. */
int uevents_open(void);
/* Waits for the root disk and mounts it at NEW_ROOT. */
void root_mount(const struct cmdline *c, int uevents);

/* switch.c: NEW_ROOT becomes /, with /dev /proc /run /sys moved along; the initramfs is emptied. */
void root_switch(void);

/* The agent's binary, opened before the initramfs goes; -1 if there is none: agent.c. */
int agent_find(void);
/* Starts it and closes fd. */
void agent_start(int fd);

/* bare.c: what stands in for a distribution's init. First busybox_install, then the agent. */
void busybox_install(void);
void bare_run(void) __attribute__((noreturn));

#endif
