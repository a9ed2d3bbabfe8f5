/* SPDX-License-Identifier: MIT */
/*
 * The one trust domain that has KSM, when those who have a share of it are not to be believed: what
 * they can do with the descriptor, and what they do by letting go of it.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/util.h"
#include "cli/ksm.h"
#include "cli/procid.h"
#include "cli/state.h"
#include "control/json.h"
#include "tests/lib/scratch.h"

static void test_ksm__a_share_is_for_holding_only(void **state)
{
	struct flock write_lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
	struct flock none = { .l_type = F_UNLCK, .l_whence = SEEK_SET };
	const char *run = *state;
	char domain[80], path[PATH_MAX];
	struct err e;
	int claim = ksm_claim("dom", &e), v[2], fd;

	v[0] = claim;
	v[1] = ksm_share(claim, &e);
	assert_true(v[0] >= 0 && v[1] >= 0);
	for (size_t i = 0; i < 2; i++) {
		assert_int_equal(fcntl(v[i], F_GETFL) & O_ACCMODE, O_RDONLY);
		assert_int_equal(write(v[i], "evil", 4), -1);
		assert_int_equal(ftruncate(v[i], 0), -1);
		assert_int_equal(fcntl(v[i], F_OFD_SETLK, &write_lock), -1);
	}
	/* what one VM lets go of is its own */
	assert_int_equal(fcntl(v[1], F_OFD_SETLK, &none), 0);
	assert_true(ksm_holder(domain, sizeof(domain)));
	assert_string_equal(domain, "dom");
	assert_int_equal(ksm_claim("evil", &e), -EBUSY);
	/* what is no name is not shown */
	snprintf(path, sizeof(path), "%s/ksm/domain", run);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	assert_int_equal(write(fd, "\033[31mdom", 8), 8);
	close(fd);
	assert_true(ksm_holder(domain, sizeof(domain)));
	assert_string_equal(domain, "?");
	assert_int_equal(ksm_claim("\033[31mdom", &e), -EINVAL);
	assert_int_equal(ksm_claim("dom", &e), -EBUSY);
	close(v[0]);
	close(v[1]);
}

static void test_ksm__a_vm_that_lets_go_still_has_it_while_it_lives(void **state)
{
	cleanup_json json_t *info = json_pack("{s:s, s:s}", "name", "x", "ksm", "dom");
	struct vmdir d;
	struct err e;
	int fd;

	(void)state;
	assert_int_equal(vmdir_create(PLACE_VM, "x", 0, &d, &e), 0);
	procid_note(info, getpid());
	assert_int_equal(vmdir_publish(&d, info, &e), 0); /* which lets go of its lock, too */
	assert_false(vmdir_alive(&d));
	assert_int_equal(ksm_claim("evil", &e), -EBUSY);
	assert_non_null(strstr(e.msg, "KSM is in use by the trust domain dom,"));
	fd = ksm_claim("dom", &e);
	assert_true(fd >= 0);
	close(fd);
	assert_int_equal(vmdir_remove(&d, &e), 0);
	vmdir_close(&d);
	fd = ksm_claim("evil", &e);
	assert_true(fd >= 0);
	close(fd);
}

static int make_run_dir(void **state)
{
	*state = scratch_make();
	setenv("CLONE_RUN_DIR", *state, 1);
	return 0;
}

static int remove_run_dir(void **state)
{
	scratch_remove(*state);
	return 0;
}

#define CASE(fn) cmocka_unit_test_setup_teardown(fn, make_run_dir, remove_run_dir)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(test_ksm__a_share_is_for_holding_only),
		CASE(test_ksm__a_vm_that_lets_go_still_has_it_while_it_lives),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
