/* SPDX-License-Identifier: MIT */
/*
 * The stores, when whoever changes them is killed: at its first system call, then at its second,
 * until it has none left. Whatever the moment, there is the old or the new, whole; what is left
 * over is cleared away; and the same can be done again.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/util.h"
#include "template/template.h"
#include "tests/lib/must.h"
#include "tests/lib/scratch.h"

#define RAM_BYTES (1u << 20)
#define CALLS_MAX 2000

static char *dir;

static void write_part(struct template_stage *s, const char *name)
{
	struct err e;
	int fd = template_stage_file(s, name, &e);

	assert_true(fd >= 0);
	assert_int_equal(fd_write_full(fd, name, strlen(name)), 0);
	if (!strcmp(name, "ram"))
		assert_int_equal(ftruncate(fd, RAM_BYTES), 0);
	close(fd);
}

/* Publishes a template, over another one if that is given. */
static int make(const char *name, const struct template *over, unsigned int vcpus, struct err *e)
{
	static const char *const parts[] = { "state", "ram", "layer-root" };
	struct template *t = calloc(1, sizeof(*t));
	struct template_stage s;
	int ret;

	*t = (struct template){
		.created = "2025-06-01T12:00:00Z",
		.clone_version = "0.1.0",
		.image = "debian",
		.cpu = "Some CPU",
		.mem_bytes = RAM_BYTES,
		.vcpus = vcpus,
		.ndisks = 1,
		.disks = { { .id = "root", .layer = 2 } },
		.nfiles = 3,
		.files = { { .name = "state" }, { .name = "ram" }, { .name = "layer-root" } }
	};
	snprintf(t->bases[0].path, sizeof(t->bases[0].path), "%s/base.img", dir);
	t->nbases = 1;
	t->disks[0].nbases = 1;
	ret = over ? template_stage_begin_over(over, &s, e)
		   : template_stage_begin(STORE_TEMPLATES, name, &s, e);
	for (size_t i = 0; i < ARRAY_SIZE(parts) && !ret; i++)
		write_part(&s, parts[i]);
	if (!ret) {
		ret = template_stage_publish(&s, t, e);
		template_stage_end(&s);
	}
	free(t);
	return ret;
}

/* 0 vCPUs: it is not there. What is there is whole. */
static unsigned int vcpus_of(const char *name)
{
	struct template *t = calloc(1, sizeof(*t));
	int ret = template_open(STORE_TEMPLATES, name, t, NULL);
	unsigned int vcpus = t->vcpus;
	struct err e;

	if (!ret)
		must(template_verify(t, &e), &e);
	else
		assert_int_equal(ret, -ENOENT);
	free(t);
	return ret ? 0 : vcpus;
}

/* All names in the store, also those that nobody is shown. */
static unsigned int entries(void)
{
	char path[512];
	unsigned int n = 0;
	struct dirent *d;
	DIR *at;

	snprintf(path, sizeof(path), "%s/templates", dir);
	at = opendir(path);
	assert_non_null(at);
	while ((d = readdir(at)))
		n += strcmp(d->d_name, ".") != 0 && strcmp(d->d_name, "..") != 0;
	closedir(at);
	return n;
}

static void do_publish(void)
{
	struct err e;

	_exit(make("new", NULL, 3, &e) != 0);
}

static void do_replace(void)
{
	struct template *t = calloc(1, sizeof(*t));
	struct err e;

	_exit(template_open(STORE_TEMPLATES, "web", t, &e) || make("web", t, 3, &e));
}

static void do_remove(void)
{
	struct err e;

	_exit(template_rm(STORE_TEMPLATES, "web", &e) != 0);
}

/* Runs it until it makes its nth system call, which it does not live to see. false: it had none
 * left and has ended well. */
static bool killed_at(void (*fn)(void), unsigned int nth)
{
	int status;
	pid_t pid = fork();

	if (!pid) {
		ptrace(PTRACE_TRACEME, 0, NULL, NULL);
		raise(SIGSTOP);
		fn();
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSTOPPED(status));
	/* a stop at each call's entry, and one at its return */
	for (unsigned int stops = 0; stops < 2 * nth - 1; stops++) {
		assert_int_equal(ptrace(PTRACE_SYSCALL, pid, NULL, NULL), 0);
		assert_int_equal(waitpid(pid, &status, 0), pid);
		if (WIFEXITED(status)) {
			assert_int_equal(WEXITSTATUS(status), 0);
			return false;
		}
	}
	kill(pid, SIGKILL);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status));
	return true;
}

struct change {
	void (*fn)(void);
	const char *name;	    /* what it is about */
	unsigned int before, after; /* its vCPUs then */
	unsigned int left;	    /* templates, when it has been done */
};

static void sweep(const struct change *c)
{
	unsigned int n, old = 0, new = 0;
	bool killed = true;

	for (n = 1; killed; n++) {
		unsigned int vcpus;
		struct err e;

		assert_true(n < CALLS_MAX);
		dir = scratch_make();
		setenv("CLONE_STATE_DIR", dir, 1);
		scratch_text(dir, "base.img", "the shared base of a disk");
		must(make("web", NULL, 2, &e), &e);
		must(make("api", NULL, 2, &e), &e);
		killed = killed_at(c->fn, n);
		vcpus = vcpus_of(c->name);
		assert_true(vcpus == c->before || vcpus == c->after);
		assert_int_equal(vcpus_of("api"), 2);
		old += vcpus == c->before;
		new += killed &&vcpus == c->after;
		if (!killed)
			assert_int_equal(vcpus, c->after);
		/* again, if it was not done; and whoever makes one next clears away what is left */
		if (vcpus == c->before) {
			pid_t pid = fork();
			int status;

			if (!pid)
				c->fn();
			assert_int_equal(waitpid(pid, &status, 0), pid);
			assert_true(WIFEXITED(status) && !WEXITSTATUS(status));
			assert_int_equal(vcpus_of(c->name), c->after);
		}
		must(make("next", NULL, 1, &e), &e);
		assert_int_equal(entries(), c->left + 1);
		scratch_remove(dir);
	}
	print_message("%u calls: the old one after %u, the new after %u\n", n - 2, old, new);
	assert_true(old && new);
}

static void test_store_killed__a_publisher(void **state)
{
	(void)state;
	sweep(&(struct change){ do_publish, "new", 0, 3, 3 });
}

static void test_store_killed__who_replaces(void **state)
{
	(void)state;
	sweep(&(struct change){ do_replace, "web", 2, 3, 2 });
}

static void test_store_killed__who_removes(void **state)
{
	(void)state;
	sweep(&(struct change){ do_remove, "web", 2, 0, 1 });
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_store_killed__a_publisher),
		cmocka_unit_test(test_store_killed__who_replaces),
		cmocka_unit_test(test_store_killed__who_removes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
