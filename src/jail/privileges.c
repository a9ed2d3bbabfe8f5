/* SPDX-License-Identifier: MIT */
/*
 * Uid, capabilities, root directory. Main thread.
 */
#include <cap-ng.h>
#include <errno.h>
#include <grp.h>
#include <linux/capability.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "jail/jail.h"

static int enter_dir(const struct jail_cfg *cfg, struct err *e)
{
	if (fchdir(cfg->dir_fd) < 0)
		return err_sys(e, errno, "jail: entering the VM's directory");
	if (cfg->chroot && chroot(".") < 0)
		return err_sys(e, errno, "jail: chroot");
	return 0;
}

int jail_privileges(const struct jail_cfg *cfg, struct err *e)
{
	int ret;

	capng_clear(CAPNG_SELECT_BOTH);
	if (cfg->seed)
		capng_updatev(CAPNG_ADD, CAPNG_EFFECTIVE | CAPNG_PERMITTED, CAP_SETUID, CAP_SETGID,
			      CAP_SYS_CHROOT, CAP_KILL, -1);
	ret = enter_dir(cfg, e);
	if (ret)
		return ret;
	if (cfg->uid) {
		ret = capng_change_id((int)cfg->uid, (int)cfg->gid,
				      CAPNG_DROP_SUPP_GRP | CAPNG_CLEAR_BOUNDING);
		if (ret < 0)
			return err_set(e, EPERM, "jail: changing to uid %u failed (step %d)",
				       cfg->uid, -ret);
	} else if (capng_apply(CAPNG_SELECT_CAPS) < 0) {
		return err_set(e, EPERM, "jail: dropping capabilities failed");
	}
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return err_sys(e, errno, "jail: no_new_privs");
	return 0;
}

/*
 * Raw system calls: libc's would make all threads follow at once, by a signal to each, and
 * libcap-ng reads /proc, which is out of reach here.
 */
static int change_ids(const struct jail_cfg *cfg, struct err *e)
{
	if (cfg->uid && (syscall(SYS_setresgid, cfg->gid, cfg->gid, cfg->gid) < 0 ||
			 syscall(SYS_setresuid, cfg->uid, cfg->uid, cfg->uid) < 0))
		return err_sys(e, errno, "jail: changing to uid %u", cfg->uid);
	return 0;
}

static int drop_capabilities(struct err *e)
{
	struct __user_cap_header_struct hdr = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct none[2] = { 0 };

	if (syscall(SYS_capset, &hdr, none) < 0)
		return err_sys(e, errno, "jail: dropping capabilities");
	return 0;
}

int jail_child(const struct jail_cfg *cfg, struct err *e)
{
	/* The directory lets only the child's own group in, so ids come first; from one ordinary
	 * uid to another, capabilities stay until they are dropped. */
	int ret = change_ids(cfg, e);

	if (!ret)
		ret = enter_dir(cfg, e);
	return ret ? ret : drop_capabilities(e);
}

int jail_child_thread(const struct jail_cfg *cfg, struct err *e)
{
	int ret = change_ids(cfg, e);

	return ret ? ret : drop_capabilities(e);
}
