/* SPDX-License-Identifier: MIT */
/*
 * The caller's side of a VM's control socket: blocking HTTP over its unix socket with a deadline
 * and a bounded answer, and the passing of descriptors. For the CLI and the host daemon; one thread
 * per client. A VM process may have been taken over by its guest: its answers are hostile bytes.
 */
#ifndef CLONE_CONTROL_CLIENT_H
#define CLONE_CONTROL_CLIENT_H

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

#define CLIENT_REPLY_MAX (8u << 20)

struct client;

/* Connects to dirfd/"api.sock". -ECONNREFUSED or -ENOENT: no process serves it. */
int client_open(int dirfd, struct client **out, struct err *e);
void client_close(struct client *c);
/* Requests end with -EINTR when this descriptor (the caller's) is readable; -1: none. */
void client_set_cancel(struct client *c, int cancel_fd);
/* While an answer is awaited, fn is called whenever this descriptor (the caller's) is readable, and
 * must make it not so; -1: none. */
void client_set_aside(struct client *c, int fd, void (*fn)(void *arg), void *arg);
/* For poll(2): readable without a request under way means that the VM process closed it. */
int client_fd(const struct client *c);

/*
 * One request and its answer. body may be NULL (borrowed). reply may be NULL; *reply is NULL for
 * 204, else the caller's. -EREMOTEIO: the VM refused and e is its fault message; -ETIMEDOUT; -EINTR
 * when the cancel descriptor became readable; -ECONNRESET when the VM process ended; -EBADMSG for
 * an answer that makes no sense. After any failure but -EREMOTEIO the client is only good for
 * client_close.
 */
int client_request(struct client *c, const char *method, const char *path, const json_t *body,
		   uint64_t timeout_ms, json_t **reply, struct err *e);

/* Connects to dirfd/"fd.sock"; grants live until this connection is closed or they are used. */
int client_fdsock(int dirfd, struct err *e);
/* Grants n descriptors (they stay the caller's) under their names, in as many messages as needed.
 */
int client_grant(int fdsock, const char *const *names, const int *fds, size_t n, struct err *e);
/* Claims one descriptor: it, or -errno. */
int client_claim(int fdsock, const char *name, struct err *e);

#endif
