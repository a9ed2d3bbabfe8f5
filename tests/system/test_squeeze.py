# SPDX-License-Identifier: MIT
"""The balloon's policy in real guests: idle ones are squeezed, those that need memory get it before anything is killed,
those that work are left alone, forks carry on. Thresholds are such that a guest in the rig, where its agent alone is
work, can be idle."""
import json
import time

from harness import check, same, until
from test_balloon import sized
from test_reconcile import Terminal

MIB = 1 << 20
RAM = 512
FLOOR = 64
QUICK = f"auto,idle=4,cpu=60,step=40%,every=1,period=2,cool=4,psi=40%,full=90%,hold=5m,floor={FLOOR}M"
GAVE = ("active", "low-memory", "pressure", "severe-pressure", "swapping", "driver-took")


def run(w, name, *more):
    w.must("run", "-d", "--name", name, "--image", "bb", "--memory", f"{RAM}M", *more, timeout=600)
    return name


def balloon(w, vm):
    return json.loads(w.must("balloon", vm, "-o", "json").out)


def policy(w, vm):
    return balloon(w, vm)["policy"]


def rests(w, vm):
    """At the floor, with its driver done; returns what is in its balloon."""
    seen = []

    def there():
        seen[:] = [balloon(w, vm)]
        return seen[0]["policy"]["state"] == "floor" and seen[0]["actual_bytes"] == seen[0]["target_bytes"]
    until(there, f"{vm} at its floor")
    b = seen[0]
    # a guest of ours that does nothing uses well below half of its RAM
    check(RAM * MIB // 3 < b["actual_bytes"] <= (RAM - FLOOR) * MIB, f"{vm}: {b['actual_bytes'] >> 20} MiB at the floor")
    return b["actual_bytes"]


def kills(w, vm):
    return w.sh(vm, "grep oom_kill /proc/vmstat")


def available(w, vm):
    return int(w.sh(vm, "grep MemAvailable /proc/meminfo").split()[1]) >> 10


def test_squeeze__an_idle_guest_is_squeezed_and_has_its_memory_when_it_needs_it(w):
    vm = run(w, "sq", "--balloon", QUICK)
    before = kills(w, vm)
    rested = rests(w, vm)
    check(policy(w, vm)["steps"] >= 2, "in steps")
    low = available(w, vm)
    check(low < FLOOR * 3, f"{low} MiB available at a floor of {FLOOR}")
    # pages that cannot be dropped: most of RAM, at once
    want = RAM * 6 // 10
    out = w.sh(vm, f"mkdir -p /run/h && mount -t tmpfs -o size=95% none /run/h && dd if=/dev/zero of=/run/h/x bs=1M count={want}"
                   " 2>/dev/null && stat -c %s /run/h/x")
    same(out, str(want * MIB), "what the guest could write to its memory")
    same(kills(w, vm), before, "what its OOM killer has killed")
    until(lambda: policy(w, vm)["gave_back"] >= 1, "memory given back")
    check(balloon(w, vm)["actual_bytes"] < rested, "its balloon is as full as before")
    same(w.sh(vm, "tr -d '\\000' < /run/h/x | wc -c"), "0", "bytes that it reads there and did not write")
    # then it is idle again
    w.sh(vm, "umount /run/h")
    again = rests(w, vm)
    check(again > rested - 64 * MIB, f"{again >> 20} MiB the second time, {rested >> 20} the first")
    same(kills(w, vm), before, "what its OOM killer has killed in the end")
    # what is there stays when nobody looks after it; from here on it does not look again, whatever command was run
    w.must("balloon", vm, "--auto=" + QUICK[len("auto,"):].replace("period=2", "period=3600"))
    left = balloon(w, vm)["target_bytes"]
    check(left > 0, "its balloon is empty")
    w.must("balloon", vm, "--manual")
    p = policy(w, vm)
    same([p["mode"], p["state"]], ["manual", "off"], "its policy")
    same(balloon(w, vm)["target_bytes"], left, "the target, which manual leaves as it is")
    sized(w, vm, "0")
    check(available(w, vm) > RAM // 2, "not all came back")
    w.drop(vm)


def test_squeeze__a_guest_that_works_is_left_alone(w):
    vm = run(w, "sqbusy")
    w.sh(vm, "(while :; do cat /bin/busybox > /run/x; done) </dev/null >/dev/null 2>&1 & echo $! > /run/busy")
    w.must("balloon", vm, "--auto=" + QUICK[len("auto,"):])
    until(lambda: policy(w, vm)["state"] == "watching", "a first look")
    end = time.monotonic() + 40
    while time.monotonic() < end:
        b = balloon(w, vm)
        same([b["target_bytes"], b["policy"]["steps"]], [0, 0], f"of a guest at work ({b['policy']['last']})")
        time.sleep(1)
    until(lambda: policy(w, vm)["last"]["reason"] == "active", "being left alone because it is active")
    w.sh(vm, "kill $(cat /run/busy)")
    rests(w, vm)
    w.drop(vm)


def test_squeeze__a_guest_without_an_agent_is_not_squeezed(w):
    vm = run(w, "sqmute")
    # stopped it answers nothing, and its supervisor, stopped too, does not start another
    with Terminal(w, vm) as t:  # no command that needs the agent's answer
        same(t.run("kill -STOP $(pidof clone-agent); echo $?"), ["0"], "stopping the agent and its supervisor")
    w.must("balloon", vm, "--auto=" + QUICK[len("auto,"):].replace("hold=5m", "hold=10s"))
    until(lambda: (policy(w, vm)["last"] or {}).get("reason") == "silent-too-long", "silence")
    b = balloon(w, vm)
    same([b["target_bytes"], b["policy"]["steps"], b["policy"]["state"]], [0, 0, "blind"], "of a silent guest")
    w.drop(vm)


def test_squeeze__a_live_fork_carries_on(w):
    vm = run(w, "sqpar", "--balloon", QUICK)
    rested = rests(w, vm)
    w.must("fork", vm, "--name", "sqkid", "--timeout", "300s", timeout=600)
    w.must("fork", vm, "--name", "sqman", "--balloon", "manual", "--timeout", "300s", timeout=600)
    same(policy(w, "sqman")["mode"], "manual", "of one that was told otherwise")
    mine, kid = policy(w, vm), policy(w, "sqkid")
    settings = [k for k in mine if k not in ("state", "steps", "gave_back", "last", "moved")]
    same({k: kid[k] for k in settings}, {k: mine[k] for k in settings}, "the settings of a fork")
    rests(w, "sqkid")
    rests(w, vm)
    # it gets its memory, and its parent's balloon is its parent's
    w.sh("sqkid", f"mkdir -p /run/h && mount -t tmpfs -o size=95% none /run/h && dd if=/dev/zero of=/run/h/x bs=1M count={RAM // 2}"
                  " 2>/dev/null")
    until(lambda: policy(w, "sqkid")["gave_back"] >= 1, "memory given back to the fork")
    check(rests(w, vm) > rested - 64 * MIB, "the parent's balloon went with it")
    w.drop("sqkid", "sqman", vm)


def test_squeeze__forks_of_a_template_are_as_they_are_told(w):
    t = w.template("sqt", memory=f"{RAM}M")
    w.must("fork", t, "--name", "sqtm", "--timeout", "300s", timeout=600)
    same(policy(w, "sqtm")["mode"], "manual", "of one that was told nothing")
    w.must("fork", t, "--name", "sqta", "--balloon", QUICK, "--timeout", "300s", timeout=600)
    rests(w, "sqta")
    same(balloon(w, "sqtm")["target_bytes"], 0, "its sibling's target")
    moved = policy(w, "sqta")["moved"]
    check(moved["reason"] in ("idle", *GAVE) and moved["to_bytes"] > 0, f"the last move: {moved}")
    w.drop("sqtm", "sqta")
