/* SPDX-License-Identifier: MIT */
/*
 * Ready-made operations of the device contract, for devices that need no more. See device.h.
 */
#include "device/device.h"

#include <string.h>

int device_quiesce_nothing(struct device *d, struct err *e)
{
	(void)d;
	(void)e;
	return 0;
}

void device_resume_nothing(struct device *d)
{
	(void)d;
}

void device_commit_copy(struct device *d, const void *state)
{
	memcpy(d->state, state, d->cls->state.struct_size);
}

int device_prepare_nothing(struct device *d, struct err *e)
{
	(void)d;
	(void)e;
	return 0;
}

int device_adopt_nothing(struct device *d, const struct identity *id, struct err *e)
{
	(void)d;
	(void)id;
	(void)e;
	return 0;
}
