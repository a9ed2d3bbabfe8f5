/* SPDX-License-Identifier: MIT */
/*
 * See busybox.h.
 */
#include "image/busybox.h"

const char busybox_dhcp[] =
	"#!/bin/sh\n"
	"# udhcpc runs this with what it has heard in the environment.\n"
	"[ -n \"$interface\" ] || exit 1\n"
	"case $1 in\n"
	"deconfig)\n"
	"	ip -4 addr flush dev \"$interface\"\n"
	"	ip link set \"$interface\" up\n"
	"	;;\n"
	"bound|renew)\n"
	"	# A lease that is renewed must not end connections.\n"
	"	if ! ip -4 addr show dev \"$interface\" | grep -qF \" $ip/${mask:-32} \"; then\n"
	"		ip -4 addr flush dev \"$interface\"\n"
	"		ip addr add \"$ip/${mask:-32}\" ${broadcast:+broadcast \"$broadcast\"} "
	"dev \"$interface\" || exit 1\n"
	"	fi\n"
	"	[ -z \"$mtu\" ] || ip link set \"$interface\" mtu \"$mtu\"\n"
	"	for r in $router; do\n"
	"		# It need not be in the network that the address says.\n"
	"		[ \"${mask:-32}\" != 32 ] || ip route replace \"$r\" dev \"$interface\"\n"
	"		ip route replace default via \"$r\" dev \"$interface\"\n"
	"		break\n"
	"	done\n"
	"	[ -n \"$dns\" ] || exit 0\n"
	"	{\n"
	"		[ -z \"$domain\" ] || echo \"search $domain\"\n"
	"		for s in $dns; do echo \"nameserver $s\"; done\n"
	"	} >/etc/resolv.conf\n"
	"	;;\n"
	"esac\n";
