# SPDX-License-Identifier: MIT
"""The contract of doc/fork.md, a test per row: what a fork keeps of its parent's identity, what is renewed, what is refused.

One family of Debian guests is forked once and looked at once: "first" and "second" are forks of a template, "kid-1" and "kid-2"
live forks of the running "first". What guests say is compared; who is late is not."""
import base64
import json
import os
import socket
import time

from harness import ROOT, WAIT, check, same

GUEST = f"{ROOT}/tests/system/guest"

# Restarted in each fork; a count and a random number say how often and that it was no twin's.
RENEWED = """[Unit]
PartOf=clone-fork.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -c 'od -An -tx8 -N8 /dev/urandom >>/run/renewed'
[Install]
WantedBy=multi-user.target clone-fork.target
"""
CRON = """[Timer]
OnActiveSec=5s
OnUnitActiveSec=5s
AccuracySec=100ms
"""
CRON_JOB = """[Service]
Type=oneshot
ExecStart=/bin/sh -c 'n=$(cat /run/cron); echo $((n+1)) 1<>/run/cron'
"""
STRICT = """[Unit]
PartOf=clone-fork.target
[Service]
Type=oneshot
ExecStart=/bin/false
[Install]
RequiredBy=clone-fork.target
"""
HOOK = "#!/bin/sh\nenv | grep ^CLONE_ >/run/hook-env\n[ ! -e $CLONE_USERDATA ] || echo userdata >>/run/hooks\necho $0 >>/run/hooks\n"


def put(path, text, mode="644"):
    data = base64.b64encode(text.encode()).decode()
    return f"mkdir -p $(dirname {path}); echo {data} | base64 -d >{path}; chmod {mode} {path}"


def source(name):
    with open(f"{GUEST}/{name}", encoding="utf-8") as f:
        return f.read()


def warm():
    units = "/etc/systemd/system"
    return [
        "; ".join((put("/root/facts.py", source("facts.py")), put("/root/resident.py", source("resident.py")),
                   put(f"{units}/renewed.service", RENEWED), put(f"{units}/cron.timer", CRON), put(f"{units}/cron.service", CRON_JOB),
                   put("/etc/clone/fork.d/20-second", HOOK, "755"), put("/etc/clone/fork.d/10-first", HOOK, "755"),
                   put("/etc/clone/fork.d/30-not-executable", HOOK), put("/etc/clone/fork.d/.hidden", HOOK, "755"))),
        "echo 0 >/run/cron; systemctl daemon-reload; systemctl enable -q --now renewed; systemctl start cron.timer;"
        " systemd-run -q --unit=resident python3 /root/resident.py; while [ ! -S /run/resident.sock ]; do sleep 1; done",
        "echo template >/root/mark; echo template >/tmp/mark; echo stale >/run/clone/userdata; echo template | systemd-cat -t marker;"
        " systemctl is-system-running --wait; python3 /root/facts.py report >/root/then",
    ]


class Family:
    def __init__(self, w):
        t = w.template("ident", image="ident", memory="512M", warm=warm())
        self.w = w
        w.must("fork", t, "-n", "2", "--name", "f", "--timeout", "400s", timeout=600)
        self.dir = {vm: json.loads(w.must("inspect", vm).out)["directory"] for vm in ("f-1", "f-2")}
        then = json.loads(w.must("exec", "f-1", "--", "cat", "/root/then").out)
        self.facts = {"template": then, "first": self.look("f-1", "report", "scan", "fresh", ran=then["cron"]),
                      "second": self.look("f-2", "report", "fresh")}
        w.sh("f-2", put("/etc/systemd/system/strict.service", STRICT) + "; systemctl daemon-reload; systemctl enable -q strict")
        self.strict = w.clone("fork", "f-2", "--name", "never", "--timeout", "400s", timeout=600)
        self.after_strict = ("never" in w.names(), w.sh("f-2", "hostname"))
        w.drop("f-2")
        self.live()
        self.logs = {name: w.must("logs", vm).out.replace("\r", "").split("\n") for name, vm in
                     (("first", "f-1"), ("kid-1", "k-1"), ("kid-2", "k-2"))}
        w.drop("f-1", "k-1", "k-2")

    def look(self, vm, *verbs, ran=-1):
        """Once the timer's job has run more often than `ran`."""
        self.w.sh(vm, f"until [ $(cat /run/cron) -gt {ran} ]; do sleep 1; done")
        facts = json.loads(self.w.must("exec", vm, "--", "python3", "/root/facts.py", *verbs).out)
        nic = json.loads(self.w.must("inspect", vm).out)["networks"][0]
        facts["given"] = (nic["mac"], sorted(nic["address"][key].split("/")[0] for key in ("ipv4", "ipv6")))
        return facts

    def live(self):
        """Forks of "first" while its resident process talks to the host."""
        path = f"{self.w.run_dir}/vms/f-1/vsock.sock_5000"
        self.w.sh("f-1", "echo first >/root/mark; echo first >/tmp/mark; echo first | systemd-cat -t marker;"
                         " echo stale >/run/clone/userdata")
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path)
            os.chmod(path, 0o660)
            server.listen()
            server.settimeout(WAIT)
            self.facts["before"] = self.look("f-1", "call", "report")
            with server.accept()[0] as conn:
                conn.settimeout(WAIT)
                self.w.must("fork", "f-1", "-n", "2", "--name", "k", "--timeout", "400s", timeout=600)
                self.w.sh("f-1", "echo parent >/root/mark; echo parent >/tmp/mark")
                ran = self.facts["before"]["cron"]
                self.facts["kid-1"] = self.look("k-1", "report", "say", "scan", "fresh", ran=ran)
                self.facts["kid-2"] = self.look("k-2", "report", "say", "fresh", ran=ran)
                asked = time.time()
                self.facts["parent"] = self.look("f-1", "report", "say", "fresh", ran=ran)
                self.off = (asked, self.facts["parent"]["real"], time.time())
                self.heard = conn.recv(1)

    def of(self, key, *who):
        """The values of a key ("report.openssl": of the resident process) in those forks; in all four without a name."""
        values = [self.facts[name] for name in who or FORKS]
        for part in key.split("."):
            values = [v[part] for v in values]
        return values


FORKS = ("first", "second", "kid-1", "kid-2")


def family(w):
    return w.fixture("identity family", lambda: Family(w))


def kept(w, key, *who):
    """Equal in the template, its forks, theirs, and in the parent after that."""
    f = family(w)
    values = f.of(key, *(who or ("template", *FORKS, "parent")))
    same(len(set(map(str, values))), 1, f"different values of {key}, which forks keep: {values}")
    return values[0]


def renewed(w, key):
    """Different in each of the template and all forks; the parent of live forks keeps its own."""
    f = family(w)
    values = f.of(key, "template", *FORKS)
    same(len(set(map(str, values))), len(values), f"different values of {key}, which each fork has anew: {values}")
    same(f.of(key, "first"), f.of(key, "parent"), f"{key} of the parent before and after")
    return values


def test_identity__kernel_rng_is_renewed(w):
    f = family(w)
    who = ("template", "before", "parent", *FORKS)
    data = [d[i:i + 32] for d in f.of("getrandom", *who) for i in range(0, 8192, 32)]
    same(len(set(data)), len(who) * 256, "different blocks that commands drew")
    drawn = f.of("report.getrandom", *who)
    same(len(set(drawn)), len(who), f"different numbers that the process which ran through the forks drew: {drawn}")


def test_identity__uuids_are_new(w):
    f = family(w)
    ids = f.of("uuid", "template", "before", "parent", *FORKS)
    same(len(set(ids)), 7, f"different UUIDs of the kernel: {ids}")


def test_identity__openssl_of_a_new_process_is_its_own(w):
    f = family(w)
    same(len(set(f.of("fresh", *FORKS, "parent"))), 5, "different numbers of programs started in the forks")


def test_identity__generators_of_a_running_process_are_kept(w):
    """Nobody can reach into a process: who draws keys there is restarted (clone-fork.target). Python's generator shows it."""
    f = family(w)
    same(*f.of("report.own", "first", "second"), "the next number of a process in two forks of a template")
    same(f.of("report.own", "kid-1", "kid-2"), f.of("report.own", "parent", "parent"), "and in live forks, and their parent")


def test_identity__openssl_of_a_running_process_is_kept_too(w):
    f = family(w)
    same(*f.of("report.openssl", "first", "second"), "the next number of OpenSSL's generator in two forks of a template")
    same(f.of("report.openssl", "kid-1", "kid-2"), f.of("report.openssl", "parent", "parent"), "and in live forks, and their parent")


def test_identity__boot_id_is_kept(w):
    kept(w, "boot_id")


def test_identity__machine_id_is_new_for_systemd_and_dbus(w):
    same(family(w).of("dbus_id"), renewed(w, "machine_id")[1:], "D-Bus's machine-id")


def test_identity__hostname_is_the_forks_name(w):
    renewed(w, "hostname")
    f = family(w)
    for key in ("hostname", "etc_hostname", "report.hostname"):
        same(f.of(key), ["f-1", "f-2", "k-1", "k-2"], key)


def test_identity__mac_and_addresses_are_the_forks_own(w):
    same(kept(w, "links"), ["eth0", "lo"], "network interfaces")
    f = family(w)
    macs, addresses = f.of("mac"), f.of("addresses")  # the template's own may be given again: it lives no more
    for key, values in (("mac", macs), ("addresses", addresses)):
        same(len(set(map(str, values))), len(values), f"different values of {key} in the forks: {values}")
        same(f.of(key, "first"), f.of(key, "parent"), f"{key} of the parent before and after")
    same(list(zip(macs, addresses)), f.of("given"), "MACs and addresses in the forks, and as the host says")


def test_identity__vsock_connections_end_in_the_fork_alone(w):
    f = family(w)
    same((f.of("say", "parent"), f.heard), (["sent"], b"x"), "the parent's connection to the host")
    for said in f.of("say", "kid-1", "kid-2"):
        check(said in ("ENOTCONN", "EPIPE", "ECONNRESET"), f"a fork's end of its parent's connection: {said}")


def test_identity__vsock_path_is_in_a_directory_of_its_own(w):
    f = family(w)
    same([os.path.basename(d) for d in f.dir.values()], ["f-1", "f-2"], "directories")


def test_identity__connections_over_lo_are_kept(w):
    same(kept(w, "report.tcp"), True, "an echo over a TCP connection made in the template")


def test_identity__realtime_is_the_hosts(w):
    f = family(w)
    for name in ("second", "kid-2"):
        leap, = f.of("report.leap", name)
        check(leap > 1, f"{name}: real time was never set forward: it passed by {leap} s against the monotonic clock")
    reals = f.of("real", "template", "first", "second", "before", "kid-1", "kid-2", "parent")
    same(reals, sorted(reals), "real times in the order in which they were asked")
    check(f.off[0] - 5 < f.off[1] < f.off[2] + 5, f"the clock is not the host's: {f.off}")


def test_identity__monotonic_time_goes_on_and_leaves_out_the_wait(w):
    f = family(w)
    same(kept(w, "report.backward"), 0, "times that the monotonic clock went back")
    for name in ("first", "second"):
        (mono, then), (real, before) = f.of("mono", name, "template"), f.of("real", name, "template")
        leap, = f.of("report.leap", name)
        check(then < mono < then + (real - before) - leap + 10, f"{name}: {mono - then} s passed of {real - before} s")
    same(kept(w, "clocksource"), "kvm-clock", "clocksource")
    same(kept(w, "complaints"), [], "lines of the kernel's log")


def test_identity__timers_run_on(w):
    f = family(w)
    for key in ("report.ticks", "report.alarms"):
        then, = f.of(key, "template")
        check(all(n > then for n in f.of(key, "first", "second")), f"{key} stand still since the template's {then}: {f.of(key)}")
        then, = f.of(key, "before")
        check(all(n > then for n in f.of(key, "kid-1", "kid-2", "parent")), f"{key} stand still since {then}: {f.of(key)}")


def test_identity__jobs_of_a_timer_run_in_each_fork(w):
    f = family(w)
    for one, other in (("template", "first"), ("before", "kid-1"), ("before", "kid-2"), ("before", "parent")):
        (then,), (now,) = f.of("cron", one), f.of("cron", other)
        check(now > then, f"runs of a job every 5 s: {then} in {one}, {now} in {other}")


def test_identity__ssh_host_keys_are_new_and_served(w):
    renewed(w, "host_key")
    f = family(w)
    same(f.of("host_keys"), [["/etc/ssh/ssh_host_ed25519_key", "/etc/ssh/ssh_host_ed25519_key.pub"]] * 4, "kinds of keys")
    same(f.of("scan", "first", "kid-1"), f.of("host_key", "first", "kid-1"), "the keys that the server which ran on shows")


def test_identity__no_random_seed_is_left_to_share(w):
    same(kept(w, "seeds"), [], "files with a saved seed")


def test_identity__open_files_and_locks_are_kept(w):
    same(kept(w, "lock"), True, "the lock of a process that runs on")
    f = family(w)
    line = len("asked\n")
    same(f.of("report.log", "template", "first", "second"), [line, 2 * line, 2 * line], "offsets in its file")
    same(f.of("report.log", "before", "kid-1", "kid-2", "parent"), [3 * line, 4 * line, 4 * line, 4 * line], "and in live forks")


def test_identity__terminals_are_kept(w):
    same(kept(w, "report.tty"), True, "a line through a pseudo terminal")


def test_identity__console_is_the_forks_own(w):
    f = family(w)
    for name, vm in (("first", "f-1"), ("kid-1", "k-1"), ("kid-2", "k-2")):
        said = [line for line in f.logs[name] if line.startswith("console of ")]
        same(set(said), {f"console of {vm}"}, f"lines on the console of {vm}")


def test_identity__disks_are_the_parents_until_written(w):
    f = family(w)
    for key in ("mark", "tmp"):
        same(f.of(key, "first", "second"), ["template"] * 2, key)
        same(f.of(key, "kid-1", "kid-2", "parent"), ["first", "first", "parent"], f"{key} after the parent wrote again")


def test_identity__logs_go_on_from_the_parents(w):
    f = family(w)
    same(f.of("journal", "first", "second"), [["template"]] * 2, "journal of forks of the template")
    same(f.of("journal", "kid-1", "kid-2"), [["template", "first"]] * 2, "journal of live forks")


def test_identity__services_run_on_unless_they_ask_to_be_restarted(w):
    kept(w, "kept")
    f = family(w)
    same([len(r) for r in f.of("renewed", "template", "first", "second", "before", "kid-1", "kid-2", "parent")],
         [1, 2, 2, 2, 3, 3, 2], "starts of a unit of clone-fork.target")
    drawn = [r[-1] for r in f.of("renewed", "template", *FORKS)]
    same(len(set(drawn)), 5, f"different numbers that it drew: {drawn}")
    same(f.of("system"), ["running"] * 4, "systemctl is-system-running")


def test_identity__a_unit_that_is_required_and_fails_fails_the_fork(w):
    f = family(w)
    same((f.strict.code, f.after_strict), (1, (False, "f-2")), "exit, whether the fork is there, who its parent is")
    lines = f.strict.err.splitlines()
    check(len(lines) == 1 and "never" in lines[0] and "clone-fork.target" in lines[0], f"what it said: {lines}")


def test_identity__hooks_run_once_in_order_and_know_both_names(w):
    f = family(w)
    hooks = ["/etc/clone/fork.d/10-first", "/etc/clone/fork.d/20-second"]
    same(f.of("hooks"), [hooks, hooks, hooks * 2, hooks * 2], "hooks that ran in the forks, and in their parent before")
    same(f.of("hooks", "template", "parent"), [[], hooks], "hooks that ran in the template, and in the parent of live forks")
    for name, vm, parent in (("first", "f-1", "template"), ("kid-2", "k-2", "first")):
        me, old = f.facts[name], f.facts[parent]
        env = dict(me["hook"])
        same(len(env.pop("CLONE_GENERATION")), 32, "digits of the generation")
        same(env, {"CLONE_REASON": "fork", "CLONE_NAME": vm, "CLONE_HOSTNAME": vm, "CLONE_OLD_HOSTNAME": old["hostname"],
                   "CLONE_MACHINE_ID": me["machine_id"], "CLONE_OLD_MACHINE_ID": old["machine_id"],
                   "CLONE_USERDATA": "/run/clone/userdata"}, f"environment of the hooks of {vm}")


def test_identity__user_data_is_not_inherited(w):
    same(family(w).of("userdata"), [None] * 4, "user data")
