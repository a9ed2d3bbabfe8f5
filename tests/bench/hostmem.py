# SPDX-License-Identifier: MIT
"""What VMs cost their host in memory: readings of /proc and the arithmetic on them, for tests/bench/density_guests.
All figures are bytes. tests/bench/test_density.py has its tests.

"Used" is what is not free any more since a baseline, host-wide, the kernel's own memory counted, when the caches
have been dropped before both readings: page cache that nobody maps is gone then, what a process maps stays. (MemAvailable is
kept beside it; it calls mapped pages of files available, and so flatters whoever shares memory by mapping a file.)
Files in memory (tmpfs, memfd), which are a disk's on other hosts, are taken off and shown alone, but for what of them
is mapped: a template's RAM file is memory of the VMs that map it wherever it is stored.
"""
import os
import re
import time

PAGE = 4096
SECOND_DROP = 2  # the first leaves what was on its way to a list
KEYS = ("MemAvailable", "MemFree", "SwapFree", "Shmem", "Slab", "SUnreclaim", "PageTables", "SecPageTables",
        "AnonPages", "KernelStack", "Percpu")
GROWS = {"slab": "Slab", "slab_unreclaimable": "SUnreclaim", "page_tables": "PageTables",
         "kvm_page_tables": "SecPageTables", "anonymous": "AnonPages", "kernel_stacks": "KernelStack",
         "percpu": "Percpu"}
MAPPING = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) (\S{4}) ([0-9a-f]+) \S+ \d+\s*(.*)$")


def read(path):
    with open(path, encoding="utf-8", errors="replace") as f:
        return f.read()


def drop_caches():
    os.sync()
    for _ in range(SECOND_DROP):
        with open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as f:
            f.write("3")


def fields(text):
    """Of lines like "Name:   12 kB"."""
    return {m[1]: int(m[2]) * 1024 for m in re.finditer(r"^(\w+):\s+(\d+) kB$", text, re.M)}


def meminfo(text=None, zones=None):
    """Those of KEYS that this kernel has; MemFree with what is free in the processors' own lists, which hold what was
    just freed and are tens of MiB on a small host."""
    have = fields(read("/proc/meminfo") if text is None else text)
    out = {k: have[k] for k in KEYS if k in have}
    out["MemFree"] += per_cpu_free(read("/proc/zoneinfo") if zones is None else zones)
    return out


def per_cpu_free(zones):
    return sum(int(n) for n in re.findall(r"^ +count: (\d+)$", zones, re.M)) * PAGE


def rollup(text):
    """A process's share of memory, of /proc/PID/smaps_rollup."""
    f = fields(text)
    return {"pss": f.get("Pss", 0), "private": f.get("Private_Clean", 0) + f.get("Private_Dirty", 0),
            "pss_shmem": f.get("Pss_Shmem", 0)}


def mappings(text):
    """Of /proc/PID/smaps, in order: begin, end, permissions, offset, path, Pss."""
    out = []
    for line in text.splitlines():
        if m := MAPPING.match(line):
            out.append({"begin": int(m[1], 16), "end": int(m[2], 16), "perms": m[3], "offset": int(m[4], 16),
                        "path": m[5], "pss": 0})
        elif line.startswith("Pss:") and out:
            out[-1]["pss"] = int(line.split()[1]) * 1024
    return out


def between_guards(maps, ram_bytes):
    """RAM that stands on no file: readable, writable and private, ram_bytes without a gap, between two guards
    (src/mem/gmem.c, map_region)."""
    spans, begin, before = [], None, None
    for m in maps:
        joined = before is not None and before["end"] == m["begin"]
        if m["perms"] == "rw-p" and joined and before["perms"] == "---p":
            begin = m["begin"]
        elif m["perms"] == "---p" and joined and begin is not None and m["begin"] - begin == ram_bytes:
            spans.append((begin, m["begin"]))
        if m["perms"] != "rw-p" or not joined:
            begin = None
        before = m
    return spans


def guest_ram(maps, ram_bytes):
    """The address ranges of guest memory, at most 3 GiB of it: where the template's RAM file is mapped, file offsets
    are RAM offsets (src/mem/gmem.h); what is huge pages or holes lies between these mappings."""
    begins = {m["begin"] - m["offset"] for m in maps if m["path"].endswith("/ram")}
    return [(b, b + ram_bytes) for b in sorted(begins)] or between_guards(maps, ram_bytes)


def own_pss(maps, ram_bytes):
    """What the VMM has for itself: the Pss of all mappings that are not guest memory. None: which is guest memory
    cannot be told."""
    spans = guest_ram(maps, ram_bytes)
    if not spans:
        return None
    return sum(m["pss"] for m in maps if not any(a <= m["begin"] and m["end"] <= b for a, b in spans))


def spread_over(items, n):
    """At most n of them, evenly."""
    return [items[i * len(items) // n] for i in range(n)] if len(items) > n else list(items)


def middle(values):
    return sorted(values)[len(values) // 2]


def processes(pids, own_of, ram_bytes, most):
    """Sums over pids, of whom at most `most` are read and stand for the others; the VMM's own of those that are in own_of,
    too. Processes that have ended count nothing."""
    rolls, own = [], []
    for pid in spread_over(sorted(pids), most):
        try:
            rolls.append(rollup(read(f"/proc/{pid}/smaps_rollup")))
        except OSError:
            continue
    for pid in spread_over(sorted(own_of), 20):
        try:
            own.append(own_pss(mappings(read(f"/proc/{pid}/smaps")), ram_bytes))
        except OSError:
            continue
    return add_up(rolls, len(pids), [o for o in own if o is not None])


def add_up(rolls, n, own):
    out = {"processes": n, "read": len(rolls)}
    for key in ("pss", "private", "pss_shmem"):
        out[key] = sum(r[key] for r in rolls) * n // len(rolls) if rolls else 0
    if own:
        out.update(own_read=len(own), own_pss_median=middle(own), own_pss_max=max(own))
    return out


def difference(base, now, mapped_shmem):
    """What has come since the baseline; mapped_shmem: what VM processes map of files in memory."""
    swapped = base.get("SwapFree", 0) - now.get("SwapFree", 0)
    in_files = max(0, now["Shmem"] - base["Shmem"] - mapped_shmem)
    out = {"used": base["MemFree"] - now["MemFree"] + swapped - in_files,
           "not_available": base["MemAvailable"] - now["MemAvailable"], "files_in_memory": in_files}
    out.update({name: now[key] - base[key] for name, key in GROWS.items() if key in base and key in now})
    return out


def children(pid):
    """Its children, and theirs."""
    try:
        own = [int(x) for x in read(f"/proc/{pid}/task/{pid}/children").split()]
    except OSError:
        return []
    return own + [x for c in own for x in children(c)]


class Merging:
    """The kernel's merging of equal pages (KSM), as fast as it can; as it was before, at the end."""
    DIR = "/sys/kernel/mm/ksm"
    FAST = {"pages_to_scan": "20000", "sleep_millisecs": "10", "run": "1"}

    def __enter__(self):
        self.before = {name: read(f"{self.DIR}/{name}").strip() for name in self.FAST}
        self.first = self.number("full_scans")
        self.put(self.FAST)
        return self

    def __exit__(self, *_):
        self.put(self.before)

    def put(self, values):
        for name, value in values.items():
            with open(f"{self.DIR}/{name}", "w", encoding="ascii") as f:
                f.write(value)

    def number(self, name):
        return int(read(f"{self.DIR}/{name}"))

    def scanned(self):
        return self.number("full_scans") - self.first

    def scan(self, times, limit):
        """Until all of it was looked at so many times, or for so many seconds."""
        end = time.monotonic() + limit
        while self.scanned() < times and time.monotonic() < end:
            time.sleep(0.5)


class Baseline:
    """The host before the first VM of a part."""

    def __init__(self):
        drop_caches()
        self.then = meminfo()

    def sample(self, pids, own_of, ram_bytes, most=200):
        """Now, with the caches dropped: as difference(), and what the processes say."""
        drop_caches()
        now = meminfo()
        procs = processes(pids, own_of, ram_bytes, most)
        return {"memory": difference(self.then, now, procs["pss_shmem"]), "processes": procs}
