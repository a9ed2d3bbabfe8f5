/* SPDX-License-Identifier: MIT */
/*
 * Snapshots and seeds of a tiny guest, made as the CLI makes them. See tiny_seed.h. One
 * thread.
 */
#include "tests/lib/tiny_seed.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/time.h"
#include "base/util.h"
#include "control/json.h"
#include "tests/lib/tiny_kernel.h"

#define MEM_BYTES MIB(128)
#define DISK_BYTES MIB(64)

int tiny_kernel_filler(void)
{
	static const uint8_t code[] = {
		0x48, 0xc7,	 0xc7, 0x00, 0x00, 0x00, 0x04, /* mov $0x4000000, %rdi */
		0x48, 0xc7,	 0xc0, 0x78, 0x56, 0x34, 0x12, /* mov $0x12345678, %rax */
		0xb9, 0x00,	 0x00, 0x04, 0x00,	       /* mov $TINY_BLOCK_BYTES / 8, %ecx */
		0xf3, 0x48,	 0xab,			       /* rep stosq */
		0x48, 0xc7,	 0xc7, 0x00, 0x00, 0x00, 0x04, /* mov $0x4000000, %rdi */
		0x48, 0xc7,	 0xc3, 0x00, 0x00, 0x00, 0x02, /* mov $TINY_COUNTER_GPA, %rbx */
		0x48, 0xff,	 0x03,			       /* again: incq (%rbx) */
		0xe6, TINY_PORT,			       /* out %al, $TINY_PORT */
		0x69, 0x13,	 0x01, 0x02, 0x00, 0x00,       /* imul $513, (%rbx), %edx */
		0x81, 0xe2,	 0xff, 0xff, 0x03, 0x00, /* and $TINY_BLOCK_BYTES / 8 - 1, %edx */
		0x48, 0x3b,	 0x04, 0xd7,		 /* cmp (%rdi,%rdx,8), %rax */
		0x74, 0xe9,				 /* je again */
		0xf4,					 /* stop: hlt */
		0xeb, 0xfd,				 /* jmp stop */
	};

	return tiny_kernel_code(code, sizeof(code));
}

static int grant(struct vmproc *p, const char *name, int fd, struct err *e)
{
	return client_grant(p->fdsock, &name, &fd, 1, e);
}

/* Takes over the body. */
static int request(struct vmproc *p, const char *method, const char *path, json_t *body,
		   struct err *e)
{
	int r = vmproc_request(p, method, path, body, TINY_MS, NULL, e);

	json_decref(body);
	return r;
}

int tiny_files_make(const char *dir, struct tiny_snapshot *s, struct err *e)
{
	int *const fd[] = { &s->state, &s->ram, &s->layer, &s->base };

	*s = (struct tiny_snapshot){ -1, -1, -1, -1 };
	for (size_t i = 0; i < ARRAY_SIZE(fd); i++) {
		*fd[i] = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
		if (*fd[i] < 0)
			return err_sys(e, errno, "a file in %s", dir);
	}
	return ftruncate(s->base, (off_t)DISK_BYTES) ? err_sys(e, errno, "disk") : 0;
}

static int boot(struct vmproc *p, int kernel, int base, struct err *e)
{
	struct launch_vm vm = {
		.initrd_fd = -1, .cmdline = "", .mem_bytes = MEM_BYTES, .vcpus = 1
	};
	char kernel_path[64], base_path[64];
	int r;

	snprintf(kernel_path, sizeof(kernel_path), "/proc/self/fd/%d", kernel);
	snprintf(base_path, sizeof(base_path), "/proc/self/fd/%d", base);
	vm.kernel = kernel_path;
	vm.disks[vm.ndisks++] =
		(struct launch_disk){ .id = "root", .path = base_path, .root = true };
	r = launch_boot(p, &vm, e);
	launch_vm_fini(&vm);
	return r;
}

/* Until the guest writes its port: what comes before is done. */
static int wait_counting(struct vmproc *p, struct err *e)
{
	uint64_t end = time_mono_ns() + TINY_MS * NS_PER_MS;

	while (time_mono_ns() < end) {
		cleanup_json json_t *reply = NULL;
		int r = vmproc_request(p, "GET", "/stats", NULL, TINY_MS, &reply, e);

		if (r)
			return r;
		if (json_integer_value(json_object_get(json_object_get(reply, "vm"), "exits_pio")))
			return 0;
		usleep(1000);
	}
	return err_set(e, ETIMEDOUT, "the guest does not count");
}

/* A seed must never be able to write to what its siblings are made of. */
static int grant_read_only(struct vmproc *p, const char *name, int fd, struct err *e)
{
	cleanup_close int ro = -1;
	char path[64];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	ro = open(path, O_RDONLY | O_CLOEXEC);
	return ro < 0 ? err_sys(e, errno, "%s: opened again", name) : grant(p, name, ro, e);
}

/* Grants the files of a chain and appends them to the list in the API's words. */
static int grant_chain(struct vmproc *p, const struct tiny_snapshot *s, size_t n, json_t *list,
		       struct err *e)
{
	for (size_t i = 0; i < n; i++) {
		char state[32], ram[32];
		int r;

		snprintf(state, sizeof(state), "on/%zu/state", i);
		snprintf(ram, sizeof(ram), "on/%zu/ram", i);
		r = grant_read_only(p, state, s[i].state, e);
		if (!r)
			r = grant_read_only(p, ram, s[i].ram, e);
		if (r)
			return r;
		json_array_append_new(list, json_pack("{s:s, s:s}", "snapshot_path", state,
						      "mem_file_path", ram));
	}
	return 0;
}

static int grant_outputs(struct vmproc *p, const struct tiny_snapshot *to, struct err *e)
{
	int r = grant(p, "state", to->state, e);

	return r ? r : grant(p, "ram", to->ram, e);
}

int tiny_vm_save(struct vmproc *p, const struct tiny_save *s, struct err *e)
{
	cleanup_json json_t *list = json_array();
	json_t *body;
	int data, r = grant_outputs(p, s->to, e);

	if (!r)
		r = grant(p, "layer/root", s->to->layer, e);
	data = r ? r : launch_overlay(e);
	if (data >= 0) {
		r = grant(p, "parent/disk/root/data", data, e);
		close(data);
	}
	if (!r)
		r = grant_chain(p, s->base, s->nr_base, list, e);
	if (r)
		return r;
	body = json_pack("{s:s, s:s, s:s, s:b, s:b, s:I}", "snapshot_type",
			 s->nr_base ? "Diff" : "Full", "snapshot_path", "state", "mem_file_path",
			 "ram", "compress", s->compress, "wait", s->wait, "max_growth_bytes",
			 (json_int_t)s->max_growth_bytes);
	if (s->nr_base)
		json_object_set(body, "parents", list);
	return request(p, "PUT", "/snapshot/create", body, e);
}

static int load(struct vmproc *p, const struct tiny_snapshot *chain, size_t n, struct err *e)
{
	const struct tiny_snapshot *own = &chain[n - 1];
	cleanup_json json_t *list = json_array();
	int data, r = grant_chain(p, chain, n - 1, list, e);
	json_t *body;

	if (!r)
		r = grant_read_only(p, "state", own->state, e);
	if (!r)
		r = grant_read_only(p, "ram", own->ram, e);
	if (!r)
		r = grant_read_only(p, "disk/root/base", own->base, e);
	if (!r)
		r = grant_read_only(p, "disk/root/layer", own->layer, e);
	data = r ? r : launch_overlay(e);
	if (data >= 0) {
		r = grant(p, "disk/root/data", data, e);
		close(data);
	}
	if (r)
		return r;
	body = json_pack("{s:s, s:{s:s, s:s}}", "snapshot_path", "state", "mem_backend",
			 "backend_type", "File", "backend_path", "ram");
	if (n > 1)
		json_object_set(body, "parents", list);
	return request(p, "PUT", "/snapshot/load", body, e);
}

int tiny_vm_restore(const char *name, const struct tiny_snapshot *chain, size_t n, struct vmproc *p,
		    struct err *e)
{
	int r = vmproc_start(PLACE_VM, name, 0, -1, p, e);

	if (r)
		return r;
	r = load(p, chain, n, e);
	if (r)
		vmproc_abort(p);
	return r;
}

int tiny_flatten(const struct tiny_snapshot *chain, size_t n, const struct tiny_snapshot *to,
		 bool compress, struct err *e)
{
	json_t *list = json_array();
	struct vmproc p;
	int r = vmproc_start(PLACE_VM, "flatten", 0, -1, &p, e);

	if (!r) {
		r = grant_chain(&p, chain, n, list, e);
		if (!r)
			r = grant_outputs(&p, to, e);
		if (!r)
			r = request(&p, "PUT", "/snapshot/flatten",
				    json_pack("{s:O, s:s, s:s, s:b}", "layers", list,
					      "snapshot_path", "state", "mem_file_path", "ram",
					      "compress", compress),
				    e);
		vmproc_abort(&p);
	}
	json_decref(list);
	return r;
}

int tiny_vm_boot(const char *name, int kernel, int base, struct vmproc *p, struct err *e)
{
	int r = vmproc_start(PLACE_VM, name, 0, -1, p, e);

	if (r)
		return r;
	r = boot(p, kernel, base, e);
	if (!r)
		r = wait_counting(p, e);
	if (r)
		vmproc_abort(p);
	return r;
}

int tiny_snapshot_make(const char *dir, int kernel, struct tiny_snapshot *s, struct err *e)
{
	const struct tiny_save save = { .to = s, .wait = true };
	struct vmproc p;
	int r = tiny_files_make(dir, s, e);

	if (!r)
		r = tiny_vm_boot("origin", kernel, s->base, &p, e);
	if (!r) {
		r = request(&p, "PATCH", "/vm", json_pack("{s:s}", "state", "Paused"), e);
		if (!r)
			r = tiny_vm_save(&p, &save, e);
		vmproc_abort(&p);
	}
	if (r)
		tiny_snapshot_close(s);
	return r;
}

void tiny_snapshot_close(struct tiny_snapshot *s)
{
	int *const fd[] = { &s->state, &s->ram, &s->layer, &s->base };

	for (size_t i = 0; i < ARRAY_SIZE(fd); i++)
		if (*fd[i] >= 0)
			close(take_fd(fd[i]));
}

static json_t *children_info(void)
{
	return json_pack("{s:[{s:s, s:b}]}", "disks", "id", "root", "read_only", 0);
}

int tiny_vm_start(const char *name, int kernel, int base, struct tiny_seed *vm, struct err *e)
{
	int r = tiny_vm_boot(name, kernel, base, &vm->proc, e);

	if (r)
		return r;
	vm->info = children_info();
	vm->live = true;
	return 0;
}

int tiny_seed_open(const char *name, struct tiny_seed *seed, struct err *e)
{
	int r = vmproc_start(PLACE_SEED, name, 600000, -1, &seed->proc, e);

	seed->info = r ? NULL : children_info();
	seed->live = false;
	return r;
}

int tiny_seed_load(struct tiny_seed *seed, const struct tiny_snapshot *s, unsigned int spares,
		   bool huge_pages, struct err *e)
{
	struct vmproc *p = &seed->proc;
	int r = grant_read_only(p, "state", s->state, e);

	if (!r)
		r = grant_read_only(p, "ram", s->ram, e);
	if (!r)
		r = grant_read_only(p, "disk/root/base", s->base, e);
	if (!r)
		r = grant_read_only(p, "disk/root/layer", s->layer, e);
	if (!r)
		r = request(p, "PUT", "/snapshot/load",
			    json_pack("{s:s, s:{s:s, s:s}, s:b, s:i, s:b}", "snapshot_path",
				      "state", "mem_backend", "backend_type", "File",
				      "backend_path", "ram", "seed", 1, "spares", (int)spares,
				      "huge_pages", huge_pages),
			    e);
	return r;
}

int tiny_seed_start(const char *name, const struct tiny_snapshot *s, unsigned int spares,
		    bool huge_pages, struct tiny_seed *seed, struct err *e)
{
	int r = tiny_seed_open(name, seed, e);

	if (r)
		return r;
	r = tiny_seed_load(seed, s, spares, huge_pages, e);
	if (r)
		tiny_seed_end(seed);
	return r;
}

void tiny_seed_end(struct tiny_seed *seed)
{
	vmproc_abort(&seed->proc);
	json_decref(seed->info);
	seed->info = NULL;
}

int tiny_seed_fork(const struct tiny_seed *seed, struct fork_child_info *c, size_t n, struct err *e)
{
	struct fork_source src = { .dir = &seed->proc.dir, .live = seed->live, .info = seed->info };
	struct fork_how how = { .wait = true, .userdata_fd = -1, .timeout_ms = TINY_MS };
	uint64_t pause_ns;
	int r = fork_request(&src, c, n, &how, -1, &pause_ns, e);

	for (size_t i = 0; i < n && !r; i++)
		if (!c[i].ok)
			r = err_set(e, ECHILD, "%s: %s", c[i].name, c[i].why);
	return r;
}

int tiny_vm_get(const char *name, const char *path, json_t **reply, struct err *e)
{
	struct client *c = NULL;
	struct vmdir d;
	int r = vmdir_open(PLACE_VM, name, &d, e);

	if (!r)
		r = client_open(d.fd, &c, e);
	if (!r)
		r = client_request(c, "GET", path, NULL, TINY_MS, reply, e);
	client_close(c);
	vmdir_close(&d);
	return r;
}

/* A file of /proc/PID, "" when there is none. */
static char *proc_read(pid_t pid, const char *what, char *buf, size_t n)
{
	char path[64];
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/%s", pid, what);
	f = fopen(path, "re");
	buf[f ? fread(buf, 1, n - 1, f) : 0] = '\0';
	if (f)
		fclose(f);
	return buf;
}

static bool ended(pid_t pid)
{
	char buf[512], *p = strrchr(proc_read(pid, "stat", buf, sizeof(buf)), ')');

	return !p || p[2] == 'Z' || p[2] == 'X';
}

size_t tiny_children(pid_t pid, pid_t *v, size_t max)
{
	char what[64], buf[4096], *at = buf;
	size_t n = 0;

	snprintf(what, sizeof(what), "task/%d/children", pid);
	proc_read(pid, what, buf, sizeof(buf));
	for (long child; n < max && (child = strtol(at, &at, 10)) > 0;)
		if (!ended((pid_t)child))
			v[n++] = (pid_t)child;
	return n;
}
