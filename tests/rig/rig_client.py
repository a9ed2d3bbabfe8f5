# SPDX-License-Identifier: MIT
"""Runs one command in L1: the outer end of rigd's protocol, which rigd_session.c describes.

Called by `rig`. Standard input, output and error are file descriptors of ours, or bytes; nothing
is buffered without bound: input is read only when the last of it is sent.
"""
import os
import select
import signal
import socket
import struct
import time

from rig_build import RigError

CHUNK = 65536
GRACE_S = 3
EXIT_TIMEOUT = 124
# What makes no sense in another machine, or names descriptors and sockets of this one.
ENV_DROP = ("TMPDIR", "XDG_RUNTIME_DIR", "MAKEFLAGS", "MFLAGS", "MAKELEVEL", "DISPLAY",
            "LD_PRELOAD")
ENV_DROP_PREFIX = ("SSH_", "DBUS_", "BASH_FUNC_")


def environment(extra=()):
    env = {k: v for k, v in os.environ.items()
           if k not in ENV_DROP and not k.startswith(ENV_DROP_PREFIX)}
    env.update(RIG="1", **dict(extra))
    return env


def frame(kind, payload=b""):
    return struct.pack(">cI", kind, len(payload)) + payload


class Command:
    """One command, from request to exit code."""

    def __init__(self, port, token, argv, cwd, env, tty=False):
        rows, cols = os.get_terminal_size(0) if tty else (0, 0)
        words = [token, "1" if tty else "0", str(cols), str(rows), cwd, str(len(argv)), *argv,
                 *(f"{k}={v}" for k, v in env.items())]
        try:
            self.sock = socket.create_connection(("127.0.0.1", port), timeout=10)
        except OSError as e:
            raise RigError(f"the rig does not answer: {e}; try `rig down`") from e
        self.sock.settimeout(None)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.tx = bytearray(frame(b"R", b"".join(os.fsencode(w) + b"\0" for w in words)))
        self.rx = bytearray()
        self.code = None
        self.stdin = None
        self.sinks = {}
        self.kills = []  # (when, signal), soonest first
        self.timed_out = False

    def window(self, rows, cols):
        self.tx += frame(b"W", struct.pack(">HH", rows, cols))

    def kill(self, signum):
        self.tx += frame(b"K", bytes([signum]))

    def _take(self, kind, data):
        if kind in (b"O", b"E"):
            sink = self.sinks[kind]
            if callable(sink):
                sink(data)
                return
            while data:
                data = data[os.write(sink, data):]
        elif kind == b"F":
            raise RigError("rigd: " + data.decode(errors="replace"))
        elif kind == b"X":
            status = struct.unpack(">I", data)[0]
            sig = status & 0x7F
            self.code = 128 + sig if sig else status >> 8

    def _receive(self):
        try:
            data = self.sock.recv(4 * CHUNK)
        except ConnectionError:
            data = b""
        if not data:
            raise RigError("the rig went away while the command ran, see console.log")
        self.rx += data
        at = 0
        while len(self.rx) - at >= 5:
            kind, n = struct.unpack_from(">cI", self.rx, at)
            if len(self.rx) - at < 5 + n:
                break
            self._take(kind, bytes(self.rx[at + 5:at + 5 + n]))
            at += 5 + n
        del self.rx[:at]

    def _feed(self):
        """The next piece of standard input."""
        if isinstance(self.stdin, bytes):
            data, self.stdin = self.stdin[:CHUNK], self.stdin[CHUNK:]
        else:
            data = os.read(self.stdin, CHUNK)
        self.tx += frame(b"I", data)
        if not data:
            self.stdin = None

    def _send(self):
        try:
            del self.tx[:self.sock.send(self.tx)]
        except ConnectionError:  # it takes no more, but may have said why
            self.tx.clear()
            self.stdin = None

    def _expire(self):
        """Sends what is due of the signals at the deadline. Returns milliseconds to the next."""
        while self.kills and self.kills[0][0] <= time.monotonic():
            signum = self.kills.pop(0)[1]
            self.timed_out = True
            if signum == 0:
                self.code = EXIT_TIMEOUT
            else:
                self.kill(signum)
        if not self.kills:
            return None
        return max(0, int((self.kills[0][0] - time.monotonic()) * 1000) + 1)

    def run(self, stdin, stdout, stderr, limit_s=None, wake=None):
        """stdin: fd, bytes or None; stdout, stderr: fd or function; wake: (fd, function), or None.

        Returns the exit code: the command's, 128 + signal, or 124 when limit_s passed.
        """
        self.stdin = b"" if stdin is None else stdin
        self.sinks = {b"O": stdout, b"E": stderr}
        if limit_s:
            end = time.monotonic() + limit_s
            self.kills = [(end, signal.SIGTERM), (end + GRACE_S, signal.SIGKILL),
                          (end + 2 * GRACE_S, 0)]
        sock = self.sock.fileno()
        with self.sock:
            while self.code is None:
                wait_ms = self._expire()
                if self.code is not None:
                    break
                if isinstance(self.stdin, bytes) and not self.tx:
                    self._feed()
                poll = select.poll()
                poll.register(sock, select.POLLIN | (select.POLLOUT if self.tx else 0))
                if isinstance(self.stdin, int) and not self.tx:
                    poll.register(self.stdin, select.POLLIN)
                if wake:
                    poll.register(wake[0], select.POLLIN)
                ready = dict(poll.poll(wait_ms))
                if wake and wake[0] in ready:
                    wake[1](self)
                if self.stdin is not None and self.stdin in ready:
                    self._feed()
                if ready.get(sock, 0) & select.POLLOUT:
                    self._send()
                if ready.get(sock, 0) & ~select.POLLOUT:
                    self._receive()
        return EXIT_TIMEOUT if self.timed_out else self.code
