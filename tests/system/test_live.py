# SPDX-License-Identifier: MIT
"""Forks of running machines: under load, nested, many at once, in mid boot, with connections open. Every test
asserts that the guests go on: counters move, and what they compute is right."""
import hashlib
import re
import socket
import subprocess
import threading
import time

import soak
from harness import ROOT, WAIT, check, complaints, kill_pid, same, until

# Workers that count in /run/n.NAME (a tmpfs) and write to /run/bad what is wrong: memory, disk (read back from it), timers
# and the monotonic clock, which must never go back.
LOAD = r"""
dd if=/dev/urandom of=/run/pat bs=4k count=16 2>/dev/null
sum=$(sha256sum < /run/pat)
mkfifo /run/never
if [ -e /bin/busybox ]; then nap() { read -t $1 x; }; else nap() { sleep $1; }; fi
work() {
    ( i=0; while :; do $1; i=$((i+1)); echo $i > /run/n.$1.new; mv /run/n.$1.new /run/n.$1; nap $2; done ) \
        <>/run/never >/dev/null 2>&1 &
}
mem() { cp /run/pat /run/copy; [ "$(sha256sum < /run/copy)" = "$sum" ] || echo mem >> /run/bad; }
disk() { cp /run/pat /root/copy; sync
    [ "$(dd if=/root/copy iflag=direct bs=64k 2>/dev/null | sha256sum)" = "$sum" ] || echo disk >> /run/bad; }
last=0
clock() { read up rest < /proc/uptime; now=${up%.*}${up#*.}
    [ $now -ge $last ] || echo "clock $last $now" >> /run/bad; last=$now; }
work mem 0.5; work disk 2; work clock 0.2
"""
WORKERS = ("mem", "disk", "clock")


def run(w, name, image="bb", memory="256M", cpus=1):
    w.must("run", "-d", "--name", name, "--image", image, "--memory", memory, "--cpus", str(cpus), timeout=600)
    return name


def fork(w, what, prefix, n=1, *more):
    w.must("fork", what, "-n", str(n), "--name", prefix, "--timeout", "300s", *more, timeout=1800)
    return [prefix] if n == 1 else [f"{prefix}-{i}" for i in range(1, n + 1)]


def load(w, vm):
    w.sh(vm, LOAD + f"for x in {' '.join(WORKERS)}; do until [ -e /run/n.$x ]; do sleep 0.1; done; done")


def counts(w, vm):
    return [int(n) for n in w.sh(vm, "cat " + " ".join(f"/run/n.{x}" for x in WORKERS)).split()]


def works(w, vm, since=None):
    """Each worker moves on, from where it was at the fork, and none has found anything wrong."""
    out = w.sh(vm, f"for x in {' '.join(WORKERS)}; do c=$(cat /run/n.$x); echo $c;"
                   " until [ $(cat /run/n.$x) -gt $c ]; do sleep 0.1; done; done; cat /run/bad 2>/dev/null; true").split("\n")
    before = [int(n) for n in out[:len(WORKERS)]]
    same(out[len(WORKERS):], [], f"{vm}: what its workers found")
    if since:
        check(all(b >= s for b, s in zip(before, since)), f"{vm}: {before} after {since}: it began again")


def state(w, vm):
    return w.names()[vm]["state"]


def test_live__nine_generations_in_a_line(w):
    line = [run(w, "gen")]
    load(w, line[0])
    w.sh(line[0], "echo gen > /root/line")
    for i in range(1, 9):
        since = counts(w, line[-1])
        line += fork(w, line[-1], f"gen-{i}")
        works(w, line[-1], since)
        w.sh(line[-1], f"hostname >> /root/line; [ $(wc -l < /root/line) = {i + 1} ]")
        same(w.inspect(line[-1])["stats"]["vm"]["fork_depth"], i, "depth")
    # parents outlive children, children outlive parents
    w.drop(*line[1::2])
    left = line[0::2]
    for vm in left:
        works(w, vm)
        at = line.index(vm)
        same(w.sh(vm, "echo 3 > /proc/sys/vm/drop_caches; cat /root/line").split(), line[:at + 1],
             f"{vm}: what its line wrote")
    ids = [w.sh(vm, "cat /etc/machine-id") for vm in left]
    check(len(set(ids)) == len(ids), f"machine-ids repeat: {ids}")
    w.drop(*left)


def test_live__debian_forks_with_its_timers_and_clocks(w):
    vm = run(w, "deb1", image="debian", memory="512M")
    w.sh(vm, "until [ \"$(systemctl is-system-running)\" = running ]; do sleep 0.5; done")
    load(w, vm)
    ask = ("cat /sys/devices/system/clocksource/clocksource0/current_clocksource;"
           f" dmesg | grep -ciE '{complaints()}'; true")
    before = w.sh(vm, ask)
    # two seconds in, its remaining four have to pass in parent and child alike
    w.sh(vm, "(read a x < /proc/uptime; sleep 6; read b x < /proc/uptime; echo $a $b > /run/slept)"
             " </dev/null >/dev/null 2>&1 & sleep 2")
    since = counts(w, vm)
    (kid,) = fork(w, vm, "deb1-kid")
    (grandkid,) = fork(w, kid, "deb1-grandkid")
    for one in (vm, kid, grandkid):
        a, b = w.sh(one, "until [ -s /run/slept ]; do sleep 0.1; done; cat /run/slept").split()
        check(6 <= float(b) - float(a) < 60, f"{one}: sleep 6 took {float(b) - float(a)} s")
    for one in (vm, kid, grandkid):
        works(w, one, since)
        same(w.sh(one, ask), before, f"{one}: clock source, complaints of the kernel")
        same(w.sh(one, "systemctl is-system-running"), "running", f"{one}: systemd")
        off = int(w.sh(one, "date +%s")) - time.time()
        check(abs(off) < 30, f"{one}: its clock is off by {off} s")
    w.drop(vm, kid, grandkid)


def test_live__a_templates_fork_keeps_its_clocks(w):
    t = w.template()
    (vm,) = fork(w, t, "clocks")
    (kid,) = fork(w, vm, "clocks-kid")
    for one in (vm, kid):
        w.sh(one, "sleep 3")  # several times the guest's watchdog's period
        same(w.sh(one, f"dmesg | grep -ciE '{complaints()}'; true"), "0", f"{one}: complaints")
    w.drop(vm, kid)


def test_live__of_a_paused_vm(w):
    vm = run(w, "stands")
    load(w, vm)
    w.must("pause", vm)
    (runs,) = fork(w, vm, "stands-runs")
    (still,) = fork(w, vm, "stands-still", 1, "--paused")
    same([state(w, x) for x in (vm, runs, still)], ["paused", "running", "paused"], "states")
    works(w, runs)
    # a paused child that never ran has children, too
    (late,) = fork(w, still, "stands-late")
    works(w, late)
    w.must("resume", still)
    works(w, still)
    same(w.sh(still, "hostname"), still, "hostname")
    w.must("resume", vm)
    works(w, vm)
    (cold,) = fork(w, vm, "stands-cold", 1, "--paused")
    since = counts(w, vm)
    works(w, vm, since)  # a running VM goes on, whatever its child does
    same(state(w, cold), "paused", "the child's state")
    w.must("resume", cold)
    works(w, cold)
    w.drop(vm, runs, still, late, cold)


def test_live__a_paused_child_may_wait_longer_than_its_fork(w):
    vm = run(w, "patient")
    load(w, vm)
    w.must("fork", vm, "--name", "patient-kid", "--paused", "--timeout", "60s")
    time.sleep(66)  # its guest has these 60 s from its resuming on; whoever forked it has long been answered
    same(state(w, "patient-kid"), "paused", "the child, after the time-out of its fork")
    w.must("resume", "patient-kid")
    works(w, "patient-kid")
    same(w.sh("patient-kid", "hostname"), "patient-kid", "hostname")
    w.drop(vm, "patient-kid")


def test_live__two_requests_at_once(w):
    vm = run(w, "busy", memory="128M")
    load(w, vm)
    since = counts(w, vm)
    procs = [w.popen("fork", vm, "-n", "2", "--name", f"busy{i}", "--timeout", "300s", stdin=subprocess.DEVNULL,
                     stdout=subprocess.PIPE, stderr=subprocess.PIPE) for i in range(2)]
    kids = []
    for i, p in enumerate(procs):
        out, err = p.communicate(timeout=WAIT)
        want = [f"busy{i}-{k}" for k in (1, 2)]
        same((out.decode().split(), err, p.returncode), (want, b"", 0), "what the request printed")
        kids += want
    for one in (vm, *kids):
        works(w, one, since)
        same(w.sh(one, "hostname"), one, "hostname")
    w.drop(vm, *kids)


def test_live__all_or_none(w):
    vm = run(w, "team")
    load(w, vm)
    names = set(w.names())
    # one of three fails
    w.sh(vm, "mkdir -p /etc/clone/fork.d; printf '#!/bin/sh\\n[ $CLONE_NAME != team-mate-2 ]\\n' > /etc/clone/fork.d/10-pick;"
             " chmod 755 /etc/clone/fork.d/10-pick")
    why = "identity: the guest's agent: hook 10-pick: exit status 1"
    r = w.clone("fork", vm, "-n", "3", "--name", "team-mate", "--timeout", "300s", timeout=600)
    same((r.code, r.out.split()), (1, ["team-mate-1", "team-mate-3"]), "exit and output without --all")
    check(r.err.startswith(f"clone: fork team-mate-2: {why}") and len(r.err.splitlines()) == 1, f"it said {r.err!r}")
    for kid in ("team-mate-1", "team-mate-3"):
        works(w, kid)
    w.drop("team-mate-1", "team-mate-3")
    r = w.clone("fork", vm, "-n", "3", "--name", "team-mate", "--all", "--timeout", "300s", timeout=600)
    same((r.code, r.out), (1, ""), "exit and output")
    lines = r.err.splitlines()
    check(len(lines) == 2 and why in lines[0] and lines[1] == "clone: (so none of the 3 was made: --all)",
          f"what it said: {r.err!r}")
    same(set(w.names()), names, "VMs")
    works(w, vm)
    w.sh(vm, "rm /etc/clone/fork.d/10-pick")
    kids = fork(w, vm, "team-mate", 3, "--all")
    for kid in kids:
        works(w, kid)
    w.drop(vm, *kids)


class Stream(threading.Thread):
    """A pipe's bytes, counted and hashed until its end."""

    def __init__(self, pipe):
        super().__init__(daemon=True)
        self.pipe, self.hash, self.n = pipe, hashlib.sha256(), 0
        self.start()

    def run(self):
        while chunk := self.pipe.read1(65536):
            self.hash.update(chunk)
            self.n += len(chunk)


def test_live__streams_of_the_parent_go_on_byte_for_byte(w):
    vm = run(w, "stream", cpus=2)
    w.sh(vm, "dd if=/dev/urandom of=/run/big bs=64k count=16 2>/dev/null")
    unit = w.must("exec", vm, "--", "cat", "/run/big").raw
    same(len(unit), 1 << 20, "its file")
    # out of the guest
    out = w.popen("exec", vm, "--", "/bin/sh", "-c",
                  "until [ -e /run/stop ]; do cat /run/big; done", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    stream = Stream(out.stdout)
    # into the guest, and back
    fed = w.popen("exec", "-i", vm, "--", "sha256sum", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    fed.stdin.write(unit)
    kids, given = [], 1
    for i in range(3):
        mark = stream.n
        until(lambda at=mark: stream.n > at, "the stream")
        fed.stdin.write(unit)
        given += 1
        kids += fork(w, vm, f"stream-{i}", 2)
        mark = stream.n
        until(lambda at=mark: stream.n > at, "the stream after a fork")
    fed.stdin.close()
    same(fed.stdout.read().split()[0].decode(), hashlib.sha256(unit * given).hexdigest(), "what went in")
    w.sh(vm, "touch /run/stop")
    same((out.wait(WAIT), fed.wait(WAIT)), (0, 0), "exit codes")
    stream.join(WAIT)
    same(stream.n % len(unit), 0, "bytes that came out, over whole files")
    same(stream.hash.hexdigest(), hashlib.sha256(unit * (stream.n // len(unit))).hexdigest(), "what came out")
    for kid in kids:
        # the command is there, as its process was; nobody hears it, and nothing holds it up
        same(w.sh(kid, "touch /run/stop; while pidof cat >/dev/null; do sleep 0.1; done; hostname"), kid,
             "the copy of the command in a child comes to its end")
    w.drop(vm, *kids)


def vm_socket(w, vm, what):
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(WAIT)
    s.connect(f"{w.run_dir}/vms/{vm}/{what}.sock")
    return s


def test_live__the_console_stays_with_the_parent(w):
    vm = run(w, "tty")
    with vm_socket(w, vm, "console") as tty:
        w.sh(vm, "(i=0; until [ -e /run/stop ]; do i=$((i+1)); echo line-$i-of-$(hostname); sleep 0.02; done;"
                 " echo the-end) </dev/null >/dev/ttyS0 2>&1 &")
        text = b""
        while b"line-5-" not in text:
            text += tty.recv(4096)
        kids = fork(w, vm, "tty-kid", 2)
        for kid in kids:
            same(w.sh(kid, "hostname"), kid, "hostname")
        w.sh(vm, "touch /run/stop")
        while b"the-end" not in text:
            more = tty.recv(4096)
            check(more, "the console connection was closed")
            text += more
    # a shell's prompt stands between them somewhere
    said = [int(n) for n in re.findall(r"line-(\d+)-of-tty", text.decode())]
    same(said, list(range(1, len(said) + 1)), "the lines on the parent's console")
    for kid in kids:
        mine = rf"line-(\d+)-of-{kid}\b"
        until(lambda k=kid, m=mine: len(re.findall(m, w.must("logs", k).out)) > 2, "lines on the child's own console")
        said = [int(n) for n in re.findall(mine, w.must("logs", kid).out)]
        same(said, list(range(said[0], said[0] + len(said))), f"the lines on {kid}'s console")
        check(said[0] > 5, f"{kid} began again")
    w.drop(vm, *kids)


def server(w):
    """The guest's program (guest/vsock_server.c), as bytes."""
    path = f"{w.base}/server"
    subprocess.run(["musl-gcc", "-static", "-Os", "-o", path, f"{ROOT}/tests/system/guest/vsock_server.c", "-idirafter",
                    "/usr/include", "-idirafter", "/usr/include/x86_64-linux-gnu"], check=True, timeout=WAIT)
    with open(path, "rb") as f:
        return f.read()


class Client:
    """One connection to the guest's server; each line must come back."""

    def __init__(self, w, vm, name):
        self.s, self.name, self.n = vm_socket(w, vm, "vsock"), name, 0
        self.s.sendall(b"CONNECT 7000\n")
        self.f = self.s.makefile("rwb", buffering=0)
        first = self.f.readline()
        check(first.startswith(b"OK "), f"{vm}: CONNECT was answered {first!r}")

    def ask(self):
        self.n += 1
        self.f.write(f"{self.n}\n".encode())
        same(self.f.readline().decode(), f"{self.name} {self.n}\n", "the server's answer")


def test_live__twenty_forks_of_a_vm_that_serves(w):
    vm = run(w, "serve", memory="128M")
    w.must("exec", "-i", vm, "--", "/bin/sh", "-c", "cat > /run/server; chmod 755 /run/server", stdin=server(w))
    w.sh(vm, "/run/server </dev/null >/run/server.log 2>&1 & until [ -e /run/up ]; do sleep 0.1; done")
    clients = [Client(w, vm, vm) for _ in range(3)]
    stop, wrong = threading.Event(), []

    def keep_asking(c):
        try:
            while not stop.wait(0.2):
                c.ask()
        except Exception as why:
            wrong.append(f"{type(why).__name__}: {why}")

    threads = [threading.Thread(target=keep_asking, args=(c,), daemon=True) for c in clients]
    for t in threads:
        t.start()
    until(lambda: all(c.n > 3 for c in clients), "answers before the fork")
    at = [c.n for c in clients]
    kids = fork(w, vm, "serve-kid", 20)
    until(lambda: wrong or all(c.n > n + 3 for c, n in zip(clients, at)), "answers after the fork")
    same(wrong, [], "the parent's connections")
    for kid in kids:
        c = Client(w, kid, kid)
        for _ in range(3):
            c.ask()
        c.s.close()
    stop.set()
    for t in threads:
        t.join(WAIT)
    same(wrong, [], "the parent's connections, at last")
    w.drop(vm, *kids)


def test_live__in_the_midst_of_booting(w):
    for i, (delay, how) in enumerate(((0, "--no-wait"), (0, "--wait"), (0.4, "--wait"), (1, "--no-wait"), (2, "--wait"))):
        vm, kid = f"boot{i}", f"boot{i}-kid"
        w.must("run", "-d", "--no-wait", "--name", vm, "--image", "bb", "--memory", "128M")
        time.sleep(delay)
        fork(w, vm, kid, 1, how)
        for one in (vm, kid):
            same(w.sh(one, "hostname", "--wait", "300s"), one, f"forked {delay} s into its boot: hostname")
        check(w.sh(vm, "cat /etc/machine-id") != w.sh(kid, "cat /etc/machine-id"), "they are the same machine")
        w.drop(vm, kid)


def test_live__one_after_another_while_the_agent_says_hello(w):
    w.must("run", "-d", "--no-wait", "--name", "greets", "--image", "bb", "--memory", "128M")
    kids = [fork(w, "greets", f"greets-{i}", 1, "--no-wait")[0] for i in range(10)]
    for one in ("greets", *kids):
        same(w.sh(one, "hostname", "--wait", "300s"), one, "hostname")
    w.drop("greets", *kids)


def test_live__a_child_outlives_its_killed_parent(w):
    vm = run(w, "mortal")
    load(w, vm)
    (kid,) = fork(w, vm, "mortal-kid")
    (grandkid,) = fork(w, kid, "mortal-grandkid")
    kill_pid(w.pid(vm))
    until(lambda: state(w, vm) == "exited", "the end of the killed parent")
    works(w, kid)
    kill_pid(w.pid(grandkid))
    until(lambda: state(w, grandkid) == "exited", "the end of the killed grandchild")
    works(w, kid)
    works(w, *fork(w, kid, "mortal-heir"))
    w.drop(vm, kid, grandkid, "mortal-heir")
    same([n for n in w.names() if n.startswith("mortal")], [], "VMs")


# Pairs that wake each other, each on a processor of its own: an interrupt from one to another each time. One that is lost
# stops its pair for good. They are few and slow: each such interrupt is milliseconds of an emulated host's time.
PAIRS = range(2)
PING_PONG = r"""
mkfifo /run/nothing
for p in %s; do
    mkfifo /run/ping.$p /run/pong.$p
    taskset -c $((2*p)) sh -c "exec 3<>/run/ping.$p 4<>/run/pong.$p 5<>/run/nothing; i=0; while :; do echo >&3; read x <&4;
        i=\$((i+1)); echo \$i 1<>/run/pair.$p; read -t 0.5 x <&5; done" </dev/null >/dev/null 2>&1 &
    taskset -c $((2*p+1)) sh -c "exec 3<>/run/ping.$p 4<>/run/pong.$p; while read x <&3; do echo >&4; done" </dev/null >/dev/null 2>&1 &
done
""" % " ".join(map(str, PAIRS))


def pairs_go_on(w, vm):
    for p in PAIRS:
        w.sh(vm, f"a=$(cat /run/pair.{p}); until [ $(cat /run/pair.{p}) -gt $a ]; do sleep 0.1; done")


def heaps_beside_the_first(pid):
    """libc's: 64 MiB each, of which what is not in use has no access."""
    with open(f"/proc/{pid}/maps", encoding="utf-8") as f:
        maps = [(*(int(x, 16) for x in line.split()[0].split("-")), line.split()[1]) for line in f]
    return sum(a[1] == b[0] and b[2] == "---p" and a[2] == "rw-p" and a[0] % (64 << 20) == 0 and b[1] - a[0] == 64 << 20
               for a, b in zip(maps, maps[1:]))


def test_live__sixteen_vcpus_under_load(w):
    vm = run(w, "sixteen", memory="512M", cpus=16)
    load(w, vm)
    w.sh(vm, PING_PONG + "until [ -s /run/pair.0 ] && [ -s /run/pair.1 ]; do sleep 0.1; done")
    pat = w.sh(vm, "sha256sum < /run/pat")
    kids = []
    for i in range(2):
        since = counts(w, vm)
        kids += fork(w, vm, f"sixteen-{i}")
        works(w, kids[-1], since)
        works(w, vm, since)
        pairs_go_on(w, kids[-1])
        pairs_go_on(w, vm)
    for one in (vm, *kids):
        same(w.sh(one, "nproc; sha256sum < /run/pat").split("\n"), ["16", pat], f"{one}: vCPUs, memory")
        w.sh(one, "for c in $(seq 0 15); do taskset -c $c sh -c 'i=0; while [ $i -lt 200 ]; do i=$((i+1)); done'"
                  " || exit 1; done")
    stats = w.inspect(vm)
    same((stats["stats"]["vm"]["forks"], stats["stats"]["vm"]["last_forks"]), (2, 1), "forks, forks of the last")
    check(0 < stats["stats"]["vm"]["last_fork_ns"] < stats["stats"]["vm"]["last_pause_ns"],
          f"fork(2) is a part of the pause: {stats['stats']['vm']}")
    check(stats["host_memory"]["page_table_bytes"] > 0, "page tables")
    same(heaps_beside_the_first(w.pid(vm)), 0, "heaps of threads: each would be copied by each fork")
    w.drop(vm, *kids)


def test_live__a_hundred_one_after_another_leave_nothing(w):
    soak.soak(w, 100, lambda line: print("# " + line, flush=True))
