/* SPDX-License-Identifier: MIT */
/*
 * A machine that can be swept. See machine.h.
 */
#include "tests/inject/machine.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/util.h"
#include "event/fdtab.h"
#include "event/grants.h"
#include "event/maps.h"
#include "mem/gmem.h"
#include "snapshot/snapshot.h"
#include "tests/inject/sweep.h"
#include "tests/lib/tiny_kernel.h"

static struct map_range shared[3]; /* the last stays empty */

void machine_share(const void *at, size_t n)
{
	size_t i = 0;

	while (shared[i].len && shared[i].at != at && i < ARRAY_SIZE(shared) - 1)
		i++;
	BUG_ON(i == ARRAY_SIZE(shared) - 1);
	shared[i] = (struct map_range){ at, ROUND_UP(n, 4096), true, "the test's" };
}

static void on_kick(int sig)
{
	(void)sig;
}

static int listener(void)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct sockaddr_un sun = { .sun_family = AF_UNIX };

	if (bind(fd, (void *)&sun, sizeof(sun.sun_family)) || listen(fd, 8)) /* autobind */
		sweep_fail("no listening socket");
	return fd;
}

int machine_base(void)
{
	int rw = memfd_create("base", MFD_CLOEXEC), fd;
	char path[64];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", rw);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (ftruncate(rw, 1 << 20) < 0 || fd < 0)
		sweep_fail("no base image");
	close(rw);
	return fd;
}

int machine_grant(struct vm *vm, const char *prefix, const char *name, int fd, struct err *e)
{
	char full[256];

	if (fd < 0)
		sweep_fail("no descriptor for %s", name);
	snprintf(full, sizeof(full), "%s%s", prefix, name);
	return grants_put(vm->m.grants, full, fd, e);
}

int machine_grants(struct vm *vm, const char *prefix, struct err *e)
{
	static const struct {
		const char *name;
		bool socket;
	} what[] = { { "vsock", true },
		     { "console", true },
		     { "console-log", false },
		     { "disk/root/data", false } };
	int ret = 0;

	for (size_t i = 0; i < ARRAY_SIZE(what) && !ret; i++) {
		int fd;

		inject_hold();
		fd = what[i].socket ? listener() : memfd_create(what[i].name, MFD_CLOEXEC);
		inject_release();
		ret = machine_grant(vm, prefix, what[i].name, fd, e);
	}
	return ret;
}

int machine_create(struct vm **out, struct err *e)
{
	struct sigaction kick = { .sa_handler = on_kick };
	struct vm *vm;
	int ret;

	sigaction(SIGUSR1, &kick, NULL);
	ret = vm_create("tiny", &vm, e);
	if (ret)
		return ret;
	*out = vm;
	vm->shared_memory = shared;
	pthread_mutex_lock(&vm->lock);
	inject_hold();
	vm->kvm_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	inject_release();
	fdtab_add(vm->m.fds, vm->kvm_fd, FD_KEEP, "kvm");
	return machine_grants(vm, "", e);
}

int machine_start(unsigned int vcpus, struct vm **out, struct err *e)
{
	int ret = machine_create(out, e), kernel, base;
	struct vm *vm = *out;

	if (ret)
		return ret;
	inject_hold();
	kernel = tiny_kernel_counter();
	base = machine_base();
	inject_release();
	ret = machine_grant(vm, "", "kernel", kernel, e);
	if (ret) {
		close(base);
		return ret;
	}
	ret = machine_grant(vm, "", "base", base, e);
	if (!ret)
		ret = vm_set_machine(vm, vcpus, MACHINE_MEM, e);
	if (!ret)
		ret = vm_set_boot(vm, "kernel", NULL, "", e);
	if (!ret)
		ret = tiny_add_disk(vm, e);
	if (!ret)
		ret = vm_set_vsock(vm, 3, e);
	if (!ret)
		ret = vm_set_entropy(vm, e);
	return ret ? ret : vm_start(vm, e);
}

/* Again from the start, with an offset of its own: several processes use the one file. */
static int again(int fd, int flags)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	fd = open(path, flags | O_CLOEXEC);
	if (fd < 0)
		sweep_fail("%s cannot be opened again", path);
	return fd;
}

void machine_grant_files(struct vm *vm, const struct machine_files *f, bool load, bool seed)
{
	int flags = load ? O_RDONLY : O_RDWR;
	struct err e;
	int ret = machine_grant(vm, "", "state", again(f->state, flags), &e);

	if (!ret)
		ret = machine_grant(vm, "", "ram", again(f->ram, flags), &e);
	if (!ret)
		ret = machine_grant(vm, "", load ? "disk/root/layer" : "layer/root",
				    again(f->layer, flags), &e);
	if (!ret && load)
		ret = machine_grant(vm, "", "disk/root/base", machine_base(), &e);
	if (seed)
		grants_drop(vm->m.grants, "disk/root/data");
	if (ret)
		sweep_fail("set-up: %s", e.msg);
}

int machine_snapshot(struct vm *vm, struct err *e)
{
	struct vm_save save = { .to = { "state", "ram" } };
	uint64_t stored;
	int ret = vm_stop_world(vm, e);

	if (ret)
		return ret;
	ret = vm_save(vm, &save, &stored, e);
	vm_start_world(vm);
	return ret;
}

bool machine_save(unsigned int vcpus, struct machine_files *f)
{
	struct vm *vm = NULL;
	int status;
	struct err e;
	pid_t pid;

	f->state = memfd_create("state", MFD_CLOEXEC);
	f->ram = memfd_create("ram", MFD_CLOEXEC);
	f->layer = memfd_create("layer", MFD_CLOEXEC);
	pid = fork();
	if (!pid) {
		int ret = machine_start(vcpus, &vm, &e);

		if (!ret) {
			machine_must_go_on(vm);
			machine_grant_files(vm, f, false, false);
			ret = machine_snapshot(vm, &e);
		}
		if (ret)
			fprintf(stderr, "%s\n", e.msg);
		_exit(ret ? 1 : 0);
	}
	return pid > 0 && waitpid(pid, &status, 0) == pid && !status;
}

void machine_end(struct vm *vm)
{
	if (vm)
		pthread_mutex_unlock(&vm->lock);
	vm_destroy(vm);
}

uint64_t machine_counter(struct vm *vm)
{
	uint64_t v = 0;

	gmem_read(vm->m.mem, TINY_COUNTER_GPA, &v, sizeof(v));
	return v;
}

void machine_must_go_on(struct vm *vm)
{
	uint64_t before = machine_counter(vm);

	pthread_mutex_unlock(&vm->lock);
	for (int i = 0; i < 240000 && machine_counter(vm) == before; i++)
		usleep(500);
	pthread_mutex_lock(&vm->lock);
	if (machine_counter(vm) == before)
		sweep_fail("the guest does not go on");
}
