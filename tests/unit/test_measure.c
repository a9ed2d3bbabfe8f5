/* SPDX-License-Identifier: MIT */
/*
 * clone stats over a run directory of our own: processes that stand in for machines, with guest
 * memory as machines have it, and what is said of them as JSON and as a table.
 */
#undef _FORTIFY_SOURCE /* its inlines have names that we define */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/util.h"
#include "cli/cli.h"
#include "cli/commands.h"
#include "cli/measure.h"
#include "cli/procid.h"
#include "control/json.h"
#include "mem/gmem.h"
#include "tests/lib/scratch.h"

#define PAGES(n) ((json_int_t)(n)*GMEM_PAGE)
#define RAM MIB(64)

static unsigned int fails_in; /* the open that finds no descriptor, from now on; 0: none does */

static int open_or_fail(int dir, const char *path, int flags, va_list ap)
{
	int mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(ap, int) : 0;

	if (fails_in && !--fails_in) {
		errno = EMFILE;
		return -1;
	}
	return (int)syscall(SYS_openat, dir, path, flags, mode);
}

int open(const char *path, int flags, ...)
{
	va_list ap;
	int fd;

	va_start(ap, flags);
	fd = open_or_fail(AT_FDCWD, path, flags, ap);
	va_end(ap);
	return fd;
}

int openat(int dir, const char *path, int flags, ...)
{
	va_list ap;
	int fd;

	va_start(ap, flags);
	fd = open_or_fail(dir, path, flags, ap);
	va_end(ap);
	return fd;
}

struct scene {
	char *dir;
	struct gmem *gm;
	pid_t one, two;
};

static void write_pages(struct gmem *gm, uint64_t page, uint64_t n)
{
	for (uint64_t i = page; i < page + n; i++)
		memset(gmem_fill(gm, i * GMEM_PAGE, GMEM_PAGE), (int)(i + n), GMEM_PAGE);
}

/* A machine of that name: it writes n pages of its own, and has so many children. */
static pid_t machine(struct scene *s, const char *name, uint64_t n, unsigned int helpers)
{
	cleanup_json json_t *info = NULL;
	struct vmdir d;
	struct err e;
	int ready[2];
	pid_t pid;
	char c;

	if (vmdir_create(PLACE_VM, name, 0, &d, &e))
		fail_msg("%s", e.msg);
	assert_int_equal(pipe(ready), 0);
	pid = fork();
	if (!pid) {
		if (d.uid && (setresgid(d.gid, d.gid, d.gid) || setresuid(d.uid, d.uid, d.uid)))
			_exit(1);
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		write_pages(s->gm, 0, n);
		for (unsigned int i = 0; i < helpers; i++)
			if (!fork()) {
				prctl(PR_SET_PDEATHSIG, SIGKILL);
				if (write(ready[1], "", 1) != 1)
					_exit(1);
				for (;;)
					pause();
			}
		if (write(ready[1], "", 1) != 1)
			_exit(1);
		for (;;)
			pause();
	}
	for (unsigned int i = 0; i <= helpers; i++)
		assert_int_equal(read(ready[0], &c, 1), 1);
	close(ready[0]);
	close(ready[1]);
	info = json_pack("{s:s}", "name", name);
	procid_note(info, pid);
	assert_int_equal(vmdir_publish(&d, info, &e), 0);
	vmdir_close(&d);
	return pid;
}

static int setup(void **state)
{
	struct scene *s = calloc(1, sizeof(*s));
	struct gmem_region r[GMEM_MAX_REGIONS];
	struct err e;

	s->dir = scratch_make();
	setenv("CLONE_RUN_DIR", s->dir, 1);
	assert_int_equal(gmem_create(RAM, &s->gm, &e), 0);
	gmem_regions(s->gm, r);
	(void)madvise(r[0].hva, RAM, MADV_NOHUGEPAGE);
	write_pages(s->gm, 0, 500);
	s->one = machine(s, "one", 100, 1);
	s->two = machine(s, "two", 7, 0);
	*state = s;
	return 0;
}

static int teardown(void **state)
{
	struct scene *s = *state;

	kill(s->one, SIGKILL);
	kill(s->two, SIGKILL);
	assert_int_equal(waitpid(s->one, NULL, 0), s->one);
	assert_int_equal(waitpid(s->two, NULL, 0), s->two);
	gmem_destroy(s->gm);
	scratch_remove(s->dir);
	free(s);
	return 0;
}

static json_t *measured(char *const *names, size_t n)
{
	struct measure m;
	struct err e;
	json_t *j;

	if (measure_take(&m, &e))
		fail_msg("%s", e.msg);
	measure_sort(&m, MEASURE_BY_NAME);
	j = measure_json(&m, names, n);
	measure_fini(&m);
	assert_non_null(j);
	return j;
}

static json_int_t number(const json_t *o, const char *key)
{
	const json_t *v = json_object_get(o, key);

	if (!json_is_integer(v))
		fail_msg("%s is no number", key);
	return json_integer_value(v);
}

static const char *text(const json_t *o, const char *key)
{
	return json_string_value(json_object_get(o, key));
}

static void test_stats__machines_and_their_helpers_are_there(void **state)
{
	cleanup_json json_t *j = measured(NULL, 0);
	const json_t *v = json_object_get(j, "vms"), *one = json_array_get(v, 0);
	const json_t *helper = json_array_get(v, 1), *two = json_array_get(v, 2);
	const struct scene *s = *state;

	assert_int_equal(json_array_size(v), 3);
	assert_string_equal(text(one, "name"), "one");
	assert_string_equal(text(one, "kind"), "vm");
	assert_int_equal(number(one, "pid"), s->one);
	assert_int_equal(strncmp(text(helper, "name"), "one+", 4), 0);
	assert_string_equal(text(helper, "kind"), "helper");
	assert_string_equal(text(two, "name"), "two");
	for (size_t i = 0; i < 3; i++)
		assert_int_equal(number(json_array_get(v, i), "ram_bytes"), RAM);
	assert_int_equal(number(json_object_get(j, "total"), "vms"), 2);
	assert_true(json_is_null(json_object_get(one, "kernel_bytes")) ||
		    number(one, "kernel_bytes") > 0);
	if (strcmp(text(j, "method"), "pagemap")) {
		assert_int_not_equal(geteuid(), 0);
		assert_true(json_is_null(json_object_get(one, "relatives_bytes")));
		return;
	}
	/* what it wrote is its own no longer since its child has it */
	assert_int_equal(number(one, "unique_bytes"), 0);
	assert_int_equal(number(one, "relatives_bytes"), PAGES(500));
	/* the 7, and 93 that the others have written since: we have them, but are no machine */
	assert_int_equal(number(two, "unique_bytes"), PAGES(100));
	assert_int_equal(number(two, "relatives_bytes"), PAGES(400));
}

static void test_stats__total_has_each_page_once(void **state)
{
	cleanup_json json_t *j = measured(NULL, 0);
	const json_t *total = json_object_get(j, "total"), *host = json_object_get(j, "host");
	const json_t *v = json_object_get(j, "vms");
	json_int_t own = 0, cost = 0;

	(void)state;
	for (size_t i = 0; i < json_array_size(v); i++) {
		own += number(json_array_get(v, i), "unique_bytes");
		cost += number(json_array_get(v, i), "memory_bytes");
	}
	assert_int_equal(number(total, "unique_bytes"), own);
	assert_int_equal(number(total, "memory_bytes"), cost);
	if (geteuid() == 0) {
		/* 100 of one and its child, 400 of all three; and 100 are two's */
		assert_in_range(number(total, "relatives_bytes"), PAGES(500) - 8, PAGES(500) + 8);
		assert_true(number(total, "anonymous_bytes") >= PAGES(600));
		assert_true(number(host, "vms_anonymous_bytes") ==
			    number(total, "anonymous_bytes"));
	}
	assert_true(number(host, "vms_anonymous_bytes") <= number(host, "anonymous_bytes"));
	assert_true(json_is_real(json_object_get(j, "measured_ms")));
}

static void test_stats__only_the_named_but_all_are_looked_at(void **state)
{
	char two[] = "two", *names[] = { two };
	cleanup_json json_t *j = measured(names, 1);
	const json_t *v = json_object_get(j, "vms");

	(void)state;
	assert_int_equal(json_array_size(v), 1);
	assert_string_equal(text(json_array_get(v, 0), "name"), "two");
	assert_int_equal(number(json_array_get(v, 0), "unique_bytes"),
			 geteuid() ? PAGES(7) : PAGES(100));
	assert_null(json_object_get(j, "total"));
	assert_null(json_object_get(j, "host"));
}

/* A number that a VM may have said is believed for processes of the VM's own user only. */
static void test_stats__anothers_process_is_not_a_machines(void **state)
{
	cleanup_json json_t *info = json_pack("{s:s}", "name", "liar");
	cleanup_json json_t *j = NULL;
	struct vmdir d;
	struct err e;
	int lock;
	size_t n;

	(void)state;
	assert_int_equal(vmdir_create(PLACE_VM, "liar", 0, &d, &e), 0);
	procid_note(info, getpid());
	lock = dup(d.lock_fd);
	assert_int_equal(vmdir_publish(&d, info, &e), 0);
	j = measured(NULL, 0);
	n = json_array_size(json_object_get(j, "vms"));
	for (size_t i = 0; i < n; i++)
		if (d.uid)
			assert_string_not_equal(
				text(json_array_get(json_object_get(j, "vms"), i), "name"), "liar");
	close(lock);
	assert_int_equal(vmdir_remove(&d, &e), 0);
	vmdir_close(&d);
}

/* A machine of that name, of its user, says that it is process pid. */
static void claim(const char *name, uint32_t uid, pid_t pid, int *lock)
{
	cleanup_json json_t *info = json_pack("{s:s}", "name", name);
	struct vmdir d;
	struct err e;

	assert_int_equal(vmdir_create(PLACE_VM, name, uid, &d, &e), 0);
	procid_note(info, pid);
	*lock = dup(d.lock_fd);
	assert_int_equal(vmdir_publish(&d, info, &e), 0);
	vmdir_close(&d);
}

static void unclaim(const char *name, int lock)
{
	struct vmdir d;
	struct err e;

	close(lock);
	assert_int_equal(vmdir_open(PLACE_VM, name, &d, &e), 0);
	assert_int_equal(vmdir_remove(&d, &e), 0);
	vmdir_close(&d);
}

static void test_stats__a_process_is_in_the_sums_once(void **state)
{
	const struct scene *s = *state;
	cleanup_json json_t *before = measured(NULL, 0), *j = NULL;
	const json_t *v, *total = json_object_get(before, "total");
	char why[80];
	struct vmdir one;
	struct err e;
	int lock[2];

	assert_int_equal(vmdir_open(PLACE_VM, "one", &one, &e), 0);
	/* whoever comes first has it */
	claim("aone", one.uid, s->one, &lock[0]);
	claim("twin", one.uid, s->one, &lock[1]);
	j = measured(NULL, 0);
	v = json_object_get(j, "vms");
	assert_int_equal(json_array_size(v), 5);
	assert_string_equal(text(json_array_get(v, 0), "name"), "aone");
	assert_int_equal(number(json_array_get(v, 0), "pid"), s->one);
	assert_int_equal(number(json_array_get(v, 0), "ram_bytes"), RAM);
	snprintf(why, sizeof(why), "not looked at: its process %d is aone", s->one);
	for (size_t i = 2; i < 4; i++) {
		const json_t *o = json_array_get(v, i);

		assert_string_equal(text(o, "name"), i == 2 ? "one" : "twin");
		assert_string_equal(text(o, "warning"), why);
		assert_true(json_is_null(json_object_get(o, "memory_bytes")));
	}
	assert_int_equal(number(json_object_get(j, "total"), "vms"), 4);
	assert_int_equal(number(json_object_get(j, "total"), "ram_bytes"),
			 number(total, "ram_bytes"));
	unclaim("aone", lock[0]);
	unclaim("twin", lock[1]);
	vmdir_close(&one);
}

static void test_stats__one_whose_description_is_damaged_is_there(void **state)
{
	const struct scene *s = *state;
	cleanup_json json_t *j = NULL;
	const json_t *o;
	int lock;

	claim("bent", 0, s->one, &lock);
	scratch_text(s->dir, "vms/bent/vm.json", "{");
	j = measured(NULL, 0);
	o = json_array_get(json_object_get(j, "vms"), 0);
	assert_string_equal(text(o, "name"), "bent");
	assert_non_null(strstr(text(o, "warning"), "bent: vm.json: invalid JSON"));
	assert_true(json_is_null(json_object_get(o, "memory_bytes")));
	assert_int_equal(json_array_size(json_object_get(j, "vms")), 4);
	json_decref(j);
	/* unless it has ended */
	close(take_fd(&lock));
	j = measured(NULL, 0);
	assert_int_equal(json_array_size(json_object_get(j, "vms")), 3);
	unclaim("bent", lock);
}

enum { ALL_SEEN, SAID, SOME_MISSING, NONE_FAILED };

/* With so many descriptors, or without one for the nth that is opened (0: as ever). */
static int measured_with(unsigned int descriptors, unsigned int nth)
{
	const struct rlimit l = { descriptors, descriptors };
	struct measure m;
	pid_t pid = fork();
	int status, r;
	struct err e;

	if (!pid) {
		if (descriptors && setrlimit(RLIMIT_NOFILE, &l))
			_exit(99);
		fails_in = nth;
		r = measure_take(&m, &e);
		if (nth && fails_in)
			_exit(NONE_FAILED);
		if (r)
			_exit(r == -EMFILE && strstr(e.msg, "Too many open files") ? SAID : 98);
		for (size_t i = 0; i < m.account.nr_procs; i++)
			if (m.account.procs[i].gone)
				_exit(SOME_MISSING);
		_exit(m.account.nr_procs == 3 ? ALL_SEEN : SOME_MISSING);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	return WEXITSTATUS(status);
}

static void test_stats__without_descriptors_nothing_is_left_out_in_silence(void **state)
{
	unsigned int n = 4, failed = 0;
	int r;

	(void)state;
	while ((r = measured_with(n, 0)) == SAID) {
		failed++;
		n++;
		assert_true(n < 200);
	}
	assert_int_equal(r, ALL_SEEN);
	assert_true(failed > 0);
	for (unsigned int i = 1; i < 8; i++)
		assert_int_equal(measured_with(n + i, 0), ALL_SEEN);
	/* one alone that fails: what comes after it does not say so as well */
	failed = 0;
	for (n = 1; (r = measured_with(0, n)) != NONE_FAILED; n++) {
		failed += r == SAID;
		if (r != SAID && r != ALL_SEEN)
			fail_msg("the open number %u: %d", n, r);
	}
	assert_true(n > 30 && failed > 20);
}

/* One that was taken over has as many children as it likes: that costs itself its figures. */
static void test_stats__more_children_than_a_machine_has_are_not_walked(void **state)
{
	struct scene *s = *state;
	pid_t many = machine(s, "zoo", 5, ACCOUNT_HELPERS_MAX + 5);
	cleanup_json json_t *j = measured(NULL, 0);
	const json_t *list = json_object_get(j, "vms"), *last = NULL;
	size_t n = 0, walked = 0;
	cleanup_free char *out = NULL;
	struct measure m;
	const json_t *o;
	struct vmdir d;
	struct err e;
	size_t i;
	FILE *f;

	json_array_foreach(list, i, o)
	{
		if (strncmp(text(o, "name"), "zoo+", 4))
			continue;
		n++;
		if (!json_object_get(o, "warning")) {
			walked++;
			assert_int_equal(number(o, "ram_bytes"), RAM);
		} else {
			last = o;
		}
	}
	assert_int_equal(n, ACCOUNT_HELPERS_MAX + 1);
	assert_int_equal(walked, ACCOUNT_HELPERS_MAX);
	assert_string_equal(text(last, "warning"),
			    "not walked, nor are more: zoo has too many children");
	assert_string_equal(text(last, "kind"), "helper");
	assert_true(json_is_null(json_object_get(last, "memory_bytes")));
	assert_true(json_is_null(json_object_get(last, "unique_bytes")));
	assert_true(json_is_null(json_object_get(last, "vmm_bytes")));
	assert_true(number(json_object_get(j, "total"), "ram_bytes") ==
		    (json_int_t)(RAM * (ACCOUNT_HELPERS_MAX + 1 + 3)));
	assert_int_equal(measure_take(&m, &e), 0);
	f = open_memstream(&out, &i);
	measure_sort(&m, MEASURE_BY_MEM);
	/* what is not known costs least */
	assert_true(m.account.procs[m.account.nr_procs - 1].why[0] != '\0');
	measure_print(f, &m, NULL, 0, "", "");
	fclose(f);
	measure_fini(&m);
	assert_non_null(strstr(out, "helper         -         -         -"));
	assert_non_null(strstr(out, ": not walked, nor are more: zoo has too many children\n"));
	assert_non_null(strstr(out, "\nwarning: zoo+"));
	kill(many, SIGKILL);
	assert_int_equal(waitpid(many, NULL, 0), many);
	assert_int_equal(vmdir_open(PLACE_VM, "zoo", &d, &e), 0);
	for (i = 0; i < 120000 && vmdir_alive(&d); i++) /* its children end with it, soon */
		usleep(1000);
	assert_int_equal(vmdir_remove(&d, &e), 0);
	vmdir_close(&d);
}

static void test_stats__order_is_what_was_asked_for(void **state)
{
	struct measure m;
	struct err e;

	(void)state;
	assert_int_equal(measure_take(&m, &e), 0);
	measure_sort(&m, MEASURE_BY_UNIQUE);
	for (size_t i = 1; i < m.account.nr_procs; i++)
		assert_true(m.account.procs[i - 1].fig.unique >= m.account.procs[i].fig.unique);
	measure_sort(&m, MEASURE_BY_MEM);
	for (size_t i = 1; i < m.account.nr_procs; i++)
		assert_true(measure_cost(&m, &m.account.procs[i - 1]) >=
			    measure_cost(&m, &m.account.procs[i]));
	measure_sort(&m, MEASURE_BY_NAME);
	for (size_t i = 1; i < m.account.nr_procs; i++)
		assert_true(strcmp(m.account.procs[i - 1].name, m.account.procs[i].name) < 0);
	measure_fini(&m);
}

static void test_stats__table_has_mib_with_one_decimal(void **state)
{
	char two[] = "two", *names[] = { two };
	cleanup_free char *out = NULL;
	double cost, unique, columns[4];
	struct measure m;
	char *line;
	struct err e;
	size_t n;
	FILE *f;

	(void)state;
	assert_int_equal(measure_take(&m, &e), 0);
	f = open_memstream(&out, &n);
	measure_print(f, &m, names, 1, "<", ">");
	fclose(f);
	assert_int_equal(out[0], '<');
	line = strchr(out, '\n');
	assert_int_equal(line[-1], '>');
	/* the first four columns are the same whatever the method */
	assert_int_equal(sscanf(line + 1, "two vm %lf %lf %lf %lf", &cost, &unique, &columns[0],
				&columns[1]),
			 4);
	assert_true(unique == (geteuid() ? 0.0 : 0.4)); /* 7 pages, or 100 */
	assert_non_null(strstr(line, "\nmethod "));
	assert_non_null(strstr(out, "measured in "));
	measure_fini(&m);
}

/* Of what the kernel does not tell nothing is said, least of all that it is the others'. */
static void test_stats__anonymous_memory_that_is_unknown_is_a_dash(void **state)
{
	cleanup_free char *out = NULL;
	struct measure m;
	struct err e;
	size_t n;
	FILE *f;

	(void)state;
	assert_int_equal(measure_take(&m, &e), 0);
	m.account.anon = ACCOUNT_UNKNOWN;
	f = open_memstream(&out, &n);
	measure_print(f, &m, NULL, 0, "", "");
	fclose(f);
	assert_non_null(strstr(out, ". Not available: VMs' anonymous -, others' -, cache that "));
	free(out);
	m.account.anon = MIB(3);
	m.host.anon = MIB(5);
	f = open_memstream(&out, &n);
	measure_print(f, &m, NULL, 0, "", "");
	fclose(f);
	assert_non_null(strstr(out, "VMs' anonymous 3.0, others' 2.0, cache that "));
	measure_fini(&m);
}

static void test_stats__asks_for_what_is_there(void **state)
{
	char cmd[] = "stats", nobody[] = "nobody", option[] = "--nonsense", two[] = "two";
	char *missing[] = { cmd, nobody, NULL }, *bad[] = { cmd, option, NULL };
	char *good[] = { cmd, two, NULL };

	(void)state;
	optind = 0;
	assert_int_equal(cmd_stats(2, missing), CLI_FAIL);
	optind = 0;
	assert_int_equal(cmd_stats(2, bad), CLI_USAGE);
	optind = 0;
	assert_int_equal(cmd_stats(2, good), CLI_OK);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_stats__machines_and_their_helpers_are_there),
		cmocka_unit_test(test_stats__total_has_each_page_once),
		cmocka_unit_test(test_stats__only_the_named_but_all_are_looked_at),
		cmocka_unit_test(test_stats__anothers_process_is_not_a_machines),
		cmocka_unit_test(test_stats__a_process_is_in_the_sums_once),
		cmocka_unit_test(test_stats__one_whose_description_is_damaged_is_there),
		cmocka_unit_test(test_stats__without_descriptors_nothing_is_left_out_in_silence),
		cmocka_unit_test(test_stats__more_children_than_a_machine_has_are_not_walked),
		cmocka_unit_test(test_stats__order_is_what_was_asked_for),
		cmocka_unit_test(test_stats__table_has_mib_with_one_decimal),
		cmocka_unit_test(test_stats__anonymous_memory_that_is_unknown_is_a_dash),
		cmocka_unit_test(test_stats__asks_for_what_is_there),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
