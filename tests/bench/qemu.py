# SPDX-License-Identifier: MIT
"""The peer: QEMU/KVM with an image of ours. Boots it, saves it to a migration file, restores it from there; each
clock ends with the shell's answer on the serial port.
"""
import json
import os
import selectors
import socket
import subprocess
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
LIMIT = 300  # seconds
ASK_AGAIN = 0.2  # seconds, times the number of guests: asking must not keep them busy


class Guest:
    def __init__(self, base, image, memory):
        self.base, self.image, self.memory = base, image, memory
        self.initrd, self.disk, self.ram = f"{base}/initrd", f"{base}/disk.qcow2", f"{base}/migration"
        # our initrd and command line: the peer boots the very same thing
        out = subprocess.run([f"{ROOT}/build/release/bench/initrd", os.path.basename(image), self.initrd],
                             env=dict(os.environ, CLONE_STATE_DIR=f"{base}/state"), check=True,
                             stdout=subprocess.PIPE)
        self.cmdline = out.stdout.decode().strip()
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b",
                        os.path.realpath(f"{image}/rootfs.ext4"), self.disk], check=True)

    def start(self, *more, snapshot=True):
        throw_away = ",snapshot=on" if snapshot else ""
        return Running(["qemu-system-x86_64", "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none",
                        "-machine", "q35,accel=kvm", "-cpu", "host", "-smp", "1", "-m", str(self.memory),
                        "-kernel", f"{self.image}/vmlinuz", "-initrd", self.initrd, "-append", self.cmdline,
                        "-drive", f"file={self.disk},format=qcow2,if=none,id=root{throw_away}",
                        "-device", "virtio-blk-pci,drive=root", "-device", "virtio-rng-pci",
                        "-chardev", "stdio,id=con,signal=off", "-serial", "chardev:con", *more])

    def cold_boot(self):
        t0 = time.monotonic_ns()
        with self.start() as q:
            q.until([b"# "])
            q.ask()
            return time.monotonic_ns() - t0

    def save(self, first=b"sync"):
        """A booted, answering guest that has run a command to a migration file; what it wrote stays in self.disk.
        Nanoseconds that it stood still, and that all of it took."""
        qmp = f"{self.base}/qmp"
        with self.start("-qmp", f"unix:{qmp},server=on,wait=off", snapshot=False) as q:
            q.until([b"# "])
            q.ask()
            q.ask(first)
            with Qmp(qmp) as m:
                m.call("migrate-set-parameters", {"max-bandwidth": 1 << 40})
                m.call("migrate", {"uri": f"exec:cat > {self.ram}"})
                while m.call("query-migrate").get("status") not in ("completed", "failed"):
                    time.sleep(0.1)
                done = m.call("query-migrate")
                assert done["status"] == "completed", "QEMU could not save its guest"
                m.call("quit")
            q.process.wait(LIMIT)
            return done["downtime"] * 1000000, done["total-time"] * 1000000

    def restore(self, n):
        """n at once: nanoseconds from the start of the first to each one's answer."""
        t0 = time.monotonic_ns()
        guests = [self.start("-incoming", f"exec:cat {self.ram}") for _ in range(n)]
        took = []
        try:
            waiting = selectors.DefaultSelector()
            for q in guests:
                q.asked = 1
                waiting.register(q.process.stdout, selectors.EVENT_READ, q)
            next_ask = time.monotonic()
            while len(took) < n:
                for key, _ in waiting.select(max(0, next_ask - time.monotonic())):
                    if key.data.read_some() and key.data.answered():
                        took.append(time.monotonic_ns() - t0)
                        waiting.unregister(key.fileobj)
                # what is typed before the guest runs is lost: its serial port is restored over it
                if time.monotonic() >= next_ask:
                    next_ask = time.monotonic() + ASK_AGAIN * n
                    for key in waiting.get_map().values():
                        key.data.put_question()
                assert time.monotonic_ns() - t0 < LIMIT * 1e9, "a restored QEMU guest does not answer"
        finally:
            for q in guests:
                q.__exit__()
        return took


class Running:
    def __init__(self, args):
        self.process = subprocess.Popen(args, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.DEVNULL, bufsize=0)
        self.seen = b""
        self.asked = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()

    def read_some(self):
        data = os.read(self.process.stdout.fileno(), 65536)
        assert data, f"QEMU ended; the console says {self.seen[-300:]!r}"
        self.seen += data
        return True

    def until(self, words):
        while not any(w in self.seen for w in words):
            self.read_some()

    def put_question(self, command=b"true"):
        # the echo of what is typed must not look like the answer
        os.write(self.process.stdin.fileno(), b"%s && echo an''swer-%d.\n" % (command, self.asked))

    def answered(self):
        return b"answer-%d." % self.asked in self.seen

    def ask(self, command=b"true"):
        self.asked += 1
        self.put_question(command)
        while not self.answered():
            self.read_some()


class Qmp:
    def __init__(self, path):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(path)
        self.file = self.sock.makefile("rwb")
        self.file.readline()
        self.call("qmp_capabilities")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.sock.close()

    def call(self, command, arguments=None):
        self.file.write(json.dumps({"execute": command, "arguments": arguments or {}}).encode() + b"\n")
        self.file.flush()
        while True:
            reply = json.loads(self.file.readline())
            if "return" in reply:
                return reply["return"]
            assert "error" not in reply, reply
