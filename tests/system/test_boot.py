# SPDX-License-Identifier: MIT
"""Booting: kernels, memory, vCPUs, and the ways in which a VM ends."""
import json
import os
import subprocess

from harness import IMAGES, ROOT, WAIT, check, same, until

GUEST_OFF = "sync; poweroff -f"


def test_boot__busybox_answers_and_knows_its_name(w):
    w.must("run", "-d", "--name", "one", "--image", "bb", "--memory", "128M")
    same(w.sh("one", "hostname"), "one", "hostname")
    check("x86_64" in w.sh("one", "uname -m"), "uname")
    same(w.names()["one"]["state"], "running", "state")
    same(w.sh("one", "cat /proc/sys/vm/compaction_proactiveness /proc/sys/vm/stat_interval").split(), ["0", "10"],
         "what wakes a kernel at rest")
    w.drop("one")
    check("one" not in w.names(), "rm left the VM")


def test_boot__guest_poweroff_is_exit_0_and_reboot_10(w):
    for cmd, code, reason in (("poweroff -f", 0, "poweroff"), ("reboot -f", 10, "reset")):
        w.must("run", "-d", "--name", "end", "--image", "bb", "--memory", "128M")
        p = w.popen("console", "end", stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL)
        w.clone("exec", "end", "--", "/bin/sh", "-c", f"sync; ({cmd}) &")
        p.wait(WAIT)
        until(lambda: w.names()["end"]["state"] == "exited", f"the VM's end after {cmd}")
        with open(f"{w.run_dir}/vms/end/exit.json", encoding="utf-8") as f:
            record = json.load(f)
        same((record["reason"], record["code"]), (reason, code), f"exit record after {cmd}")
        w.drop("end")


def test_boot__foreground_run_returns_the_guests_end(w):
    r = w.clone("run", "--rm", "--name", "fg", "--image", "bb", "--memory", "128M",
                "--append", "init=/bin/false loglevel=7")
    check(r.code in (10, 11), f"a guest whose init dies: exit {r.code}\n{r.err}")
    check("Linux version" in r.out, "the console was not shown")
    # its very last words, after which it resets
    check(r.out.rstrip().endswith("0xffffffffbfffffff)"), f"the console stops before the guest did: {r.out[-200:]!r}")
    check("fg" not in w.names(), "--rm left the VM")


def test_boot__stop_presses_the_power_button(w):
    w.must("run", "-d", "--name", "btn", "--image", "bb", "--memory", "128M")
    w.must("stop", "btn")
    with open(f"{w.run_dir}/vms/btn/exit.json", encoding="utf-8") as f:
        same(json.load(f)["reason"], "poweroff", "how the VM ended")
    w.drop("btn")


def test_boot__pause_stops_the_guest_and_resume_goes_on(w):
    w.must("run", "-d", "--name", "pz", "--image", "bb", "--memory", "128M")
    w.sh("pz", "(i=0; while :; do i=$((i+1)); echo $i > /tmp/n; done) >/dev/null 2>&1 &")
    w.must("pause", "pz")
    same(w.names()["pz"]["state"], "paused", "state")
    w.must("resume", "pz")
    whole = "until n=$(cat /tmp/n); [ \"$n\" ]; do :; done; echo $n"  # its writer truncates it first
    a = int(w.sh("pz", whole))
    b = int(w.sh("pz", "sleep 1; " + whole))
    check(b > a, f"the guest stands still after resume: {a}, {b}")
    w.drop("pz")


def test_boot__smallest_and_large_memory(w):
    # Debian's kernel itself asks for 68 MiB (its init_size), and is refused with less
    w.refused("run", "-d", "--name", "mem", "--image", "bb", "--memory", "64M", says="needs 68 MiB")
    for size, low, high in (("96M", 20000, 98304), ("5G", 4800000, 5242880)):
        w.must("run", "-d", "--name", "mem", "--image", "bb", "--memory", size)
        kib = int(w.sh("mem", "awk '/MemTotal/ {print $2}' /proc/meminfo"))
        check(low < kib < high, f"{size}: MemTotal is {kib} kB")
        if size == "5G":
            check("100000000-" in w.sh("mem", "cat /proc/iomem"), "no RAM above 4 GiB")
        w.drop("mem")


def test_boot__four_cpus_all_work(w):
    w.must("run", "-d", "--name", "smp", "--image", "bb", "--memory", "256M", "--cpus", "4")
    same(w.sh("smp", "nproc"), "4", "nproc")
    same(w.sh("smp", "grep -c ^processor /proc/cpuinfo"), "4", "cpuinfo")
    ids = w.sh("smp", "awk '/^apicid/ {print $3}' /proc/cpuinfo").split()
    same(ids, ["0", "1", "2", "3"], "APIC ids")
    w.drop("smp")


def test_boot__sixty_four_cpus_come_up(w):
    w.must("run", "-d", "--name", "smp64", "--image", "bb", "--memory", "1G", "--cpus", "64",
           "--timeout", "1500s", timeout=1600)
    same(w.sh("smp64", "nproc"), "64", "nproc")
    ids = w.sh("smp64", "awk '/^apicid/ {print $3}' /proc/cpuinfo").split()
    same(ids, [str(i) for i in range(64)], "APIC ids")
    w.drop("smp64")


def test_boot__pvh_elf_kernel(w):
    vmlinux = extract_vmlinux(w, f"{IMAGES}/bb/vmlinuz")
    w.must("run", "-d", "--name", "pvh", "--kernel", vmlinux, "--memory", "256M", "--append",
           "root=/dev/vda ro clone.overlay",
           "--disk", f"{IMAGES}/bb/rootfs.ext4,format=raw")
    check("Debian" in w.sh("pvh", "uname -v"), "uname")
    w.drop("pvh")


def test_boot__full_debian_kernel(w):
    kernel = full_kernel()
    w.must("run", "-d", "--name", "full", "--kernel", kernel, "--memory", "256M", "--append",
           "root=/dev/vda", "--disk", f"{IMAGES}/bb/rootfs.ext4,format=raw")
    check("cloud" not in w.sh("full", "uname -r"), "not the full flavour")
    w.drop("full")


def full_kernel():
    """The rig's own kernel is Debian's full flavour, kept beside its modules."""
    path = f"{ROOT}/build/rig/kernel/vmlinuz"
    check(os.path.exists(path), "no full kernel in build/rig (tests/rig/rig build)")
    return path


def extract_vmlinux(w, bzimage):
    """The ELF inside a bzImage: payload_offset and payload_length of its header (boot.rst)."""
    import lzma
    import struct
    with open(bzimage, "rb") as f:
        data = f.read()
    setup = (data[0x1F1] or 4) + 1
    off, length = struct.unpack_from("<II", data, 0x248)
    payload = data[setup * 512 + off:setup * 512 + off + length - 4]
    if payload[:6] == b"\xfd7zXZ\0":
        elf = lzma.decompress(payload)
    elif payload[:4] == b"\x02\x21\x4c\x18":
        elf = subprocess.run(["lz4", "-dc"], input=payload, check=False,
                             stdout=subprocess.PIPE).stdout
    elif payload[:4] == b"\x28\xb5\x2f\xfd":
        elf = subprocess.run(["zstd", "-dc"], input=payload, check=False,
                             stdout=subprocess.PIPE).stdout
    else:
        raise AssertionError(f"payload compressed in an unknown way: {payload[:6]!r}")
    path = os.path.join(w.base, "vmlinux")
    with open(path, "wb") as f:
        f.write(elf)
    mods = os.path.join(w.base, "modules")
    if not os.path.exists(mods):
        os.symlink(os.path.join(os.path.dirname(os.path.realpath(bzimage)), "modules"), mods)
    return path
