# SPDX-License-Identifier: MIT
"""A fork is a machine of its own under each init system. (systemd: test_identity.py and test_fork.py; none at all: bb, everywhere.)"""
import json

import test_identity
from harness import IMAGES, check, same


def ended(w, vm):
    with open(f"{w.run_dir}/vms/{vm}/exit.json", encoding="utf-8") as f:
        return json.load(f)["reason"]


NOTE = "/etc/clone/fork.d/10-note"


def is_itself(w, vm, pid1, forks):
    """Names, process 1, the hook that ran once in each of `forks` forks on the way. Its machine-id; its parent's name and
    machine-id, as the hook was told."""
    said = w.sh(vm, "hostname; cat /etc/hostname; cat /proc/1/comm; cat /etc/machine-id; cat /run/hooks;"
                    " . /run/hook-env; echo $CLONE_REASON $CLONE_NAME $CLONE_OLD_HOSTNAME $CLONE_OLD_MACHINE_ID").split("\n")
    own, told = said.pop(3), said.pop().split()
    same((said, told[:2]), ([vm, vm, pid1] + [NOTE] * forks, ["fork", vm]), vm)
    return own, told[2:]


def forked(w, image, pid1):
    """Boot, two live forks and two of a template with a hook in each, a clean end of a fork."""
    w.must("run", "-d", "--name", image, "--image", image, "--memory", "256M")
    w.sh(image, test_identity.put(NOTE, test_identity.HOOK, "755"))
    w.sh(image, "until pgrep -x 'agetty|login|bash'; do sleep 1; done")  # the console's, its last service
    parent = w.sh(image, "cat /etc/machine-id")
    w.must("template", "create", f"{image}-t", "--from", image, timeout=600)
    ids, vms = [parent], []
    # a template of a running machine is one of its forks, settled
    for what, prefix, forks in ((image, "init", 1), (f"{image}-t", "tinit", 2)):
        w.must("fork", what, "-n", "2", "--name", prefix, "--timeout", "300s", timeout=600)
        for vm in (f"{prefix}-1", f"{prefix}-2"):
            own, told = is_itself(w, vm, pid1, forks)
            ids.append(own)
            vms.append(vm)
            if forks == 1:
                same(told, [image, parent], f"{vm}: its parent")
            else:
                check(told[0].startswith("template-") and told[1] not in ids, f"{vm}: its parent is {told}")
    same(len(set(ids)), 5, f"different machine-ids of {ids}")
    for vm in ("init-1", "tinit-1"):
        w.must("stop", vm)
        same(ended(w, vm), "poweroff", "how the fork ended")
    for vm in ("init-2", "tinit-2", image):
        same(w.sh(vm, "hostname"), vm, "those that go on")
    w.drop(*vms, image)
    w.must("template", "rm", f"{image}-t")


def test_inits__openrc(w):
    forked(w, "openrc", "init")


def test_inits__runit(w):
    forked(w, "runit", "runit")


def test_inits__none_but_clone_init(w):
    """No disk: clone-init is process 1, and busybox is all there is."""
    w.must("run", "-d", "--name", "bare", "--kernel", f"{IMAGES}/bb/vmlinuz", "--memory", "128M")
    w.sh("bare", test_identity.put(NOTE, test_identity.HOOK, "755"))
    w.must("fork", "bare", "--name", "barer")
    same(w.sh("barer", "hostname; cat /etc/hostname; cat /etc/machine-id | wc -c; cat /run/hooks; . /run/hook-env;"
                       " echo $CLONE_REASON $CLONE_OLD_HOSTNAME").split(),
         ["barer", "barer", "33", NOTE, "fork", "bare"], "who the fork is")
    same(w.sh("bare", "hostname; ls /run/hooks 2>/dev/null; true"), "bare", "the parent")
    for vm in ("barer", "bare"):
        w.must("stop", vm)
        same(ended(w, vm), "poweroff", f"how {vm} ended")
    w.drop("bare", "barer")
