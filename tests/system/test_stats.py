# SPDX-License-Identifier: MIT
"""What VMs cost in memory: forks of a template, live forks, and the host's books, which must balance. And the counters
of a VM in Prometheus' format."""
import fcntl
import json
import os
import pty
import re
import select
import signal
import socket
import struct
import termios
import time

from harness import CLONE, WAIT, check, same, until

MIB = 1 << 20
WRITTEN = 32 * MIB
PAGES = ("unique_bytes", "relatives_bytes", "template_bytes", "ksm_bytes", "zero_bytes", "untouched_bytes", "swap_bytes")
HOST_ROWS = ("anonymous_bytes", "pinned_cache_bytes", "slab_unreclaimable_bytes", "page_tables_bytes",
             "secondary_page_tables_bytes", "vmalloc_bytes", "percpu_bytes", "hugetlb_bytes", "zswap_bytes",
             "held_back_bytes", "per_cpu_free_bytes")
KVM_PAGES = MIB // 2  # of each VM: what KVM and drivers take page by page, which no counter has


def stats(w, *vms):
    return json.loads(w.must("stats", "-o", "json", *vms).out)


def by_name(s):
    return {vm["name"]: vm for vm in s["vms"]}


def quiet(w, names):
    """A reading in which the named have stopped writing: guests still do things after their first command. And giving back:
    that begins with the next that they free, and takes them up to 2 s."""
    for name in names:
        w.sh(name, "true")
    last = by_name(stats(w))
    for _ in range(60):
        time.sleep(3)
        now = by_name(stats(w))
        if all(abs(now[n]["unique_bytes"] - last[n]["unique_bytes"]) < MIB // 4 for n in names):
            return now
        last = now
    raise AssertionError(f"{names} go on writing")


def near(got, want, what):
    """But for what guests write between one's turn and the other's."""
    check(abs(got - want) <= MIB // 4, f"{what}: got {got}, want {want}")


def write(w, vm, size=WRITTEN):
    w.sh(vm, f"mkdir -p /run/big && mount -t tmpfs -o size=80m big /run/big &&"
             f" dd if=/dev/zero of=/run/big/file bs=64k count={size >> 16} 2>/dev/null")


def test_stats__what_a_templates_fork_writes_is_its_own(w):
    t = w.template()
    names = [f"cost-{i}" for i in range(1, 5)]
    w.must("fork", t, "-n", "4", "--name", "cost", timeout=600)
    same([vm["kind"] for vm in stats(w)["vms"] if vm["name"] == t], ["seed"], "the template's seed")  # a minute later it ends
    before = quiet(w, names)
    for name in names:
        vm = before[name]
        same((vm["kind"], vm["pid"], vm["ram_bytes"]), ("vm", w.pid(name), 128 * MIB), f"{name}: who it is")
        same(sum(vm[k] for k in PAGES), vm["ram_bytes"], f"{name}: its pages by class")
        same(vm["shared_bytes"], vm["template_bytes"] + vm["relatives_bytes"] + vm["ksm_bytes"], f"{name}: shared")
        check(vm["template_bytes"] + vm["relatives_bytes"] > 0 and vm["unique_bytes"] > 0, f"{name}: {vm}")
        share = vm["template_share_bytes"] + vm["relatives_share_bytes"] + vm["ksm_share_bytes"]
        check(0 < share < vm["shared_bytes"], f"{name}: others have a part of what it shares: {vm}")
    write(w, names[0])
    after = quiet(w, names)
    for name in names:
        was, is_now = before[name]["unique_bytes"], after[name]["unique_bytes"]
        want = WRITTEN if name == names[0] else 0
        # what it took for the file may have been its own already, free and not yet given back
        check(want <= is_now <= was + want + WRITTEN // 10,
              f"{name}: unique was {was / MIB:.1f} MiB, is {is_now / MIB:.1f} MiB; {names[0]} wrote 32")
    w.drop(*names)


def test_stats__a_templates_file_is_counted_once(w):
    t = w.template()
    names = [f"once-{i}" for i in range(1, 4)]
    w.must("fork", t, "-n", "3", "--name", "once", timeout=600)
    s = stats(w)
    files = [f for f in s["templates"] if f"/templates/{t}/" in f["path"]]
    same(len(files), 1, f"files of {t} in {s['templates']}")
    check(files[0]["processes"] >= 4, f"three forks and a seed map it: {files}")
    moved = s["moved_bytes"]  # since: they have just begun, and two walks see different mappings
    check(max(by_name(s)[n]["template_bytes"] for n in names) - moved <= files[0]["mapped_bytes"] <= files[0]["cached_bytes"] + moved,
          f"mapped and cached: {files}, moved meanwhile {moved}")
    check(abs(sum(vm["template_share_bytes"] for vm in s["vms"]) - s["total"]["template_bytes"]) <= 4096,
          "shares of templates make their sum")
    w.drop(*names)


def test_stats__live_forks_are_relatives_until_they_part(w):
    w.must("run", "-d", "--name", "kin", "--image", "bb", "--memory", "256M", timeout=600)
    write(w, "kin")
    alone = quiet(w, ["kin"])["kin"]
    same((alone["relatives_bytes"], alone["template_bytes"], alone["ksm_bytes"]), (0, 0, 0), "what it shares, alone")
    check(alone["unique_bytes"] >= WRITTEN, f"it has written 32 MiB: {alone}")
    w.must("fork", "kin", "--name", "kin-kid", "--timeout", "300s", timeout=600)
    both = quiet(w, ["kin", "kin-kid"])
    for name in ("kin", "kin-kid"):
        check(both[name]["relatives_bytes"] >= WRITTEN, f"{name}: relatives: {both[name]}")
        near(both[name]["relatives_share_bytes"] * 2, both[name]["relatives_bytes"], f"{name}: its half")
    near(both["kin"]["relatives_bytes"], both["kin-kid"]["relatives_bytes"], "what they have with each other")
    w.drop("kin-kid")
    again = by_name(stats(w))["kin"]
    same(again["relatives_bytes"], 0, "relatives of one whose child is gone")
    check(again["unique_bytes"] >= WRITTEN, "all is its own again")
    w.drop("kin")


def unavailable(s):
    return s["host"]["total_bytes"] - s["host"]["available_bytes"]


def anon_by_kernel(s):
    """None: one of them has ended since, as a seed does that nobody needs."""
    n = 0
    for vm in s["vms"]:
        try:
            with open(f"/proc/{vm['pid']}/smaps_rollup", encoding="ascii") as f:
                n += sum(int(line.split()[1]) << 10 for line in f if line.startswith("Pss_Anon:"))
        except (FileNotFoundError, ProcessLookupError):
            return None
    return n


def test_stats__sums_are_what_is_not_available(w):
    t = w.template()
    w.must("fork", t, "--name", "first", timeout=600)  # so that the seed is there in both readings
    quiet(w, ["first"])
    before = stats(w)
    names = [f"sum-{i}" for i in range(1, 7)]
    w.must("fork", t, "-n", "6", "--name", "sum", timeout=600)
    for name in names:
        write(w, name, 16 * MIB)
    quiet(w, names)
    after = stats(w)
    for s in (before, after):
        same(sum(s["host"][k] for k in HOST_ROWS) + s["host"]["unaccounted_bytes"], unavailable(s), "the rows of the host")
        same(s["host"]["vms_anonymous_bytes"] + s["host"]["others_anonymous_bytes"], s["host"]["anonymous_bytes"],
             "anonymous memory")
        check(s["total"]["unique_bytes"] + s["total"]["relatives_bytes"] <= s["total"]["anonymous_bytes"] + s["moved_bytes"],
              "guests' memory is a part of all")
    rose = after["total"]["anonymous_bytes"] - before["total"]["anonymous_bytes"]
    check(rose > 6 * 16 * MIB * 0.9, f"anonymous memory rose by {rose / MIB:.1f} MiB, 96 were written")
    # what is not available rose by all that has a name, within what the kernel's counters may be off
    bound = before["host"]["error_bytes"] + after["host"]["error_bytes"] + len(names) * KVM_PAGES
    named = sum(after["host"][k] - before["host"][k] for k in HOST_ROWS)
    off = unavailable(after) - unavailable(before) - named
    check(abs(off) <= bound, f"{off / MIB:.2f} MiB of the change have no name, {bound / MIB:.2f} are allowed")
    # the kernel's own division of the same memory
    while (other := anon_by_kernel(after)) is None:
        after = stats(w)
    check(abs(other - after["total"]["anonymous_bytes"]) <= after["moved_bytes"] + 2 * MIB,
          f"Pss_Anon of all {other}, ours {after['total']['anonymous_bytes']}")
    w.drop("first", *names)


def test_stats__of_what_is_not_there(w):
    w.refused("stats", "nobody", says="no VM is called nobody", code=1)
    w.refused("stats", "--nonsense", says="--nonsense", code=2)
    w.refused("stats", "-o", "yaml", says="json or text", code=2)
    w.refused("top", "all", says="'all' is not expected", code=2)


def test_stats__table_is_what_json_says(w):
    w.must("run", "-d", "--name", "tab", "--image", "bb", "--memory", "128M", timeout=600)
    quiet(w, ["tab"])
    keys, seen = ("memory_bytes", "unique_bytes"), []

    def stands_still():
        vm, out, then = by_name(stats(w, "tab"))["tab"], w.must("stats", "tab").out, by_name(stats(w, "tab"))["tab"]
        seen[:] = [vm, out.splitlines()]
        return all(abs(then[k] - vm[k]) <= MIB // 4 for k in keys)
    until(stands_still, "two readings of the same")
    vm, lines = seen
    same(lines[0].split(), ["NAME", "(MiB)", "KIND", "MEMORY", "UNIQUE", "TEMPLATE", "RELATIVES", "KSM", "ZERO", "TABLES",
                            "VMM", "KERNEL"], "the head")
    cells = lines[1].split()
    same(cells[:2], ["tab", "vm"], "the row")
    for cell, key in zip(cells[2:4], keys):
        check(abs(float(cell) - vm[key] / MIB) < 1, f"{key}: {cell} MiB, {vm[key]} bytes")
    same(len(lines), 3, "lines: of one VM no sums")
    check(re.fullmatch(r"method pagemap, moved \d+\.\d MiB meanwhile, measured in \d+ ms", lines[2]), lines[2])
    check("TOTAL, each page once" in w.must("top").out, "top that is not on a terminal prints once")
    w.drop("tab")


class Screen:
    """clone top on a terminal of 24 rows and 80 columns."""

    def __init__(self, w):
        ready, go = os.pipe()
        self.pid, self.fd = pty.fork()
        if not self.pid:
            os.read(ready, 1)
            os.execve(CLONE, [CLONE, "top"], w.env)
        self.text = b""
        self.resize(24, 80)
        self.before = termios.tcgetattr(self.fd)
        os.write(go, b"!")
        os.close(ready)
        os.close(go)

    def resize(self, rows, cols):
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))

    def wait_for(self, what):
        end = time.monotonic() + WAIT
        while what not in self.text:
            check(time.monotonic() < end, f"{what} was not drawn: {self.text[-500:]}")
            if select.select([self.fd], [], [], 1)[0]:
                try:
                    more = os.read(self.fd, 65536)
                except OSError:  # it has ended
                    more = b""
                check(more, f"it ended before {what}: {self.text[-500:]}")
                self.text += more

    def ended(self):
        self.wait_for(b"\x1b[?25h\x1b[?1049l")
        status = os.waitpid(self.pid, 0)[1]
        same(termios.tcgetattr(self.fd)[:4], self.before[:4], "the terminal's modes afterwards")
        os.close(self.fd)
        return os.waitstatus_to_exitcode(status)


def test_top__draws_takes_keys_and_gives_the_terminal_back(w):
    s = Screen(w)
    s.wait_for(b"TOTAL, each page once")
    check(s.text.startswith(b"\x1b[?1049h\x1b[?25l"), f"it begins with {s.text[:40]}")
    for line in re.sub(rb"\x1b\[[?0-9]*[A-Za-z]", b"", s.text).split(b"\r\n"):
        check(len(line) <= 80, f"a line is too long for the terminal: {line}")
    for key in (b"u", b"n", b"m"):
        s.text = b""
        os.write(s.fd, key)
        s.wait_for(b"TOTAL, each page once")
    s.resize(5, 40)
    s.text = b""
    s.wait_for(b"NAME (MiB)")
    os.write(s.fd, b"q")
    same(s.ended(), 0, "exit of top after q")


def test_top__gives_the_terminal_back_when_it_is_ended(w):
    for sig in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        s = Screen(w)
        s.wait_for(b"TOTAL, each page once")
        os.kill(s.pid, sig)
        same(s.ended(), 128 + sig, f"exit of top after {sig.name}")


NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
LABEL = r'[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\\\|\\"|\\n)*"'
SAMPLE = re.compile(rf"({NAME})(?:\{{((?:{LABEL})(?:,{LABEL})*)?\}})? (\d+(?:\.\d+)?)")


def parse(text):
    """Prometheus' exposition format 0.0.4, strictly: of each family HELP, TYPE, then its samples, and nothing twice."""
    check(text.endswith("\n"), "the last line has no end")
    samples, seen, family = {}, set(), None
    lines = iter(text[:-1].split("\n"))
    for line in lines:
        head = re.fullmatch(rf"# HELP ({NAME}) \S.*", line)
        if head:
            family = head[1]
            check(family not in seen, f"{family} comes twice")
            seen.add(family)
            kind = re.fullmatch(rf"# TYPE {family} (counter|gauge)", next(lines, ""))
            check(kind, f"{family} has no type")
            same(family.endswith("_total"), kind[1] == "counter", f"{family}, a {kind[1]}: its name")
            continue
        m = SAMPLE.fullmatch(line)
        check(m and m[1] == family, f"no sample of {family}: {line!r}")
        key = (m[1], m[2] or "")
        check(key not in samples, f"{key} comes twice")
        samples[key] = float(m[3])
    same({name for name, _ in samples}, seen, "families with samples")
    return samples


def metrics(w, vm):
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(WAIT)
        s.connect(f"{w.run_dir}/vms/{vm}/api.sock")
        s.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answer = b""
        while more := s.recv(65536):
            answer += more
    head, body = answer.split(b"\r\n\r\n", 1)
    check(head.startswith(b"HTTP/1.1 200 OK\r\n"), f"answered {head[:40]}")
    check(b"\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8" in head, f"the type: {head}")
    return parse(body.decode())


def test_metrics__are_read_by_a_strict_reader_and_move(w):
    w.must("run", "-d", "--name", "prom", "--image", "bb", "--memory", "128M", "--cpus", "2", timeout=600)
    w.sh("prom", "true")
    first = metrics(w, "prom")
    info = [labels for name, labels in first if name == "clone_vm_info"]
    same(len(info), 1, "infos")
    check('name="prom"' in info[0] and 'state="Running"' in info[0], f"who it is: {info}")
    same(first["clone_balloon_target_bytes", ""], 0, "what its balloon is asked to hold")
    same((first["clone_vm_ram_bytes", ""], first["clone_vm_vcpus", ""]), (128 * MIB, 2), "its size")
    vcpus = [("clone_vcpu_seconds_total", f'vcpu="{i}"') for i in range(2)]
    check(first[vcpus[0]] > 0, "its first vCPU has run")
    w.sh("prom", "i=0; while [ $i -lt 3000 ]; do i=$((i+1)); done; sync")
    then = metrics(w, "prom")
    for key, value in first.items():
        check(not key[0].endswith("_total") or then[key] >= value, f"{key} went back from {value} to {then[key]}")
    check(sum(then[k] for k in vcpus) > sum(first[k] for k in vcpus), "its vCPUs have run since")
    s = json.loads(w.must("inspect", "prom").out)["stats"]
    for d in s["disks"]:
        check(0 < first["clone_disk_reads_total", f'disk="{d["id"]}"'] <= d["reads"], f"reads of {d}")
    w.must("fork", "prom", "--name", "prom-kid", "--timeout", "300s", timeout=600)
    kid = metrics(w, "prom-kid")
    same(kid["clone_vm_fork_depth", ""], 1, "a fork's depth")
    check(kid["clone_vcpu_seconds_total", 'vcpu="0"'] < then["clone_vcpu_seconds_total", 'vcpu="0"'],
          "a fork's time is its own")
    until(lambda: metrics(w, "prom")["clone_vm_forks_total", ""] == 1, "the parent's count")
    w.drop("prom", "prom-kid")
