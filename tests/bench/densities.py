# SPDX-License-Identifier: MIT
"""What build/density.json says: the stages by name, the targets, the lines of the picture. No measuring here; for
tests/bench/density and tests/bench/density_svg.py. tests/bench/test_density.py has its tests.
"""
import json
import os

MIB = 1 << 20
LINES = (("exec", "after one command"), ("idle", "idle"), ("parked", "parked"), ("build", "after a build"), ("balloon", "build, then balloon"))


def load(path):
    with open(path, encoding="utf-8") as f:
        return json.load(f)


def save(data, path):
    with open(f"{path}.new", "w", encoding="utf-8") as f:
        json.dump(data, f, indent=1, sort_keys=True)
        f.write("\n")
    os.replace(f"{path}.new", path)


def empty():
    return {"hosts": {}, "options": {}, "stages": [], "failed": []}


def put(data, line):
    """One line of tests/bench/density_guests; a stage that was measured before is replaced."""
    if stage := line.get("stage"):
        data["stages"] = [s for s in data["stages"] if key(s) != key(stage)] + [stage]
    elif failed := line.get("failed"):
        data["failed"].append(failed)
    elif host := line.get("host"):
        part = line["options"]["part"]
        data["hosts"][part], data["options"][part] = host, line["options"]


def forget(data, part):
    for what in ("stages", "failed"):
        data[what] = [s for s in data[what] if s["part"] != part]
    data["hosts"].pop(part, None)
    data["options"].pop(part, None)


def key(stage):
    return stage["part"], stage["count"], stage["state"]


def find(data, part, count, state):
    return next((s for s in data["stages"] if key(s) == (part, count, state)), None)


def used(data, part, count, state):
    """Bytes, or None. Of a count whose forks were not all made there is none."""
    s = find(data, part, count, state)
    return s["memory"]["used"] if s and s.get("made", count) == count else None


def most(data, part, state):
    """The largest count that reached a state, or None."""
    return max((s["count"] for s in data["stages"] if s["part"] == part and s["state"] == state), default=None)


def returned(data, count, state="balloon"):
    """Which share of what the build made diverge is the host's again: 1 is all. None: not measured."""
    stages = [find(data, "forks", count, s) for s in ("idle", "build", state)]
    if None in stages:
        return None
    idle, built, after = (s["memory"]["used"] for s in stages)
    if built <= idle:
        return None
    return (built - after) / (built - idle)


def mib(n):
    return f"{n / MIB:.1f} MiB"


def verdict(what, got, met):
    """met: None where a figure is missing."""
    return {"target": what, "got": got if met is not None else "not measured", "met": met}


def beside_idle(data, count, said):
    """What the layers that are not on by default make of it, beside their own run's template; they decide no target."""
    ways = (("forks", "parked", "parked"), ("ksm", "merged", "merged by KSM"))
    got = ((used(data, part, count, state), used(data, part, 0, "template"), how) for part, state, how in ways)
    return "".join(f"; {how}: {said(n, one)}" for n, one, how in got if n is not None and one)


def resident(data):
    """100 idle forks beside one template."""
    one, hundred = used(data, "forks", 0, "template"), used(data, "forks", 100, "idle")
    what = "100 idle forks: less than 3 times one template's resident memory, kernel memory counted"
    if one is None or hundred is None or one <= 0:
        return verdict(what, None, None)
    beside = beside_idle(data, 100, lambda n, own: f"{n / own:.2f} times")
    return verdict(what, f"{hundred / one:.2f} times ({mib(hundred)}; the template {mib(one)}){beside}", hundred < 3 * one)


def ten_above(data):
    one, ten = used(data, "forks", 0, "template"), used(data, "forks", 10, "idle")
    what = "10 idle forks of 512 MiB: less than 40 MB above the template"
    if one is None or ten is None:
        return verdict(what, None, None)
    beside = beside_idle(data, 10, lambda n, own: f"{(n - own) / 1e6:.1f} MB")
    return verdict(what, f"{(ten - one) / 1e6:.1f} MB{beside}", ten - one < 40e6)


def vmm_own(data):
    what = "the VMM's own memory: less than 400 KB of PSS a fork"
    n = most(data, "forks", "idle")
    procs = find(data, "forks", n, "idle")["processes"] if n else {}
    if "own_pss_median" not in procs:
        return verdict(what, None, None)
    own = procs["own_pss_median"]
    return verdict(what, f"{own / 1e3:.0f} KB in the median of {procs['own_read']} of {n}, {procs['own_pss_max'] / 1e3:.0f}"
                   " at most", own < 400e3)


def given_back(data):
    what = "after build and balloon: at least 80 % of the diverged memory returned"
    n = most(data, "forks", "balloon")
    share = returned(data, n) if n else None
    if share is None:
        return verdict(what, None, None)
    before = returned(data, n, "reported")
    beside = f"; {before:.0%} by reporting alone" if before is not None else ""
    return verdict(what, f"{share:.0%} of {n} forks'{beside}", share >= 0.8)


def thousand(data):
    what = "1,000 busybox forks that all answer"
    s = find(data, "busybox", 1000, "exec")
    if not s:
        return verdict(what, None, None)
    return verdict(what, f"{s['answered']} of {s['made']} answered", s["answered"] == s["made"] == 1000)


def targets(data):
    return [resident(data), ten_above(data), vmm_own(data), given_back(data), thousand(data)]


def a_fork(data, stage):
    """What a VM of this stage took beyond the template (or each, where nothing is shared), or None."""
    n = stage.get("made", stage["count"])
    base = find(data, stage["part"], 0, "template")
    if not n or (stage["part"] in ("forks", "ksm", "busybox") and not base):
        return None
    return (stage["memory"]["used"] - (base["memory"]["used"] if base else 0)) / n


def points(data, part, state):
    """[(VMs, bytes)] by number."""
    return sorted((s.get("made", s["count"]), s["memory"]["used"]) for s in data["stages"]
                  if s["part"] == part and s["state"] == state and s.get("made", s["count"]) and s["memory"]["used"] > 0)


def one_alone(data):
    """What one VM that shares nothing takes; without it, one of QEMU's."""
    return used(data, "alone", 1, "idle") or used(data, "qemu", 1, "idle")


def lines(data):
    """What the picture shows: (name, kind, [(VMs, bytes)])."""
    out = [(f"clone, {text}", state, points(data, "forks", state)) for state, text in LINES]
    out.append(("clone, merged by KSM", "ksm", points(data, "ksm", "merged")))
    out.append(("QEMU, idle", "qemu", points(data, "qemu", "idle")))
    far = max((n for _, _, p in out for n, _ in p), default=0)
    if far and one_alone(data):
        out.append(("no sharing: one VM x N", "none", [(n, n * one_alone(data)) for n in (1, far)]))
    return [line for line in out if line[2]]
