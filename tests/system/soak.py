#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Forks of a running guest, one after another, each of which answers a command and is removed; between them the
parent writes to its disk. Nothing may grow but the guest's own memory: descriptors, threads and memory of the
parent, processes, sockets and files of the host. Prints the trend. usage: soak.py ROUNDS"""
import os
import sys

from harness import World, check, same, until

SLACK_KIB = 256  # of the parent's own data, for all rounds together
DISK_FDS = 70  # a disk stands on up to 64 small layers (BLK_SMALL_LAYERS) before it merges them


def status_kib(pid, name):
    with open(f"/proc/{pid}/status", encoding="utf-8") as f:
        return next(int(line.split()[1]) for line in f if line.startswith(name))


def processes():
    """VM processes, dead ones that nobody waited for included."""
    n = 0
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/stat", encoding="utf-8") as f:
                n += f.read().split("(", 1)[1].startswith(("clone", "exe)"))
        except OSError:
            continue
    return n


def files(path):
    """All but what a network remembers on purpose: which address a name had last, at most one link an address."""
    return sum(len(dirs) + len(names) for at, dirs, names in os.walk(path)
               if os.path.basename(at) != "last" or "/networks/" not in at)


def taps():
    return sum(name.startswith("clone-") for name in os.listdir("/sys/class/net"))


def descriptors(pid):
    """Those of disks, and all others."""
    links = []
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            links.append(os.readlink(f"/proc/{pid}/fd/{fd}"))
        except FileNotFoundError:  # closed meanwhile
            continue
    disk = sum("overlay" in link for link in links)
    return disk, len(links) - disk


def threads(pid):
    """But for io_uring's own, which come and go."""
    n = 0
    for tid in os.listdir(f"/proc/{pid}/task"):
        try:
            with open(f"/proc/{pid}/task/{tid}/comm", encoding="utf-8") as f:
                n += not f.read().startswith("iou-")
        except OSError:
            continue
    return n


def sample(w, pid):
    disk, others = descriptors(pid)
    with open("/proc/net/unix", encoding="utf-8") as f:
        sockets = sum(1 for _ in f) - 1
    return {"fds": others, "taps": taps(), "disk fds": disk, "threads": threads(pid), "processes": processes(),
            "sockets": sockets, "files": files(w.run_dir), "data KiB": status_kib(pid, "VmData:"),
            "RSS KiB": status_kib(pid, "VmRSS:"), "tables KiB": status_kib(pid, "VmPTE:")}


STEADY = ("fds", "taps", "threads", "processes", "sockets", "files")


def one_round(w, vm, i, written):
    kid = f"{vm}-{i}"
    w.must("fork", vm, "--name", kid, "--timeout", "300s")
    same(w.sh(kid, "hostname; cat /root/soak"), f"{kid}\n{written}", "the fork's answer")
    w.must("rm", "-f", kid)


def refilling():
    """Does a command's helper still make TAPs for those to come?"""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as f:
                if b"\0network\0refill\0" in f.read():
                    return True
        except OSError:
            continue
    return False


def soak(w, rounds, say):
    vm = "soak"
    w.must("run", "-d", "--name", vm, "--image", "bb", "--memory", "128M", timeout=600)
    w.sh(vm, "echo 0 > /root/soak; sync")
    pid = w.pid(vm)
    first, written = None, 0
    for i in range(1, rounds + 1):
        if i % 10 == 1:
            written += 1
            w.sh(vm, f"echo {written} > /root/soak; sync")
        one_round(w, vm, i, written)
        if i % max(rounds // 10, 1):
            continue
        until(lambda: not refilling(), "the pool of TAPs is full")
        if first:
            # a child's death is told to its parent in its own time
            until(lambda: all(sample(w, pid)[k] <= first[k] for k in STEADY),
                  f"after {i} forks: {first} again")
        now = sample(w, pid)
        if not first:
            say("   forks " + " ".join(f"{k:>10}" for k in now))
        say(f"{i:8} " + " ".join(f"{v:10}" for v in now.values()))
        first = first or now
        check(now["disk fds"] <= DISK_FDS, f"{now['disk fds']} disk files are open")
        check(now["data KiB"] <= first["data KiB"] + SLACK_KIB, f"the parent's data grew from {first} to {now}")
    w.drop(vm)


if __name__ == "__main__":
    world = World()
    try:
        soak(world, int(sys.argv[1]), lambda line: print(line, flush=True))
    finally:
        world.close()
