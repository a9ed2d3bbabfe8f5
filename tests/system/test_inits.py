# SPDX-License-Identifier: MIT
"""A fork is a machine of its own under each init system. (systemd: test_identity.py and test_fork.py; none at all: bb, everywhere.)"""
import json

import test_identity
from harness import IMAGES, same


def ended(w, vm):
    with open(f"{w.run_dir}/vms/{vm}/exit.json", encoding="utf-8") as f:
        return json.load(f)["reason"]


def forked(w, image, pid1):
    """Boot, two forks with a hook in each, a clean end of a fork."""
    w.must("run", "-d", "--name", image, "--image", image, "--memory", "256M")
    w.sh(image, test_identity.put("/etc/clone/fork.d/10-note", test_identity.HOOK, "755"))
    w.sh(image, "until pgrep -x 'agetty|login|bash'; do sleep 1; done")  # the console's, its last service
    w.must("fork", image, "-n", "2", "--name", "init", "--timeout", "300s", timeout=600)
    ids = [w.sh(image, "cat /etc/machine-id")]
    for vm in ("init-1", "init-2"):
        said = w.sh(vm, "hostname; cat /etc/hostname; cat /proc/1/comm; cat /etc/machine-id; cat /run/hooks;"
                        " . /run/hook-env; echo $CLONE_REASON $CLONE_NAME $CLONE_OLD_HOSTNAME $CLONE_OLD_MACHINE_ID").split("\n")
        ids.append(said.pop(3))
        same(said, [vm, vm, pid1, "/etc/clone/fork.d/10-note", f"fork {vm} {image} {ids[0]}"],
             "names, process 1, the hooks that ran, what they were told")
    same(len(set(ids)), 3, f"different machine-ids of {ids}")
    w.must("stop", "--timeout", "300s", "init-1")
    same(ended(w, "init-1"), "poweroff", "how the fork ended")
    same([w.sh(vm, "hostname") for vm in ("init-2", image)], ["init-2", image], "those that go on")
    w.drop("init-1", "init-2", image)


def test_inits__openrc(w):
    forked(w, "openrc", "init")


def test_inits__runit(w):
    forked(w, "runit", "runit")


def test_inits__none_but_clone_init(w):
    """No disk: clone-init is process 1, and busybox is all there is."""
    w.must("run", "-d", "--name", "bare", "--kernel", f"{IMAGES}/bb/vmlinuz", "--memory", "128M")
    w.sh("bare", test_identity.put("/etc/clone/fork.d/10-note", test_identity.HOOK, "755"))
    w.must("fork", "bare", "--name", "barer")
    same(w.sh("barer", "hostname; cat /etc/hostname; cat /etc/machine-id | wc -c; cat /run/hooks; . /run/hook-env;"
                       " echo $CLONE_REASON $CLONE_OLD_HOSTNAME").split(),
         ["barer", "barer", "33", "/etc/clone/fork.d/10-note", "fork", "bare"], "who the fork is")
    same(w.sh("bare", "hostname; ls /run/hooks 2>/dev/null; true"), "bare", "the parent")
    for vm in ("barer", "bare"):
        w.must("stop", "--timeout", "120s", vm)
        same(ended(w, vm), "poweroff", f"how {vm} ended")
    w.drop("bare", "barer")
