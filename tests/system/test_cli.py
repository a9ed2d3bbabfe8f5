# SPDX-License-Identifier: MIT
"""What users get wrong, and what strangers send: one line that helps, and nothing left behind."""
import json
import os
import socket
import subprocess

from harness import IMAGES, ROOT, check, same, until


def nothing_left(w, before):
    same(sorted(w.names()), before, "VMs after a failure")
    same(os.listdir(f"{w.run_dir}/vms"), before, "run directories after a failure")


def test_cli__bad_input_is_one_line_and_leaves_nothing(w):
    w.names()
    os.makedirs(f"{w.run_dir}/vms", exist_ok=True)
    before = sorted(w.names())
    text = f"{w.base}/text"
    with open(text, "w", encoding="utf-8") as f:
        f.write("not a kernel\n" * 1000)
    kernel = f"{IMAGES}/bb/vmlinuz"
    with open(kernel, "rb") as f:
        head = f.read(100000)
    with open(f"{w.base}/short", "wb") as f:
        f.write(head)
    for args, says in (
            (["run", "-d", "--kernel", "/no/such/kernel"], "/no/such/kernel"),
            (["run", "-d", "--kernel", text], "kernel"),
            (["run", "-d", "--no-agent", "--kernel", f"{w.base}/short"], "kernel|trunc"),
            (["run", "-d", "--image", "nope"], "nope"),
            (["run", "-d", "--image", "bb", "--memory", "1M"], "memory|MiB"),
            (["run", "-d", "--image", "bb", "--memory", "lots"], "lots|memory"),
            (["run", "-d", "--image", "bb", "--cpus", "65"], "65|cpu|CPU"),
            (["run", "-d", "--image", "bb", "--name", "../etc"], "name"),
            (["run", "-d", "--image", "bb", "--disk", "/etc/passwd"], "format"),
            (["fork", "nothing-of-that-name"], "nothing-of-that-name"),
            (["template", "create", "x y", "--image", "bb"], "name"),
            (["template", "create", "t1", "--image", "nope"], "nope"),
            (["template", "verify", "nope"], "nope"),
            (["template", "rm", "nope"], "nope"),
            (["image", "inspect", "nope"], "nope"),
            (["stop", "nope"], "nope"), (["kill", "nope"], "nope"), (["rm", "nope"], "nope"),
            (["pause", "nope"], "nope"), (["park", "nope"], "nope"), (["unpark", "nope"], "nope"), (["logs", "nope"], "nope"), (["inspect", "nope"], "nope"),
    ):
        w.refused(*args, says=says)
        nothing_left(w, before)


def test_cli__a_name_is_taken_once(w):
    w.must("run", "-d", "--name", "taken", "--image", "bb", "--memory", "128M")
    w.refused("run", "-d", "--name", "taken", "--image", "bb", says="taken")
    same(w.sh("taken", "echo fine"), "fine", "the VM whose name it is")
    w.drop("taken")


def test_cli__a_guest_that_panics_on_boot_is_reported(w):
    w.refused("run", "-d", "--name", "panics", "--image", "bb", "--memory", "128M", "--append",
              "init=/no/such/init", says="panics|ended|guest")
    w.drop("panics")


def test_cli__a_guest_without_agent_is_reported(w):
    w.refused("run", "-d", "--name", "mute", "--image", "bb", "--memory", "128M", "--append",
              "clone.noagent", "--timeout", "20s", says="agent")
    w.drop("mute")


def test_cli__no_kvm_and_no_permission_are_said_plainly(w):
    script = ("mount -t tmpfs none /dev && mknod /dev/null c 1 3 && "
              f"exec {ROOT}/build/release/clone run -d --image bb --name nokvm")
    done = subprocess.run(["unshare", "-m", "sh", "-c", script], env=w.env, check=False,
                          capture_output=True, timeout=120)
    check(done.returncode != 0 and b"/dev/kvm" in done.stderr, f"no /dev/kvm: {done.stderr!r}")
    same(len(done.stderr.strip().splitlines()), 1, f"lines of {done.stderr!r}")
    check("nokvm" not in w.names(), "something is left")


def test_cli__disk_full_while_snapshotting_leaves_no_template(w):
    small = f"{w.base}/small"
    os.makedirs(small)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", small], check=True)
    try:
        os.symlink(IMAGES, f"{small}/images")
        env = dict(w.env, CLONE_STATE_DIR=small)
        done = subprocess.run([f"{ROOT}/build/release/clone", "template", "create", "full", "--image",
                               "bb", "--memory", "128M"], env=env, check=False, capture_output=True,
                              timeout=600)
        check(done.returncode != 0 and b"space" in done.stderr, f"disk full: {done.stderr!r}")
        listed = subprocess.run([f"{ROOT}/build/release/clone", "template", "ls", "-o", "json"], env=env,
                                check=True, capture_output=True)
        same(json.loads(listed.stdout), [], "templates after a full disk")
        left = [n for n in os.listdir(f"{small}/templates") if "full" in n]
        same(left, [], "files after a full disk")
    finally:
        subprocess.run(["umount", "-l", small], check=True)


def http(path, request):
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(60)
    s.connect(path)
    try:
        s.sendall(request)
        s.shutdown(socket.SHUT_WR)
    except (BrokenPipeError, ConnectionResetError):
        pass  # it had heard enough; its answer is still there
    got = b""
    while True:
        try:
            block = s.recv(65536)
        except ConnectionResetError:
            break
        if not block:
            break
        got += block
    s.close()
    return got


def request(method, path, body=b""):
    return (f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}"
            "\r\n\r\n").encode() + body


def test_control__shapes_are_firecrackers_and_garbage_is_refused(w):
    w.must("run", "-d", "--name", "ctl", "--image", "bb", "--memory", "128M")
    sock = f"{w.run_dir}/vms/ctl/api.sock"
    for method, path, body, status in (
            ("GET", "/", b"", 200), ("GET", "/machine-config", b"", 200),
            ("PATCH", "/vm", b'{"state":"Paused"}', 204),
            ("PATCH", "/vm", b'{"state":"Resumed"}', 204),
            ("PATCH", "/vm", b'{"state":"Dancing"}', 400),
            ("PATCH", "/vm", b'{"state":"Paused","more":1}', 400),
            ("PUT", "/machine-config", b'{"vcpu_count":1,"mem_size_mib":128}', 400),
            ("PUT", "/actions", b'{"action_type":"InstanceStart"}', 400),
            ("PUT", "/boot-source", b"{", 400), ("PUT", "/drives/..%2f", b"{}", 400),
            ("PUT", "/fork", b'{"children":[{"name":"../../x"}]}', 400),
            ("GET", "/nothing", b"", 400),
            ("PUT", "/actions", b'{"action_type":"' + b"A" * 60000 + b'"}', 400)):
        reply = http(sock, request(method, path, body))
        check(reply.startswith(b"HTTP/1.1 "), f"{method} {path}: {reply[:80]!r}")
        got = int(reply.split()[1])
        check(got == status or (len(body) > 51200 and got in (400, 413)),
              f"{method} {path} {body[:40]!r}: {reply[:300]!r}")
        if status == 400 and got == 400:
            fault = json.loads(reply.split(b"\r\n\r\n", 1)[1])
            check(list(fault) == ["fault_message"], f"{method} {path}: {fault}")
    for raw in (b"\0" * 4096, b"GET", b"PUT / HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n",
                b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 20000 + b"\r\n", b"\r\n" * 10000):
        http(sock, raw)
    same(w.sh("ctl", "echo alive"), "alive", "the VM after garbage")
    w.drop("ctl")


def test_cli__kill_9_at_any_moment_is_cleaned_by_the_next_command(w):
    import time
    for delay in (0.05, 0.3, 0.8, 1.5):
        p = w.popen("run", "-d", "--name", "torn", "--image", "bb", "--memory", "128M",
                    stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(delay)
        p.kill()
        p.wait()
        if "torn" in w.names():
            w.drop("torn")
        check("torn" not in os.listdir(f"{w.run_dir}/vms"), f"killed after {delay} s: something is left")


def test_cli__doctor_and_version_and_completion(w):
    report = json.loads(w.clone("doctor", "-o", "json").out)
    check(any("kvm" in str(row).lower() for row in report), "doctor says nothing of KVM")
    check(w.must("version").out.startswith("clone "), "version")
    done = subprocess.run(["bash", "-n"], input=w.must("completion", "bash").raw, check=False)
    same(done.returncode, 0, "bash -n of the completion")


def test_console__shows_the_guest_and_is_logged(w):
    w.must("run", "-d", "--name", "con", "--image", "bb", "--memory", "128M", "--append", "loglevel=7")
    check("Linux version" in w.must("logs", "con").out, "the kernel's first line is not in the log")
    w.sh("con", "echo said-by-the-guest > /dev/console")
    until(lambda: "said-by-the-guest" in w.must("logs", "con").out, "the console's last line in the log")
    w.drop("con")
