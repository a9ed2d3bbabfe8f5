# SPDX-License-Identifier: MIT
"""Disks that a user brings: what QEMU's tools wrote is what the guest reads, what the guest writes is its own."""
import hashlib
import json
import os
import subprocess

from harness import IMAGES, WAIT, check, kill_pid, same, until

MIB = 1 << 20


def tool(*argv):
    done = subprocess.run(argv, check=False, capture_output=True, text=True)
    check(done.returncode == 0, f"{' '.join(argv)}: {done.stderr}{done.stdout}")
    return done.stdout


def sha256(path):
    with open(path, "rb") as f:
        return hashlib.sha256(f.read()).hexdigest()


def chain(w, depth=5):
    """base.raw <- 1.qcow2 <- 2.qcow2 ...: clusters of different sizes, written, zeroed, compressed."""
    where = f"{w.base}/chain"
    os.makedirs(where, exist_ok=True)
    with open(f"{where}/base.raw", "wb") as f:
        f.write(os.urandom(3 * MIB) + bytes(2 * MIB) + os.urandom(MIB))
    below, fmt = "base.raw", "raw"
    for i in range(1, depth + 1):
        name, size = f"{where}/{i}.qcow2", (65536, 4096, 2 << 20, 512, 16384)[i % 5]
        kind = "zstd" if i % 2 else "zlib"
        tool("qemu-img", "create", "-q", "-f", "qcow2", "-o", f"cluster_size={size},compression_type={kind}", "-b",
             below, "-F", fmt, name, str((8 - i % 2) * MIB))
        tool("qemu-io", "-f", "qcow2", "-c", f"write -P {i} {i * 300}k 900k", "-c", f"write -z {i * 700}k 130k", "-c",
             f"write -c -P {100 + i} {6 * MIB} {size}", name)
        below, fmt = f"{i}.qcow2", "qcow2"
    top = f"{where}/{depth}.qcow2"
    tool("qemu-img", "convert", "-f", "qcow2", "-O", "raw", top, f"{where}/all.raw")
    return where, top


def guest_sha256(w, vm, device):
    return w.sh(vm, f"sha256sum {device}").split()[0]


def test_disk__guest_reads_a_chain_as_qemu_does_and_writes_beside_it(w):
    where, top = chain(w)
    files = {n: sha256(f"{where}/{n}") for n in os.listdir(where)}
    w.must("run", "-d", "--name", "q", "--image", "bb", "--memory", "128M", "--disk",
           f"{top},format=qcow2,backing={where},serial=chain-7")
    same(guest_sha256(w, "q", "/dev/vdb"), files["all.raw"], "the disk's content")
    same(w.sh("q", "cat /sys/block/vdb/serial"), "chain-7", "serial")
    with open(f"{where}/all.raw", "rb") as f:
        want = bytearray(f.read())
    # unaligned, over the boundaries of clusters and of files' ends
    w.sh("q", "dd if=/dev/zero bs=512 count=3001 | tr '\\0' 'x' | dd of=/dev/vdb bs=512 seek=1999 conv=notrunc; sync")
    want[1999 * 512:5000 * 512] = b"x" * (3001 * 512)
    w.must("fork", "q", "--name", "q-kid")
    w.sh("q", "echo parent | dd of=/dev/vdb conv=notrunc; sync")
    w.sh("q-kid", "echo child! | dd of=/dev/vdb conv=notrunc; sync")
    for vm, mark in (("q", b"parent\n"), ("q-kid", b"child!\n")):
        mine = mark + bytes(want[len(mark):])
        w.sh(vm, "echo 3 > /proc/sys/vm/drop_caches")
        same(guest_sha256(w, vm, "/dev/vdb"), hashlib.sha256(mine).hexdigest(), f"the disk of {vm}")
    w.must("snapshot", "q-kid", "q-snap")
    w.drop("q", "q-kid")
    w.must("restore", "q-snap", "--name", "q-back")
    w.sh("q-back", "echo 3 > /proc/sys/vm/drop_caches")
    same(guest_sha256(w, "q-back", "/dev/vdb"), hashlib.sha256(b"child!\n" + bytes(want[7:])).hexdigest(),
         "the disk after a restore")
    w.drop("q-back")
    info = json.loads(w.must("snapshot", "inspect", "q-snap").out)
    disk = [d for d in info["disks"] if d["path"] == top][0]
    same([(os.path.basename(f["path"]), f["format"]) for f in disk["files"]],
         [(f"{i}.qcow2", "qcow2") for i in range(5, 0, -1)] + [("base.raw", "raw")], "what it stands on")
    same({n: sha256(f"{where}/{n}") for n in os.listdir(where)}, files, "the files under the disk")
    # it stands on them: another base is another disk
    with open(f"{where}/2.qcow2", "r+b") as f:
        f.seek(-1, os.SEEK_END)
        last = f.read(1)
        f.seek(-1, os.SEEK_END)
        f.write(bytes([last[0] ^ 1]))
    w.refused("restore", "q-snap", "--name", "q-bad", says="2.qcow2 is not what it was")
    w.must("snapshot", "rm", "q-snap")


def test_disk__root_on_a_compressed_qcow2(w):
    root = f"{w.base}/root.qcow2"
    tool("qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-c", f"{IMAGES}/bb/rootfs.ext4", root)
    w.must("run", "-d", "--name", "rq", "--kernel", f"{IMAGES}/bb/vmlinuz", "--memory", "128M", "--disk",
           f"{root},format=qcow2")
    w.sh("rq", "dd if=/dev/urandom of=/root/new bs=64k count=20; sync; echo 3 > /proc/sys/vm/drop_caches")
    want = w.sh("rq", "md5sum < /root/new")
    w.must("fork", "rq", "--name", "rq-kid", "-n", "2")
    for vm in ("rq", "rq-kid-1", "rq-kid-2"):
        w.sh(vm, "echo 3 > /proc/sys/vm/drop_caches")
        same(w.sh(vm, "md5sum < /root/new"), want, f"a file in {vm}")
        w.sh(vm, f"echo {vm} > /root/who; sync")
    for vm in ("rq", "rq-kid-1", "rq-kid-2"):
        same(w.sh(vm, "echo 3 > /proc/sys/vm/drop_caches; cat /root/who"), vm, "its own file")
    w.drop("rq", "rq-kid-1", "rq-kid-2")
    tool("qemu-img", "compare", "-f", "raw", "-F", "qcow2", f"{IMAGES}/bb/rootfs.ext4", root)


def test_disk__what_was_not_allowed_is_not_opened(w):
    where, top = chain(w, 2)
    run = ("run", "-d", "--name", "no", "--image", "bb", "--memory", "128M", "--disk")
    w.refused(*run, f"{top},format=qcow2", says="stands on backing file '1.qcow2'; .*backing=DIR")
    w.refused(*run, f"{top},format=qcow2,backing={IMAGES}", says="1.qcow2 is not under")
    w.refused(*run, f"{where}/base.raw,format=qcow2", says="not a qcow2 image; is it format=raw")
    tool("qemu-img", "rebase", "-u", "-b", "/etc/shadow", "-F", "raw", top)
    w.refused(*run, f"{top},format=qcow2,backing={where}", says="/etc/shadow is not under")
    check("no" not in w.names(), "a VM was left")


def test_disk__damage_is_an_error_to_the_guest_and_the_vm_lives(w):
    path = f"{w.base}/hurt.qcow2"
    tool("qemu-img", "create", "-q", "-f", "qcow2", path, "4M")
    tool("qemu-io", "-f", "qcow2", "-c", "write -P 7 0 4M", path)
    with open(path, "r+b") as f:
        f.seek(0x40000 + 8 * 3)
        f.write((0x50200 | 1 << 63).to_bytes(8, "big"))  # no cluster begins there
    w.must("run", "-d", "--name", "hurt", "--image", "bb", "--memory", "128M", "--disk", f"{path},format=qcow2")
    w.sh("hurt", "! dd if=/dev/vdb of=/dev/null bs=4k skip=48 count=1 2>/dev/null")
    same(w.sh("hurt", "dd if=/dev/vdb bs=4k skip=64 count=1 2>/dev/null | tr -d '\\007' | wc -c"), "0", "what is whole")
    # whole blocks may be written over the damage, and are there then
    w.sh("hurt", "dd if=/dev/zero of=/dev/vdb bs=64k seek=3 count=1 2>/dev/null; sync; echo 3 > /proc/sys/vm/drop_caches")
    same(w.sh("hurt", "dd if=/dev/vdb bs=4k skip=48 count=16 2>/dev/null | tr -d '\\0' | wc -c"), "0", "what was written")
    w.drop("hurt")


def test_disk__persistent_ones_outlive_the_vm(w):
    disk, raw = f"{w.base}/keep.qcow2", f"{w.base}/keep.raw"
    with open(f"{w.base}/under.raw", "wb") as f:
        f.write(os.urandom(4 * MIB))
    tool("qemu-img", "create", "-q", "-f", "qcow2", "-b", "under.raw", "-F", "raw", disk, "48M")
    tool("truncate", "-s", "48M", raw)
    run = ("run", "-d", "--image", "bb", "--memory", "128M", "--disk",
           f"{disk},format=qcow2,persistent,backing={w.base}", "--disk", f"{raw},format=raw,persistent", "--name")
    want = {}
    for turn in range(2):
        vm = f"keep{turn}"
        w.must(*run, vm)
        for dev in "vdb", "vdc":
            w.sh(vm, f"mkdir -p /mnt/{dev}" + ("" if turn else f"; mke2fs /dev/{dev} >/dev/null 2>&1") +
                 f"; mount -t ext4 /dev/{dev} /mnt/{dev}")
            if turn:
                same(w.sh(vm, f"md5sum < /mnt/{dev}/first"), want[dev], f"{dev} in the next VM")
            w.sh(vm, f"dd if=/dev/urandom of=/mnt/{dev}/{'second' if turn else 'first'} bs=64k count=100 2>/dev/null; "
                 f"rm -f /mnt/{dev}/gone; dd if=/dev/zero of=/mnt/{dev}/gone bs=64k count=40 2>/dev/null; sync")
            want[dev] = w.sh(vm, f"md5sum < /mnt/{dev}/first")
        # one writer, and nobody beside it
        w.refused(*run, "second", says="in use by another VM|being written to by another VM")
        w.refused("run", "-d", "--name", "reader", "--image", "bb", "--memory", "128M", "--disk",
                  f"{raw},format=raw,readonly", says="being written to by another VM")
        w.refused("fork", vm, "--name", "twin", says="disk 'disk1' is persistent and raw")
        w.refused("snapshot", vm, "snap", says="disk 'disk0' is of a persistent file")
        w.sh(vm, "umount /mnt/vdb /mnt/vdc")
        w.must("stop", vm)
        w.drop(vm)
        tool("qemu-img", "check", "-q", "-f", "qcow2", disk)
        tool("qemu-img", "convert", "-f", "qcow2", "-O", "raw", disk, f"{w.base}/out.raw")
        tool("e2fsck", "-fn", f"{w.base}/out.raw")
        tool("e2fsck", "-fn", raw)


def test_disk__forks_share_a_persistent_one(w):
    disk = f"{w.base}/shared.qcow2"
    tool("qemu-img", "create", "-q", "-f", "qcow2", disk, "64M")
    run = ("run", "-d", "--image", "bb", "--memory", "128M", "--disk", f"{disk},format=qcow2,persistent", "--name")
    w.must(*run, "ground")
    w.sh("ground", "mkdir -p /mnt; mke2fs /dev/vdb >/dev/null 2>&1; mount -t ext4 /dev/vdb /mnt; "
         "dd if=/dev/urandom of=/mnt/a bs=64k count=100 2>/dev/null; sync; "
         "dd if=/dev/urandom of=/mnt/b bs=64k count=100 2>/dev/null; md5sum /mnt/a /mnt/b > /mnt/sums")
    drop = "echo 3 > /proc/sys/vm/drop_caches"
    for turn in range(2):
        w.must("fork", "ground", "--name", f"limb{turn}")
        # each goes its own way, over what it shared
        w.sh("ground", f"dd if=/dev/urandom of=/mnt/a bs=64k count=100 2>/dev/null; cp /mnt/b /mnt/c{turn}; sync; "
             f"md5sum /mnt/a /mnt/b /mnt/c* > /mnt/sums; sync; {drop}; md5sum -c -s /mnt/sums")
        w.sh(f"limb{turn}", f"md5sum -c -s /mnt/sums; {drop}; md5sum -c -s /mnt/sums; [ ! -e /mnt/c{turn} ]")
        w.sh(f"limb{turn}", f"cp /mnt/a /mnt/limb; rm /mnt/b; sync; {drop}; cmp /mnt/a /mnt/limb")
    w.must("fork", "limb0", "--name", "twig")
    w.sh("twig", f"{drop}; cmp /mnt/a /mnt/limb; rm /mnt/limb; sync")
    w.sh("limb0", f"{drop}; cmp /mnt/a /mnt/limb")
    w.refused("snapshot", "twig", "snap", says="is of a persistent file")
    w.sh("ground", "md5sum -c -s /mnt/sums; umount /mnt")
    w.must("stop", "ground")
    w.drop("ground")
    w.refused(*run, "next", says="still read by forks")
    w.sh("limb1", f"{drop}; cmp /mnt/a /mnt/limb")
    for vm in "limb0", "limb1", "twig":
        w.drop(vm)
    tool("qemu-img", "check", "-q", "-f", "qcow2", disk)
    tool("qemu-img", "convert", "-f", "qcow2", "-O", "raw", disk, f"{w.base}/out.raw")
    tool("e2fsck", "-fn", f"{w.base}/out.raw")
    w.must(*run, "next")
    w.sh("next", "mkdir -p /mnt; mount -t ext4 /dev/vdb /mnt; md5sum -c -s /mnt/sums; umount /mnt")
    w.must("stop", "next")
    w.drop("next")


def test_disk__kill_9_loses_nothing_that_was_synced(w):
    """The guest's own fsync, the whole way down; the engine alone is killed 200 times in a unit test."""
    disk = f"{w.base}/kill.qcow2"
    tool("qemu-img", "create", "-q", "-f", "qcow2", disk, "64M")
    last = 0
    for turn in range(5):
        w.must("run", "-d", "--name", "kill", "--image", "bb", "--memory", "128M", "--disk",
               f"{disk},format=qcow2,persistent")
        w.sh("kill", "mkdir -p /mnt; [ $(dd if=/dev/vdb bs=1k skip=1 count=1 2>/dev/null | wc -c) = 1024 ]")
        writer = w.popen("exec", "kill", "--", "/bin/sh", "-c",
                         f"i={last}; while :; do i=$((i+1)); printf '%-511d\\n' $i | dd of=/dev/vdb bs=512 "
                         "seek=$((i % 997 * 131)) conv=notrunc,fsync 2>/dev/null && echo $i; done",
                         stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        acked = last
        for line in writer.stdout:
            acked = int(line)
            if acked >= last + 3 + turn * 7:
                kill_pid(w.pid("kill"))
                break
        for line in writer.stdout:
            acked = int(line)
        writer.wait(WAIT)
        w.drop("kill")
        done = subprocess.run(["qemu-img", "check", "-q", "-f", "qcow2", disk], check=False, capture_output=True)
        check(done.returncode in (0, 3), f"after kill {turn}: {done.stdout}{done.stderr}")
        tool("qemu-img", "convert", "-f", "qcow2", "-O", "raw", disk, f"{w.base}/out.raw")
        with open(f"{w.base}/out.raw", "rb") as f:
            raw = f.read()
        for i in range(max(1, acked - 996), acked + 1):
            at = i % 997 * 131 * 512
            got = raw[at:at + 512].split()
            check(got and got[0].isdigit() and int(got[0]) >= i, f"number {i} of {acked} is not there but {got[:1]}")
        check(acked > last, "nothing was written")
        last = acked


def test_disk__limits_hold_in_forks_too(w):
    disk = f"{w.base}/slow.raw"
    tool("truncate", "-s", "16M", disk)
    w.must("run", "-d", "--name", "slow", "--image", "bb", "--memory", "128M", "--disk",
           f"{disk},format=raw,bandwidth=1M")
    write = "dd if=/dev/zero of=/dev/vdb bs=64k count=64 conv=fsync 2>/dev/null"
    w.must("fork", "slow", "--name", "slow-kid")
    for vm in "slow", "slow-kid":
        # 4 MiB at 1 MiB a second, of which the first is there at once
        took = w.must("exec", vm, "--", "/bin/sh", "-c", write).took
        check(took >= 2.9, f"{vm} wrote 4 MiB in {took:.2f} s at 1 MiB a second")
    w.drop("slow", "slow-kid")


def space_used(w):
    """By what VMs write. In the rig all files, and files without a name, are memory."""
    if os.environ.get("RIG"):
        with open("/proc/meminfo", encoding="utf-8") as f:
            return next(int(line.split()[1]) * 1024 for line in f if line.startswith("Shmem:"))
    fs = os.statvfs(w.state)
    return (fs.f_blocks - fs.f_bfree) * fs.f_frsize


def test_disk__forks_share_space_and_give_it_back(w):
    disk = f"{w.base}/space.raw"
    tool("truncate", "-s", "64M", disk)
    w.must("run", "-d", "--name", "space", "--image", "bb", "--memory", "128M", "--disk", f"{disk},format=raw")
    before = space_used(w)
    w.sh("space", "dd if=/dev/urandom of=/dev/vdb bs=64k count=768 conv=fsync 2>/dev/null")  # 48 MiB
    w.must("fork", "space", "-n", "3", "--name", "sp", timeout=300)
    w.must("fork", "sp-1", "--name", "sp-kid")
    forks = ["sp-1", "sp-2", "sp-3", "sp-kid"]
    once = space_used(w) - before
    check(40 * MIB < once < 80 * MIB, f"48 MiB, written once and shared by five, take {once / MIB:.0f} MiB")
    kill_pid(w.pid("space"))
    for vm in forks[:3]:
        kill_pid(w.pid(vm))
    until(lambda: all(w.names()[vm]["state"] == "exited" for vm in ["space"] + forks[:3]), "the end of killed VMs")
    left = space_used(w) - before
    check(left > 40 * MIB, f"{left / MIB:.0f} MiB are left for the one that lives")
    same(w.sh("sp-kid", "dd if=/dev/vdb bs=64k count=768 2>/dev/null | wc -c"), str(48 * MIB), "what it reads")
    w.sh("sp-kid", "blkdiscard /dev/vdb 2>/dev/null || true")
    kill_pid(w.pid("sp-kid"))
    until(lambda: space_used(w) - before < 12 * MIB, "the space given back")
    w.drop("space", *forks)


def test_disk__tools_and_qemu_agree(w):
    where, top = chain(w)
    out = f"{w.base}/flat"
    w.must("disk", "export", f"{top},format=qcow2,backing={where}", f"{out}.qcow2", "--cluster", "4K")
    w.must("disk", "export", f"{top},format=qcow2,backing={where}", f"{out}.raw", "--format", "raw")
    tool("qemu-img", "compare", "-f", "qcow2", "-F", "qcow2", top, f"{out}.qcow2")
    same(sha256(f"{out}.raw"), sha256(f"{where}/all.raw"), "the raw copy")
    check(os.stat(f"{out}.raw").st_blocks * 512 < os.stat(f"{out}.raw").st_size, "zeroes take space in the copy")
    w.refused("disk", "export", f"{top},format=qcow2,backing={where}", f"{out}.raw", says="File exists")
    w.must("disk", "create", f"{w.base}/over.qcow2", "--backing", f"{out}.qcow2,format=qcow2")
    tool("qemu-img", "compare", "-f", "qcow2", "-F", "qcow2", f"{w.base}/over.qcow2", top)
    info = json.loads(w.must("disk", "info", f"{w.base}/over.qcow2,format=qcow2,backing={w.base}", "-o", "json").out)
    same([(os.path.basename(f["path"]), f["cluster_bytes"]) for f in info["files"]],
         [("over.qcow2", 65536), ("flat.qcow2", 4096)], "what it is made of")
    alone = json.loads(w.must("disk", "info", f"{w.base}/over.qcow2,format=qcow2", "-o", "json").out)
    same([(os.path.basename(f["path"]), f["backing"], f["backing_format"]) for f in alone["files"]],
         [("over.qcow2", os.path.realpath(f"{out}.qcow2"), "qcow2")], "what is said of a file whose base is not opened")
    w.must("disk", "check", f"{w.base}/over.qcow2")
    with open(f"{out}.qcow2", "r+b") as f:  # a cluster more is counted than there is
        f.seek(2 * 4096 + 2 * 2000)
        f.write(b"\0\1")
        f.truncate(2001 * 4096)
    lost = w.clone("disk", "check", f"{out}.qcow2", "-o", "json")
    same((lost.code, json.loads(lost.out)["leaks"], json.loads(lost.out)["errors"]), (1, 1, 0), "a lost cluster")
    w.must("disk", "check", "--repair", f"{out}.qcow2")
    tool("qemu-img", "check", "-q", "-f", "qcow2", f"{out}.qcow2")
