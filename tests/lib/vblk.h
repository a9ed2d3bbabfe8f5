/* SPDX-License-Identifier: MIT */
/*
 * A virtio-blk device in a machine without vCPUs, and its driver: what the tests of the device
 * share. What cannot go wrong is checked (BUG_ON, or cmocka's assertions). One test thread.
 */
#ifndef CLONE_TESTS_LIB_VBLK_H
#define CLONE_TESTS_LIB_VBLK_H

#include "tests/lib/fake_machine.h"
#include "tests/lib/vdriver.h"

#define VBLK_DISK_BYTES MIB(8)
#define VBLK_BASE_BYTES MIB(4)
#define VBLK_BUF_BYTES 65536u
#define VBLK_SLOTS 160u
#define VBLK_PENDING 0xee

struct vblk_rig {
	struct fake_machine fm;
	struct device *dev;
	struct vdriver d;
	gpa_t hdr, status, data; /* VBLK_SLOTS of each */
	int base_fd;
};

/* kvm_model_taken, which only a test's own file can name; set it before the first machine. */
extern bool (*vblk_taken)(struct fake_machine *fm, uint64_t addr, unsigned int len);

/* A machine with one disk of VBLK_DISK_BYTES, its base (each sector filled with its number's low
 * byte) as long as VBLK_BASE_BYTES; not started. */
void vblk_make(struct vblk_rig *g, bool read_only);
/* Finds the device and takes all its features. */
void vblk_drive(struct vblk_rig *g);
void vblk_end(struct vblk_rig *g);
/* The same as setup and teardown of a test: *state is a running rig. */
int vblk_up(void **state);
int vblk_up_read_only(void **state);
int vblk_down(void **state);
/* Grants fd (owned) as the disk's `what`: base, data or layer; prefix: "", or "child/" for the next
 * child. */
void vblk_give_as(struct vblk_rig *g, const char *prefix, const char *what, int fd);
void vblk_give(struct vblk_rig *g, const char *what, int fd);

/* Where a slot's header and data lie. */
gpa_t vblk_hdr(const struct vblk_rig *g, unsigned int slot);
gpa_t vblk_data(const struct vblk_rig *g, unsigned int slot);
/* Writes a slot's header, and that it has no status yet. */
void vblk_put_header(struct vblk_rig *g, unsigned int slot, uint32_t type, uint64_t sector);
uint8_t vblk_status(struct vblk_rig *g, unsigned int slot);
/* A request of header, len bytes of data, status; not kicked. */
void vblk_add_on(struct vblk_rig *g, unsigned int queue, unsigned int slot, uint32_t type,
		 uint64_t sector, uint32_t len);
void vblk_add(struct vblk_rig *g, unsigned int slot, uint32_t type, uint64_t sector, uint32_t len);
/* For fm_until: takes completions of queue 0 until `want` have come. */
struct vblk_wait {
	struct vblk_rig *g;
	unsigned int want, got;
};
bool vblk_arrived(void *arg);
/* Kicks queue 0 and takes n completions; were there exactly so many? */
bool vblk_finish(struct vblk_rig *g, unsigned int n);
/* One request in slot 0, to its status. */
uint8_t vblk_request(struct vblk_rig *g, uint32_t type, uint64_t sector, uint32_t len);
/* A slot's first len bytes become c; are all c? */
void vblk_fill(struct vblk_rig *g, unsigned int slot, uint8_t c, uint32_t len);
bool vblk_holds(struct vblk_rig *g, unsigned int slot, uint8_t c, uint32_t len);
bool vblk_write_sector(struct vblk_rig *g, uint64_t sector, uint8_t c);
bool vblk_sector_is(struct vblk_rig *g, uint64_t sector, uint8_t c);

/* Makes h a second machine over g's base, loaded from g's state; layer: of its overlay, -1: none.
 * Its RAM is empty until vblk_copy_ram. */
void vblk_restore_from(struct vblk_rig *g, struct vblk_rig *h, int layer);
void vblk_copy_ram(struct vblk_rig *from, struct vblk_rig *to);

#endif
