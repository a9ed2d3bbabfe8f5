/* SPDX-License-Identifier: MIT */
/*
 * Network namespaces for tests: the "host" is one that the test is in itself, guests and the
 * outside are processes in others. A guest is what a VM would be: it has the TAP's descriptor, and
 * moves its frames to and from an eth0 of its own, on which real programs run. Everything asserts.
 */
#ifndef CLONE_TESTS_NETNS_H
#define CLONE_TESTS_NETNS_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "network/network.h"

/* A new host: empty but for lo, with scratch RUN and STATE. The path is for netns_end. */
char *netns_begin(void);
void netns_end(char *dir);
/* Can this process make namespaces at all? */
bool netns_possible(void);

/* Everything that networks change, as text; free it. */
char *netns_state(void);
/* Exit code of a shell command in pid's namespace (0: ours); a second is as long as it may take
 * unless it says otherwise (timeout N). */
int netns_run(pid_t pid, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Runs it again and again until it succeeds; false if it has not for a minute. */
bool netns_until(pid_t pid, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Its output, without the last newline; it must succeed. Free it. */
char *netns_out(pid_t pid, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Starts a command that goes on (a server); ended by netns_kill. */
pid_t netns_start(pid_t pid, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void netns_kill(pid_t pid);

/* The outside: 192.0.2.2 and 2001:db8::2 at the other end of a link to us, our way out. It has no
 * route to any guest. */
pid_t netns_outside(void);
/* A guest on the port, with its addresses (IPv4 as /32: whatever else is on the subnet is behind
 * the gateway). The port's descriptors stay the caller's too. */
pid_t netns_guest(const struct network_port *p);

/* Makes a network, which must work. */
struct network netns_network(const char *name, const struct network_options *o);
struct network netns_nat(const char *name);
/* TAPs that wait, and VMs that are on it, as network_describe says. */
size_t netns_waiting(const struct network *nw);
size_t netns_on_it(const struct network *nw);
/* netns_state is still that. */
void netns_unchanged(const char *before);
/* Attaches one NIC, which must work. */
void netns_attach(const struct network *nw, const char *vm, const struct network_publish *pub,
		  size_t n_pub, struct network_port *p);

#endif
