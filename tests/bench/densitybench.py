# SPDX-License-Identifier: MIT
"""What the parts of tests/bench/density_guests stand on: VMs of a world of their own, work in many of them, a limit for
all that takes time, and measuring a stage, which is printed as a JSON line at once. Runs where the guests do.
"""
import concurrent.futures
import json
import os
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../system"))
import harness  # noqa: E402  (the path comes first)
import hostmem  # noqa: E402
from harness import Failed  # noqa: E402

MIB = 1 << 20
RESERVE = 512 * MIB  # of the host's memory, for the host
BATCH = 25  # forks in one command


class TimeUp(Exception):
    pass


def say(line):
    print(f"# {line}", file=sys.stderr, flush=True)


def emit(**line):
    print(json.dumps(line), flush=True)


class Bench:
    """One part: a world, the host without any VM, the time that it has."""

    def __init__(self, args, part):
        self.args, self.part, self.ram = args, part, 0
        self.begun = time.monotonic()
        self.w = harness.World()
        self.base = None  # until nothing()
        self.marked = self.begun

    def left(self):
        left = self.begun + self.args.seconds - time.monotonic()
        if left < 5:
            raise TimeUp(f"the {self.args.seconds} s of this part are over")
        return left

    def clone(self, *args, limit=600):
        try:
            return self.w.clone(*args, timeout=min(limit, self.left()))
        except subprocess.TimeoutExpired as late:
            self.left()
            raise Failed(f"clone {' '.join(args)[:60]}: not done in {late.timeout:.0f} s") from late

    def must(self, *args, limit=600):
        r = self.clone(*args, limit=limit)
        if r.code:
            raise Failed(f"clone {' '.join(args)[:60]}: exit {r.code}: {(r.err or r.out).strip()[-300:]}")
        return r

    def stage(self, count, state, pids, own_of=(), **more):
        """Measures, prints."""
        took = time.monotonic() - self.marked
        line = {"part": self.part, "count": count, "state": state, "seconds": round(took, 1), **more,
                **self.base.sample(pids, own_of, self.ram)}
        emit(stage=line)
        say(f"{self.part} {count} {state}: {line['memory']['used'] / MIB:.1f} MiB used, {took:.0f} s")
        self.marked = time.monotonic()
        return line

    def attempt(self, count, state, fn):
        """fn(), or a line that says why not; only the end of the time ends the part."""
        try:
            return fn()
        except TimeUp:
            raise
        except Exception as why:  # any: what can still be measured is
            self.failed(count, state, why)
            self.marked = time.monotonic()
            return None

    def failed(self, count, state, why):
        text = f"{type(why).__name__}: {why}" if not isinstance(why, str) else why
        emit(failed={"part": self.part, "count": count, "state": state, "why": text[:600]})
        say(f"{self.part} {count} {state} failed: {text[:600]}")

    def sleep(self, seconds):
        time.sleep(min(seconds, self.left()))

    def everywhere(self, names, fn):
        """fn(name), a few at a time: {name: result}, and {name: why} of those that failed."""
        good, bad = {}, {}

        def one(name):
            try:
                good[name] = fn(name)
            except Exception as why:  # a VM that fails is counted
                bad[name] = why
        with concurrent.futures.ThreadPoolExecutor(self.args.at_once) as pool:
            list(pool.map(one, names))
        self.left()
        return good, bad

    def answers(self, names):
        """Those whose guest runs a command; the others are told of."""
        good, bad = self.everywhere(names, lambda vm: self.must("exec", "--wait", "120s", vm, "--", "true", limit=240))
        if bad:
            name, why = next(iter(bad.items()))
            say(f"{len(bad)} of {len(names)} did not answer; {name}: {why}")
        return len(good)

    def fork(self, template, n, prefix, vms, *options):
        """n forks more in vms, {name: pid}; those that were made are in it when not all can be."""
        had = len(vms)
        for at in range(0, n, BATCH):
            size = min(BATCH, n - at)
            r = self.clone("fork", template, "-n", str(size), "--name", f"{prefix}{at}", "--timeout", "300s",
                           *options, "-o", "json", limit=900)
            made = json.loads(r.out)["children"] if r.out.strip() else []
            vms.update((c["name"], c["pid"]) for c in made)
            if len(made) < size:
                raise Failed(f"{len(vms) - had} of {n} forks were made: {r.err.strip()[:300]}")

    def seed(self, template):
        """The template's seed, or 0."""
        try:
            pid = json.loads(hostmem.read(f"{self.w.run_dir}/seeds/{template}/vm.json"))["pid"]
            return pid if os.path.exists(f"/proc/{pid}") else 0
        except (OSError, ValueError, KeyError):
            return 0

    def everybody(self, template, vms):
        seed = self.seed(template)
        return set(vms.values()) | ({seed, *hostmem.children(seed)} if seed else set())

    def quiet_seed(self, template, limit=90):
        """Until it makes nothing any more (huge pages of the template, then spare children): these, and its memory,
        have been the same for a while."""
        before, since = None, time.monotonic()
        end = since + limit
        while time.monotonic() < end and time.monotonic() - since < 5:
            seed = self.seed(template)
            now = (seed and sorted(hostmem.children(seed)), seed and rss(seed) // MIB)
            if now != before:
                before, since = now, time.monotonic()
            self.sleep(0.5)

    def room_for(self, n, each, what):
        have = hostmem.meminfo()["MemAvailable"]
        if have - n * each < RESERVE:
            raise Failed(f"{what} for {n} need about {n * each / MIB:.0f} MiB, {have / MIB:.0f} MiB are available")

    def drop_all(self):
        self.clone("rm", "-f", "--all", limit=900)

    def nothing(self, state):
        """No VM at all, before and after: how far the host drifts by itself, and what does not come back."""
        if state == "gone":
            self.drop_all()
            self.w.close_seeds()
        else:
            self.base = hostmem.Baseline()
        self.sleep(5)
        self.stage(0, state, ())

    def close(self):
        try:
            self.w.clone("rm", "-f", "--all", timeout=900)
        finally:
            self.w.close()


def rss(pid):
    try:
        return hostmem.fields(hostmem.read(f"/proc/{pid}/status")).get("VmRSS", 0)
    except OSError:
        return 0
