# SPDX-License-Identifier: MIT
"""Templates and forks: every fork is a machine of its own that goes on, with its own identity."""
import json
import os
import socket
import subprocess
import time

from harness import WAIT, check, kill_pid, same, until

def counter(seconds):
    """A process of the template that counts on in every fork, in a file that is always whole. It sleeps in a builtin:
    starting a program each second in each of many guests is more than an emulated host has time for."""
    return ("echo 0 >/run/count; mkfifo /run/still; (exec 3<>/run/still; i=0; while :; do i=$((i+1)); echo $i 1<>/run/count;"
            f" read -t {seconds} x <&3; done) </dev/null >/dev/null 2>&1 &")


COUNTER = counter(1)


def template(w):
    return w.template(warm=[COUNTER, "dd if=/dev/urandom of=/root/seed bs=4096 count=16 2>/dev/null"])


def fork(w, what, prefix, n=1, *more):
    w.must("fork", what, "-n", str(n), "--name", prefix, "--timeout", "300s", *more, timeout=1800)
    return [prefix] if n == 1 else [f"{prefix}-{i}" for i in range(1, n + 1)]


def progress(w, vm):
    """The counter, which has moved since."""
    out = w.sh(vm, "a=$(cat /run/count); c=$a; n=0; while [ $c -le $a ] && [ $n -lt 600 ]; do n=$((n+1));"
                   " usleep 100000; c=$(cat /run/count); done; echo $a $c").split()
    check(int(out[1]) > int(out[0]), f"{vm}: its counter stands still at {out[0]}")
    return int(out[0])


def distinct(values, what):
    check(len(set(values)) == len(values), f"{what} repeat among forks: {values}")


def test_template__create_shows_up_and_verifies(w):
    name = template(w)
    listed = {t["name"]: t for t in json.loads(w.must("template", "ls", "-o", "json").out)}
    check(name in listed, "template ls does not list it")
    w.must("template", "verify", name)
    w.must("template", "inspect", name)


def test_template__the_same_name_twice_is_an_error(w):
    w.refused("template", "create", template(w), "--image", "bb", says="exists")


def test_template__a_flipped_byte_anywhere_is_found(w):
    d = f"{w.state}/templates/{template(w)}"
    for name in sorted(os.listdir(d)):
        path = f"{d}/{name}"
        size = os.stat(path).st_size
        # the first byte, the middle of the first data, the last byte
        with open(path, "rb") as f:
            data = os.lseek(f.fileno(), 0, os.SEEK_DATA)
        for at in {data, min(size - 1, data + size // 3), size - 1}:
            flip(path, at)
            try:
                w.refused("template", "verify", os.path.basename(d), says=".")
            finally:
                flip(path, at)
    w.must("template", "verify", os.path.basename(d))


def flip(path, at):
    with open(path, "r+b") as f:
        f.seek(at)
        byte = f.read(1)
        f.seek(at)
        f.write(bytes([byte[0] ^ 0x40]))


def test_template__a_tampered_one_is_not_forked(w):
    t = w.template("victim")
    path = f"{w.state}/templates/{t}/state"
    os.chmod(path, 0o600)
    flip(path, os.stat(path).st_size // 2)
    w.refused("fork", t, "--name", "no", says="victim|state|damaged|digest")
    flip(path, os.stat(path).st_size // 2)
    os.truncate(path, os.stat(path).st_size - 7)
    w.refused("fork", t, "--name", "no", says="victim|state|trunc|size")
    check("no" not in w.names(), "a failed fork left something behind")


def test_fork__ten_are_machines_of_their_own(w):
    vms = fork(w, template(w), "ten", 10)
    seen = {"hostname": [], "machine-id": [], "random": [], "uuid": []}
    for vm in vms:
        progress(w, vm)
        host, mid, rnd, uuid, now = w.sh(
            vm, "hostname; cat /etc/machine-id; od -An -tx1 -N16 /dev/urandom | tr -d ' ';"
                "cat /proc/sys/kernel/random/uuid; date +%s").split("\n")
        same(host, vm, "hostname")
        check(abs(int(now) - time.time()) < 30, f"{vm}: its clock is off by {int(now) - time.time()} s")
        for key, value in zip(seen, (host, mid, rnd, uuid)):
            seen[key].append(value)
    for key, values in seen.items():
        distinct(values, key)
    # disks: the template's content is there, writes stay apart
    want = w.sh(vms[0], "sha256sum < /root/seed")
    for vm in vms:
        same(w.sh(vm, "sha256sum < /root/seed"), want, f"{vm}: what the template wrote")
        w.sh(vm, f"echo {vm} > /root/mine; sync; echo 3 > /proc/sys/vm/drop_caches")
    for vm in vms:
        same(w.sh(vm, "cat /root/mine"), vm, "what the fork wrote")
    w.drop(*vms)


def test_fork__its_first_command_reads_nothing_from_the_disk(w):
    """The template's settling has read a shell for all of them."""
    w.must("fork", template(w), "--name", "first", "--timeout", "300s")
    majflt = "read -r l < /proc/self/stat; set -- $l; echo ${12}"
    same(w.sh("first", majflt), "0", "page faults of the first shell that waited for the disk")
    w.sh("first", "echo 3 > /proc/sys/vm/drop_caches")
    check(int(w.sh("first", majflt)) > 0, "the same without page cache: no fault is seen that way")
    w.drop("first")


def test_fork__a_hundred_alive_and_answering_at_once(w):
    t = w.template("slow", warm=[counter(10)])  # a hundred of them work all the time of an emulated host otherwise
    vms = fork(w, t, "cent", 100, "--timeout", "300s")
    procs = [w.popen("exec", "--wait", "300s", vm, "--", "/bin/sh", "-c", "hostname; cat /run/count",
                     stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) for vm in vms]
    first = {}
    for vm, p in zip(vms, procs):
        host, count = p.communicate(timeout=WAIT)[0].decode().split()
        same((host, p.returncode), (vm, 0), "answer")
        first[vm] = int(count)
    for vm in (vms[0], vms[49], vms[99]):
        check(progress(w, vm) >= first[vm], f"{vm} went back in time")
    alive = [n for n, v in w.names().items() if n in vms and v["state"] == "running"]
    same(sorted(alive), sorted(vms), "running")
    w.drop(*vms)


def test_fork__smp_template(w):
    t = w.template("smp4", memory="256M", cpus="4", warm=[COUNTER])
    vms = fork(w, t, "quad", 2)
    for vm in vms:
        same(w.sh(vm, "nproc"), "4", "nproc")
        progress(w, vm)
        w.sh(vm, "for c in 0 1 2 3; do taskset $((1<<c)) sh -c 'i=0; while [ $i -lt 500 ]; do"
                 " i=$((i+1)); done; echo ok' & done; wait", timeout=WAIT)
    w.drop(*vms)


def test_fork__five_gigabytes_of_sparse_memory(w):
    t = w.template("big", memory="5G", warm=[COUNTER])
    used = sum(os.stat(f"{w.state}/templates/{t}/{f}").st_blocks * 512
               for f in os.listdir(f"{w.state}/templates/{t}"))
    check(used < 600 << 20, f"a 5 GiB template of an idle guest takes {used >> 20} MiB")
    for vm in fork(w, t, "big", 2):
        progress(w, vm)
        check(int(w.sh(vm, "awk '/MemTotal/ {print $2}' /proc/meminfo")) > 4800000, "MemTotal")
        w.drop(vm)


def writable_overlays(pid):
    """Of the files that VMs of one line write to: their own and, read-only, what they share."""
    n = 0
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            if "overlay" not in os.readlink(f"/proc/{pid}/fd/{fd}"):
                continue
            with open(f"/proc/{pid}/fdinfo/{fd}", encoding="utf-8") as f:
                flags = int(next(line for line in f if line.startswith("flags:")).split()[1], 8)
        except FileNotFoundError:  # a connection, closed meanwhile
            continue
        n += flags & os.O_ACCMODE != os.O_RDONLY
    return n


def test_fork__of_a_running_vm_parent_and_child_go_on(w):
    (vm,) = fork(w, template(w), "live")
    before = progress(w, vm)
    w.sh(vm, "echo of-the-parent > /root/before; (while :; do dd if=/dev/urandom of=/root/load bs=64k"
             " count=16 conv=fsync 2>/dev/null; done) </dev/null >/dev/null 2>&1 &")
    kids = fork(w, vm, "kid", 3)
    for kid in kids:
        check(progress(w, kid) >= before, f"{kid} began again")
        same(w.sh(kid, "hostname"), kid, "hostname")
        same(w.sh(kid, "cat /root/before"), "of-the-parent", "the parent's disk")
        w.sh(kid, f"echo {kid} > /root/before; sync")
    same(w.sh(vm, "hostname; cat /root/before").split(), ["live", "of-the-parent"], "the parent")
    progress(w, vm)
    (grandkid,) = fork(w, kids[0], "grandkid")
    same(w.sh(grandkid, "cat /root/before"), kids[0], "the grandchild's disk")
    for one in (*kids, grandkid):
        same(writable_overlays(w.pid(one)), 1, f"overlay files that {one} could write to")
    w.drop(vm)  # children outlive their parent
    for one in (*kids, grandkid):
        progress(w, one)
    distinct([w.sh(one, "cat /etc/machine-id") for one in (*kids, grandkid)], "machine-id")
    w.drop(*kids, grandkid)


def test_fork__of_a_running_vm_keeps_the_parents_exec(w):
    (vm,) = fork(w, template(w), "talk")
    p = w.popen("exec", vm, "--", "/bin/sh", "-c",
                "i=0; while [ $i -lt 40 ]; do i=$((i+1)); echo $i; usleep 100000; done",
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, bufsize=0)  # communicate does not see what is buffered
    p.stdout.readline()
    kids = fork(w, vm, "listener", 2)
    out, _ = p.communicate(timeout=WAIT)
    same((out.decode().split(), p.returncode), ([str(i) for i in range(2, 41)], 0), "the stream")
    w.drop(vm, *kids)


def test_fork__no_wait_execs_only_after_reconciling(w):
    (vm,) = fork(w, template(w), "hasty", 1, "--no-wait")
    same(w.sh(vm, "hostname"), "hasty", "an exec found the template's identity")
    w.drop(vm)


def test_fork__runs_a_command_in_the_fork(w):
    t = template(w)
    r = w.clone("fork", t, "--timeout", "300s", "--name", "tool", "-e", "A=b c", "-w", "/tmp", "-i", "--", "/bin/sh", "-c",
                "echo $A; pwd; hostname; cat; echo e >&2; exit 9", stdin=b"from here")
    same((r.out, r.err, r.code), ("b c\n/tmp\ntool\nfrom here", "e\n", 9), "streams and code")
    progress(w, "tool")  # it lives on
    w.drop("tool")
    r = w.clone("fork", t, "--timeout", "300s", "--rm", "--", "cat", "/run/count")
    same((r.code, r.err), (0, ""), "code and stderr")
    check(int(r.out) > 0, "it is no fork of a template that counts")
    same(w.clone("fork", t, "--timeout", "300s", "--rm", "--", "/no/such/file").code, 127, "missing command")
    # a guest that ends under its command: answered before, or cut off, and gone either way
    check(w.clone("fork", t, "--timeout", "300s", "--rm", "--", "poweroff").code in (0, 125), "a fork that ends by itself")
    check(not [n for n in w.names() if n.startswith(t)], "--rm left something")
    w.refused("fork", t, "-n", "2", "--", "true", says="one fork", code=2)
    w.refused("fork", t, "--rm", says="COMMAND", code=2)
    w.refused("fork", "nosuch", "--", "true", says="no template", code=125)


def test_fork__a_machine_for_one_command_ends_with_who_asked(w):
    t = template(w)
    p = w.popen("fork", t, "--timeout", "300s", "--name", "own", "--rm", "--", "/bin/sh", "-c", "echo on; sleep 1000",
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    same(p.stdout.readline(), b"on\n", "what the command says")
    check("own" in w.names(), "it is listed while its owner lives")
    pid = w.pid("own")
    # what is forked of it is nobody's means
    w.must("fork", "own", "--name", "free")
    p.kill()
    p.communicate()
    check("own" not in w.names(), "the next command leaves it")
    until(lambda: not os.path.exists(f"/proc/{pid}"), "its process ends")
    progress(w, "free")
    p = w.popen("template", "create", "torn", "--from", t, "--warm", "sleep 1000", stdout=subprocess.DEVNULL)
    until(lambda: [n for n in w.names() if n.startswith("template-")], "the means of a template appears")
    p.kill()
    p.communicate()
    same([n for n in w.names() if n.startswith(("own", "template-"))], [], "machines after its maker was killed")
    check("torn" not in [t["name"] for t in json.loads(w.must("template", "ls", "-o", "json").out)], "half a template")
    w.drop("free")


def lives(pid):
    """Not a VM that has ended and is not waited for yet."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as f:
            return f.read().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def spares(w, t):
    """The children of the template's seed that are no VM yet."""
    with open(f"{w.run_dir}/seeds/{t}/vm.json", encoding="utf-8") as f:
        pid = json.load(f)["pid"]
    vms = {v.get("pid") for v in w.names().values()}
    with open(f"/proc/{pid}/task/{pid}/children", encoding="utf-8") as f:
        return [int(p) for p in f.read().split() if int(p) not in vms and lives(p)]


def test_fork__a_spare_waits_without_the_guest_growing_older(w):
    t = template(w)
    age = "cut -d' ' -f1 /proc/uptime; dmesg | grep -ci 'stall\\|lockup\\|backwards'; true"
    (first,) = fork(w, t, "young")
    until(lambda: len(spares(w, t)) == 2, "spare children")
    time.sleep(8)
    start = time.monotonic()
    ready = spares(w, t)
    (late,) = fork(w, t, "late")
    up, bad = w.sh(late, age).split()
    took = time.monotonic() - start
    check(w.pid(late) in ready, "the fork is not one of the spares that waited")
    born = float(w.sh(first, "cut -d' ' -f1 /proc/uptime"))
    check(float(up) < born and float(up) < float(born) - 4 + took,
          f"the late fork is {up} s old, an early one {born} s: it aged while it waited")
    same(bad, "0", "complaints of the late fork's kernel")
    now = int(w.sh(late, "date +%s"))
    check(abs(now - time.time()) < 30, f"its clock is off by {now - time.time()} s")
    progress(w, late)
    w.sh(late, "usleep 100000; sleep 1")  # timers run
    w.drop(first, late)


def test_fork__a_paused_spare_forks_and_resumes(w):
    t = template(w)
    w.drop(*fork(w, t, "first"))
    until(lambda: len(spares(w, t)) == 2, "spare children")
    ready = spares(w, t)
    w.must("fork", t, "--name", "asleep", "--paused")
    check(w.pid("asleep") in ready, "the fork is not one of the spares")
    same(w.names()["asleep"]["state"], "paused", "its state")
    (kid,) = fork(w, "asleep", "awake")  # of a machine that never ran
    progress(w, kid)
    same(w.names()["asleep"]["state"], "paused", "its state after it was forked")
    w.must("resume", "asleep")
    for vm in ("asleep", kid):
        progress(w, vm)
        same(w.sh(vm, "hostname"), vm, "hostname")
    w.drop("asleep", kid)


def test_fork__children_outlive_a_killed_seed(w):
    t = template(w)
    vms = fork(w, t, "orphan", 2)
    with open(f"{w.run_dir}/seeds/{t}/vm.json", encoding="utf-8") as f:
        kill_pid(json.load(f)["pid"])
    for vm in vms:
        progress(w, vm)
    more = fork(w, t, "later", 1)  # a new seed
    progress(w, more[0])
    w.drop(*vms, *more)


def test_fork__a_seed_killed_in_mid_fork_leaves_nothing(w):
    t = template(w)
    w.drop(*fork(w, t, "warmup"))
    with open(f"{w.run_dir}/seeds/{t}/vm.json", encoding="utf-8") as f:
        pid = json.load(f)["pid"]
    p = w.popen("fork", t, "-n", "20", "--name", "mid", "--timeout", "300s", stdout=subprocess.PIPE,
                stderr=subprocess.PIPE)
    time.sleep(0.6)
    kill_pid(pid)
    out, err = p.communicate(timeout=WAIT)
    if p.returncode == 0:  # it was faster than we are
        w.drop(*out.decode().split())
    else:
        same(len(err.decode().strip().splitlines()), 1, f"lines of the error {err!r}")
    until(lambda: not [n for n in w.names() if n.startswith("mid")], "the removal of what was half made")


def test_fork__a_killed_child_disturbs_nobody(w):
    vms = fork(w, template(w), "kin", 3)
    kill_pid(w.pid(vms[1]))
    until(lambda: w.names()[vms[1]]["state"] == "exited", "the end of the killed child")
    for vm in (vms[0], vms[2]):
        progress(w, vm)
    w.drop(*vms)
    check(not [n for n in w.names() if n.startswith("kin")], "something is left")


def test_fork__runs_as_a_uid_of_its_own_without_capabilities(w):
    vms = fork(w, template(w), "jail", 2)
    uids = []
    for vm in vms:
        with open(f"/proc/{w.pid(vm)}/status", encoding="utf-8") as f:
            status = dict(line.split(":\t", 1) for line in f.read().splitlines() if ":\t" in line)
        for caps in ("CapEff", "CapPrm", "CapInh", "CapAmb"):
            same(int(status[caps], 16), 0, f"{caps} of {vm}")
        same((status["NoNewPrivs"], status["Seccomp"]), ("1", "2"), "no_new_privs and seccomp")
        uids.append(status["Uid"].split()[0])
    check("0" not in uids, "a VM process runs as root")
    distinct(uids, "uids")
    w.drop(*vms)


def debian(w):
    return w.template("deb", image="debian", memory="512M", warm=["systemctl is-system-running --wait || true"])


def test_fork__of_debian_is_debian(w):
    t = debian(w)
    vms = fork(w, t, "deb", 3)
    for vm in vms:
        same(w.sh(vm, "hostname; . /etc/os-release; echo $ID").split(), [vm, "debian"], "who it is")
        check(w.sh(vm, "cat /proc/1/comm") == "systemd", "PID 1")
        check(w.sh(vm, "systemctl is-system-running || true") in ("running", "degraded"), "systemd")
        w.sh(vm, "systemd-run --wait -q true && journalctl -n1 >/dev/null")
    distinct([w.sh(vm, "cat /etc/machine-id") for vm in vms], "machine-id")
    distinct([w.sh(vm, "cat /proc/sys/kernel/random/uuid") for vm in vms], "random")
    for vm in vms[:2]:
        calls_the_host(w, vm)
    w.drop(*vms)


def calls_the_host(w, vm):
    """A guest's connection to CID 2 arrives at vsock.sock_PORT of its own directory, both ways."""
    path = f"{w.run_dir}/vms/{vm}/vsock.sock_5000"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        os.chmod(path, 0o660)  # the directory makes its group the VM's
        server.listen()
        server.settimeout(WAIT)
        p = w.popen("exec", vm, "--", "perl", "-e",
                    "socket(S, 40, 1, 0) or die $!; connect(S, pack('S S L L C x3', 40, 0, 5000, 2, 0)) or die $!;"
                    "syswrite(S, 'it is ' . `hostname`); sysread(S, $x, 99) or die $!; print $x; exit 3",
                    stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        conn, _ = server.accept()
        with conn:
            same(conn.recv(99).decode(), f"it is {vm}\n", "what the guest says to the host")
            conn.sendall(b"welcome")
        same((p.communicate(timeout=WAIT)[0], p.returncode), (b"welcome", 3), "what the host says to the guest")
    os.unlink(path)
