# SPDX-License-Identifier: MIT
"""Disks that come, grow and go while a guest looks on, that forks bring along, and that get full."""
import contextlib
import json
import os
import subprocess

import test_cli
from harness import check, same, until
from test_disk import MIB, tool

FRESH = "echo 3 > /proc/sys/vm/drop_caches"


def size(w, vm, dev):
    return int(w.sh(vm, f"cat /sys/block/{dev}/size")) * 512


def has_size(w, vm, dev, want):
    """The commands wait until the guest has looked, for a few seconds."""
    until(lambda: all(d.get("seen", True) for d in disks(w, vm).values()), f"{vm}: the guest's look at its disks")
    same(size(w, vm, dev), want, f"{vm}: size of {dev}")


def disks(w, vm):
    return {d["id"]: d for d in w.inspect(vm)["stats"]["disks"]}


def events(w, vm):
    return [(e["kind"], e["device"]) for e in w.inspect(vm)["events"]["events"]]


def sparse(w, name, mib):
    path = f"{w.base}/{name}"
    tool("truncate", "-s", f"{mib}M", path)
    return path


def test_bay__disks_come_grow_and_go(w):
    keep, plain = f"{w.base}/bay.qcow2", f"{w.base}/bay.raw"
    tool("qemu-img", "create", "-q", "-f", "qcow2", keep, "32M")
    with open(plain, "wb") as f:
        f.write(b"plain" + os.urandom(4 * MIB - 5))
    w.must("run", "-d", "--name", "bay", "--image", "bb", "--memory", "128M", "--bays", "2")
    same([size(w, "bay", d) for d in ("vdb", "vdc")], [0, 0], "sizes of empty bays")
    w.refused("disk", "attach", "bay", f"{plain},format=raw,readonly", says="readonly is for disks that a VM starts with")
    w.refused("disk", "attach", "bay", f"{w.base}/nothing,format=raw", says="No such file")
    w.refused("disk", "attach", "bay", f"{plain},format=qcow2", says="not a qcow2 image")
    w.refused("disk", "detach", "bay", "disk0", says="there is no disk in it")
    same(w.must("disk", "attach", "bay", f"{plain},format=raw").out, "disk0\n", "where it is")
    same(w.must("disk", "attach", "bay", f"{keep},format=qcow2,persistent").out, "disk1\n", "where the other is")
    w.refused("disk", "attach", "bay", f"{plain},format=raw", says="no empty bay")
    has_size(w, "bay", "vdb", 4 * MIB)
    has_size(w, "bay", "vdc", 32 * MIB)
    same(w.sh("bay", "head -c 5 /dev/vdb"), "plain", "what is on it")
    w.sh("bay", "mkdir -p /mnt; mke2fs /dev/vdc >/dev/null 2>&1; mount -t ext4 /dev/vdc /mnt; echo kept > /mnt/file; sync")
    w.refused("disk", "resize", "bay", "disk1", "16M", says="only grows")
    w.must("disk", "resize", "bay", "disk1", "80M")
    has_size(w, "bay", "vdc", 80 * MIB)
    w.sh("bay", f"printf end | dd of=/dev/vdc bs=1 seek={80 * MIB - 3} conv=notrunc,fsync 2>/dev/null; umount /mnt")
    w.must("disk", "detach", "bay", "disk1")
    has_size(w, "bay", "vdc", 0)
    tool("qemu-img", "check", "-q", "-f", "qcow2", keep)
    tool("qemu-img", "convert", "-f", "qcow2", "-O", "raw", keep, f"{w.base}/bay.out")
    same(os.stat(f"{w.base}/bay.out").st_size, 80 * MIB, "size of the file")
    with open(f"{w.base}/bay.out", "rb") as f:
        f.seek(-3, os.SEEK_END)
        same(f.read(), b"end", "its last bytes")
    same(list(w.names()["bay"]["disks"][i]["id"] for i in range(2)), ["root", "disk0"], "what the VM says it has")
    # no VM has it: the same command on the file
    w.must("disk", "resize", f"{keep},format=qcow2", "96M")
    w.refused("disk", "resize", f"{keep},format=qcow2", "95M", says="only grows")
    w.must("disk", "attach", "bay", f"{keep},format=qcow2,persistent")
    has_size(w, "bay", "vdc", 96 * MIB)
    w.refused("disk", "resize", f"{keep},format=qcow2", "97M", says="in use by another VM|being written to")
    same(w.sh("bay", "mount -t ext4 /dev/vdc /mnt && cat /mnt/file; umount /mnt"), "kept", "what the file system has")
    # a bay is saved and forked, full or empty
    w.must("disk", "detach", "bay", "disk1")
    w.sh("bay", "printf mine | dd of=/dev/vdb conv=notrunc,fsync 2>/dev/null")
    w.must("disk", "resize", "bay", "disk0", "6M")
    has_size(w, "bay", "vdb", 6 * MIB)
    w.sh("bay", f"printf tail | dd of=/dev/vdb bs=1 seek={6 * MIB - 4} conv=notrunc,fsync 2>/dev/null")
    w.must("snapshot", "bay", "bay-snap")
    w.must("fork", "bay", "--name", "bay-kid")
    w.must("restore", "bay-snap", "--name", "bay-back")
    for vm in "bay", "bay-kid", "bay-back":
        same(w.sh(vm, f"{FRESH}; head -c 5 /dev/vdb; tail -c 4 /dev/vdb"), "minentail", f"{vm}: its disk")
        same(w.sh(vm, f"dd if=/dev/vdb bs=1k skip=4096 count=2044 2>/dev/null | tr -d '\\0' | wc -c"), "0", f"{vm}: new parts")
        same(disks(w, vm)["disk1"]["size_bytes"], 0, f"{vm}: its bay")
        w.must("disk", "attach", vm, f"{plain},format=raw")
        has_size(w, vm, "vdc", 4 * MIB)
        same(w.sh(vm, "head -c 5 /dev/vdc"), "plain", f"{vm}: what came")
    # a fork between the two steps of an attach is granted files for a bay that is empty: no harm
    w.must("disk", "detach", "bay", "disk1")
    path = f"{w.run_dir}/vms/bay/vm.json"
    with open(path, encoding="utf-8") as f:
        info = json.load(f)
    with open(path, "w", encoding="utf-8") as f:
        json.dump(info | {"disks": info["disks"] + [{"id": "disk1", "path": plain, "read_only": False,
                                                      "files": [{"path": plain, "format": "raw"}]}]}, f)
    w.must("fork", "bay", "--name", "bay-odd")
    same(disks(w, "bay-odd")["disk1"]["size_bytes"], 0, "a bay in a fork")
    w.must("disk", "attach", "bay-odd", f"{plain},format=raw")
    has_size(w, "bay-odd", "vdc", 4 * MIB)
    w.drop("bay-odd")
    # what a restored VM stands on has no writer, and what has a writer no VM is restored on
    w.drop("bay", "bay-kid")
    own = ("run", "-d", "--name", "own", "--image", "bb", "--memory", "128M", "--disk", f"{plain},format=raw,persistent")
    w.refused(*own, says="in use by another VM")
    w.drop("bay-back")
    w.must(*own)
    w.refused("restore", "bay-snap", "--name", "bay-late", says="being written to by another VM")
    w.drop("own")
    w.must("snapshot", "rm", "bay-snap")


def test_bay__forks_bring_their_own(w):
    w.must("template", "create", "bayt", "--image", "bb", "--memory", "128M", "--bays", "2", timeout=600)
    work, data = f"{w.base}/work.qcow2", f"{w.base}/data.raw"
    tool("qemu-img", "create", "-q", "-f", "qcow2", work, "16M")
    with open(data, "wb") as f:
        f.write(b"data!" + os.urandom(2 * MIB - 5))
    before = set(w.names())
    w.refused("fork", "bayt", "--name", "none", "--disk", f"{w.base}/nothing,format=raw", says="No such file")
    same(set(w.names()), before, "VMs after a fork that failed")
    same(w.must("fork", "bayt", "-n", "2", "--name", "duo", "--disk", f"{data},format=raw").out.split(), ["duo-1", "duo-2"],
         "forks")
    for vm in "duo-1", "duo-2":
        has_size(w, vm, "vdb", 2 * MIB)
        same(w.sh(vm, "head -c 5 /dev/vdb"), "data!", f"{vm}: what it shares")
        w.sh(vm, f"printf {vm} | dd of=/dev/vdb conv=notrunc,fsync 2>/dev/null")
    for vm in "duo-1", "duo-2":
        same(w.sh(vm, f"{FRESH}; head -c 5 /dev/vdb"), vm, f"{vm}: what it wrote")
    check(w.sh("duo-1", "cat /etc/machine-id") != w.sh("duo-2", "cat /etc/machine-id"), "one machine-id for two")
    w.drop("duo-1", "duo-2")
    # a workspace that one fork after another has
    for turn in range(2):
        out = w.must("fork", "bayt", "--rm", "--disk", f"{work},format=qcow2,persistent", "--disk", f"{data},format=raw",
                     "--", "/bin/sh", "-c",
                     "mkdir -p /mnt;" +
                     ("" if turn else " mke2fs /dev/vdb >/dev/null 2>&1;") + " mount -t ext4 /dev/vdb /mnt &&"
                     " echo turn >> /mnt/log; wc -l < /mnt/log; umount /mnt").out
        same(int(out), turn + 1, "lines that the workspace has")
        tool("qemu-img", "check", "-q", "-f", "qcow2", work)
    # and a fork of a fork goes on with what it has
    w.must("fork", "bayt", "--name", "owner", "--disk", f"{work},format=qcow2,persistent")
    has_size(w, "owner", "vdb", 16 * MIB)
    w.refused("fork", "bayt", "--name", "other", "--disk", f"{work},format=qcow2,persistent", says="in use by another VM|being")
    w.sh("owner", "mkdir -p /mnt; mount -t ext4 /dev/vdb /mnt; echo more >> /mnt/log; sync")
    w.must("fork", "owner", "--name", "heir")
    w.sh("owner", "echo owner >> /mnt/log; sync")
    same(w.sh("heir", f"echo heir >> /mnt/log; sync; {FRESH}; tail -n 2 /mnt/log").split(), ["more", "heir"], "the heir's")
    same(w.sh("owner", f"{FRESH}; tail -n 2 /mnt/log").split(), ["more", "owner"], "the owner's")
    w.drop("heir", "owner")
    w.must("template", "rm", "bayt")


@contextlib.contextmanager
def small_file_system(w, mib):
    where = f"{w.base}/small-disk"
    os.makedirs(where, exist_ok=True)
    tool("mount", "-t", "tmpfs", "-o", f"size={mib}M", "small", where)
    try:
        yield where
    finally:
        subprocess.run(["umount", "-l", where], check=False)
        os.rmdir(where)


def test_bay__a_full_host_is_an_error_and_an_event_and_no_harm(w):
    with small_file_system(w, 6) as where:
        disk = f"{where}/full.qcow2"
        tool("qemu-img", "create", "-q", "-f", "qcow2", disk, "32M")
        w.must("run", "-d", "--name", "full", "--image", "bb", "--memory", "128M", "--disk",
               f"{disk},format=qcow2,persistent", "--disk", f"{sparse(w, 'quota.raw', 16)},format=raw,quota=1M")
        same(events(w, "full"), [], "events of a VM that is well")
        w.sh("full", "dd if=/dev/zero bs=64k count=16 2>/dev/null | tr '\\0' a | dd of=/dev/vdb bs=64k conv=fsync 2>/dev/null")
        for dev in "vdb", "vdc":
            bad = w.clone("exec", "full", "--", "/bin/sh", "-c", f"dd if=/dev/zero bs=64k count=160 2>/dev/null | tr '\\0' b |"
                          f" dd of=/dev/{dev} bs=64k seek=32 conv=fsync")
            check(bad.code != 0, f"{dev}: more was written than there is room for")
        same(sorted(events(w, "full")), [("disk-full", "disk0"), ("disk-quota", "disk1")], "events")
        same([disks(w, "full")[d]["no_space"] > 0 for d in ("root", "disk0", "disk1")], [False, True, True], "counted")
        w.must("fork", "full", "--name", "full-kid")
        same(events(w, "full-kid"), [], "events of a fork")
        w.drop("full-kid")
        # the guest goes on, and so does the disk when there is room
        tool("mount", "-o", "remount,size=64M", where)
        w.sh("full", "dd if=/dev/zero bs=64k count=160 2>/dev/null | tr '\\0' c | dd of=/dev/vdb bs=64k seek=32 conv=fsync"
             f" 2>/dev/null; {FRESH}; [ $(head -c 1048576 /dev/vdb | tr -d a | wc -c) = 0 ]")
        w.must("stop", "full")
        w.drop("full")
        tool("qemu-img", "check", "-q", "-f", "qcow2", disk)
        tool("qemu-img", "convert", "-f", "qcow2", "-O", "raw", disk, f"{where}/out.raw")
        with open(f"{where}/out.raw", "rb") as f:
            raw = f.read()
        same(raw[:MIB] == b"a" * MIB and raw[2 * MIB:12 * MIB] == b"c" * (10 * MIB), True, "what QEMU reads")


def test_bay__readonly_iops_and_new_limits(w):
    disk = sparse(w, "lim.raw", 16)
    w.must("run", "-d", "--name", "lim", "--image", "bb", "--memory", "128M", "--disk", f"{disk},format=raw,iops=20",
           "--disk", f"{disk},format=raw,readonly")
    bad = w.clone("exec", "lim", "--", "dd", "if=/dev/zero", "of=/dev/vdc", "bs=4k", "count=1", "conv=fsync")
    check(bad.code != 0, "a read-only disk was written to")
    same(w.sh("lim", "cat /sys/block/vdc/ro"), "1", "read-only, as the guest sees it")
    reads = "dd if=/dev/vdb of=/dev/null bs=4k count=80 iflag=direct 2>/dev/null"
    # 80 at 20 a second, of which 20 are there at once
    took = w.must("exec", "lim", "--", "/bin/sh", "-c", reads).took
    check(took >= 2.9, f"80 reads took {took:.2f} s at 20 a second")
    for ops, ms in ((1, 3600000), (100000, 1000)):  # one an hour, with which what follows would never end
        body = json.dumps({"drive_id": "disk0", "rate_limiter": {"ops": {"size": ops, "refill_time": ms}}}).encode()
        reply = test_cli.http(f"{w.run_dir}/vms/lim/api.sock", test_cli.request("PATCH", "/drives/disk0", body))
        same(int(reply.split()[1]), 204, "status of a change of limits")
    count = disks(w, "lim")["disk0"]["reads"]
    check(80 <= count < 400, f"{count} reads are counted")
    w.sh("lim", f"{FRESH}; i=0; while [ $i -lt 10 ]; do {reads}; i=$((i+1)); done")
    w.drop("lim")


def has_direct(path):
    try:
        os.close(os.open(path, os.O_RDWR | os.O_DIRECT))
        return True
    except OSError:
        return False


def test_bay__direct_io_or_a_word_about_it(w):
    disk = sparse(w, "direct.raw", 16)
    run = ("run", "-d", "--name", "dio", "--image", "bb", "--memory", "128M", "--disk", f"{disk},format=raw,persistent,direct")
    if not has_direct(disk):  # of memory, as the rig's
        w.refused(*run, says="direct: its file system has no direct I/O")
        same([v for v in w.names() if v == "dio"], [], "what is left")
        return
    w.must(*run)
    w.sh("dio", "mkdir -p /mnt; mke2fs /dev/vdb >/dev/null 2>&1; mount -t ext4 /dev/vdb /mnt; echo x > /mnt/x; umount /mnt;"
         f" {FRESH}; mount -t ext4 /dev/vdb /mnt; cat /mnt/x; umount /mnt")
    w.must("stop", "dio")
    w.drop("dio")
    tool("e2fsck", "-fn", disk)
