# SPDX-License-Identifier: MIT
"""Live snapshots, chains, restore and layered templates: the VM goes on unharmed, and what was saved is whole
or not there."""
import fcntl
import hashlib
import json
import os
import signal
import struct
import subprocess
import threading
import time

import test_identity
from harness import CLONE, IMAGES, WAIT, World, check, kill_pid, same, until
from test_fork import COUNTER, debian, progress

EXT4_IOC_SHUTDOWN = 0x8004587D
NO_LOG_FLUSH = struct.pack("I", 2)  # what was not written yet is lost, as by a power cut


def boot(w, name, memory="128M", image="bb"):
    w.must("run", "-d", "--name", name, "--image", image, "--memory", memory)
    w.sh(name, f"mkdir /run/m; {COUNTER} until [ $(cat /run/count) -gt 0 ]; do usleep 50000; done")


def snapshot(w, vm, name, *more):
    return json.loads(w.must("snapshot", vm, name, *more, "-o", "json", timeout=600).out)


def saved(w, store="snapshot"):
    return {s["name"]: s for s in json.loads(w.must(store, "ls", "-o", "json").out)}


def forget(w, *names):
    """Newest first."""
    for name in names:
        w.must("snapshot", "rm", name)


def count(w, vm):
    return int(w.sh(vm, "cat /run/count"))


def digest(path):
    """Of all bytes, holes too."""
    h = hashlib.sha256()
    with open(path, "rb") as f:
        while block := f.read(1 << 20):
            h.update(block)
    return h.hexdigest()


def test_snapshot__the_vm_goes_on_and_a_restore_is_where_it_was(w):
    boot(w, "sn")
    w.sh("sn", "dd if=/dev/urandom of=/root/r bs=64k count=16 2>/dev/null; echo before > /root/when")
    want = w.sh("sn", "md5sum < /root/r")
    before = count(w, "sn")
    took = snapshot(w, "sn", "s1")
    check(took["stored_bytes"] > 4 << 20, f"stored: {took}")
    check(0 < took["fork_ns"] <= took["pause_ns"] < took["write_ns"], f"the VM stood still while writing: {took}")
    w.sh("sn", "echo after > /root/when")
    after = progress(w, "sn")
    # many times, each a machine of its own that goes on from that instant
    for name in ("ra", "rb"):
        same(w.must("restore", "s1", "--name", name).out, f"{name}\n", "what restore prints")
        same(w.sh(name, "hostname; cat /root/when; md5sum < /root/r"), f"{name}\nbefore\n{want}", name)
        at = progress(w, name)
        check(at >= before, f"{name} is at {at}, before the snapshot at {before}")
    ids = [w.sh(v, "cat /etc/machine-id") for v in ("sn", "ra", "rb")]
    same(len(set(ids)), 3, f"machine ids {ids}")
    check(progress(w, "sn") >= after, "the VM")
    w.refused("restore", "s1", "--name", "ra", says="ra")
    w.refused("snapshot", "sn", "s1", says="s1 already exists")
    w.drop("sn", "ra", "rb")
    forget(w, "s1")


def test_snapshot__paused_stays_paused_and_restores_paused(w):
    boot(w, "pz")
    w.must("pause", "pz")
    same(snapshot(w, "pz", "p1")["pause_ns"], 0, "pause of a paused VM")
    same(w.names()["pz"]["state"], "paused", "state after the snapshot")
    w.must("restore", "p1", "--name", "pr", "--paused")
    same(w.names()["pr"]["state"], "paused", "state of the restored one")
    w.must("resume", "pr", "pz")
    progress(w, "pz")
    progress(w, "pr")
    same(w.sh("pr", "hostname"), "pr", "its name")
    w.drop("pz", "pr")
    forget(w, "p1")


def test_snapshot__chains_store_what_differs_and_flatten_to_the_same_bytes(w):
    boot(w, "ch")
    w.refused("snapshot", "ch", "c0", "--incremental", says="take a full one first")
    snapshot(w, "ch", "c1")
    w.sh("ch", "dd if=/dev/urandom of=/run/m/a bs=1M count=8 2>/dev/null; echo 2 > /root/n")
    second = snapshot(w, "ch", "c2", "--incremental")
    check(8 << 20 <= second["stored_bytes"] < 40 << 20, f"8 MiB changed, stored: {second}")
    w.sh("ch", "dd if=/dev/urandom of=/run/m/b bs=1M count=2 2>/dev/null; rm /run/m/a; echo 3 > /root/n")
    w.must("pause", "ch")
    third = snapshot(w, "ch", "c3", "--incremental", "--compress")
    snapshot(w, "ch", "flat")
    # nothing ran between: not a page differs
    same(snapshot(w, "ch", "same", "--base", "flat")["stored_bytes"], 0, "stored of what did not change")
    w.must("resume", "ch")
    check(third["stored_bytes"] < second["stored_bytes"], f"stored: {third}")
    stands = {n: s.get("parent", {}).get("name") for n, s in saved(w).items()}
    same(stands, {"c1": None, "c2": "c1", "c3": "c2", "flat": None, "same": "flat"}, "what stands on what")
    w.refused("snapshot", "rm", "c2", says="c2 is what others stand on: snapshot c3$")
    w.must("snapshot", "flatten", "c3", "--name", "merged")
    files = {n: saved(w)[n]["directory"] + "/ram" for n in ("flat", "merged")}
    same(digest(files["merged"]), digest(files["flat"]), "RAM, flat and merged from a chain of three")
    want = w.sh("ch", "cat /root/n; md5sum < /run/m/b; ls /run/m")
    for name in ("c3", "merged", "flat", "same"):
        w.must("restore", name, "--name", "back")
        same(w.sh("back", "cat /root/n; md5sum < /run/m/b; ls /run/m"), want, f"{name} restored")
        progress(w, "back")
        # and what was restored is saved on top of what it came out of
        if name == "c3":
            snapshot(w, "back", "c4", "--incremental")
            same(saved(w)["c4"]["parent"]["name"], "c3", "c4 stands on")
            forget(w, "c4")
        w.drop("back")
    w.must("snapshot", "flatten", "c3")
    check("parent" not in saved(w)["c3"], "c3 stands on something yet")
    forget(w, "c2")
    w.must("snapshot", "verify", "c3", "c1", "merged")
    w.must("restore", "c1", "--name", "back")
    same(w.sh("back", "cat /root/n 2>/dev/null; ls /run/m"), "", "c1 restored")
    w.drop("ch", "back")
    forget(w, "same", "c3", "c1", "flat", "merged")


def test_snapshot__under_load_is_one_instant_of_memory_and_disk(w):
    """A guest that counts in memory and writes each number to a block of its own on disk, synced, and to none twice: what
    the restored disk lacks, or has of another instant, the load that goes on does not make good."""
    boot(w, "ld")
    w.sh("ld", test_identity.put("/run/m/load", "echo $$ >/run/m/pid; i=0; while :; do i=$((i+1)); echo $i 1<>/run/m/n;"
                                 " printf '%4095d\\n' $i | dd of=/root/blocks bs=4096 seek=$i conv=notrunc,fsync; done")
         + "; sh /run/m/load </dev/null >/dev/null 2>&1 & until [ -s /run/m/n ]; do usleep 50000; done")
    at = []
    for i in range(3):
        at.append(int(w.sh("ld", f"until [ $(cat /run/m/n) -gt {at[-1] + 9 if at else 9} ]; do usleep 50000; done; cat /run/m/n")))
        snapshot(w, "ld", f"l{i}", *(["--incremental"] if i else []))
    last = int(w.sh("ld", "cat /run/m/n"))
    w.must("snapshot", "flatten", "l2", "--name", "lf")
    for i, name in ((0, "l0"), (1, "l1"), (2, "l2"), (2, "lf")):
        w.must("restore", name, "--name", "lr", "--paused")
        w.must("resume", "lr")
        # it is stopped between two numbers, and what the disk says is read from the disk
        out = w.sh("lr", "kill $(cat /run/m/pid); while pgrep -x dd >/dev/null; do usleep 50000; done; cat /run/m/n;"
                         " echo 3 > /proc/sys/vm/drop_caches; tr -d '\\0 ' < /root/blocks").split()
        n, blocks = int(out[0]), [int(b) for b in out[1:]]
        check(blocks == list(range(1, n + 1)) or blocks == list(range(1, n)),
              f"{name}: memory says {n}, the disk {blocks}")
        check(n >= at[i], f"{name}: {n} is from before the snapshot was asked for, at {at[i]}")
        progress(w, "lr")
        w.drop("lr")
    check(int(w.sh("ld", "cat /run/m/n")) > last, "the load in the VM that was saved stands still")
    progress(w, "ld")
    w.drop("ld")
    forget(w, "lf", "l2", "l1", "l0")


def test_snapshot__the_parents_exec_streams_on(w):
    boot(w, "sx")
    p = w.popen("exec", "sx", "--", "/bin/sh", "-c", "i=0; while [ $i -lt 3000 ]; do i=$((i+1)); echo $i; done; exit 7",
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    for i in range(3):
        snapshot(w, "sx", f"e{i}", *(["--incremental"] if i else []))
    out, _ = p.communicate(timeout=WAIT)
    same((out.decode(), p.returncode), ("".join(f"{i}\n" for i in range(1, 3001)), 7), "the stream and its code")
    w.drop("sx")
    forget(w, "e2", "e1", "e0")


def test_snapshot__memory_that_it_costs_is_bounded_and_reported(w):
    boot(w, "gr", memory="256M")
    w.sh("gr", "dd if=/dev/urandom of=/run/m/x bs=1M count=64 2>/dev/null;"
               "(while :; do dd if=/dev/zero of=/run/m/x bs=1M count=64 conv=notrunc 2>/dev/null; done)"
               " </dev/null >/dev/null 2>&1 &")
    took = snapshot(w, "gr", "g1")
    check(took["growth_bytes"] > 1 << 20, f"a guest that writes all the time cost {took}")
    w.refused("snapshot", "gr", "g2", "--max-growth", "1M", says="more than 1 MiB while it was being written")
    same(sorted(saved(w)), ["g1"], "snapshots after one was given up")
    progress(w, "gr")
    snapshot(w, "gr", "g2")
    w.drop("gr")
    forget(w, "g2", "g1")


def children(pid):
    out = subprocess.run(["pgrep", "-P", str(pid), "-x", "snapshot"], capture_output=True, check=False)
    return [int(p) for p in out.stdout.split()]


def begin(w, vm, name, env=None):
    return subprocess.Popen([CLONE, "snapshot", vm, name], env=env or w.env, stdin=subprocess.DEVNULL,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def stopped(pid):
    """None: it has ended."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as f:
            state = f.read().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if state in "ZX" else state == "T"


def caught(w, vm, name, delay=0):
    """A snapshot that is being written: whoever asked, and its writer, the frozen child. It has been stopped, or what follows
    might not find it at work; killing it, or its VM, works all the same."""
    pid = w.pid(vm)
    while True:
        p, found = begin(w, vm, name), []
        until(lambda: found.extend(children(pid)) or found or p.poll() is not None, "the writer appears")
        time.sleep(delay)
        if found:
            kill_pid(found[0], signal.SIGSTOP)
            until(lambda: stopped(found[0]) is not False, "the writer stops")
            if stopped(found[0]):
                return p, found[0]
        p.communicate(timeout=WAIT)  # it was faster than we are
        if p.returncode == 0:
            forget(w, name)
        delay /= 2


def staged(w):
    return [n for n in os.listdir(f"{w.state}/snapshots") if n.startswith(".new")]


def test_snapshot__killed_at_any_point_is_no_snapshot_and_no_harm(w):
    boot(w, "kl", memory="256M")
    w.sh("kl", "dd if=/dev/urandom of=/run/m/x bs=1M count=64 2>/dev/null")
    # the writer
    p, writer = caught(w, "kl", "k1")
    kill_pid(writer)
    out, err = p.communicate(timeout=WAIT)
    same((p.returncode, out), (1, b""), "exit when the writer dies")
    check(b"its writer died" in err and err.count(b"\n") == 1, f"what is said: {err!r}")
    same((staged(w), sorted(saved(w))), ([], []), "what is left")
    progress(w, "kl")
    # two at once: one is told so
    p, _ = caught(w, "kl", "k1")
    w.refused("snapshot", "kl", "k2", says="one is being written")
    # interrupted: it is given up, by the one who asked
    p.terminate()
    same(p.wait(WAIT), 1, "exit when interrupted")
    until(lambda: not children(w.pid("kl")), "the writer ends")
    same((staged(w), sorted(saved(w))), ([], []), "what is left")
    # whoever asked, killed: the next command cleans up
    for delay in (0, 0.2, 0.6):
        p, writer = caught(w, "kl", "k1", delay)
        p.kill()
        p.communicate()
        kill_pid(writer, signal.SIGCONT)
        same(sorted(saved(w)), [], "snapshots")
        until(lambda: not children(w.pid("kl")), "the writer ends")
    progress(w, "kl")
    snapshot(w, "kl", "k1")
    # the VM itself
    p, _ = caught(w, "kl", "k2")
    kill_pid(w.pid("kl"))
    out, err = p.communicate(timeout=WAIT)
    check(p.returncode == 1 and err.count(b"\n") == 1, f"exit {p.returncode}, {err!r}")
    same((staged(w), sorted(saved(w))), ([], ["k1"]), "what is left")
    w.drop("kl")
    w.must("restore", "k1", "--name", "kr")
    progress(w, "kr")
    w.drop("kr")
    forget(w, "k1")


def small_world(w, path):
    """The same VMs, another store."""
    if not os.path.lexists(f"{path}/images"):
        os.symlink(IMAGES, f"{path}/images")
    other = World.__new__(World)
    other.env = dict(w.env, CLONE_STATE_DIR=path)
    other.state, other.run_dir = path, w.run_dir
    return other


def test_snapshot__full_disk_leaves_nothing_and_the_vm_unharmed(w):
    boot(w, "fd")
    small = f"{w.base}/full"
    os.makedirs(small)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", small], check=True)
    try:
        tiny = small_world(w, small)
        tiny.refused("snapshot", "fd", "f1", says="No space left")
        same((staged(tiny), sorted(saved(tiny))), ([], []), "what is left")
        progress(w, "fd")
    finally:
        subprocess.run(["umount", "-l", small], check=True)
    snapshot(w, "fd", "f1")
    w.drop("fd")
    forget(w, "f1")


def test_snapshot__a_power_cut_leaves_the_old_or_the_new(w):
    boot(w, "pc")
    disk, at = f"{w.base}/disk.img", f"{w.base}/cut"
    os.makedirs(at)
    with open(disk, "wb") as f:
        f.truncate(1 << 30)
    subprocess.run(["mkfs.ext4", "-q", disk], check=True)

    def mount():
        subprocess.run(["modprobe", "-aq", "loop", "ext4"], check=False)
        subprocess.run(["mount", "-o", "loop", disk, at], check=True)

    def cut():
        fd = os.open(at, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, EXT4_IOC_SHUTDOWN, NO_LOG_FLUSH)
        finally:
            os.close(fd)

    def let_go():
        """When its last writer has ended: mounted while it lives, it would be the same, dead, file system."""
        until(lambda: subprocess.run(["umount", at], stderr=subprocess.DEVNULL, check=False).returncode == 0,
              "the disk is let go of")

    mount()
    try:
        there = small_world(w, at)
        # the VM is on another host, so to say: its disk and its network are not cut off
        for other in ("overlay", "networks"):
            os.makedirs(f"{w.state}/{other}", exist_ok=True)
            os.symlink(f"{w.state}/{other}", f"{at}/{other}")
        snapshot(there, "pc", "old")
        cut()  # at once after success: it is all there
        let_go()
        mount()
        there.must("snapshot", "verify", "old")
        for i, delay in enumerate((0.1, 0.5, 1.0, 1.6, 2.3)):
            p = begin(w, "pc", f"n{i}", env=there.env)
            timer = threading.Timer(delay, cut)
            timer.start()
            p.communicate(timeout=WAIT)
            timer.join()
            let_go()
            mount()
            names = sorted(saved(there))
            check("old" in names and set(names) <= {"old", f"n{i}"}, f"after a power cut: {names}")
            if p.returncode == 0:
                check(f"n{i}" in names, f"n{i} was reported and is gone")
            there.must("snapshot", "verify", *names)
            same(staged(there), [], "leftovers after the next command")
            if f"n{i}" in names:
                there.must("snapshot", "rm", f"n{i}")
        there.must("restore", "old", "--name", "pr")
        progress(w, "pr")
        progress(w, "pc")
        w.drop("pr", "pc")
    finally:
        subprocess.run(["umount", "-l", at], check=True)


def test_snapshot__the_vms_end_meanwhile_is_said(w):
    boot(w, "en", memory="256M")
    w.sh("en", "dd if=/dev/urandom of=/run/m/x bs=1M count=64 2>/dev/null")
    p, _ = caught(w, "en", "x1")
    w.must("kill", "en")
    _, err = p.communicate(timeout=WAIT)
    check(p.returncode == 1 and b"ended" in err and err.count(b"\n") == 1, f"exit {p.returncode}, {err!r}")
    same((staged(w), sorted(saved(w))), ([], []), "what is left")
    w.drop("en")


def maps(pid, path):
    """(mappings of a file, KiB of them that nobody else uses)"""
    found, private, ours = 0, 0, False
    with open(f"/proc/{pid}/smaps", encoding="utf-8") as f:
        for line in f:
            if line[0] in "0123456789abcdef" and "-" in line.split()[0]:
                ours = line.rstrip().endswith(path)
                found += ours
            elif ours and line.startswith(("Private_Clean", "Private_Dirty")):
                private += int(line.split()[1])
    return found, private


def test_template__layers_share_what_they_stand_on(w):
    base = w.template(warm=[COUNTER, "dd if=/dev/urandom of=/root/seed bs=4096 count=16 2>/dev/null"])
    made = []
    for name, on in (("rt", base), ("app", "rt"), ("app2", "rt")):
        w.must("template", "create", name, "--from", on, "--warm", f"echo {name} >> /root/layers", timeout=600)
        made.insert(0, name)
    stored = {n: t["stored_bytes"] for n, t in saved(w, "template").items()}
    for name in ("rt", "app", "app2"):
        check(stored[name] * 4 < stored[base], f"{name} stores {stored[name]} over a base of {stored[base]}")
    ram = saved(w, "template")[base]["directory"] + "/ram"
    for name, want in (("app", "rt\napp"), ("app2", "rt\napp2"), ("rt", "rt")):
        w.must("fork", name, "-n", "2", "--name", f"f{name}", "--timeout", "300s", timeout=600)
        for i in (1, 2):
            vm = f"f{name}-{i}"
            same(w.sh(vm, "hostname; cat /root/layers"), f"{vm}\n{want}", vm)
            progress(w, vm)
    # forks of different leaves run on the pages of one file
    for vm in ("fapp-1", "fapp2-1", "frt-2"):
        found, private = maps(w.pid(vm), ram)
        check(found > 0, f"{vm} does not map {ram}")
        check(private * 1024 < stored[base] // 4, f"{vm}: {private} KiB of the base are its own")
    w.refused("template", "rm", "rt", says="rt is what others stand on: template app, template app2$")
    # from a running VM, which goes on; and from a snapshot
    w.must("template", "create", "live", "--from", "fapp-1", "--warm", "echo live >> /root/layers", timeout=600)
    same(saved(w, "template")["live"]["parent"]["name"], "app", "live stands on")
    same(w.sh("fapp-1", "cat /root/layers"), "rt\napp", "the VM that it was made of")
    progress(w, "fapp-1")
    snapshot(w, "fapp-1", "ls", "--incremental")
    w.must("template", "create", "still", "--from", "ls", "--no-settle")
    same(saved(w, "template")["still"]["parent"]["name"], "app", "still stands on")
    for name, want in (("live", "rt\napp\nlive"), ("still", "rt\napp")):
        w.must("fork", name, "--name", "leaf")
        same(w.sh("leaf", "hostname; cat /root/layers"), f"leaf\n{want}", name)
        progress(w, "leaf")
        w.drop("leaf")
    same([n for n in w.names() if n.startswith("template")], [], "machines that were only means")
    w.drop(*[f"f{n}-{i}" for n in ("app", "app2", "rt") for i in (1, 2)])
    forget(w, "ls")
    w.must("template", "rm", "still", "live", *made)


def test_snapshot__of_debian_under_systemd(w):
    w.must("fork", debian(w), "--name", "dsn", timeout=600)
    w.sh("dsn", "systemd-run -q --unit=ticker /bin/sh -c"
                " 'i=0; while :; do i=$((i+1)); echo $i > /run/tick; sleep 0.2; done'")
    until(lambda: w.sh("dsn", "cat /run/tick 2>/dev/null || true"), "the unit runs")
    snapshot(w, "dsn", "d1", "--incremental", "--compress")
    w.must("restore", "d1", "--name", "dr", timeout=600)
    same(w.sh("dr", "hostname; systemctl is-active ticker"), "dr\nactive", "restored")
    for vm in ("dsn", "dr"):
        moved = w.sh(vm, "a=$(cat /run/tick); n=0; until b=$(cat /run/tick); [ \"$b\" ] && [ \"$b\" != \"$a\" ];"
                         " do sleep 0.1; n=$((n+1)); [ $n -lt 600 ] || exit 1; done; echo moved")
        same(moved, "moved", vm)
    w.drop("dsn", "dr")
    forget(w, "d1")
