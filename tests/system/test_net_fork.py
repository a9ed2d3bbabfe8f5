# SPDX-License-Identifier: MIT
"""NICs through forks, snapshots and restores: who a fork is on the network, what its parent notices, what becomes of
connections."""
import json
import os
import subprocess
import time

from harness import check, same, until
from netlab import (NS, OUT4, OUT6, PEER, backend, give_peer, inside, ip4, ip6, network, nic, outside, peer, pings, run,
                    until_peer)
from test_net import guest

FORKS = 100


DIG = "dig +short +time=60 +tries=3 answer.test"  # when it tries again it says so first


class Stream:
    """Numbers there and back, each checked, from outside to a guest's published port; what came of it at the end."""

    def __init__(self, host, port="5000", seconds=20, ns=None):
        args = ["ip", "netns", "exec", ns] if ns else []
        self.process = subprocess.Popen([*args, PEER, "hold", host, port, str(seconds)], stdout=subprocess.PIPE)

    def end(self):
        got = json.loads(self.process.communicate(timeout=300)[0])
        check("error" not in got and got["count"] > 20, f"the stream: {got}")
        return got


def test_net_fork__a_parents_streams_go_on_and_a_forks_end(w):
    """Into the parent and out of it. In a fork the program that had the connection sees an error, not silence."""
    outside(w)
    guest(w, "p1", "-p", "18100:5000", net=network(w))
    give_peer(w, "p1")
    for name, host in (("held", OUT4), ("lo", "127.0.0.1")):
        w.sh("p1", f"(/netpeer hold {host} 5000 36000 </dev/null >/root/{name} 2>&1 & echo $! >/root/{name}.pid)")
        until(lambda h=host: w.sh("p1", f"netstat -tn | grep -c '{h}:5000 .*ESTABLISHED' || true") != "0", f"the connection to {host}")
    into, published = Stream(ip4(w, "p1"), seconds=25), Stream("192.0.2.1", "18100", 25, NS)
    time.sleep(2)
    for i in range(5):
        w.must("fork", "p1", "--name", f"p1-{i}")
    for stream in (into, published):
        print(f"# a stream's longest silence, through 5 forks: {stream.end()['worst_ms']} ms")
    for i in range(5):
        kid = f"p1-{i}"
        until(lambda k=kid: w.sh(k, "cat /root/held"), f"the end of {kid}'s connection")
        check("error" in json.loads(w.sh(kid, "cat /root/held")), f"{kid}: {w.sh(kid, 'cat /root/held')}")
        same(w.sh(kid, "netstat -tn | grep -c 192.0.2.2:5000 || true"), "0", f"connections of {kid} to the outside")
    # what stays inside of the machine lives on, in all of them
    for vm in ("p1", "p1-0", "p1-4"):
        w.sh(vm, "kill $(cat /root/lo.pid)")
        until(lambda v=vm: w.sh(v, "cat /root/lo"), f"the end of {vm}'s own stream")
        check("error" not in json.loads(w.sh(vm, "cat /root/lo")), f"{vm} over lo: {w.sh(vm, 'cat /root/lo')}")
    w.sh("p1", "kill $(cat /root/held.pid)")
    until(lambda: w.sh("p1", "cat /root/held"), "the end of the parent's connection")
    held = json.loads(w.sh("p1", "cat /root/held"))
    check("error" not in held, f"the parent's connection to the outside: {held}")
    print(f"# the parent's own connection's longest silence: {held['worst_ms']} ms")
    w.drop("p1", *(f"p1-{i}" for i in range(5)))


def listening(sniffer):
    """It says other things before its filter is set."""
    while b"listening" not in (line := sniffer.stderr.readline()):
        check(line, "tcpdump ended")


def announced(path, mac, ip, ip6_addr):
    """Has the fork told its neighbours: gratuitous ARP and unsolicited neighbour advertisement."""
    text = run("tcpdump", "-e", "-n", "-r", path, ok=False).stdout
    arp = [l for l in text.splitlines() if mac in l and ("ARP" in l) and f"tell {ip}" in l and f"who-has {ip}" in l or
           (mac in l and f"Reply {ip} is-at {mac}" in l)]
    na = [l for l in text.splitlines() if mac in l and "neighbor advertisement" in l and ip6_addr in l]
    return bool(arp), bool(na)


def test_net_fork__a_fork_is_new_on_the_network_at_every_depth(w):
    network(w)
    guest(w, "f0")
    path = f"{w.base}/fork.pcap"
    sniffer = subprocess.Popen(["tcpdump", "-i", "any", "-n", "-U", "-w", path, "arp or icmp6"],
                               stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    listening(sniffer)
    seen = {}
    for depth in range(1, 4):
        w.must("fork", f"f{depth - 1}", "--name", f"f{depth}")
    for vm in ("f0", "f1", "f2", "f3"):
        n = nic(w, vm)
        seen[vm] = (n["mac"], ip4(w, vm), ip6(w, vm), n["tap"])
        same(w.sh(vm, "cat /sys/class/net/eth0/address"), n["mac"], f"the MAC in {vm}")
        addrs = [l.split()[3] for l in w.sh(vm, "ip -o addr show eth0 scope global").splitlines()]
        same(sorted(a.split("/")[0] for a in addrs if not a.startswith("fe80")), sorted([ip4(w, vm), ip6(w, vm)]),
             f"addresses in {vm}")
        check(pings(ip4(w, vm)) and pings(ip6(w, vm)), f"{vm} does not answer")
        w.sh(vm, f"ping -c 1 -W 120 {OUT4} && ping -c 1 -W 120 {OUT6}")
    same([len({v[i] for v in seen.values()}) for i in range(4)], [4] * 4, "different MACs, addresses and TAPs")
    for vm in ("f1", "f2", "f3"):
        until(lambda v=vm: announced(path, *seen[v][:3]) == (True, True), f"announcements of {vm} by ARP and IPv6")
    sniffer.terminate()
    sniffer.wait()
    w.drop("f0", "f1", "f2", "f3")


def test_net_fork__until_it_knows_who_it_is_nothing_leaves_it(w):
    """A fork that stands still, and one whose hook takes its time: no packet of the parent's identity."""
    network(w)
    guest(w, "h0")
    w.sh("h0", "mkdir -p /etc/clone/fork.d; printf '#!/bin/sh\\nsleep 4\\n' > /etc/clone/fork.d/slow; "
               "chmod +x /etc/clone/fork.d/slow")
    # talkers that never stop: one that begins anew each time, one on a connection
    give_peer(w, "h0", serve=False)
    w.sh("h0", f"(while true; do ping -c 1 -W 1 {OUT4}; done </dev/null >/dev/null 2>&1 &)")
    w.sh("h0", f"(/netpeer hold {OUT4} 5000 60 </dev/null >/dev/null 2>&1 &)")
    path = f"{w.base}/talk.pcap"
    sniffer = subprocess.Popen(["tcpdump", "-i", "any", "-n", "-U", "-w", path, "icmp or tcp port 5000"],
                               stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    listening(sniffer)
    w.must("fork", "h0", "--name", "h1")
    until(lambda: run("tcpdump", "-n", "-r", path, "host", ip4(w, "h1"), ok=False).stdout, "a packet of the fork")
    sniffer.terminate()
    sniffer.wait()
    tap, mine = nic(w, "h1")["tap"], ip4(w, "h0")
    lines = run("tcpdump", "-n", "-r", path, ok=False).stdout.splitlines()

    def sent_by(ip):  # with a port behind it, or none
        return [l for l in lines if tap in l.split() and (f"IP {ip}." in l or f"IP {ip} >" in l)]
    check(sent_by(ip4(w, "h1")), f"none of the fork's own packets is seen on {tap}: {lines[-3:]}")
    same(sent_by(mine), [], "packets on the fork's TAP with the parent's address")
    w.drop("h0", "h1")


def test_net_fork__a_hundred_on_one_network_are_distinct_and_answer(w):
    network(w)
    w.must("template", "create", "crowd", "--image", "bb", "--memory", "80M", "--network", "net", timeout=600)
    w.must("fork", "crowd", "-n", str(FORKS), "--name", "crowd", "--timeout", "600s", timeout=900)
    vms = [v for v in w.names() if v.startswith("crowd-")]
    same(len(vms), FORKS, "forks")
    where = {v: (nic(w, v)["mac"], ip4(w, v), ip6(w, v), nic(w, v)["tap"]) for v in vms}
    same([len({x[i] for x in where.values()}) for i in range(4)], [FORKS] * 4, "MACs, addresses, TAPs")
    pending = {v: subprocess.Popen(["ping", "-q", "-c", "1", "-w", "120", where[v][1]], stdout=subprocess.DEVNULL)
               for v in vms}
    lost = [v for v, p in pending.items() if p.wait(180)]
    same(lost, [], "forks that do not answer")
    for v in vms[::20]:
        same(w.sh(v, "ip -4 -o addr show eth0").split()[3].split("/")[0], where[v][1], f"the address in {v}")
        w.sh(v, f"ping -c 1 -W 120 {OUT4}")
    w.must("rm", "-f", *vms, timeout=600)
    w.must("template", "rm", "crowd")


def test_net_fork__a_snapshot_under_traffic_and_what_is_restored(w):
    network(w)
    guest(w, "s0", net="net,rx=8M,tx=8M")
    guest(w, "s1")
    for vm in ("s0", "s1"):
        give_peer(w, vm)
        stream = Stream(ip4(w, vm), seconds=12)
        w.must("snapshot", "create", vm, f"snap-{vm}", timeout=300)
        w.must("restore", f"snap-{vm}", "--name", f"{vm}-again", timeout=300)
        stream.end()
        check(ip4(w, f"{vm}-again") != ip4(w, vm), "the restored machine has the address of the one that lives")
        until_peer(ip4(w, f"{vm}-again"))
        check("error" not in peer("hold", ip4(w, f"{vm}-again"), "5000", "1"), "the restored machine")
        check("error" not in peer("hold", ip4(w, vm), "5000", "1"), "the machine that was saved")
    same((backend(w, "s0-again"), backend(w, "s1-again")), ("user", "vhost"), "who moves the restored ones' packets")
    # its place is free: it gets it again
    w.drop("s1", "s1-again")
    w.must("restore", "snap-s1", "--name", "s1", timeout=300)
    w.sh("s1", f"ping -c 1 -W 120 {OUT4}")
    # and on no network it has a NIC that is not connected
    w.must("restore", "snap-s1", "--name", "s2", "--network", "none", timeout=300)
    until(lambda: w.sh("s2", "cat /sys/class/net/eth0/carrier") == "0", "no carrier for a NIC on no network")
    w.drop("s0", "s0-again", "s1", "s2")
    for vm in ("s0", "s1"):
        w.must("snapshot", "rm", f"snap-{vm}")


def test_net_fork__a_dhcp_client_that_runs_moves_to_its_forks_address(w):
    network(w)
    guest(w, "y0")
    w.sh("y0", "ip addr flush dev eth0; udhcpc -i eth0 -n -t 60 -p /run/udhcpc.pid")
    w.must("fork", "y0", "--name", "y1")
    # without what the agent gave it only DHCP can help it; its client renews what its parent had
    w.sh("y1", "ip -4 addr flush dev eth0; kill -USR1 $(cat /run/udhcpc.pid)")
    until(lambda: ip4(w, "y1") in w.sh("y1", "ip -4 -o addr show eth0") and "default" in w.sh("y1", "ip -4 route"),
          "the fork's address and route, by DHCP")
    check(ip4(w, "y0") not in w.sh("y1", "ip -4 -o addr show eth0"), "the fork has its parent's address")
    w.sh("y1", f"ping -c 2 -W 120 {OUT4}")
    w.sh("y0", f"kill -USR1 $(cat /run/udhcpc.pid); sleep 2; ping -c 2 -W 120 {OUT4}")
    w.drop("y0", "y1")


def test_net_fork__debian_with_iperf3_curl_and_dig(w):
    """Real userland: iperf3 through live forks of the server and of the client, systemd's own view of the network."""
    outside(w)
    network(w)
    w.must("run", "-d", "--name", "deb", "--image", "fio", "--memory", "512M", "--network", "net", timeout=600)
    w.sh("deb", "iperf3 -s -D")
    until(lambda: w.sh("deb", "ss -Hltn 'sport = :5201'"), "iperf3 listening")
    same(w.sh("deb", DIG).splitlines()[-1], "198.51.100.7", "dig")
    same(w.sh("deb", f"curl -s http://{OUT4}/hello"), "hello from outside", "curl")
    for reverse in ([], ["-R"]):
        client = subprocess.Popen(["iperf3", "-c", ip4(w, "deb"), "-t", "12", "-J", *reverse], stdout=subprocess.PIPE)
        time.sleep(2)
        for i in range(3):
            w.must("fork", "deb", "--name", f"deb-{i}", timeout=300)
        result = json.loads(client.communicate(timeout=300)[0])
        check("error" not in result, f"iperf3 through forks: {result.get('error')}")
        check(result["end"]["sum_received"]["bytes"] > 0, "iperf3 moved nothing")
        for i in range(3):
            kid = f"deb-{i}"
            same(w.sh(kid, DIG).splitlines()[-1], "198.51.100.7", f"dig in {kid}")
            same(w.sh(kid, f"curl -s http://{OUT4}/hello"), "hello from outside", f"curl in {kid}")
            check(pings(ip4(w, kid)), f"{kid} does not answer")
            out = w.sh(kid, "cat /sys/class/net/eth0/address")
            same(out, nic(w, kid)["mac"], f"MAC of {kid}")
        w.drop(*(f"deb-{i}" for i in range(3)))
    w.drop("deb")


def test_net_fork__one_that_stands_still_is_connected_when_it_knows_who_it_is(w):
    network(w)
    guest(w, "z0")
    w.must("fork", "z0", "--name", "z1", "--paused")
    check(not pings(ip4(w, "z1"), 1, 10), "a machine that stands still answers")
    w.must("resume", "z1")
    until(lambda: pings(ip4(w, "z1"), 1, 10), "an answer of the fork")
    same(w.sh("z1", "cat /sys/class/net/eth0/address"), nic(w, "z1")["mac"], "its MAC")
    w.must("fork", "z0", "--name", "z2", "--no-wait", "-p", "18300:80", "--ip", ip4(w, "z0").rsplit(".", 1)[0] + ".200")
    until(lambda: pings(ip4(w, "z2"), 1, 10), "an answer of the fork that nobody waited for")
    w.sh("z2", "mkdir -p /www && echo z2 > /www/index.html && httpd -p 80 -h /www")
    same(inside(NS, "curl", "-s", "-m", "300", "http://192.0.2.1:18300/").stdout, "z2\n", "its published port")
    w.must("fork", "z0", "--name", "z3", "--network", "none")
    until(lambda: w.sh("z3", "cat /sys/class/net/eth0/carrier") == "0", "no carrier for a fork on no network")
    w.must("network", "create", "other", "--dns", OUT4)
    w.must("fork", "z0", "--name", "z4", "--network", "other")
    w.sh("z4", f"ping -c 2 -W 120 {OUT4}")
    check(pings(ip4(w, "z4")), "a fork on another network does not answer")
    w.drop("z0", "z1", "z2", "z3", "z4")
    w.must("network", "rm", "other")
