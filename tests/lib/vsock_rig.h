/* SPDX-License-Identifier: MIT */
/*
 * A socket muxer with a scripted guest on one side and host programs on the other, all in one
 * thread: the test runs the loop. Works in a fresh directory, which becomes the working directory.
 */
#ifndef TESTS_LIB_VSOCK_RIG_H
#define TESTS_LIB_VSOCK_RIG_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "vsock/vsock.h"

#define VR_CID 3u

struct loop;
struct fdtab;

struct vr {
	pthread_mutex_t lock;
	struct loop *l;
	struct fdtab *fds;
	struct vsock_mux *m;
	char dir[64];
	unsigned int woken; /* rx_ready calls */
	/* What the scripted guest says in every header. */
	uint32_t alloc, fwd;
};

/* A packet as the guest got it; data is good until the next one is taken. */
struct vr_pkt {
	struct vsock_hdr h;
	uint8_t data[VSOCK_PKT_MAX];
};

void vr_init(struct vr *r); /* driver up, listening at "vsock.sock" */
void vr_fini(struct vr *r);
/* Runs what is due; does not wait. */
void vr_spin(struct vr *r);
/* A loop, fd table and listening socket of its own, as a fork's child gets them. */
void vr_adopt(struct vr *r, const char *path);

/* The guest sends a packet. data may be NULL with len 0. */
void vr_send(struct vr *r, enum vsock_op op, uint32_t host_port, uint32_t guest_port,
	     uint32_t flags, const void *data, uint32_t len);
/* The guest takes a packet with up to max bytes of data; false: there is none. */
bool vr_take(struct vr *r, struct vr_pkt *p, uint32_t max);
/* As vr_take, after running the loop, for up to a minute; fails the test when none comes or op
 * differs.
 */
void vr_expect(struct vr *r, struct vr_pkt *p, enum vsock_op op);
/* Fails the test when there is a packet. */
void vr_expect_none(struct vr *r);

/* A host program that connects to "vsock.sock" (non-blocking) and writes `line`; -1: nobody
 * listens. */
int vr_dial(const char *line);
/* A whole stream between host program and guest port: dialled, accepted by the guest, OK read. */
int vr_stream(struct vr *r, uint32_t guest_port, uint32_t *host_port);
int vr_listen(const char *path);
/* Reads what is there (running the loop first): byte count, 0 at end of file, -1 nothing there. */
ssize_t vr_read(struct vr *r, int fd, void *buf, size_t n);
/* Runs the loop until fd reads end of file (true) or a minute has passed; what was there goes
 * nowhere.
 */
bool vr_closed(struct vr *r, int fd);

#endif
