# SPDX-License-Identifier: MIT
"""A process of a guest that a fork finds at work, holding what a process can hold: timers, clocks, an open file, a lock,
a TCP connection over lo, a terminal, random number generators of its own. Says in JSON on /run/resident.sock how they are.
tests/system/test_identity.py starts it in a template and asks it in the forks."""
import errno
import fcntl
import json
import os
import pty
import random
import selectors
import signal
import socket
import ssl
import time

HOST, PORT = 2, 5000


class Resident:
    def __init__(self):
        self.ticks = self.alarms = self.backward = 0
        self.leap = 0.0
        self.last = (time.monotonic(), time.time())
        self.file = open("/root/resident.log", "a+", buffering=1, encoding="utf-8")
        self.lock = open("/root/resident.lock", "w", encoding="utf-8")
        fcntl.flock(self.lock, fcntl.LOCK_EX)
        with socket.create_server(("127.0.0.1", 0)) as server:
            self.tcp = socket.create_connection(server.getsockname())
            self.peer = server.accept()[0]
        self.master, self.tty = pty.openpty()
        self.vsock = None
        random.seed(1)
        ssl.RAND_bytes(16)  # instantiates OpenSSL's generator
        signal.signal(signal.SIGALRM, self.on_alarm)
        signal.setitimer(signal.ITIMER_REAL, 1, 1)

    def on_alarm(self, *_):
        self.alarms += 1

    def tick(self):
        mono, real = time.monotonic(), time.time()
        self.backward += mono < self.last[0]
        self.leap = max(self.leap, (real - self.last[1]) - (mono - self.last[0]))
        self.last = (mono, real)
        self.ticks += 1

    def echo(self):
        self.tcp.sendall(b"ping")
        return self.peer.recv(4) == b"ping"

    def type(self):
        os.write(self.master, b"line\n")
        return os.read(self.tty, 5) == b"line\n"

    def call(self):
        """A connection to the host; kept."""
        self.vsock = socket.socket(socket.AF_VSOCK)
        self.vsock.connect((HOST, PORT))
        return True

    def say(self):
        try:
            self.vsock.sendall(b"x")
            return "sent"
        except OSError as why:
            return errno.errorcode[why.errno]

    def report(self):
        self.file.write("asked\n")
        return {"pid": os.getpid(), "mono": time.monotonic(), "real": time.time(), "ticks": self.ticks,
                "alarms": self.alarms, "backward": self.backward, "leap": self.leap, "tcp": self.echo(),
                "tty": self.type(), "log": os.lseek(self.file.fileno(), 0, os.SEEK_CUR),
                "hostname": socket.gethostname(), "getrandom": os.getrandom(16).hex(),
                "openssl": ssl.RAND_bytes(16).hex(), "own": random.getrandbits(64)}


def main():
    me = Resident()
    server = socket.socket(socket.AF_UNIX)
    server.bind("/run/resident.sock")
    server.listen()
    sel = selectors.DefaultSelector()
    sel.register(server, selectors.EVENT_READ)
    while True:
        for _ in sel.select(0.5):
            with server.accept()[0] as c:
                verb = c.recv(16).decode().strip()
                c.sendall(json.dumps({"call": me.call, "say": me.say}.get(verb, me.report)()).encode())
        me.tick()


main()
