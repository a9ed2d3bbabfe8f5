/* SPDX-License-Identifier: MIT */
/*
 * The device conformance suite: what every device must do, whatever it is (src/device/device.h,
 * HACKING.md). A device joins by a row: how to make it, and how a guest drives it. The suite runs
 * each claim on each row:
 *
 *   a state saved twice is the same; saved, restored and saved again, too, and the restored one
 * works every truncation of its record is refused; every flipped bit is refused or yields a working
 * device reset brings back the power-on state, and the device works again quiesce under load leaves
 * no pin and nothing in flight, and the load completes afterwards a fork under load: parent and
 * child share no descriptor but those kept, and both complete the load and go on; so does the
 * child's child destroying it gives every descriptor back
 */
#ifndef TESTS_DEVICE_CONFORMANCE_H
#define TESTS_DEVICE_CONFORMANCE_H

#include "tests/lib/vdriver.h"

#define CONF_MEM (64ull << 20)

struct conf;

struct conf_row {
	const struct device_class *cls;
	const char *id;
	const void *cfg;
	uint16_t virtio_id; /* 0: not virtio; else boot has probed c->d before */
	uint64_t features;  /* negotiated besides those of the rings */
	bool one_life; /* the kernel's: reset is for a VM that ends, what follows it is a new one */
	bool reset_keeps; /* has contents that a reset of the machine does not change */
	/* All but progress may be NULL. */
	void (*give)(struct conf *c,
		     const char *prefix); /* grants for a first or a child's adopt */
	void (*carry)(struct conf *from,
		      struct conf *to);	     /* what a restore needs besides the record */
	void (*boot)(struct conf *c);	     /* the driver finds the device and sets it up */
	void (*load)(struct conf *c);	     /* starts work without waiting for it */
	void (*drain)(struct conf *c);	     /* the work that load started is done */
	void (*progress)(struct conf *c);    /* something observable happens, now */
	void (*park)(struct conf *c);	     /* what the device's own thread does before quiesce */
	void (*before_fork)(struct conf *c); /* the parent's part, quiesced */
	void (*woke)(struct conf *c); /* the guest's first act in a restored machine or a child */
};

/* One machine with one device under test. */
struct conf {
	const struct conf_row *row;
	struct fake_machine fm;
	struct device *dev;
	struct vdriver d;	  /* of virtio devices */
	unsigned int outstanding; /* chains submitted on queue 0 and not drained */
	gpa_t buf;		  /* 64 KiB of guest RAM for the row's use */
	uint64_t n;		  /* chains so far: every other one is indirect */
	uint64_t done;		  /* the row's own counter */
	bool loaded;		  /* the row's */
	bool child;		  /* in a forked process: failures end it */
};

/* The machine under the device; the program says which KVM it is. */
struct conf_env {
	int sys_fd;			 /* /dev/kvm, -1 with kvm_model.h */
	unsigned int max_flips;		 /* of one record: spread evenly over its bits */
	void (*prepare)(struct conf *c); /* after fm_init: hooks, or the chips */
};

/* Runs the suite over the rows; returns the number of failed claims. */
int conf_run(const struct conf_env *env, const struct conf_row *const *rows, size_t n);

/* For rows. A failure ends the claim (or the child), naming the condition. */
void conf_assert(struct conf *c, bool ok, const char *what, const char *file, int line);
#define CONF(c, cond) conf_assert((c), (cond), #cond, __FILE__, __LINE__)
/* One chain on queue 0, counted; and waiting for all of them. */
void conf_submit(struct conf *c, const struct vd_buf *b, unsigned int n);
void conf_drain(struct conf *c);
/* A listening unix socket with a name that nobody knows. */
int conf_listener(void);

/* rows.c, row_*.c */
extern const struct conf_row conf_row_pci_host, conf_row_rng, conf_row_power, conf_row_serial,
	conf_row_rtc, conf_row_vmgenid, conf_row_blk, conf_row_blk_ro, conf_row_vsock, conf_row_net,
	conf_row_balloon;
/* row_kernel.c: not with kvm_model.h */
extern const struct conf_row conf_row_vcpu, conf_row_irqchip, conf_row_clock;

#endif
