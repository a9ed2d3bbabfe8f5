# SPDX-License-Identifier: MIT
"""clone exec: streams, codes, terminals, time limits, many at once."""
import hashlib
import os
import pty
import select
import subprocess
import time

from harness import CLONE, WAIT, check, same, until


def vm(w):
    def make():
        w.must("run", "-d", "--name", "ex", "--image", "bb", "--memory", "256M")
        return "ex"
    return w.fixture("exec vm", make) if "ex" in w.names() or "exec vm" not in w.made else make()


def test_exec__streams_are_separate_and_the_code_is_the_guests(w):
    r = w.clone("exec", vm(w), "--", "/bin/sh", "-c", "echo out; echo err >&2; exit 37")
    same((r.out, r.err, r.code), ("out\n", "err\n", 37), "streams and code")


def test_exec__signals_and_missing_commands_have_their_codes(w):
    same(w.clone("exec", vm(w), "--", "/bin/sh", "-c", "kill -TERM $$").code, 143, "SIGTERM")
    same(w.clone("exec", vm(w), "--", "/no/such/file").code, 127, "missing")
    same(w.clone("exec", vm(w), "--", "/etc/passwd").code, 126, "not executable")


def test_exec__environment_directory_user(w):
    out = w.sh(vm(w), "echo $A; pwd; id -u", "-e", "A=b c", "-w", "/tmp", "-u", "root")
    same(out, "b c\n/tmp\n0", "environment, directory, user")


def test_exec__stdin_reaches_the_command_and_ends(w):
    data = os.urandom(1 << 20)
    r = w.must("exec", "-i", vm(w), "--", "sha256sum", stdin=data)
    same(r.out.split()[0], hashlib.sha256(data).hexdigest(), "digest of 1 MiB of stdin")


def test_exec__timeout_kills_the_whole_group(w):
    r = w.clone("exec", "--timeout", "2s", vm(w), "--", "/bin/sh", "-c",
                "sleep 98765 & sleep 98765")
    same(r.code, 124, "exit")
    until(lambda: w.sh(vm(w), "ps | grep -c '[s]leep 98765' || true") == "0", "the group's end")


def test_exec__a_disconnect_does_not_kill(w):
    p = w.popen("exec", vm(w), "--", "/bin/sh", "-c",
                "echo begun; sleep 3; echo lived > /tmp/lived", stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE)
    p.stdout.readline()
    p.kill()
    p.wait()
    until(lambda: w.clone("exec", vm(w), "--", "cat", "/tmp/lived").out == "lived\n",
          "the command's end after its client died")


def test_exec__tty_has_the_terminals_size_and_follows_it(w):
    name = vm(w)
    pid, fd = pty.fork()
    if pid == 0:
        os.execve(CLONE, [CLONE, "exec", "-i", "-t", name, "--", "/bin/sh"], w.env)
    import fcntl
    import struct
    import termios
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 77, 0, 0))

    def talk(line, want):
        os.write(fd, line)
        got, end = b"", time.monotonic() + WAIT
        while want not in got:
            check(time.monotonic() < end, f"no {want!r} in {got!r}")
            if select.select([fd], [], [], 1)[0]:
                got += os.read(fd, 4096)
    talk(b"stty size | sed 's/^/size=/'\n", b"size=33 77")
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", 44, 99, 0, 0))
    talk(b"sleep 1; stty size | sed 's/^/size=/'\n", b"size=44 99")
    os.write(fd, b"exit 5\n")
    while True:
        try:
            if not os.read(fd, 4096):
                break
        except OSError:
            break
    same(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), 5, "exit")


def test_exec__a_long_stdout_comes_through_intact(w):
    blocks = int(os.environ.get("CLONE_TEST_STDOUT_MB", "1074"))
    size = 1000003  # no multiple of any buffer, and random: what is lost, doubled or out of place shows
    w.sh(vm(w), f"dd if=/dev/urandom of=/root/block bs={size} count=1 iflag=fullblock 2>/dev/null")
    want = w.must("exec", vm(w), "--", "cat", "/root/block").raw
    same(len(want), size, "bytes of one block")
    p = w.popen("exec", vm(w), "--", "/bin/sh", "-c",
                f"i=0; while [ $i -lt {blocks} ]; do cat /root/block; i=$((i+1)); done; echo end",
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    for i in range(blocks):
        check(p.stdout.read(size) == want, f"block {i} is not what was written")
    same((p.stdout.read(), p.wait()), (b"end\n", 0), "the end and the code")


def test_exec__sixty_four_at_once(w):
    procs = [w.popen("exec", "--wait", "300s", vm(w), "--", "/bin/sh", "-c", f"echo {i}; exit {i}",
                     stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) for i in range(64)]
    for i, p in enumerate(procs):
        out, _ = p.communicate(timeout=WAIT)
        same((out.decode(), p.returncode), (f"{i}\n", i), f"command {i}")


def test_exec__the_agent_outlives_a_guest_out_of_memory(w):
    w.must("run", "-d", "--name", "hungry", "--image", "bb", "--memory", "96M")
    agent = "cat /proc/$(pidof clone-agent | cut -d' ' -f1)/oom_score_adj /proc/self/oom_score_adj; pidof clone-agent"
    before = w.sh("hungry", agent).split()
    same(before[:2], ["-1000", "0"], "whom the kernel spares")
    # the kernel looks for a victim when it is told to as when it has to, but without minutes of swapping programs in and out
    greedy = ('BEGIN { s = sprintf("%30000s", ""); while (n < 1000) a[n++] = s n;'
              ' print "f" > "/proc/sysrq-trigger"; close("/proc/sysrq-trigger"); while (1) n++ }')
    same(w.clone("exec", "hungry", "--", "awk", greedy).code, 137, "exit of the one that has most memory")
    same(w.sh("hungry", agent).split(), before, "the agent")
    w.drop("hungry")


def test_exec__needs_a_vm_that_runs(w):
    w.refused("exec", "nobody", "--", "true", says="nobody", code=125)
