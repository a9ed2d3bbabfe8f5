# SPDX-License-Identifier: MIT
"""Networks: what guests reach and what they do not, what a host is left with, and what it is told when something is
wrong. How NICs go through forks is in test_net_fork.py."""
import json
import os
import socket
import subprocess

from harness import Failed, check, kill_pid, same, until
from netlab import (HOST4, METADATA, NS, OUT4, OUT6, backend, give_peer, host_state, inside, ip4, ip6, network, nic,
                    outside, peer, pings, run)


def guest(w, name, *options, net="net"):
    w.must("run", "-d", "--name", name, "--image", "bb", "--memory", "128M", "--network", net, *options)
    return name


def fails(w, vm, script):
    """The script does not succeed in the guest (and it is not the guest that does not answer)."""
    said = w.sh(vm, f"if {script} >/dev/null 2>&1; then echo yes; else echo no; fi")
    same(said.splitlines()[-1], "no", f"success of {script!r}")


def test_net__a_guest_reaches_the_outside_and_is_seen_as_the_host(w):
    out = outside(w)
    guest(w, "n1", net=network(w))
    same(backend(w, "n1"), "vhost", "who moves the packets")
    same(w.sh("n1", f"wget -q -O - http://{OUT4}/hello"), "hello from outside", "a page")
    check(HOST4 in out.clients() and out.clients() <= {HOST4, OUT4}, f"the web server saw {out.clients()}")
    w.sh("n1", f"ping -c 2 -W 120 {OUT4} && ping -c 2 -W 120 {OUT6}")
    # it asks for an IPv6 address, too, which there is not
    until(lambda: "198.51.100.7" in w.sh("n1", "nslookup answer.test; true").split(), "a name resolved")
    w.drop("n1")


def test_net__a_guest_reaches_neither_host_nor_guests_nor_metadata(w):
    guest(w, "n2", net=network(w))
    guest(w, "n3", net="net")
    with socket.socket() as s:
        s.bind(("0.0.0.0", 0))
        s.listen()
        port = s.getsockname()[1]
        for host in (HOST4, nic(w, "n2")["address"]["gateway4"]):
            fails(w, "n2", f"nc -w 3 {host} {port} -e /bin/true")
        fails(w, "n2", f"ping -c 1 -W 3 {HOST4}")
        fails(w, "n2", f"ping -c 1 -W 3 {ip4(w, 'n3')}")
        fails(w, "n2", f"ping -c 1 -W 3 {ip6(w, 'n3')}")
        fails(w, "n2", f"wget -T 3 -q -O - http://{METADATA}/hello")
        # the host itself reaches all of that, so it is there
        same(run("curl", "-sf", f"http://{METADATA}/hello").stdout, "hello from outside\n", "metadata, from the host")
        check(pings(ip4(w, "n3")) and pings(ip6(w, "n3")), "the host does not reach a guest")
        # allowed, it is reached
        network(w, "open", "--allow", "peers,host,metadata")
        guest(w, "n4", net="open")
        guest(w, "n5", net="open")
        w.sh("n4", f"ping -c 2 -W 120 {ip4(w, 'n5')} && ping -c 2 -W 120 {ip6(w, 'n5')}")
        w.sh("n4", f"nc -w 120 {HOST4} {port} -e /bin/true")
        same(w.sh("n4", f"wget -q -O - http://{METADATA}/hello"), "hello from outside", "metadata, allowed")
        fails(w, "n4", f"ping -c 1 -W 3 {ip4(w, 'n3')}")  # of another network
    w.drop("n2", "n3", "n4", "n5")


def test_net__a_forged_address_gets_nowhere(w):
    guest(w, "n6", net=network(w))
    mine, gateway = ip4(w, "n6"), nic(w, "n6")["address"]["gateway4"]

    def neighbours():
        """All but the guest's own link-local address, which its router solicitations tell when they come; and whose MACs there are."""
        lines = run("ip", "neigh", "show", "dev", nic(w, "n6")["tap"]).stdout.splitlines()
        return [l for l in lines if not l.startswith("fe80")], {l.split()[2] for l in lines if l.split()[1:2] == ["lladdr"]}

    before = neighbours()
    w.sh("n6", f"ping -c 1 -W 120 {OUT4}")
    forged = mine.rsplit(".", 1)[0] + ".201"
    w.sh("n6", f"ip addr add {forged}/20 dev eth0")
    fails(w, "n6", f"ping -c 2 -W 2 -I {forged} {OUT4}")
    # ARP that says somebody else is here, or that the guest is at another MAC
    w.sh("n6", f"arping -q -U -c 2 -I eth0 {gateway}; arping -q -U -c 2 -I eth0 {forged}; true")
    w.sh("n6", f"ip addr del {forged}/20 dev eth0; ip link set eth0 address 02:de:ad:be:ef:01")
    fails(w, "n6", f"ping -c 2 -W 2 {OUT4}")
    same(neighbours(), before, "the host's neighbours")
    dropped = json.loads(run("nft", "-j", "list", "counter", "inet", "clone", "spoofed").stdout)
    check(dropped["nftables"][1]["counter"]["packets"] >= 4, f"counted: {dropped}")
    w.sh("n6", f"ip link set eth0 address {nic(w, 'n6')['mac']}; ping -c 2 -W 120 {OUT4}")
    w.drop("n6")


def test_net__published_ports_lead_to_their_guest_only(w):
    network(w)
    guest(w, "n7", "-p", "18080:80", "-p", "15353:53/udp")
    w.sh("n7", "mkdir -p /www && echo published > /www/index.html && httpd -p 80 -h /www")
    for host, ns in ((HOST4, NS), (HOST4, None), ("127.0.0.1", None)):
        got = (inside(NS, "curl", "-s", "-m", "300", f"http://{host}:18080/") if ns else
               run("curl", "-s", "-m", "300", f"http://{host}:18080/")).stdout
        same(got, "published\n", f"the page by {host} from {ns or 'the host'}")
    # the guest's own port is not open to the outside
    inside(NS, "ip", "route", "replace", f"{ip4(w, 'n7')}/32", "via", HOST4)
    check(inside(NS, "curl", "-s", "-m", "3", f"http://{ip4(w, 'n7')}/", ok=False).returncode != 0,
          "the outside reaches a guest past its published port")
    before = sorted(w.names())
    w.refused("run", "-d", "--image", "bb", "--memory", "128M", "--network", "net", "-p", "18080:80", says="18080.*n7")
    with socket.socket() as s:
        s.bind(("0.0.0.0", 18081))
        w.refused("run", "-d", "--image", "bb", "--memory", "128M", "--network", "net", "-p", "18081:80",
                  says="18081.*(taken|in use)")
        same(sorted(w.names()), before, "VMs")
    w.drop("n7")
    check(run("curl", "-s", "-m", "3", f"http://{HOST4}:18080/", ok=False).returncode != 0, "a dead VM's port answers")
    guest(w, "n7", "-p", "18080:81")
    w.drop("n7")


def test_net__a_dhcp_client_gets_the_address_that_the_host_expects(w):
    guest(w, "n8", net=network(w))
    w.sh("n8", "ip addr flush dev eth0; ip route flush dev eth0; true")
    fails(w, "n8", f"ping -c 1 -W 2 {OUT4}")
    w.sh("n8", "udhcpc -i eth0 -n -q -f -t 60")
    check(f"inet {ip4(w, 'n8')}/" in w.sh("n8", "ip addr show eth0"), "DHCP gave another address")
    w.sh("n8", f"ping -c 2 -W 120 {OUT4}")
    # one that asks for another one is told no, and takes what is its own
    w.sh("n8", "ip addr flush dev eth0; udhcpc -i eth0 -n -q -f -t 60 -r 10.77.0.250")
    check(f"inet {ip4(w, 'n8')}/" in w.sh("n8", "ip addr show eth0"), "DHCP gave what was asked for")
    w.drop("n8")


def test_net__a_bridges_own_dhcp_serves_its_guests(w):
    lan = "clone-lan"
    run("ip", "netns", "add", lan)
    server = None
    try:
        for args in (f"link add lan0 type bridge", f"link add lan1 type veth peer name l0 netns {lan}",
                     "link set lan1 master lan0", "link set lan1 up", "link set lan0 up"):
            run("ip", *args.split())
        for args in ("link set l0 up", "link set lo up", "addr add 198.18.0.1/24 dev l0"):
            inside(lan, "ip", *args.split())
        server = subprocess.Popen(["ip", "netns", "exec", lan, "dnsmasq", "--no-daemon", "--no-resolv", "--port=0",
                                   "--dhcp-range=198.18.0.50,198.18.0.99,1h", "--interface=l0", "--pid-file=",
                                   f"--dhcp-leasefile={w.base}/leases"], stdout=subprocess.DEVNULL,
                                  stderr=subprocess.DEVNULL)
        w.refused("network", "create", "lan", "--mode", "bridge", "--bridge", "nolan0", says="nolan0")
        w.must("network", "create", "lan", "--mode", "bridge", "--bridge", "lan0")
        guest(w, "b1", net="lan")
        guest(w, "b2", net="lan")
        for vm in ("b1", "b2"):
            w.sh(vm, "udhcpc -i eth0 -n -q -f -t 60 && ping -c 2 -W 120 198.18.0.1")
        addr = w.sh("b2", "ip -4 -o addr show eth0").split()[3].split("/")[0]
        fails(w, "b1", f"ping -c 2 -W 2 {addr}")  # ports are isolated
        w.sh("b1", "ip link set eth0 address 02:de:ad:be:ef:02")
        fails(w, "b1", "ping -c 2 -W 2 198.18.0.1")
        # a fork has a MAC of its own there, and the LAN's server gives it an address of its own
        w.must("fork", "b2", "--name", "b3")
        w.sh("b3", "udhcpc -i eth0 -n -q -f -t 60 && ping -c 2 -W 120 198.18.0.1")
        other = w.sh("b3", "ip -4 -o addr show eth0").split()[3].split("/")[0]
        check(other != addr, f"both are {addr}")
        w.drop("b1", "b2", "b3")
        w.must("network", "rm", "lan")
    finally:
        if server:
            server.kill()
            server.wait()
        run("ip", "netns", "del", lan, ok=False)
        run("ip", "link", "del", "lan0", ok=False)


def test_net__an_isolated_network_leads_nowhere_but_from_the_host(w):
    outside(w)
    w.must("network", "create", "alone", "--mode", "isolated")
    guest(w, "i1", "-p", "18082:80", net="alone")
    w.sh("i1", "mkdir -p /www && echo alone > /www/index.html && httpd -p 80 -h /www")
    fails(w, "i1", f"ping -c 1 -W 3 {OUT4}")
    check(pings(ip4(w, "i1")), "the host does not reach it")
    same(inside(NS, "curl", "-s", "-m", "300", f"http://{HOST4}:18082/").stdout, "alone\n", "its published port")
    w.drop("i1")
    w.must("network", "rm", "alone")


def test_net__without_vhost_the_process_moves_the_packets(w):
    network(w)
    os.rename("/dev/vhost-net", "/dev/vhost-net.away")
    try:
        guest(w, "u1")
        same(backend(w, "u1"), "user", "who moves the packets")
        give_peer(w, "u1")
        for mode, more in (("send", ["2"]), ("recv", ["2"]), ("rr", [])):
            got = peer(mode, ip4(w, "u1"), "5000", "1", *more)
            check("error" not in got, f"{mode}: {got}")
        w.must("fork", "u1", "--name", "u2")
        same(backend(w, "u2"), "user", "who moves the fork's packets")
    finally:
        os.rename("/dev/vhost-net.away", "/dev/vhost-net")
    check("error" not in peer("hold", ip4(w, "u2"), "5000", "1"), "the fork does not answer")
    w.must("fork", "u1", "--name", "u3")
    same(backend(w, "u3"), "vhost", "who moves the packets of a fork that has vhost")
    check("error" not in peer("hold", ip4(w, "u3"), "5000", "1"), "the fork with vhost does not answer")
    w.drop("u1", "u2", "u3")


def test_net__limits_hold_both_ways_and_through_a_fork(w):
    network(w)
    guest(w, "l1", net="net,rx=2M,tx=1M")
    same(backend(w, "l1"), "user", "who moves the packets of a limited NIC")
    give_peer(w, "l1")
    w.must("fork", "l1", "--name", "l2")
    for vm in ("l1", "l2"):
        for mode, most in (("send", 2 << 20), ("recv", 1 << 20)):
            def moved(vm=vm, mode=mode, most=most):
                got = peer(mode, ip4(w, vm), "5000", "3", "1")
                # a bucket may be given at once, and headers count
                check("error" not in got and got["bytes"] <= most * (got["seconds"] + 1.5), f"{vm} {mode}: {got}")
                return got["bytes"] > most / 4
            until(moved, f"{vm} {mode}: more than nearly nothing gets through")
    w.drop("l1", "l2")


def test_net__several_queues_carry_packets_and_fork(w):
    network(w)
    guest(w, "q1", "--cpus", "2", net="net,queues=2")
    same(w.sh("q1", "ls -d /sys/class/net/eth0/queues/rx-*").split()[-1].rsplit("-", 1)[1], "1", "the last queue")
    give_peer(w, "q1")
    for mode in ("send", "recv"):
        check("error" not in peer(mode, ip4(w, "q1"), "5000", "1", "4"), f"{mode} over four streams")
    w.must("fork", "q1", "--name", "q2")
    for vm in ("q1", "q2"):
        check("error" not in peer("recv", ip4(w, vm), "5000", "1", "4"), f"{vm} after the fork")
    w.drop("q1", "q2")


def test_net__nothing_is_left_whatever_ends(w):
    network(w)
    w.must("rm", "-f", "--all")
    w.must("ls")
    w.close_seeds()
    until(lambda: w.must("ls") and "clone" not in run("nft", "list", "tables").stdout, "the end of the last seed")
    before = host_state()
    check(not [l for l in before["links"] if l.startswith("clone-") and l != NS], f"links: {before['links']}")
    template = "leave"
    w.must("template", "create", template, "--image", "bb", "--memory", "128M", "--network", "net", timeout=600)
    guest(w, "c1", "-p", "18090:80")
    w.must("fork", "c1", "--name", "c2")
    w.must("fork", template, "-n", "4", "--name", "c3", "--timeout", "300s")
    check(any(l.startswith("clone-") for l in host_state()["links"]), "no TAP, though VMs run")
    for vm in ("c1", "c3-1", "c3-2"):
        kill_pid(w.pid(vm))
    w.must("stop", "c2")
    w.must("kill", "c3-3")
    w.must("rm", "-f", "c3-4")
    # a foreground VM, and one whose start fails half-way
    w.must("fork", template, "--rm", "--", "true")
    w.refused("run", "-d", "--image", "bb", "--memory", "128M", "--network", "net", "--kernel", "/nonexistent",
              says="image and --kernel")
    w.refused("run", "-d", "--kernel", "/etc/passwd", "--memory", "128M", "--network", "net", says="kernel|bzImage|ELF")
    w.close_seeds()
    w.must("rm", "--all")
    until(lambda: w.must("ls") and host_state() == before, f"the host as it was: {before}, now {host_state()}")
    w.must("template", "rm", template)


def test_net__a_second_manager_of_the_host_is_not_disturbed(w):
    network(w)
    docker = """
table ip filter {
  chain FORWARD { type filter hook forward priority filter; policy drop; jump DOCKER-USER; }
  chain DOCKER-USER { return; }
}
table ip nat { chain POSTROUTING { type nat hook postrouting priority srcnat; ip saddr 172.17.0.0/16 oifname != "docker0" masquerade; }; }
table inet mine { chain in { type filter hook input priority filter; policy accept; tcp dport 9 drop; }; }
"""
    run("nft", "-f", "-", input=docker)
    try:
        ours = ("inet clone", "bridge clone")

        def theirs():
            """All tables but ours; without what DOCKER-USER holds, which is there for others."""
            tables = [t.removeprefix("table ") for t in run("nft", "list", "tables").stdout.splitlines()]
            text = "".join(run("nft", "list", "table", *t.split()).stdout for t in tables if t not in ours)
            return "\n".join(l for l in text.splitlines() if "clone" not in l)

        before = theirs()
        guest(w, "d1")
        w.sh("d1", f"ping -c 2 -W 120 {OUT4}")  # although their policy is to drop
        same(theirs(), before, "their tables, with a VM")
        w.drop("d1")
        w.close_seeds()
        until(lambda: w.must("ls") and "clone" not in run("nft", "list", "ruleset").stdout.replace("clone-", ""),
              "the end of our rules, when the seeds have died")
        same(theirs(), before, "their tables, afterwards")
    finally:
        for t in ("ip filter", "ip nat", "inet mine"):
            run("nft", "delete", "table", *t.split())


def test_net__what_cannot_be_is_said_and_nothing_is_made(w):
    network(w)
    names = w.must("network", "ls", "-q").out
    mine = json.loads(w.must("network", "inspect", "net", "-o", "json").out)
    subnet = mine["subnet4"]
    w.refused("network", "create", "x", "--subnet", subnet, says="overlap|used by")
    w.refused("network", "create", "x", "--subnet", "192.0.2.128/25", says="192.0.2")
    w.refused("network", "create", "x", "--subnet", "10.0.0.1", says="subnet")
    w.refused("network", "create", "x", "--mode", "bridge", says="bridge")
    w.refused("network", "create", "x", "--dns", "example.org", says="dns|resolver")
    w.refused("network", "create", "net", says="net.*(already|exists)")
    w.refused("network", "rm", "nosuch", says="nosuch")
    same(w.must("network", "ls", "-q").out, names, "networks")
    before = len(w.names())
    w.must("network", "create", "tiny", "--subnet", "10.99.0.0/29", "--dns", OUT4)
    for i in range(5):
        w.must("run", "-d", "--no-wait", "--name", f"t{i}", "--image", "bb", "--memory", "80M", "--network", "tiny")
    w.refused("run", "-d", "--image", "bb", "--memory", "80M", "--network", "tiny", says="all 5 addresses are in use")
    w.refused("network", "rm", "tiny", says="t[0-4]")
    w.refused("run", "-d", "--image", "bb", "--network", "tiny", "--ip", "10.99.0.3", says="10.99.0.3 is taken by VM t")
    w.refused("run", "-d", "--image", "bb", "--network", "net", "--ip", "10.1.2.3", says="10.1.2.3.*" + subnet)
    w.refused("run", "-d", "--image", "bb", "--network", "none", "-p", "1:1", says="need a network")
    w.refused("run", "-d", "--image", "bb", "--network", "nosuch", says="nosuch")
    same(len(w.names()), before + 5, "VMs")
    w.drop(*(f"t{i}" for i in range(5)))
    w.must("network", "rm", "tiny")
    # an address and a MAC of the user's choice
    guest(w, "own", "--ip", subnet.rsplit(".", 1)[0] + ".77", "--mac", "02:aa:bb:cc:dd:ee")
    same((ip4(w, "own").rsplit(".", 1)[1], nic(w, "own")["mac"]), ("77", "02:aa:bb:cc:dd:ee"), "what was asked for")
    w.sh("own", f"ping -c 2 -W 120 {OUT4}")
    w.drop("own")
    # nobody who may not
    done = subprocess.run(["setpriv", "--bounding-set", "-net_admin", "--inh-caps", "-net_admin", w.program, "run", "-d",
                           "--image", "bb", "--memory", "64M", "--network", "net"], env=w.env, check=False,
                          capture_output=True, text=True)
    check(done.returncode == 1 and "root" in done.stderr, f"without permission: {done}")


def test_net__no_network_is_no_interface(w):
    w.must("run", "-d", "--name", "none", "--image", "bb", "--memory", "128M", "--network", "none")
    same(w.sh("none", "ls /sys/class/net").split(), ["lo"], "interfaces")
    w.drop("none")
