# SPDX-License-Identifier: MIT
"""Memory that guests give back: asked for by a balloon, or by themselves as they free it. What the host has of it is read
off the VM process; what the guest has left, and that it goes on and has lost nothing, is asked of the guest."""
import json
import time

from harness import check, same, until
from test_fork import fork

MIB = 1 << 20
# Something that goes on in every guest, with what both busybox and Debian have.
COUNTER = ("mkdir -p /run/m; (i=0; while :; do i=$((i+1)); echo $i > /run/count.new; mv /run/count.new /run/count; sleep 0.5;"
           " done) </dev/null >/dev/null 2>&1 &")


def boot(w, name, image="bb", memory="256M", *more):
    w.must("run", "-d", "--name", name, "--image", image, "--memory", memory, *more, timeout=600)
    w.sh(name, f"{COUNTER} until [ -e /run/count ]; do sleep 0.1; done")
    return name


def private(w, vm):
    """What of the guest's memory the VM process has for itself alone. (The kernel's own word for it, private, has
    pages of the template's file in it that nobody else looks at.)"""
    return json.loads(w.must("stats", "-o", "json", vm).out)["vms"][0]["unique_bytes"]


def meminfo(w, vm):
    lines = [line.split() for line in w.sh(vm, "cat /proc/meminfo").splitlines()]
    return {words[0].rstrip(":"): int(words[1]) * 1024 for words in lines if words[-1] == "kB"}


def sized(w, vm, size, *opts):
    """Until it is so: the driver of a guest that stood still for 5 s goes on trying, and so do we."""
    last = []

    def there():
        last[:] = [w.clone("balloon", vm, size, *opts, timeout=600)]
        check(last[0].code == 0 or "made no progress for 5 s" in last[0].err, last[0].err)
        return last[0].code == 0
    until(there, f"{vm}: {size} in its balloon")
    return last[0]


def balloon(w, vm, *args):
    opts = (*args, "-o", "json")
    done = sized(w, vm, *opts) if args and args[0][0].isdigit() else w.must("balloon", vm, *opts, timeout=600)
    return json.loads(done.out)


def fill(w, vm, name, mib):
    """A file in memory that is not all alike; its sum."""
    return w.sh(vm, f"dd if=/dev/urandom of=/run/m/{name} bs=1M count={mib} 2>/dev/null; md5sum < /run/m/{name}")


def progress(w, vm):
    w.sh(vm, "a=$(cat /run/count); until [ $(cat /run/count) -gt $a ]; do sleep 0.1; done")


def intact(w, vm, name, want):
    same(w.sh(vm, f"md5sum < /run/m/{name}"), want, f"{vm}: {name} in its memory")
    progress(w, vm)


def free(w, vm, name):
    w.sh(vm, f"rm /run/m/{name}")


def settled(w, vm):
    """What is private once the guest has nothing more to report."""
    last = [private(w, vm)]

    def still():
        time.sleep(4)  # twice the period in which Linux reports
        now = private(w, vm)
        ok = abs(now - last[0]) < 2 * MIB
        last[0] = now
        return ok

    until(still, f"{vm}: its memory gets no smaller")
    return last[0]


def no_oom(w, vm):
    same(w.sh(vm, "dmesg | grep -ciE 'out of memory|oom-kill'; true"), "0", f"{vm}: processes that its kernel killed")


def test_balloon__takes_memory_and_gives_it_back(w):
    for image, memory in (("bb", "256M"), ("debian", "512M")):
        vm = boot(w, f"take-{image}", image, memory)
        keep = fill(w, vm, "keep", 8)
        before = balloon(w, vm)
        same((before["driver"], before["target_bytes"], before["actual_bytes"]), (True, 0, 0), f"{image}: at first")
        fill(w, vm, "gone", 64)
        full = private(w, vm)
        free(w, vm, "gone")
        left = meminfo(w, vm)["MemAvailable"]
        after = balloon(w, vm, "64M")
        same((after["target_mib"], after["actual_mib"], after["actual_pages"]), (64, 64, 16384), f"{image}: after 64M")
        check(after["inflated_bytes"] >= 64 * MIB, f"{image}: given back by the balloon: {after}")
        same(after["given_back_bytes"], after["inflated_bytes"] + after["reported_bytes"], f"{image}: given back: {after}")
        same(after["kept_bytes"], before["kept_bytes"], f"{image}: what could not be given back")
        now = meminfo(w, vm)["MemAvailable"]
        check(now < left - 48 * MIB, f"{image}: the guest had {left} available, and has {now}")
        until(lambda v=vm, f=full: private(w, v) < f - 48 * MIB, f"{image}: the process has less than {full}")
        intact(w, vm, "keep", keep)
        text = w.must("balloon", vm).out
        check("in the balloon         64.0M\n" in text and "driver                 at work\n" in text, f"for people: {text}")
        sized(w, vm, "0")
        same(balloon(w, vm)["actual_bytes"], 0, f"{image}: after 0")
        now = meminfo(w, vm)["MemAvailable"]
        check(now > left - 24 * MIB, f"{image}: the guest had {left} available, and has {now} again")
        again = fill(w, vm, "again", 64)
        intact(w, vm, "again", again)
        intact(w, vm, "keep", keep)
        # without waiting: it gets there by itself
        w.must("balloon", vm, "32M", "--no-wait")
        until(lambda v=vm: balloon(w, v)["actual_mib"] == 32, f"{image}: 32 MiB in the balloon")
        no_oom(w, vm)
        w.drop(vm)


def test_balloon__what_cannot_be_is_said(w):
    vm = "cannot"
    w.must("run", "-d", "--no-wait", "--name", vm, "--image", "bb", "--memory", "128M")
    w.refused("balloon", vm, "16M", says="the guest of VM cannot has no driver for its balloon, or has not started it yet")
    boot_done = w.sh(vm, "hostname", "--wait", "300s")
    same(boot_done, vm, "hostname")
    w.refused("balloon", vm, "129M", says="amount_mib: 129 is more than the VM's memory, 128")
    # more than a guest can do without: it goes as far as it gets, and lives
    r = w.clone("balloon", vm, "128M", timeout=600)
    same(r.code, 1, f"exit of a balloon as large as RAM: {r.err}")
    check("and made no progress for 5 s: it needs the rest itself" in r.err, f"what is said: {r.err}")
    sized(w, vm, "0")
    same(w.sh(vm, "echo fine"), "fine", "the guest after it was squeezed")
    w.must("pause", vm)
    w.refused("balloon", vm, "16M", says="VM cannot is paused: its guest does nothing until it is resumed")
    w.refused("balloon", vm, "--hint", says="VM cannot is paused")
    check(balloon(w, vm)["driver"], "a paused VM shows its balloon")
    w.must("resume", vm)
    sized(w, vm, "16M")
    w.drop(vm)


def test_balloon__none_is_none(w):
    w.must("run", "-d", "--name", "bare", "--image", "bb", "--memory", "128M", "--balloon", "none")
    ids = "cat /sys/bus/virtio/devices/*/device"
    check("0x0005" not in w.sh("bare", ids).split(), "a guest has a balloon that nobody wanted")
    w.refused("balloon", "bare", says="VM bare has no balloon: .* make that anew")
    w.refused("balloon", "bare", "16M", says="VM bare has no balloon")
    check("balloon" not in w.inspect("bare"), "inspect has one")
    (kid,) = fork(w, "bare", "bare-kid")
    w.refused("balloon", kid, says="VM bare-kid has no balloon")
    w.must("template", "create", "barren", "--image", "bb", "--memory", "128M", "--balloon", "none", timeout=600)
    (other,) = fork(w, "barren", "barren-kid")
    w.refused("balloon", other, says="VM barren-kid has no balloon: it, or the template")
    w.refused("fork", "barren", "--balloon", "none", says="the devices of what it comes out of")
    w.drop("bare", kid, other)
    w.must("template", "rm", "barren")


def test_balloon__the_oom_killer_stays_quiet(w):
    vm = boot(w, "tight")
    keep = fill(w, vm, "keep", 8)
    total = meminfo(w, vm)["MemTotal"]
    sized(w, vm, "128M")
    left = meminfo(w, vm)["MemAvailable"]
    want = left // MIB + 48  # more than there is, and less than there was
    check(want * MIB < total - 40 * MIB, f"{want} MiB of {total} bytes: no test of this")
    w.sh(vm, f"dd if=/dev/zero of=/dev/null bs={want}M count=1 2>/dev/null", timeout=600)
    no_oom(w, vm)
    now = balloon(w, vm)
    check(now["actual_mib"] < 128 - 24, f"the balloon gave way by too little: {now}")
    same(now["target_mib"], 128, "what is wanted")
    same(now.get("oom_kill", 0), 0, "OOM kills, as the guest says")
    intact(w, vm, "keep", keep)
    sized(w, vm, "0")
    intact(w, vm, "keep", keep)
    w.drop(vm)


def test_balloon__what_a_guest_frees_comes_back_by_itself(w):
    for image, memory in (("bb", "256M"), ("debian", "512M")):
        vm = boot(w, f"frees-{image}", image, memory)
        keep = fill(w, vm, "keep", 8)
        before, reported = settled(w, vm), balloon(w, vm)["reported_bytes"]
        fill(w, vm, "big", 64)
        full = private(w, vm)
        check(full > before + 56 * MIB, f"{image}: 64 MiB written: from {before} to {full}")
        free(w, vm, "big")
        # (it may have read files meanwhile: that stays)
        until(lambda v=vm, f=full: private(w, v) < f - 48 * MIB, f"{image}: from {full} back to {before}")
        now = balloon(w, vm)
        check(now["reported_bytes"] > reported + 40 * MIB, f"{image}: {reported} reported before, now {now}")
        same((now["actual_bytes"], now["inflated_bytes"]), (0, 0), f"{image}: in the balloon, which nobody asked for")
        intact(w, vm, "keep", keep)
        # and through a pause in the midst of it
        fill(w, vm, "big", 64)
        full = private(w, vm)
        free(w, vm, "big")
        w.must("pause", vm)
        time.sleep(5)
        w.must("resume", vm)
        until(lambda v=vm, f=full: private(w, v) < f - 48 * MIB, f"{image}: from {full} back after a pause")
        intact(w, vm, "keep", keep)
        same(fill(w, vm, "big", 64), w.sh(vm, "md5sum < /run/m/big"), f"{image}: memory that came back")
        no_oom(w, vm)
        w.drop(vm)


def test_balloon__a_forks_pages_fall_back_to_the_templates(w):
    t = w.template("lean", memory="256M", warm=(COUNTER, "dd if=/dev/urandom of=/run/m/keep bs=1M count=8 2>/dev/null"))
    kids = fork(w, t, "lean-kid", 2)
    sums = {w.sh(kid, "md5sum < /run/m/keep") for kid in kids}
    same(len(sums), 1, f"the template's file in its forks: {sums}")
    keep = sums.pop()
    vm = kids[0]
    before = settled(w, vm)
    # most of its memory is free, and the template's guest has said so for all of them
    said = balloon(w, vm)["reported_bytes"]
    check(said < 64 * MIB, f"a fork that has done nothing had {said} bytes to report")
    fill(w, vm, "big", 48)
    full = private(w, vm)
    check(full > before + 40 * MIB, f"48 MiB written: from {before} to {full}")
    free(w, vm, "big")
    until(lambda: private(w, vm) < before + 14 * MIB, f"from {full} back to {before}")
    intact(w, vm, "keep", keep)
    # what is taken out of a fork is not copied on the way
    before = settled(w, vm)
    after = balloon(w, vm, "64M")
    same((after["actual_mib"], after["kept_bytes"]), (64, 0), f"in the balloon, and kept: {after}")
    check(private(w, vm) < before + 8 * MIB, f"inflating made private memory: {before}, then {private(w, vm)}")
    sized(w, vm, "0")
    big = fill(w, vm, "big", 48)
    intact(w, vm, "big", big)
    intact(w, vm, "keep", keep)
    # its sister and whoever comes later have what the template had
    intact(w, kids[1], "keep", keep)
    (late,) = fork(w, t, "lean-late")
    intact(w, late, "keep", keep)
    w.drop(*kids, late)


def test_balloon__is_saved_restored_and_forked_as_it_is(w):
    vm = boot(w, "kept")
    keep = fill(w, vm, "keep", 8)
    sized(w, vm, "64M")
    w.must("snapshot", vm, "b1", timeout=600)
    more = fill(w, vm, "more", 8)
    sized(w, vm, "80M")
    w.must("snapshot", vm, "b2", "--incremental", timeout=600)
    (kid,) = fork(w, vm, "kept-kid")
    (grandkid,) = fork(w, kid, "kept-grandkid")
    w.must("restore", "b1", "--name", "kept-1", timeout=600)
    w.must("restore", "b2", "--name", "kept-2", timeout=600)
    for one, mib in ((vm, 80), (kid, 80), (grandkid, 80), ("kept-1", 64), ("kept-2", 80)):
        now = balloon(w, one)
        same((now["driver"], now["target_mib"], now["actual_mib"]), (True, mib, mib), f"{one}: its balloon")
        if one != vm:
            same(now["inflated_bytes"], 0, f"{one}: given back since it began")
        intact(w, one, "keep", keep)
        if one != "kept-1":
            intact(w, one, "more", more)
    # each on its own: out and in again
    for one, mib in ((kid, 0), ("kept-1", 0), ("kept-2", 16), (grandkid, 96), (vm, 0)):
        same(balloon(w, one, f"{mib}M" if mib else "0")["actual_mib"], mib, f"{one}: its balloon, changed")
        if mib < 64:
            big = fill(w, one, "big", 40)
            intact(w, one, "big", big)
        intact(w, one, "keep", keep)
        no_oom(w, one)
    same(balloon(w, grandkid)["actual_mib"], 96, "of one whose relatives changed theirs")
    w.drop(vm, kid, grandkid, "kept-1", "kept-2")
    w.must("snapshot", "rm", "b2")
    w.must("snapshot", "rm", "b1")


def test_balloon__a_snapshot_while_it_changes_is_whole(w):
    vm = boot(w, "mid")
    keep = fill(w, vm, "keep", 8)
    for i, mib in enumerate((96, 0, 64)):
        w.must("balloon", vm, f"{mib}M" if mib else "0", "--no-wait")
        w.must("snapshot", vm, f"mid{i}", *(["--incremental"] if i else []), timeout=600)
        (kid,) = fork(w, vm, f"mid-kid{i}")
        w.must("restore", f"mid{i}", "--name", f"mid-back{i}", timeout=600)
        for one in (vm, kid, f"mid-back{i}"):
            # a driver that was at it goes on
            until(lambda o=one, m=mib: balloon(w, o)["actual_mib"] == m, f"{one}: {mib} MiB")
            intact(w, one, "keep", keep)
        w.drop(kid, f"mid-back{i}")
    w.drop(vm)
    for i in (2, 1, 0):
        w.must("snapshot", "rm", f"mid{i}")


def test_balloon__hints_come_to_an_end(w):
    vm = boot(w, "hints")
    keep = fill(w, vm, "keep", 8)
    last = 0
    for _ in range(2):
        now = balloon(w, vm, "--hint")
        check(not now["hinting"], f"it is still at it: {now}")
        check(now["hinted_bytes"] > last + 16 * MIB, f"free pages named: {now}, before {last}")
        last = now["hinted_bytes"]
        intact(w, vm, "keep", keep)
    # what it named is the guest's again
    big = fill(w, vm, "big", 64)
    intact(w, vm, "big", big)
    no_oom(w, vm)
    w.drop(vm)


# Until /run/m/quit is there: files of 1 MiB come, are checked against what they were made of, and go.
WRITER = ("(n=0; while [ ! -e /run/m/quit ]; do n=$((n+1)); f=/run/m/w$((n%6));"
          " dd if=/dev/urandom of=/run/m/one bs=64k count=16 2>/dev/null; want=$(md5sum < /run/m/one); cp /run/m/one $f;"
          " sync; [ \"$(md5sum < $f)\" = \"$want\" ] || echo $n >> /run/bad; echo $n > /run/rounds; rm -f /run/m/w$(((n+3)%6));"
          " done; touch /run/quit) </dev/null >/dev/null 2>&1 &")


def test_balloon__hints_give_back_what_is_free_and_nothing_that_is_written(w):
    vm = boot(w, "hint-back")
    keep = fill(w, vm, "keep", 8)
    # no report comes between the freeing and the round: only whole blocks of 4 MiB would be reported, and those are hinted first
    w.sh(vm, "f=/sys/module/page_reporting/parameters/page_reporting_order; [ ! -w $f ] || echo 10 > $f")
    fill(w, vm, "gone", 96)
    full = private(w, vm)
    free(w, vm, "gone")
    w.sh(vm, f"{WRITER} until [ -e /run/rounds ]; do sleep 0.1; done")
    before = balloon(w, vm)
    for i in range(3):
        now = balloon(w, vm, "--hint")
        check(not now["hinting"], f"round {i}: it is still at it: {now}")
        told, kept = (now[k] - before[k] for k in ("hinted_bytes", "kept_bytes"))
        check(told > 16 * MIB, f"round {i}: free pages named: {told}: {now}")
        check(kept < told // 2, f"round {i}: most of {told} was taken, and {kept} not")
        before = now
        w.sh(vm, "a=$(cat /run/rounds); until [ $(cat /run/rounds) -gt $((a+2)) ]; do sleep 0.1; done")
        intact(w, vm, "keep", keep)
    until(lambda: private(w, vm) < full - 64 * MIB, f"the process has less than {full}")
    # a fork's child has rounds of its own
    w.sh(vm, "touch /run/m/quit; until [ -e /run/quit ]; do sleep 0.1; done")
    w.sh(vm, "[ ! -e /run/bad ]")
    (kid,) = fork(w, vm, "hint-kid")
    for one in (vm, kid):
        check(not balloon(w, one, "--hint")["hinting"], f"{one}: a round after the fork")
        intact(w, one, "keep", keep)
        big = fill(w, one, "big", 64)
        intact(w, one, "big", big)
        no_oom(w, one)
    w.drop(vm, kid)


def test_balloon__statistics_are_the_guests_own(w):
    for image, memory in (("bb", "256M"), ("debian", "512M")):
        vm = boot(w, f"stats-{image}", image, memory)
        fill(w, vm, "some", 32)
        pairs = (("free_memory", "MemFree"), ("available_memory", "MemAvailable"), ("disk_caches", "Cached"))

        def as_it_is():  # a guest is not asked for each reader: what it said may be some seconds old
            said, really = balloon(w, vm), meminfo(w, vm)
            return all(abs(said[key] - really[name]) < 32 * MIB for key, name in pairs)
        until(as_it_is, f"{image}: statistics of its memory as it is")
        said, really = balloon(w, vm), meminfo(w, vm)
        same(said["total_memory"], really["MemTotal"], f"{image}: its memory")
        until(lambda v=vm: balloon(w, v)["stats_age_ms"] < 10000, f"{image}: it is asked anew")
        check(said["minor_faults"] > 0, f"{image}: {said}")
        same(w.inspect(vm)["balloon"]["total_memory"], really["MemTotal"], f"{image}: what inspect says")
        w.drop(vm)


def test_balloon__a_template_says_what_its_memory_is(w):
    t = w.template()
    info = json.loads(w.must("template", "inspect", t).out)
    m = info["memory"]
    same(m["size_bytes"], info["memory_bytes"], "size")
    same(m["stored_bytes"] + m["zero_bytes"], m["size_bytes"], "stored and zero, of one that stands on nothing")
    same(m["shared_bytes"], 0, "shared, of one that stands on nothing")
    check(m["zero_bytes"] > m["size_bytes"] // 3, f"free memory of an idle guest is not stored: {m}")
    check(m["stored_bytes"] >= m["resident_bytes"] >= 0, f"resident: {m}")
    w.must("template", "create", "lean-on", "--from", t, "--warm", "echo more > /run/more", timeout=600)
    on = json.loads(w.must("template", "inspect", "lean-on").out)["memory"]
    same(on["stored_bytes"] + on["zero_bytes"] + on["shared_bytes"], on["size_bytes"], "stored, zero and shared")
    check(on["stored_bytes"] < m["stored_bytes"] and on["shared_bytes"] > 0, f"a layer stores less: {on} on {m}")
    text = w.must("template", "inspect", "-o", "text", "lean-on").out
    check(f"stands on          template {t}\n" in text and "\n  shared " in text, f"for people: {text}")
    w.must("template", "rm", "lean-on")
