/* SPDX-License-Identifier: MIT */
/*
 * What a guest of busybox needs beside the applets: the same in the initrd (initrd.c) and in the
 * image (build_busybox.c).
 */
#ifndef CLONE_IMAGE_BUSYBOX_H
#define CLONE_IMAGE_BUSYBOX_H

/* Where Debian's udhcpc looks for its script, and where everybody else's does (a link). */
#define BUSYBOX_DHCP_DIR "etc/udhcpc"
#define BUSYBOX_DHCP_PATH BUSYBOX_DHCP_DIR "/default.script"
#define BUSYBOX_DHCP_LINK_DIR "usr/share/udhcpc"
#define BUSYBOX_DHCP_LINK BUSYBOX_DHCP_LINK_DIR "/default.script"

/* The script: sets address, route and name servers that a DHCP server gave. */
extern const char busybox_dhcp[];

#endif
