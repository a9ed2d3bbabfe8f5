# SPDX-License-Identifier: MIT
"""Fail closed: what becomes of a fork whose guest does not take its identity; and what is drawn from its random number generator
before it has. doc/fork.md says what is promised."""
import concurrent.futures
import errno
import json
import os
import re
import socket
import struct
import subprocess

import test_fork
from harness import IMAGES, ROOT, WAIT, check, same, until
from test_boot import full_kernel

BAD = "echo keys are gone >&2; exit 7"


def hook(w, vm, name, body):
    w.sh(vm, f"mkdir -p /etc/clone/fork.d; printf '#!/bin/sh\\n%s\\n' '{body}' >/etc/clone/fork.d/{name};"
             f" chmod 755 /etc/clone/fork.d/{name}")


def machine(w, name):
    w.must("run", "-d", "--name", name, "--image", "bb", "--memory", "128M")
    w.sh(name, test_fork.COUNTER)


def children(w, vm):
    pid = w.pid(vm)
    with open(f"/proc/{pid}/task/{pid}/children", encoding="utf-8") as f:
        return f.read().split()


def fails(w, source, name, says, *opts):
    """A fork that fails with this very line, and of which nothing stays; its parent notices nothing."""
    r = w.clone("fork", source, "--name", name, *(opts or ("--timeout", "300s")))
    same((r.code, r.out), (1, ""), "exit code and output of a fork that fails")
    check(re.fullmatch(f"clone: fork {name}: identity: {says}\n", r.err), f"it said {r.err!r}")
    check(name not in w.names(), "the failed fork is listed")
    check(not os.path.exists(f"{w.run_dir}/vms/{name}"), "the failed fork has a directory")
    until(lambda: not children(w, source), "the end of the failed fork's process")


class Terminal:
    """Types on a guest's console, where a shell listens."""

    def __init__(self, w, vm):
        self.w, self.vm, self.n = w, vm, 0
        self.proc = w.popen("console", vm, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.proc.kill()
        self.proc.communicate()

    def run(self, script):
        """Its output, once it has ended: the log of the console shows where that is."""
        self.n += 1
        start, end = f"<{self.vm} {self.n}>", f"</{self.vm} {self.n}>"
        half = len(start) // 2  # what is typed is echoed, and must not look like what is printed
        line = f"echo '{start[:half]}''{start[half:]}'; {script}; echo '{end[:half]}''{end[half:]}'\n"
        self.proc.stdin.write(line.encode())
        self.proc.stdin.flush()
        log = []

        def ended():
            log[:] = self.w.must("logs", self.vm).out.replace("\r", "").split("\n")
            return end in log
        until(ended, f"the end of {script!r} on the console of {self.vm}")
        return log[log.index(start) + 1:log.index(end)]


def agents(w, vm):
    """The pids of supervisor and agent."""
    return sorted(w.sh(vm, "pidof clone-agent").split(), key=int)


def test_reconcile__a_failing_hook_fails_the_fork_and_is_named(w):
    machine(w, "p")
    hook(w, "p", "10-good", "true")
    hook(w, "p", "20-bad", BAD)
    hook(w, "p", "30-late", "touch /tmp/late")
    fails(w, "p", "c", "the guest's agent: hook 20-bad: exit status 7: keys are gone : Input/output error")
    test_fork.progress(w, "p")
    same(w.sh("p", "hostname; ls /tmp/late 2>/dev/null; true"), "p", "the parent's name, and what a later hook left")
    hook(w, "p", "20-bad", "kill -9 $$")
    fails(w, "p", "c", "the guest's agent: hook 20-bad: killed by signal 9: Input/output error")
    # without waiting it runs, but no command gets in; the reason is there to see
    hook(w, "p", "20-bad", BAD)
    w.must("fork", "p", "--name", "c", "--no-wait")
    why = "identity: the guest's agent: hook 20-bad: exit status 7: keys are gone : Input/output error"
    w.refused("exec", "--wait", "300s", "c", "--", "true", says=re.escape(f"the guest has not become a machine of its own: {why}") + "$", code=125)
    id_ = json.loads(w.must("inspect", "c").out)["identity"]
    same((id_["reconciled"], id_["error"], w.names()["c"]["state"]), (False, why, "running"), "inspect and ls")
    with socket.socket(socket.AF_UNIX) as s:  # past the CLI
        s.connect(f"{w.run_dir}/vms/c/vsock.sock")
        s.settimeout(WAIT)
        s.sendall(b"CONNECT 1024\n")
        same(s.recv(64), b"", "the answer of the agent's port")
    w.refused("exec", "--wait", "300s", "c", "--", "true", says=re.escape(why) + "$", code=125)
    test_fork.progress(w, "p")
    w.drop("c", "p")


def test_reconcile__a_hanging_hook_fails_the_fork_and_is_named(w):
    machine(w, "p")
    hook(w, "p", "20-hang", "sleep 100000")
    fails(w, "p", "c", "the guest's agent: hook 20-hang: still running after [0-9.]+ s: Connection timed out", "--timeout", "80s")
    test_fork.progress(w, "p")
    w.drop("p")


def test_reconcile__a_stopped_agent_fails_the_fork_in_time(w):
    machine(w, "p")
    supervisor, agent = agents(w, "p")
    with Terminal(w, "p") as t:
        same(t.run(f"kill -STOP {agent}; echo $?"), ["0"], "stopping the agent")
        fails(w, "p", "c", "the guest's agent has not acknowledged it within 45000 ms", "--timeout", "45s")
        before = int(t.run("cat /run/count")[0])
        until(lambda: int((t.run("cat /run/count") + ["0"])[0] or 0) > before, "progress of the parent")
        same(t.run(f"kill -CONT {agent}; echo $?"), ["0"], "letting the agent go on")
        test_fork.progress(w, "p")
        w.must("fork", "p", "--name", "c")
        same(w.sh("c", "hostname"), "c", "a fork afterwards")
        w.drop("c")
        # the supervisor cannot start again what it cannot see end
        same(t.run(f"kill -STOP {supervisor}; kill -9 {agent}; echo $?"), ["0"], "killing the agent")
        fails(w, "p", "c", "the guest's agent refused the connection or closed it unanswered")
        same(t.run(f"kill -CONT {supervisor}; echo $?"), ["0"], "letting the supervisor go on")
    until(lambda: w.clone("exec", "p", "--", "true").code == 0, "the agent's return")
    test_fork.progress(w, "p")
    w.drop("p")


def end_of(w, vm):
    """How a VM ended, which is waited for."""
    path = f"{w.run_dir}/vms/{vm}/exit.json"
    until(lambda: w.names()[vm]["state"] == "exited", f"the end of {vm}")
    with open(path, encoding="utf-8") as f:
        return json.load(f)


def test_reconcile__a_machine_made_paused_learns_who_it_is_or_ends(w):
    machine(w, "p")
    hook(w, "p", "20-bad", BAD)
    w.must("snapshot", "p", "s")
    why = "identity: the guest's agent: hook 20-bad: exit status 7: keys are gone : Input/output error"
    makers = (("fork", "p", "--name", "c", "--paused"), ("restore", "s", "--name", "c", "--paused"))
    for make in makers:
        w.must(*make)
        same(w.names()["c"]["state"], "paused", f"state after {make[0]}")
        w.must("resume", "c")
        end = end_of(w, "c")
        same((end["reason"], end["detail"]), ("error", why), f"the end of a {make[0]} that was resumed")
        w.drop("c")
    for make in makers:
        w.must(*make, "--no-wait")
        w.must("resume", "c")
        w.refused("exec", "--wait", "300s", "c", "--", "true", says=re.escape(why) + "$", code=125)
        same(w.names()["c"]["state"], "running", f"state of a {make[0]} that need not know")
        w.drop("c")
    hook(w, "p", "20-bad", "true")
    for make in makers[:1]:
        w.must(*make)
        w.must("resume", "c")
        same(w.sh("c", "hostname"), "c", "one whose hooks are good")
        test_fork.progress(w, "c")
    test_fork.progress(w, "p")
    w.drop("c", "p")
    w.must("snapshot", "rm", "s")


def test_reconcile__user_data_reaches_the_fork_that_it_is_given(w):
    machine(w, "p")
    hook(w, "p", "10-data", "cat $CLONE_USERDATA >/run/hook-saw 2>/dev/null; true")
    look = "cat /run/clone/userdata 2>/dev/null; echo .; cat /run/hook-saw"

    def give(source, name, data, *opts):
        w.must("fork", source, "--name", name, "--userdata", "-", *opts, stdin=data)
    give("p", "c1", b"first\n")
    give("p", "c2", b"s" * 16384)
    give("p", "c3", b"asleep\n", "--paused")
    give(test_fork.template(w), "c4", b"of a template\n")
    w.must("fork", "c1", "--name", "c5")
    w.must("resume", "c3")
    for vm, want in (("c1", "first\n.\nfirst"), ("c2", "s" * 16384 + ".\n" + "s" * 16384), ("c3", "asleep\n.\nasleep"),
                     ("c5", ".")):
        same(w.sh(vm, look), want, f"user data of {vm}")
    same(w.sh("c4", "cat /run/clone/userdata"), "of a template", "user data of c4")
    same(w.sh("p", "ls /run/clone/userdata /run/hook-saw 2>/dev/null; true"), "", "user data of the parent")
    w.refused("fork", "p", "--name", "c6", "--userdata", "-", stdin=b"s" * 16385, says="at most 16384 bytes", code=1)
    w.refused("fork", "p", "--name", "c6", "--userdata", "/no/file", says="user data: /no/file: No such file", code=1)
    w.drop("c1", "c2", "c3", "c4", "c5", "p")


def test_reconcile__only_root_of_the_guest_is_heard_as_its_agent(w):
    """Whoever may say that an agent has (re)started can have hooks run again, and keep commands out."""
    machine(w, "p")
    install(w, "p", "hail")
    for user, port, want in (("0", 0, errno.ECONNRESET), ("0", 1000, 0), ("65534", 0, errno.ECONNRESET),
                             ("65534", 1000, errno.EACCES)):
        r = w.clone("exec", "-u", user, "p", "--", "hail", str(port))
        same((r.code, r.err), (want, ""), f"uid {user} connects from port {port}")
    test_fork.progress(w, "p")
    w.drop("p")


def blocks(data):
    return [data[i:i + 16] for i in range(0, len(data), 16)]


def test_rng__forks_share_no_bytes_however_early_they_ask(w):
    t = test_fork.template(w)
    vms = test_fork.fork(w, t, "early", 6)

    def ask(args):
        return w.must(*args, "--", "head", "-c", "4096", "/dev/urandom").raw
    live = [f"live-{i}" for i in range(1, 5)]
    w.must("fork", vms[0], "-n", "4", "--name", "live", "--no-wait")  # they have not been renewed yet
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(ask, [("exec", vm) for vm in live + vms] + [("fork", t, "--rm", "--timeout", "300s")] * 2))
    seen = [block for data in answers for block in blocks(data)]
    same((len(seen), len(set(seen))), (12 * 256, 12 * 256), "blocks drawn, and different ones")
    w.drop(*vms, *live)


def install(w, vm, name):
    with open(f"{ROOT}/build/guest/{name}", "rb") as f:
        w.must("exec", "-i", vm, "--", "/bin/sh", "-c", f"cat >/bin/{name}; chmod 755 /bin/{name}", stdin=f.read())


def spin(w, vm):
    """Starts a process that draws without a pause, and a hook that stops it in the fork once all is renewed."""
    install(w, vm, "rngspin")
    hook(w, vm, "10-stop", "kill -USR1 $(cat /run/spin.pid)")
    w.sh(vm, "rngspin /run/spin </dev/null >/dev/null 2>&1 & while [ ! -s /run/spin.pid ]; do usleep 10000; done")


def notes(w, vm):
    """What a process that was told to stop has noted, once it has stopped."""
    w.sh(vm, "until grep -q '^State:.S' /proc/$(cat /run/spin.pid)/status; do usleep 10000; done")
    raw = w.must("exec", vm, "--", "cat", "/run/spin").raw
    return {n: (ns, value) for n, ns, value in struct.iter_unpack("<QQQ", raw) if n}


def twins(parent, child):
    """(draws after the fork that were equal, nanoseconds of the child until the first that was not)."""
    last = max(n for n in child if parent.get(n) == child[n])
    own = sorted(n for n in child if n > last)  # one at least is of after the hook's signal, as rngspin promises
    equal = [n for n in own if n in parent and parent[n][1] == child[n][1]]
    same(equal, own[:len(equal)], "draws that were equal after one that was not")
    check(len(equal) < len(own), "all that the fork drew before its hooks was its parent's")
    return len(equal), child[own[len(equal)]][0] - child[last][0]


def window(w, what):
    """What a busy process draws in a fork before it is renewed: told, not judged; but it ends before the hooks."""
    w.must("fork", "p", "--name", "c", "--timeout", "120s")
    w.sh("p", "kill -USR1 $(cat /run/spin.pid)")
    equal, ns = twins(notes(w, "p"), notes(w, "c"))
    print(f"# {what}: a busy process drew {equal} numbers of its twin's, {ns / 1e6:.1f} ms of the guest's time", flush=True)
    w.drop("c")


def test_rng__a_busy_process_is_reseeded_before_the_hooks(w):
    machine(w, "p")
    spin(w, "p")
    window(w, "cloud kernel")
    w.drop("p")


def full(w):
    """A guest whose kernel has VMGENID, "p", and what it and a fork drew that was taken while it booted."""
    p = w.popen("run", "-d", "--name", "p", "--kernel", full_kernel(), "--memory", "256M", "--append", "root=/dev/vda rw",
                "--disk", f"{IMAGES}/bb/rootfs.ext4,format=raw", stdout=subprocess.DEVNULL)
    until(lambda: w.names().get("p", {}).get("state") == "running", "the start of the guest")
    w.must("fork", "p", "--name", "c", "--no-wait")
    same(p.wait(WAIT), 0, "the parent's boot")
    vms = ("p", "c")
    data = [w.must("exec", "--wait", "300s", vm, "--", "head", "-c", "4096", "/dev/urandom").raw for vm in vms]
    names = [w.sh(vm, "hostname") for vm in vms]
    w.drop("c")
    return data, names


def test_rng__a_fork_of_a_guest_that_boots_is_reseeded_too(w):
    """Forked before its drivers are there, VMGENID's notification has nobody to hear it: the agent reseeds."""
    data, names = w.fixture("full kernel", lambda: full(w))
    seen = [block for d in data for block in blocks(d)]
    same((len(seen), len(set(seen))), (2 * 256, 2 * 256), "blocks drawn, and different ones")
    same(names, ["p", "c"], "names")


def test_rng__vmgenid_reseeds_without_the_agents_help(w):
    w.fixture("full kernel", lambda: full(w))
    w.sh("p", test_fork.COUNTER)
    spin(w, "p")
    window(w, "full kernel")
    w.sh("p", "kill -USR2 $(cat /run/spin.pid)")
    agent = agents(w, "p")[1]
    says = "dmesg | grep -c 'crng reseeded due to virtual machine fork'"
    with Terminal(w, "p") as t:
        same(t.run(f"kill -STOP {agent}; {says}"), ["0"], "times the parent's kernel was forked")
        w.must("fork", "p", "--name", "c", "--no-wait")
        with Terminal(w, "c") as kid:
            same(kid.run(f"until dmesg | grep -q 'virtual machine fork'; do usleep 100000; done; {says}"), ["1"],
                 "times the fork's kernel was")
            w.refused("exec", "--wait", "1s", "c", "--", "true", says="has not acknowledged its identity", code=125)
            same(kid.run(f"kill -CONT {agent}; echo $?"), ["0"], "letting the fork's agent go on")
        same(w.sh("c", "hostname"), "c", "the fork's name")
        same(t.run(f"{says}; kill -CONT {agent}; echo $?"), ["0", "0"], "the parent")
    same(w.sh("p", "hostname"), "p", "the parent's name")
    test_fork.progress(w, "p")
    w.drop("p", "c")
