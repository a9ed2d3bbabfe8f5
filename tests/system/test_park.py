# SPDX-License-Identifier: MIT
"""Parking: what leaves the host's memory, what wakes a VM, and that its guest goes on where it was."""
import glob
import json
import os
import socket

from harness import check, kill_pid, same, until
from netlab import ip4, network, pings

MIB = 1 << 20


def run(w, name, *options, memory="256M"):
    w.must("run", "-d", "--name", name, "--image", "bb", "--memory", memory, *options, timeout=600)
    return name


def state(w, vm):
    return w.names()[vm]["state"]


def private(w, vm):
    m = w.inspect(vm)["host_memory"]
    return m["private_dirty_bytes"] + m["private_clean_bytes"]


def park(w, vm):
    said = json.loads(w.must("park", "-o", "json", vm, timeout=600).out)
    same(sorted(said), ["name", "ns", "pushed_bytes", "zero_bytes"], "what park says")
    return said


def reasons(w, vm):
    """What it woke for, the last one last."""
    return [e["device"] for e in w.inspect(vm)["events"]["events"] if e["kind"] == "unparked"]


def fill(w, vm, mib=64):
    """So much random data in the guest's memory, and a counter; the data's digest."""
    w.sh(vm, "(i=0; while :; do i=$((i+1)); echo $i >/run/n.new; mv /run/n.new /run/n; done) >/dev/null 2>&1 &")
    return w.sh(vm, f"mkdir -p /m && mount -t tmpfs -o size={2 * mib}m none /m && "
                    f"dd if=/dev/urandom of=/m/x bs=1M count={mib} 2>/dev/null && sha256sum </m/x")


def counter(w, vm):
    return int(w.sh(vm, "cat /run/n"))


def goes_on(w, vm, since):
    now = counter(w, vm)
    check(now >= since, f"{vm}: its counter is {now} after {since}")
    w.sh(vm, f"until [ $(cat /run/n) -gt {now} ]; do sleep 0.1; done")


def kvm_page_tables():
    """Bytes, of all VMs: KVM's page tables of guests, which it keeps as long as it knows their memory."""
    with open("/proc/meminfo", encoding="ascii") as f:
        return next(int(line.split()[1]) * 1024 for line in f if line.startswith("SecPageTables:"))


def open_files(w):
    """Processes' descriptors of files that VMs were parked into."""
    found = []
    for fd in glob.glob("/proc/[0-9]*/fd/*"):
        try:
            found += [fd] if os.readlink(fd).startswith(f"{w.state}/parked/") else []
        except OSError:
            pass
    return found


def test_park__memory_is_gone_and_a_command_wakes(w):
    none = kvm_page_tables()
    vm = run(w, "pk")
    digest, n = fill(w, vm), counter(w, vm)
    before = private(w, vm)
    check(before > 64 * MIB, f"a filled VM has {before} bytes")
    for _ in range(2):
        until(lambda: kvm_page_tables() > none, "page tables of a VM that runs in KVM")  # few, with huge pages; counted late
        said = park(w, vm)
        check(64 * MIB < said["pushed_bytes"] <= before + 16 * MIB, f"pushed out: {said}, of {before}")
        same(state(w, vm), "parked", "state")
        same(w.inspect(vm)["stats"]["vm"]["parked_bytes"], said["pushed_bytes"], "parked bytes")
        check(private(w, vm) < 12 * MIB, f"parked, it has {private(w, vm)} bytes of its own")
        until(lambda: kvm_page_tables() <= none, "KVM's page tables of it go")
        same(len(open_files(w)), 1, "files that VMs were parked into")
        same(state(w, vm), "parked", "state, after it was looked at")
        same(w.sh(vm, "sha256sum </m/x"), digest, "the digest of the guest's data")
        same(state(w, vm), "running", "state after a command")
        same(reasons(w, vm)[-1], "vsock", "what woke it")
        goes_on(w, vm, n)
    same(open_files(w), [], "files that VMs were parked into")
    check(w.sh(vm, "dmesg | grep -ciE 'lockup|stall'; true") == "0", "the guest's kernel complains")
    w.drop(vm)


def test_park__unpark_resume_and_pause(w):
    vm = run(w, "pu")
    digest, n = fill(w, vm, 16), counter(w, vm)
    said = park(w, vm)
    back = json.loads(w.must("unpark", "-o", "json", vm).out)
    same(back["read_bytes"], said["pushed_bytes"], "bytes read back")
    same(state(w, vm), "running", "state")
    park(w, vm)
    w.must("park", vm)  # as it is
    w.must("pause", vm)
    same(state(w, vm), "paused", "state")
    w.refused("park", vm, says="not running")
    w.refused("unpark", vm, says="not parked")
    w.must("resume", vm)
    park(w, vm)
    w.must("resume", vm)
    same(w.sh(vm, "sha256sum </m/x"), digest, "the digest of the guest's data")
    goes_on(w, vm, n)
    w.drop(vm)


def test_park__typing_wakes(w):
    vm = run(w, "pt")
    with socket.socket(socket.AF_UNIX) as tty:
        tty.connect(f"{w.run_dir}/vms/{vm}/console.sock")
        park(w, vm)
        same(state(w, vm), "parked", "state while somebody watches")
        tty.sendall(b"\n")
        until(lambda: state(w, vm) == "running", "waking")
    same(reasons(w, vm), ["console"], "what woke it")
    same(w.sh(vm, "echo here"), "here", "a command")
    w.drop(vm)


def test_park__what_the_guest_had_not_read_when_it_stopped_wakes(w):
    vm, said = run(w, "pu"), []
    with socket.socket(socket.AF_UNIX) as tty:
        tty.connect(f"{w.run_dir}/vms/{vm}/console.sock")
        while len(said) < 20 and not any(said):
            tty.sendall(20 * (b": " + 3000 * b"x" + b"\n"))  # more than it can have read by then
            r = w.clone("park", vm, timeout=600)
            said.append(r.err)
            check(r.code == 0 or r.err == f"clone: park {vm}: park: woken meanwhile (console)\n", r.err)
        check(any(said), "a park right after much was typed never found any of it unread")
    same(w.sh(vm, "echo here"), "here", "a command")
    w.drop(vm)


def test_park__a_packet_wakes_and_is_answered(w):
    vm = run(w, "pn", "--network", network(w))
    w.sh(vm, "mkdir -p /www && echo awake > /www/index.html && httpd -p 80 -h /www")
    park(w, vm)
    check(pings(ip4(w, vm), 5), "a parked VM does not answer a ping")
    same(reasons(w, vm), ["network"], "what woke it")
    park(w, vm)
    with socket.create_connection((ip4(w, vm), 80), timeout=120) as s:
        s.sendall(b"GET / HTTP/1.0\r\n\r\n")
        page = b""
        while more := s.recv(4096):
            page += more
    check(page.endswith(b"awake\n"), f"the page: {page!r}")
    same(state(w, vm), "running", "state")
    w.drop(vm)


def test_park__a_fork_and_a_snapshot_of_a_parked_vm(w):
    vm = run(w, "pf")
    digest, n = fill(w, vm, 16), counter(w, vm)
    park(w, vm)
    w.must("fork", vm, "--name", "pf-kid", "--timeout", "300s", timeout=600)
    same(state(w, vm), "running", "the parent's state")
    park(w, "pf-kid")
    park(w, vm)
    w.must("snapshot", vm, "pf-snap", timeout=600)
    same(state(w, vm), "running", "the VM's state after its snapshot")
    w.must("restore", "pf-snap", "--name", "pf-back", "--timeout", "300s", timeout=600)
    park(w, vm)
    for name in (vm, "pf-kid", "pf-back"):
        same(w.sh(name, "sha256sum </m/x"), digest, f"the digest of {name}'s data")
        goes_on(w, name, n)
    w.drop(vm, "pf-kid", "pf-back")
    w.must("snapshot", "rm", "pf-snap")


def test_park__a_templates_fork_gives_only_its_own_memory(w):
    w.must("fork", w.template(), "--name", "pm", "--timeout", "300s", timeout=600)
    w.sh("pm", "mkdir -p /m && mount -t tmpfs none /m && dd if=/dev/urandom of=/m/x bs=1M count=8 2>/dev/null")
    digest = w.sh("pm", "sha256sum </m/x")
    before = w.inspect("pm")["host_memory"]
    said = park(w, "pm")
    check(8 * MIB < said["pushed_bytes"] <= before["private_dirty_bytes"], f"pushed out: {said}, of {before}")
    left = json.loads(w.must("stats", "-o", "json", "pm").out)["vms"][0]["unique_bytes"]
    check(left < MIB, f"what is left of its own memory: {left}")
    same(w.sh("pm", "sha256sum </m/x"), digest, "the digest of the guest's data")
    w.drop("pm")


def test_park__killed_or_stopped_it_leaves_nothing(w):
    vm = run(w, "pd")
    park(w, vm)
    same(len(open_files(w)), 1, "files that VMs were parked into")
    kill_pid(w.pid(vm))
    until(lambda: state(w, vm) == "exited", "the VM's end")
    until(lambda: not open_files(w), "the file's end")
    same(os.listdir(f"{w.state}/parked"), [], "files with a name")
    w.drop(vm)
    run(w, vm)
    park(w, vm)
    w.must("kill", vm)
    w.drop(vm)
    run(w, vm)
    park(w, vm)
    w.must("stop", "--timeout", "120s", vm)  # the power button wakes it
    with open(f"{w.run_dir}/vms/{vm}/exit.json", encoding="utf-8") as f:
        same(json.load(f)["reason"], "poweroff", "how the VM ended")
    w.drop(vm)
