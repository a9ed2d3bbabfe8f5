/* SPDX-License-Identifier: MIT */
/*
 * What makes a Debian tree a guest whose forks are strangers to each other: nothing secret that all
 * machines of the image would share, the directory of hooks, the target of systemd that units join
 * to be restarted in each fork, and new SSH host keys where there is an SSH server. doc/fork.md has
 * the whole contract. Called by guest_debian.c; any one thread.
 */
#include <limits.h>
#include <string.h>
#include <unistd.h>

#include "base/util.h"
#include "image/build.h"
#include "image/tree.h"

#define SSH_KEYS "usr/lib/clone/ssh-host-keys"

/* Made while the packages were installed, and then the same in each machine. */
static const char *const shared_secrets[] = {
	"etc/ssh/ssh_host_rsa_key",	"etc/ssh/ssh_host_rsa_key.pub",
	"etc/ssh/ssh_host_ecdsa_key",	"etc/ssh/ssh_host_ecdsa_key.pub",
	"etc/ssh/ssh_host_ed25519_key", "etc/ssh/ssh_host_ed25519_key.pub",
	"var/lib/systemd/random-seed",	"var/lib/urandom/random-seed",
};

static const char target[] = "# Restarted in each fork, before any command can be run in it. A "
			     "unit that must not go on with\n"
			     "# what its parent had says\n"
			     "#     [Unit]\n"
			     "#     PartOf=clone-fork.target\n"
			     "#     [Install]\n"
			     "#     WantedBy=clone-fork.target\n"
			     "# and is enabled; with RequiredBy= in place of WantedBy= the fork "
			     "fails when the unit does.\n"
			     "[Unit]\n"
			     "Description=What is restarted in each fork of this machine\n";

/* Links into /etc/clone/fork.d, and run by ssh.service where it may come first. */
static const char ssh_keys[] =
	"#!/bin/sh\n"
	"# New SSH host keys in each fork, and where there are none. A hook of clone, which says\n"
	"# CLONE_REASON. Only Ed25519: the others take longer than all the rest of a fork.\n"
	"set -e\n"
	"mkdir -p /run/clone\n"
	"exec 9>/run/clone/ssh-host-keys.lock\n"
	"flock 9\n"
	"cd /etc/ssh\n"
	"if [ \"$CLONE_REASON\" != fork ] && [ -s ssh_host_ed25519_key ]; then\n"
	"	exit 0\n"
	"fi\n"
	"rm -f .clone_key .clone_key.pub\n"
	"ssh-keygen -q -t ed25519 -N '' -C \"root@${CLONE_HOSTNAME:-$(hostname)}\" -f .clone_key\n"
	"rm -f ssh_host_*_key ssh_host_*_key.pub\n"
	"mv .clone_key.pub ssh_host_ed25519_key.pub\n"
	"mv .clone_key ssh_host_ed25519_key\n"
	"# A server that runs begins anew; the sessions it has go on.\n"
	"if [ -s /run/sshd.pid ]; then\n"
	"	kill -HUP \"$(cat /run/sshd.pid)\" || true\n"
	"fi\n";

static const char sshd_config[] = "HostKey /etc/ssh/ssh_host_ed25519_key\n";

static const char ssh_unit[] = "[Service]\n"
			       "ExecStartPre=\n"
			       "ExecStartPre=/" SSH_KEYS "\n"
			       "ExecStartPre=/usr/sbin/sshd -t\n";

static int configure_ssh(const char *root, enum image_init init, struct err *e)
{
	int r;

	if ((r = tree_write(root, SSH_KEYS, 0755, ssh_keys, sizeof(ssh_keys) - 1, e)) ||
	    (r = tree_symlink(root, "etc/clone/fork.d/50-ssh-host-keys", "/" SSH_KEYS, e)) ||
	    (r = tree_write(root, "etc/ssh/sshd_config.d/clone.conf", 0644, sshd_config,
			    sizeof(sshd_config) - 1, e)))
		return r;
	if (init != IMAGE_INIT_SYSTEMD)
		return 0;
	return tree_write(root, "etc/systemd/system/ssh.service.d/clone.conf", 0644, ssh_unit,
			  sizeof(ssh_unit) - 1, e);
}

int guest_identity_configure(const char *root, enum image_init init, struct err *e)
{
	char path[PATH_MAX];
	int r = 0;

	for (size_t i = 0; !r && i < ARRAY_SIZE(shared_secrets); i++) {
		r = tree_path(path, sizeof(path), e, "%s/%s", root, shared_secrets[i]);
		if (!r)
			r = tree_remove(path, e);
	}
	if (!r)
		r = tree_path(path, sizeof(path), e, "%s/etc/clone/fork.d", root);
	if (!r)
		r = tree_mkdirs(path, 0755, e);
	if (!r && init == IMAGE_INIT_SYSTEMD)
		r = tree_write(root, "etc/systemd/system/clone-fork.target", 0644, target,
			       sizeof(target) - 1, e);
	if (!r)
		r = tree_path(path, sizeof(path), e, "%s/usr/sbin/sshd", root);
	if (!r && !access(path, F_OK))
		r = configure_ssh(root, init, e);
	return r;
}
