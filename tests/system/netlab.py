# SPDX-License-Identifier: MIT
"""The world outside of the host, for tests of networks: a network namespace behind a veth, with what guests go to (a
web server, DNS, a peer for streams, a cloud's metadata address), and what tests ask of the host."""
import json
import os
import re
import subprocess
import time

from harness import ROOT, Failed, check

NS = "clone-outside"
HOST4, OUT4 = "192.0.2.1", "192.0.2.2"
HOST6, OUT6 = "2001:db8::1", "2001:db8::2"
METADATA = "169.254.169.254"
PEER = f"{ROOT}/build/guest/netpeer"


def run(*argv, ok=True, **kw):
    done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=kw.pop("timeout", 120), **kw)
    if ok and done.returncode:
        raise Failed(f"{' '.join(argv)}: exit {done.returncode}: {done.stdout}{done.stderr}")
    return done


def inside(ns, *argv, **kw):
    return run("ip", "netns", "exec", ns, *argv, **kw)


class Outside:
    """Made once; everything in it ends with close()."""

    def __init__(self, base):
        self.base = f"{base}/outside"
        self.processes = []
        os.makedirs(f"{self.base}/www", exist_ok=True)
        with open(f"{self.base}/www/hello", "w", encoding="utf-8") as f:
            f.write("hello from outside\n")
        run("ip", "netns", "del", NS, ok=False)
        run("ip", "link", "del", "outside0", ok=False)
        run("ip", "netns", "add", NS)
        run("ip", "link", "add", "outside0", "type", "veth", "peer", "name", "up0", "netns", NS)
        for args in (f"addr add {HOST4}/24 dev outside0", f"-6 addr add {HOST6}/64 dev outside0 nodad",
                     "link set outside0 up", f"route add {METADATA}/32 via {OUT4}"):
            run("ip", *args.split())
        for args in ("link set lo up", "link set up0 up", f"addr add {OUT4}/24 dev up0",
                     f"-6 addr add {OUT6}/64 dev up0 nodad", f"addr add {METADATA}/32 dev lo"):
            inside(NS, "ip", *args.split())
        self.spawn("dnsmasq", "--no-daemon", "--no-resolv", "--no-hosts", "--port=53", f"--listen-address={OUT4}",
                   "--bind-interfaces", "--address=/answer.test/198.51.100.7", "--pid-file=")
        self.log = open(f"{self.base}/http.log", "w+", encoding="utf-8")
        self.spawn("python3", "-m", "http.server", "--directory", f"{self.base}/www", "80", stderr=self.log,
                   env=dict(os.environ, PYTHONUNBUFFERED="1"))
        self.spawn(PEER, "serve", "5000")
        deadline = time.monotonic() + 300
        while inside(NS, PEER, "rr", "127.0.0.1", "5000", "0.01", ok=False).returncode or \
                inside(NS, "curl", "-sf", f"http://{OUT4}/hello", ok=False).returncode:
            check(time.monotonic() < deadline, "the servers outside do not come up")
            time.sleep(0.2)

    def spawn(self, *argv, **kw):
        p = subprocess.Popen(["ip", "netns", "exec", NS, *argv], stdin=subprocess.DEVNULL,
                             stdout=kw.pop("stdout", subprocess.DEVNULL), stderr=kw.pop("stderr", subprocess.DEVNULL),
                             start_new_session=True, **kw)
        self.processes.append(p)
        return p

    def clients(self):
        """Who has asked the web server: addresses."""
        self.log.seek(0)
        return {line.split()[0] for line in self.log if "GET" in line}

    def close(self):
        for p in self.processes:
            try:
                os.killpg(p.pid, 9)
            except ProcessLookupError:
                pass
            p.wait()
        self.log.close()
        run("ip", "netns", "del", NS, ok=False)
        run("ip", "link", "del", "outside0", ok=False)


def outside(w):
    def make():
        o = Outside(w.base)
        w.cleanups.append(o.close)
        return o
    return w.fixture("outside", make)


def network(w, name="net", *options):
    """A network whose resolver is outside."""
    def make():
        w.must("network", "create", name, "--dns", OUT4, *options)
        return name
    outside(w)
    return w.fixture(f"network {name}", make)


def nic(w, vm, i=0):
    return json.loads(w.must("inspect", vm).out)["networks"][i]


def ip4(w, vm):
    return nic(w, vm)["address"]["ipv4"].split("/")[0]


def ip6(w, vm):
    return nic(w, vm)["address"]["ipv6"].split("/")[0]


def backend(w, vm):
    return w.inspect(vm)["stats"]["networks"][0]["backend"]


def give_peer(w, vm, serve=True):
    """The measuring program, in the guest's root directory, where nothing is mounted over it."""
    with open(PEER, "rb") as f:
        w.must("exec", "-i", vm, "--", "sh", "-c", "cat > /netpeer; chmod +x /netpeer", stdin=f.read())
    if serve:
        w.sh(vm, "(/netpeer serve 5000 </dev/null >/dev/null 2>&1 &)")
        until_peer(ip4(w, vm))


def until_peer(host, ns=None):
    args = ["ip", "netns", "exec", ns] if ns else []
    return json.loads(run(*args, PEER, "first", host, "5000", "120", timeout=150).stdout)


def peer(*args, ns=None):
    """Runs the measuring program on the host, or in a namespace; its answer."""
    out = run(*(["ip", "netns", "exec", ns] if ns else []), PEER, *args, ok=False).stdout
    return json.loads(out)


def pings(host, count=2, wait=120):
    """An answer that comes costs no waiting."""
    return run("ping", "-q", "-c", str(count), "-W", str(wait), "-i", "0.2", host, ok=False, timeout=wait + 60).returncode == 0


def host_state():
    """All that a network of ours could leave on the host."""
    def ask(*argv):
        return re.sub(r"expires \d+sec ", "", run(*argv).stdout)

    links = sorted(l["ifname"] for l in json.loads(ask("ip", "-j", "link")))
    sysctls = ask("sysctl", "net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding", "net.ipv6.conf.outside0.accept_ra")
    return {"links": links, "routes": ask("ip", "route"), "routes6": ask("ip", "-6", "route"), "neighbours":
            [n for n in ask("ip", "neigh").splitlines() if "PERMANENT" in n], "namespaces": ask("ip", "netns"),
            "rules": ask("nft", "list", "ruleset"), "sysctls": sysctls}
