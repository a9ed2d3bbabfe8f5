# SPDX-License-Identifier: MIT
"""What the system tests stand on: the clone command, TAP output, fixtures made once.

Runs as root where /dev/kvm can run a stock kernel: on the host, or inside the rig. Guests are slow in the
rig, so fixtures (templates) are shared and every wait has a generous limit; no test asserts a time.
"""
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import traceback

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
CLONE = f"{ROOT}/build/release/clone"
IMAGES = os.environ.get("CLONE_TEST_IMAGES", f"{ROOT}/build/state/images")
WAIT = 480  # seconds that a guest may need at the very most


class Failed(AssertionError):
    pass


class Skipped(Exception):
    """Why this host cannot show it. It is told, and `make test` takes it for a failure unless tests/skips expects it."""


def check(condition, message):
    if not condition:
        raise Failed(message)


def same(got, want, what):
    check(got == want, f"{what}: got {got!r}, want {want!r}")


class Result:
    def __init__(self, done, took):
        self.code = done.returncode
        self.out = done.stdout.decode(errors="replace")
        self.err = done.stderr.decode(errors="replace")
        self.raw = done.stdout
        self.took = took


class World:
    """A state and a run directory of our own; removed, with every VM in them, at the end."""

    def __init__(self):
        self.base = tempfile.mkdtemp(prefix="clone-test-", dir="/var/tmp")
        self.state, self.run_dir = f"{self.base}/state", f"{self.base}/run"
        os.makedirs(f"{self.state}")
        os.symlink(IMAGES, f"{self.state}/images")
        self.env = dict(os.environ, CLONE_STATE_DIR=self.state, CLONE_RUN_DIR=self.run_dir)
        self.made = {}
        self.program = CLONE
        self.cleanups = []  # called at the end

    def clone(self, *args, stdin=None, timeout=WAIT, ok=None):
        start = time.monotonic()
        done = subprocess.run([CLONE, *args], env=self.env, timeout=timeout, check=False,
                              input=stdin, stdin=None if stdin is not None else subprocess.DEVNULL,
                              capture_output=True)
        result = Result(done, time.monotonic() - start)
        if ok is not None and (result.code == 0) != ok:
            raise Failed(f"clone {' '.join(args)}: exit {result.code}\n{result.out}{result.err}")
        return result

    def must(self, *args, timeout=WAIT, **kw):
        """What must succeed has as long as we wait, not as long as people would."""
        patience = f"{WAIT - 60}s"
        if args[0] in ("fork", "restore", "stop") or args[0] == "run" and "-d" in args and "--no-wait" not in args:
            timeout = max(timeout, WAIT)
            if "--timeout" not in args:
                args = (args[0], "--timeout", patience, *args[1:])
        if args[0] == "exec" and "--wait" not in args:
            args = (args[0], "--wait", patience, *args[1:])
        return self.clone(*args, ok=True, timeout=timeout, **kw)

    def popen(self, *args, **kw):
        return subprocess.Popen([CLONE, *args], env=self.env, **kw)

    def inspect(self, vm):
        """Asked again while it is too busy to say how it is: `clone inspect` gives it 3 s."""
        end = time.monotonic() + WAIT
        while True:
            got = json.loads(self.must("inspect", vm).out)
            if got["state"] == "exited" or {"stats", "events"} <= got.keys() or time.monotonic() > end:
                return got

    def sh(self, vm, script, *opts, **kw):
        """Output of a shell script in a guest, which must succeed."""
        return self.must("exec", *opts, vm, "--", "/bin/sh", "-c", script, **kw).out.strip()

    def refused(self, *args, says, code=None, **kw):
        """A one-line error that says `says` (a regular expression), and a non-zero exit."""
        r = self.clone(*args, **kw)
        check(r.code in (1, 2, 125, 126, 127), f"clone {' '.join(args)}: exit {r.code}, which is no refusal")
        if code is not None:
            same(r.code, code, f"exit of clone {' '.join(args)}")
        lines = r.err.strip().splitlines()
        same(len(lines), 1, f"lines of the error of clone {' '.join(args)}: {r.err!r}")
        check(re.search(says, lines[0]), f"clone {' '.join(args)} said {lines[0]!r}, not {says!r}")

    def names(self):
        """All VMs; again while one is too busy to say how it is within the 3 s that it has."""
        end = time.monotonic() + WAIT
        while True:
            vms = {vm["name"]: vm for vm in json.loads(self.must("ls", "-a", "-o", "json").out)}
            if all(vm["state"] != "unresponsive" for vm in vms.values()) or time.monotonic() > end:
                return vms

    def pid(self, vm):
        return json.loads(self.must("inspect", vm).out)["pid"]

    def drop(self, *vms):
        if vms:
            self.clone("rm", "-f", *vms)

    def fixture(self, name, make):
        if name not in self.made:
            self.made[name] = make()
        return self.made[name]

    def template(self, name="bbt", image="bb", memory="128M", cpus="1", warm=()):
        def make():
            args = ["template", "create", name, "--image", image, "--memory", memory, "--cpus", cpus, "--timeout", "900s"]
            for cmd in warm:
                args += ["--warm", cmd]
            self.must(*args, timeout=3000)
            return name
        return self.fixture(f"template {name}", make)

    def close(self):
        for vm in list(self.names()):
            self.drop(vm)
        self.close_seeds()
        self.clone("ls")  # whose networks were the last to be used
        for fn in self.cleanups:
            fn()
        shutil.rmtree(self.base, ignore_errors=True)

    def close_seeds(self):
        for seed in os.listdir(f"{self.run_dir}/seeds") if os.path.isdir(f"{self.run_dir}/seeds") else []:
            path = f"{self.run_dir}/seeds/{seed}/vm.json"
            if os.path.exists(path):
                with open(path, encoding="utf-8") as f:
                    kill_pid(json.load(f).get("pid"))


def complaints():
    """What a kernel says of its clocks when they were badly restored: for grep -iE. Of its TSC only where a guest
    can have a stable one."""
    with open("/sys/devices/system/clocksource/clocksource0/available_clocksource", encoding="utf-8") as f:
        return "backwards|lockup|stall" + ("|unstable" if "tsc" in f.read().split() else "")


def kill_pid(pid, sig=9):
    try:
        os.kill(pid, sig)
    except (ProcessLookupError, TypeError):
        pass


def epitaphs(world):
    """What is known of each VM that a test which failed still had: how it ended and its logs' last lines; of one that
    still runs what its threads do, and whether its guest answers."""
    for name, vm in world.names().items():
        yield f"{name} is {vm['state']}: {vm.get('end')}"
        for log in ("vmm.log", "console.log"):
            path = f"{world.run_dir}/vms/{name}/{log}"
            if os.path.exists(path):
                with open(path, errors="replace", encoding="utf-8") as f:
                    yield from (f"{log}: {line.rstrip()}" for line in f.readlines()[-15:])
        if vm["state"] == "running" and vm.get("pid"):
            yield from threads(vm["pid"])
            yield from last_words(world, name)


def threads(pid):
    """Each thread's state, its ticks of CPU time in user and in kernel mode before and after two seconds, where it waits."""
    def look():
        for tid in sorted(os.listdir(f"/proc/{pid}/task")):
            with open(f"/proc/{pid}/task/{tid}/stat", encoding="utf-8", errors="replace") as f:
                comm, rest = f.read().split("(", 1)[1].rsplit(")", 1)
            with open(f"/proc/{pid}/task/{tid}/wchan", encoding="utf-8", errors="replace") as f:
                rest = rest.split()
                yield tid, (comm, rest[0], rest[11], rest[12], f.read())
    try:
        before = dict(look())
        time.sleep(2)
        return [f"thread {comm}: {state} {before.get(tid, '?')[2:4]} {user, kernel} {at}"
                for tid, (comm, state, user, kernel, at) in look()]
    except OSError as why:
        return [f"threads: {why}"]


def last_words(world, name):
    """For most guests that hang a second command makes the difference: it is answered, or it is not."""
    try:
        r = world.clone("exec", name, "--", "/bin/sh", "-c", "cat /proc/uptime /proc/loadavg; ps ax 2>/dev/null || ps",
                        timeout=60)
        return [f"in {name}: {line}" for line in (r.out + r.err).splitlines()[-40:]]
    except subprocess.TimeoutExpired:
        return [f"in {name}: no answer in 60 s"]


def until(probe, what, limit=WAIT):
    """For what has no event to wait for (a process that another one kills)."""
    end = time.monotonic() + limit
    while time.monotonic() < end:
        if probe():
            return
        time.sleep(0.05)
    raise Failed(f"{what} did not happen within {limit} s")


def run_all(tests, only):
    world = World()
    failed = 0
    tests = [t for t in tests if not only or any(o in t.__name__ for o in only)]
    try:
        check(tests, f"no test is called {' or '.join(only)}")
        for test in tests:
            name = test.__name__
            start = time.monotonic()
            try:
                test(world)
                print(f"ok - {name} ({time.monotonic() - start:.1f} s)", flush=True)
            except Skipped as why:
                print(f"ok - {name} # SKIP {why}", flush=True)
            except Exception as why:  # a test that breaks is a test that failed
                failed += 1
                print(f"not ok - {name} ({time.monotonic() - start:.1f} s)")
                text = str(why) if isinstance(why, Failed) else traceback.format_exc()
                print("\n".join("# " + line for line in [*text.splitlines(), *epitaphs(world)]), flush=True)
                for vm in list(world.names()):
                    world.drop(vm)
    finally:
        world.close()
    print(f"1..{len(tests)}")
    return 1 if failed else 0


def main(tests):
    only = sys.argv[1:]
    if only[:1] == ["--after"]:
        at = [t.__name__ for t in tests].index(only[1])
        tests, only = tests[at + 1:], only[2:]
    sys.exit(run_all(tests, only))
