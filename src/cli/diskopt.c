/* SPDX-License-Identifier: MIT */
/*
 * The option --disk: see launch.h. For the commands that start VMs.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/launch.h"
#include "virtio/blk.h"

int launch_disk_option(struct launch_vm *vm, const char *word, char *spec, struct err *e)
{
	struct launch_disk *d = &vm->disks[vm->ndisks];
	char *save, *file = strtok_r(spec, ",", &save);
	bool said = false;
	int r = 0;

	if (vm->ndisks == LAUNCH_DISKS)
		return err_set(e, EINVAL, "%s: at most %d disks", word, LAUNCH_DISKS);
	if (!file)
		return err_set(e, EINVAL, "%s: no file named", word);
	*d = (struct launch_disk){ .path = file, .root = !vm->ndisks };
	snprintf(d->id, sizeof(d->id), "disk%zu", vm->ndisks);
	for (char *w; (w = strtok_r(NULL, ",", &save));) {
		if (!strcmp(w, "format=raw") || !strcmp(w, "format=qcow2")) {
			said = true;
			d->qcow2 = !strcmp(w, "format=qcow2");
		} else if (!strcmp(w, "readonly")) {
			d->read_only = true;
		} else if (!strcmp(w, "persistent")) {
			d->persistent = true;
		} else if (!strcmp(w, "direct")) {
			d->direct = true;
		} else if (!strncmp(w, "bandwidth=", 10)) {
			r = cli_parse_size(w + 10, &d->bandwidth, e);
		} else if (!strncmp(w, "quota=", 6)) {
			r = cli_parse_size(w + 6, &d->quota, e);
		} else if (!strncmp(w, "iops=", 5)) {
			r = cli_parse_uint(w + 5, 1, 1u << 30, &d->iops, e);
		} else if (!strncmp(w, "serial=", 7) && strlen(w + 7) <= VIRTIO_BLK_SERIAL_MAX) {
			d->serial = w + 7;
		} else if (!strncmp(w, "backing=", 8) && w[8]) {
			d->backing_dir = w + 8;
		} else {
			return err_set(e, EINVAL,
				       "%s: '%s' is none of format=raw, format=qcow2, "
				       "readonly, persistent, direct, serial=TEXT (at most %d "
				       "characters), "
				       "backing=DIR, bandwidth=SIZE, iops=N, quota=SIZE",
				       word, w, VIRTIO_BLK_SERIAL_MAX);
		}
		if (r)
			return err_wrap(e, r, "%s %s: %s", word, file, w);
	}
	if (d->read_only && d->persistent)
		return err_set(e, EINVAL, "%s %s: readonly or persistent, not both", word, file);
	if (d->direct && !d->persistent)
		return err_set(e, EINVAL, "%s %s: direct is for a persistent disk", word, file);
	if (d->quota && (d->read_only || d->persistent))
		return err_set(e, EINVAL, "%s %s: quota= is for a disk with an overlay", word,
			       file);
	if (!said)
		return err_set(e, EINVAL, "%s %s: say its format: %s,format=raw or %s,format=qcow2",
			       word, file, file, file);
	vm->ndisks++;
	return 0;
}

int launch_bays_option(uint64_t *bays, const char *text, struct err *e)
{
	int r = cli_parse_uint(text, 0, LAUNCH_DISKS, bays, e);

	return r ? err_wrap(e, r, "--bays") : 0;
}
