# SPDX-License-Identifier: MIT
"""What a VM may cost its host and with whom it may share pages: the one that takes too much is slowed down and
ended by name, all others go on, and nothing is left; KSM merges within one trust domain."""
import json
import os
import signal
import time

from harness import WAIT, Skipped, check, kill_pid, same, until
from test_fork import COUNTER, fork, progress

CGROUP = "/sys/fs/cgroup"
KSM = "/sys/kernel/mm/ksm"
# fills memory of the guest with a file, in the background
EAT = "mkdir -p /eat; mount -t tmpfs -o size=220m none /eat; (dd if=/dev/zero of=/eat/x bs=64k count={} 2>/dev/null)" \
      " </dev/null >/dev/null 2>&1 &"


def template(w):
    return w.template("eater", memory="256M", warm=[COUNTER])


def need_limits(w):
    """Where it cannot be, it is refused, and nothing is made; then there is no more to be seen."""
    row = next(r for r in json.loads(w.clone("doctor", "-o", "json").out) if r["name"] == "memory-quota")
    if row["status"] == "ok":
        return
    w.refused("fork", template(w), "--name", "no", "--memory-quota", "64M", says="--memory-quota: .*cgroup")
    check("no" not in w.names(), "a refused fork is there")
    raise Skipped("no memory group can be limited here")


def group(w, vm):
    return w.inspect(vm)["memory_group"]["path"]


def number(path, file):
    with open(f"{path}/{file}", encoding="ascii") as f:
        return int(f.read())


def stat(path):
    with open(f"{path}/memory.stat", encoding="ascii") as f:
        return {key: int(value) for key, value in (line.split() for line in f)}


def procs(path):
    """Processes in a group. What the kernel does for a VM (vhost) is there with it, and has no program."""
    with open(f"{path}/cgroup.procs", encoding="ascii") as f:
        return [pid for pid in f.read().split() if os.path.exists(f"/proc/{pid}/exe")]


def put(path, text):
    with open(path, "w", encoding="ascii") as f:
        f.write(str(text))


def writable_group_files(pid):
    """Descriptors by which a process could move others: none of a VM's may be one."""
    found = []
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            path = os.readlink(f"/proc/{pid}/fd/{fd}")
            with open(f"/proc/{pid}/fdinfo/{fd}", encoding="ascii") as f:
                flags = int(next(line for line in f if line.startswith("flags:")).split()[1], 8)
        except FileNotFoundError:  # a connection to its API, closed meanwhile
            continue
        if path.startswith(CGROUP) and flags & os.O_ACCMODE != os.O_RDONLY:
            found.append(path)
    return found


def ended(w, vm):
    until(lambda: w.names()[vm]["state"] == "exited", f"the end of {vm}", WAIT)
    return w.names()[vm]["end"]


def log(w, vm):
    with open(f"{w.run_dir}/vms/{vm}/vmm.log", encoding="utf-8", errors="replace") as f:
        return f.read()


def test_quota__the_one_that_takes_too_much_is_ended_by_name(w):
    t = template(w)
    need_limits(w)
    (glutton,) = fork(w, t, "glutton", 1, "--memory-quota", "64M")
    modest = fork(w, t, "modest", 2, "--memory-quota", "64M")
    (free,) = fork(w, t, "free")
    groups = [group(w, vm) for vm in [glutton, *modest]]
    same(len(set(groups)), 3, "groups of three VMs")
    for path in groups:
        check(number(path, "memory.current") > 0, f"{path}: nothing is charged to it")
        same(number(path, "memory.oom.group"), 1, "memory.oom.group")
    check("memory_group" not in w.inspect(free), "a VM without a quota has a group")

    def agrees(vm, path):
        """Its group is its own, whatever works there for it in the kernel: so what that counts is the VM's, but for page
        tables; once the guest has settled, and what the kernel gathers now and then has been."""
        kernel = {v["name"]: v["kernel_bytes"] for v in json.loads(w.must("stats", "-o", "json").out)["vms"]}
        same(kernel[free], None, "kernel memory of a VM without a group of its own")
        counted = stat(path)
        near = counted["pagetables"] // 2
        check(near > 0, f"{vm}: no page tables are charged: {counted}")
        return abs((kernel[vm] or 0) - (counted["kernel"] - counted["pagetables"])) < near
    for vm, path in zip([glutton, *modest], groups):
        until(lambda v=vm, p=path: agrees(v, p), f"{vm}: its kernel memory is what its group counts")
    before = {vm: progress(w, vm) for vm in [*modest, free]}
    w.clone("exec", glutton, "--", "/bin/sh", "-c", EAT.format(3000))  # it may be ended before it answers
    same(ended(w, glutton), "killed by its memory quota (glutton, 64M)", "how it ended")
    # before that it was said, and it was slowed down
    check("glutton: memory-quota: glutton is at its memory quota of 64 MiB" in log(w, glutton), log(w, glutton))
    for vm, at in before.items():
        check(progress(w, vm) >= at, f"{vm} went back")
        same(w.sh(vm, "hostname"), vm, "hostname")
        check(not any(e["kind"] == "memory-quota" for e in w.inspect(vm)["events"]["events"]), f"{vm} was told, too")
    # the template's seed too
    fork(w, t, "later", 1, "--memory-quota", "1G")
    progress(w, "later")
    check(not os.path.exists(groups[0]), f"{groups[0]} is left")
    paths = groups[1:] + [group(w, "later")]
    w.drop(glutton, *modest, free, "later")
    same([p for p in paths if os.path.exists(p)], [], "groups that are left")


def test_quota__the_event_comes_while_it_lives(w):
    need_limits(w)
    (vm,) = fork(w, template(w), "slow", 1, "--memory-quota", "64M")
    path = group(w, vm)
    # room above where it is slowed down: it is told, and lives
    put(f"{path}/memory.max", "max")
    w.sh(vm, EAT.format(1200))

    def told():
        return [e for e in w.inspect(vm)["events"]["events"] if e["kind"] == "memory-quota"]
    until(told, "the event", WAIT)
    event = told()[0]
    same(event["device"], "slow", "whose event")
    check("slow is at its memory quota of 64 MiB" in event["detail"], event["detail"])
    w.drop(vm)
    check(not os.path.exists(path), f"{path} is left")


def test_quota__forks_of_a_vm_have_its_quota_and_groups_of_their_own(w):
    need_limits(w)
    w.must("run", "-d", "--name", "qp", "--image", "bb", "--memory", "128M", "--memory-quota", "240M")  # where
    # files are in memory, as in the rig, what its snapshot's writer writes counts, too
    w.sh("qp", f"mkdir -p /run/m; {COUNTER} sleep 1")
    parent = group(w, "qp")
    same(procs(parent), [str(w.pid("qp"))], "processes in the group")
    fork(w, "qp", "qk")
    fork(w, "qp", "qn", 1, "--memory-quota", "none")
    same(w.inspect("qk")["memory_quota_bytes"], 240 << 20, "the fork's quota")
    check("memory_quota_bytes" not in w.inspect("qn"), "--memory-quota none")
    groups = {vm: group(w, vm) for vm in ("qp", "qk", "qn")}
    same(len(set(groups.values())), 3, "groups")
    for vm, path in groups.items():
        same(procs(path), [str(w.pid(vm))], f"processes in the group of {vm}")
        same(writable_group_files(w.pid(vm)), [], f"files of groups that {vm} could write to")
    with open(f"{groups['qn']}/memory.max", encoding="ascii") as f:
        same(f.read(), "max\n", "memory.max of one without a quota")
    # whoever dies with nobody there to see it
    kill_pid(w.pid("qk"), signal.SIGKILL)
    until(lambda: w.names()["qk"]["state"] == "exited", "the end of qk")
    check(not os.path.exists(groups["qk"]), "the group of a VM that was killed is left")
    check(w.names()["qk"]["end"].startswith("it was killed"), w.names()["qk"]["end"])
    progress(w, "qp")
    progress(w, "qn")
    # a snapshot has no quota: that is said anew
    w.must("snapshot", "qp", "qs", timeout=600)
    w.must("restore", "qs", "--name", "qr", "--memory-quota", "80M")
    same(w.inspect("qr")["memory_quota_bytes"], 80 << 20, "the restored one's")
    progress(w, "qr")
    groups["qr"] = group(w, "qr")
    w.drop("qp", "qk", "qn", "qr")
    w.must("snapshot", "rm", "qs")
    same([p for p in groups.values() if os.path.exists(p)], [], "groups that are left")


def test_quota__under_pressure_the_one_that_eats_suffers(w):
    need_limits(w)
    t, base = template(w), f"{CGROUP}/clone-press"
    os.mkdir(base)
    w.env["CLONE_CGROUP"] = "/clone-press"
    try:
        (eats,) = fork(w, t, "eats", 1, "--memory-quota", "400M")
        others = fork(w, t, "calm", 3, "--memory-quota", "400M")
        before = {vm: progress(w, vm) for vm in others}
        w.close_seeds()  # one makes huge pages when it was idle for a while: that would be what fills the group
        still(base)
        put(f"{base}/memory.max", number(base, "memory.current") + (64 << 20))
        w.clone("exec", eats, "--", "/bin/sh", "-c", EAT.format(3000))  # it may be ended before it answers
        end = ended(w, eats)
        check("out of memory (eats was within its quota of 400M)" in end, end)
        for vm, at in before.items():
            same((w.names()[vm]["state"], w.names()[vm].get("end")), ("running", None), vm)
            check(progress(w, vm) >= at, f"{vm} went back")
            same(w.sh(vm, "hostname"), vm, "hostname")
        put(f"{base}/memory.max", number(base, "memory.current") + (256 << 20))  # a seed's, too
        fork(w, t, "after", 1, "--memory-quota", "400M")
        progress(w, "after")
        w.drop(eats, *others, "after")
        same([n for n in os.listdir(base) if n.startswith("clone-")], [], "groups that are left")
    finally:
        w.drop("eats", "calm-1", "calm-2", "calm-3", "after")
        del w.env["CLONE_CGROUP"]
        # a seed that was started in there ends by itself, later
        for n in os.listdir(base):
            if os.path.isdir(f"{base}/{n}"):
                put(f"{base}/{n}/cgroup.kill", 1)
        until(lambda: all(not os.path.isdir(f"{base}/{n}") or remove(f"{base}/{n}") for n in os.listdir(base)),
              "the end of what is in the group")
        os.rmdir(base)


def still(base):
    """Until a group has stopped growing, and does not begin again: guests settle."""
    last, turns = [0], [0]

    def same_again():
        time.sleep(5)
        now = number(base, "memory.current")
        turns[0] = turns[0] + 1 if abs(now - last[0]) < 2 << 20 else 0
        last[0] = now
        return turns[0] == 4

    until(same_again, "memory of the group is what it was")


def remove(path):
    try:
        os.rmdir(path)
    except OSError:
        return False
    return True


def ksm_on():
    """What was set before."""
    was = {}
    for name, want in (("pages_to_scan", 5000), ("sleep_millisecs", 10), ("run", 1)):
        was[name] = number(KSM, name)
        put(f"{KSM}/{name}", want)
    return was


def merged(w, vm):
    return json.loads(w.must("stats", "-o", "json", vm).out)["vms"][0]["ksm_bytes"]


def test_ksm__pages_of_one_trust_domain_merge_and_stay_what_they_are(w):
    if not os.path.exists(f"{KSM}/run"):
        w.refused("run", "-d", "--name", "k1", "--image", "bb", "--ksm", "dom", says="no KSM")
        raise Skipped("the kernel has no KSM")
    was = ksm_on()
    try:
        for vm in ("k1", "k2"):
            w.must("run", "-d", "--name", vm, "--image", "bb", "--memory", "128M", "--ksm", "dom")
            w.sh(vm, f"mkdir -p /run/m /k; {COUNTER} mount -t tmpfs -o size=64m none /k;"
                     " yes the-same-in-both | head -c 20000000 > /k/x")
        want = w.sh("k1", "md5sum < /k/x")
        until(lambda: all(merged(w, vm) > 0 for vm in ("k1", "k2")), "merging", WAIT)
        same(w.inspect("k1")["ksm"], "dom", "what inspect says")
        # a write is the writer's alone
        w.sh("k1", "dd if=/dev/urandom of=/k/x bs=4096 count=1000 conv=notrunc 2>/dev/null")
        same(w.sh("k2", "md5sum < /k/x"), want, "the other's pages")
        w.refused("run", "-d", "--name", "k3", "--image", "bb", "--ksm", "other", says="trust domain dom")
        check("k3" not in w.names(), "what was refused is there")
        fork(w, "k2", "kf")
        put(f"{KSM}/run", 0)  # or a page that it has in common with its parent may be merged as its parent's
        fork(w, "k2", "kn", 1, "--ksm", "none")
        same((w.inspect("kf")["ksm"], w.inspect("kn").get("ksm")), ("dom", None), "domains of forks")
        same(merged(w, "kn"), 0, "what a fork without it has merged")
        put(f"{KSM}/run", 1)
        for vm in ("kf", "kn"):
            same(w.sh(vm, "md5sum < /k/x"), want, vm)
        for vm in ("k1", "k2", "kf", "kn"):
            progress(w, vm)
        # the last of a domain lets go of it
        w.drop("k1", "k2", "kf")
        w.must("run", "-d", "--name", "k3", "--image", "bb", "--memory", "128M", "--ksm", "other")
        w.drop("k3", "kn")
    finally:
        w.drop("k1", "k2", "k3", "kf", "kn")
        for name, value in was.items():
            put(f"{KSM}/{name}", value)


def test_ksm__a_template_records_its_domain(w):
    if not os.path.exists(f"{KSM}/run"):
        raise Skipped("the kernel has no KSM")
    w.must("template", "create", "kt", "--image", "bb", "--memory", "128M", "--ksm", "dom", "--warm", COUNTER,
           timeout=600)
    fork(w, "kt", "ka")
    fork(w, "kt", "kb", 1, "--ksm", "none")
    same((w.inspect("ka")["ksm"], w.inspect("kb").get("ksm")), ("dom", None), "domains of forks")
    w.refused("fork", "kt", "--name", "kc", "--ksm", "other", says="trust domain dom")
    progress(w, "ka")
    progress(w, "kb")
    w.must("snapshot", "ka", "ks")
    w.drop("ka", "kb")
    # while another domain has KSM: the machine that a template is made of is in none
    w.must("run", "-d", "--name", "ko", "--image", "bb", "--memory", "128M", "--ksm", "other")
    for t, source in (("kt1", "kt"), ("kt2", "ks")):
        w.must("template", "create", t, "--from", source, "--ksm", "none", timeout=600)
        fork(w, t, "kn")
        same(w.inspect("kn").get("ksm"), None, f"the domain of what was made of {source}")
        progress(w, "kn")
        w.drop("kn")
        w.must("template", "rm", t)
    w.drop("ko")
    w.must("snapshot", "rm", "ks")
    w.must("template", "rm", "kt")
