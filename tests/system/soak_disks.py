#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""ext4 and xfs through live forks in the midst of writing: fio verifies what it wrote, in the parent and in each fork,
whose file systems are then checked, and the parent's in the end. usage: soak_disks.py FORKS"""
import sys

from harness import World
from test_disk import tool

FILE_SYSTEMS = {"vdb": "ext4", "vdc": "xfs"}


def begin_load(w, vm):
    """fio writes and reads back what it wrote, by checksums, until it is ended or finds something else."""
    for dev, fs in FILE_SYSTEMS.items():
        w.sh(vm, f"modprobe {fs}; mkfs.{fs} -q /dev/{dev} && mkdir -p /mnt/{fs} && mount -t {fs} /dev/{dev} /mnt/{fs}")
        fio = (f"fio --name={fs} --directory=/mnt/{fs} --size=8m --rw=randwrite --bs=4k --direct=1 --ioengine=libaio "
               "--iodepth=8 --verify=crc32c --verify_backlog=64 --verify_fatal=1 --loops=1000000 --rate_iops=200")
        w.sh(vm, f"setsid sh -c '{fio} >/run/{fs}.out 2>&1; echo ended >>/run/{fs}.out' >/dev/null 2>&1 </dev/null &")


def load_goes_on(w, vm):
    """It writes more, and has not ended; then nothing is wrong with the file systems either."""
    for dev in FILE_SYSTEMS:
        done = f"$(awk '$3 == \"{dev}\" {{ print $4 < $8 ? $4 : $8 }}' /proc/diskstats)"
        w.sh(vm, f"want=$(({done} + 40)); i=0; while [ {done} -lt $want ]; do "
             "i=$((i + 1)); [ $i -lt 300 ] || exit 1; sleep 0.1; done")
    w.sh(vm, "! grep -q -e ended -e verify: /run/*.out || { cat /run/*.out; exit 1; }")


def end_load(w, vm):
    w.sh(vm, "pkill -INT fio; i=0; while pgrep -x fio >/dev/null; do i=$((i + 1)); [ $i -lt 300 ] || exit 1; sleep 0.1; "
         "done; ! grep verify: /run/*.out && umount /mnt/ext4 /mnt/xfs && fsck.ext4 -fn /dev/vdb && xfs_repair -n /dev/vdc")


def file_systems_stand(w, forks):
    """ext4 in an overlay, xfs in a file that is written: each fork takes both in the midst of writing."""
    raw, disk = f"{w.base}/ext4.raw", f"{w.base}/xfs.qcow2"
    tool("truncate", "-s", "64M", raw)
    tool("qemu-img", "create", "-q", "-f", "qcow2", disk, "512M")
    w.must("run", "-d", "--name", "trunk", "--image", "fio", "--memory", "256M", "--disk", f"{raw},format=raw", "--disk",
           f"{disk},format=qcow2,persistent")
    begin_load(w, "trunk")
    load_goes_on(w, "trunk")
    for i in range(forks):
        w.must("fork", "trunk", "--name", f"fork{i}")
        load_goes_on(w, f"fork{i}")
        end_load(w, f"fork{i}")
        w.drop(f"fork{i}")
        print(f"{i + 1} forks", flush=True)
    load_goes_on(w, "trunk")
    end_load(w, "trunk")
    w.must("stop", "trunk")
    w.drop("trunk")
    tool("qemu-img", "check", "-q", "-f", "qcow2", disk)


if __name__ == "__main__":
    world = World()
    try:
        file_systems_stand(world, int(sys.argv[1]))
    finally:
        world.close()
