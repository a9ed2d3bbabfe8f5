# SPDX-License-Identifier: MIT
"""Starts and stops the emulated host (L1) and knows whether it lives.

Called by `rig`. One directory holds all that one machine is: qemu.pid, qmp.sock, port, token,
console.log, rig.cpio (settings for l1-init), lock, tree.json (see rig_sync.py). Several machines
live side by side in different directories.
"""
import contextlib
import ctypes
import fcntl
import json
import os
import select
import shlex
import shutil
import signal
import socket
import stat
import subprocess
import time

import rig_build
import rig_sync
from rig_build import REPO, RigError, say

START_LIMIT_S = 300
PR_SET_PDEATHSIG = 1
# With tsc=reliable (RIG_TSC) guests have a stable TSC too; the emulated host has twice locked up with it.
CMDLINE = (f"console=ttyS0 quiet panic=-1 mitigations=off tsc={os.environ.get('RIG_TSC', 'unstable')} "
           "systemd.unified_cgroup_hierarchy=1")


class StartTimeout(RigError):
    """L1 did not come up in time."""


class Machine:
    """One emulated host, running or not, and its directory."""

    def __init__(self, run_dir=None):
        given = run_dir or os.environ.get("RIG_DIR")
        base = os.path.join(REPO, "build", "rig")
        self.dir = os.path.abspath(given or os.path.join(base, "run"))
        self.out = os.path.join(self.dir if given and not run_dir else base, "out")

    def path(self, name):
        return os.path.join(self.dir, name)

    def read(self, name):
        with open(self.path(name), encoding="ascii") as f:
            return f.read().strip()

    @contextlib.contextmanager
    def lock(self):
        os.makedirs(self.dir, mode=0o700, exist_ok=True)
        with open(self.path("lock"), "w", encoding="ascii") as f:
            fcntl.flock(f, fcntl.LOCK_EX)
            yield

    def pid(self):
        """The emulator's process id, or 0. Its working directory proves that it is ours."""
        try:
            pid = int(self.read("qemu.pid"))
            ours = os.path.samefile(f"/proc/{pid}/cwd", self.dir)
            name = os.path.basename(os.readlink(f"/proc/{pid}/exe"))
        except (OSError, ValueError):
            return 0
        return pid if ours and name.startswith("qemu-system") else 0

    def up_at(self):
        """The port of a machine that is up, or 0."""
        try:
            return int(self.read("port")) if self.pid() else 0
        except (OSError, ValueError):
            return 0

    # ---- start ----------------------------------------------------------------------------------

    def write_conf(self, kernel, idle_s):
        """The part of the initrd that differs from start to start."""
        token = os.urandom(16).hex()
        version = rig_build.kernel_version(kernel)
        conf = {
            "RIG_TOKEN": token, "RIG_IDLE": str(idle_s), "RIG_VERSION": version,
            "RIG_MODULES": os.path.join(kernel, "lib/modules", version),
        }
        text = "".join(f"{k}={shlex.quote(v)}\n" for k, v in conf.items())
        for name, data in (("token", token.encode()),
                           ("rig.cpio", rig_build.cpio_archive(
                               [("rig.conf", 0o100600, text.encode())]))):
            fd = os.open(self.path(name), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(fd, "wb") as f:
                f.write(data)

    def join_initrd(self, initrd):
        with open(self.path("initrd"), "wb") as f:
            for part in (initrd, self.path("rig.cpio")):
                with open(part, "rb") as src:
                    shutil.copyfileobj(src, f)

    def disk_args(self, size_mb):
        if not size_mb:
            return []
        with open(self.path("disk"), "wb") as f:
            f.truncate(size_mb << 20)
        return ["-drive", "file=disk,if=none,id=disk,format=raw,cache=unsafe,aio=threads",
                "-device", "virtio-blk-pci,drive=disk"]

    def qemu_args(self, kernel, opts):
        image = os.path.join(kernel, "vmlinux")
        if not os.path.exists(image):
            image = os.path.join(kernel, "vmlinuz")
        # its memory is no matter of the kernel's merging, which tests switch on here, too
        machine, append = "q35,mem-merge=off", CMDLINE
        if opts.iommu:
            machine += ",kernel-irqchip=split"
            append += " intel_iommu=on iommu=pt"

        def share(path, tag, flags):
            return ["-virtfs", f"local,path={path.replace(',', ',,')},mount_tag={tag},"
                    f"security_model=none,multidevs=remap{flags}"]

        return [
            "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-no-reboot",
            "-display", "none", "-machine", machine, "-accel", "tcg,thread=multi,tb-size=256",
            "-cpu", "EPYC-v2,+svm,+npt", "-smp", str(opts.smp), "-m", str(opts.mem),
            "-kernel", image, "-initrd", "initrd",
            "-append", f"{append} {opts.append}".strip(),
            "-pidfile", "qemu.pid", "-qmp", "unix:qmp.sock,server=on,wait=off",
            "-serial", "file:console.log",
            "-netdev", "user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:0-10.0.2.15:1",
            "-device", "virtio-net-pci,netdev=net,romfile=",
            "-device", "virtio-rng-pci",
            "-device", "i6300esb", "-action", "watchdog=poweroff",
            "-device", "virtio-balloon-pci,free-page-reporting=on",
            *(["-device", "intel-iommu,intremap=on,caching-mode=on"] if opts.iommu else []),
            *share("/", "hostroot", ",readonly=on"),
            *share(REPO, "tree", ",readonly=on"),
            *share(self.out, "out", ""),
            *self.disk_args(opts.disk),
            *opts.extra,
        ]

    def spawn(self, args, opts, ready_fd):
        """Starts QEMU under timeout(1), which ends it at its deadline whatever it does.

        Regular files that the caller left open stay open in it: a lock taken around `rig up` is
        held as long as the machine lives. Pipes do not, or a reader would never see their end.
        """
        keep = [ready_fd]
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                fd = int(name)
                if fd > 2 and os.get_inheritable(fd) and stat.S_ISREG(os.fstat(fd).st_mode):
                    keep.append(fd)

        def bind_to_parent():
            if opts.bound:
                ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)

        with open(self.path("qemu.log"), "wb") as log:
            return subprocess.Popen(  # pylint: disable=consider-using-with
                ["timeout", "--kill-after=10", str(opts.life), *args,
                 "-chardev", f"socket,id=ready,fd={ready_fd}", "-serial", "chardev:ready"],
                cwd=self.dir,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=keep,
                start_new_session=True, preexec_fn=bind_to_parent)

    def wait_ready(self, conn):
        """Waits for rigd's line on the second serial port; its end means that QEMU ended."""
        got, deadline = b"", time.monotonic() + START_LIMIT_S
        while b"ready" not in got:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([conn], [], [], left)[0]:
                raise StartTimeout(f"the rig did not start in {START_LIMIT_S} s, see "
                                   + self.path("console.log"))
            data = conn.recv(64)
            if not data:
                raise RigError("the emulator ended: " + self.last_words())
            got += data

    def last_words(self):
        for name in ("qemu.log", "console.log"):
            with contextlib.suppress(OSError), open(self.path(name), "rb") as f:
                lines = [line for line in f.read().decode(errors="replace").splitlines()
                         if line.strip() and "warning" not in line]
                if lines:
                    return lines[-1]
        return "it said nothing"

    def forwarded_port(self):
        """Asks QEMU which port the kernel chose for the forward."""
        with socket.socket(socket.AF_UNIX) as s:
            fd = os.open(self.dir, os.O_PATH)  # a socket's path may be 107 bytes at most
            try:
                s.connect(f"/proc/self/fd/{fd}/qmp.sock")
            finally:
                os.close(fd)
            with s.makefile("rw", encoding="utf-8") as f:
                f.readline()
                for req in ({"execute": "qmp_capabilities"},
                            {"execute": "human-monitor-command",
                             "arguments": {"command-line": "info usernet"}}):
                    f.write(json.dumps(req) + "\n")
                    f.flush()
                    answer = json.loads(f.readline())
        for line in answer.get("return", "").splitlines():
            word = line.split()
            if word and word[0].startswith("TCP[HOST_FORWARD]"):
                return int(word[3])
        raise RigError("QEMU shows no forwarded port")

    def boot(self, args, opts):
        """Starts QEMU and waits until L1 takes commands. Returns the port."""
        ours, theirs = socket.socketpair()
        with ours, theirs:
            proc = self.spawn(args, opts, theirs.fileno())
            theirs.close()
            try:
                self.wait_ready(ours)
                return self.forwarded_port()
            except BaseException:
                proc.terminate()
                proc.wait()
                raise

    def up(self, opts):
        """Starts the machine unless it is up. Returns whether it did."""
        with self.lock():
            if self.up_at():
                return False
            self.stop()
            kernel, initrd = rig_build.build()
            os.makedirs(self.out, exist_ok=True)
            self.write_conf(kernel, opts.idle)
            self.join_initrd(initrd)
            rig_sync.start(self)
            args = (self.qemu_args(kernel, opts), opts)
            try:
                port = self.boot(*args)
            except StartTimeout as e:  # rigd_keep.c says how a kernel may hang in the emulator
                say(f"{e}; once more")
                port = self.boot(*args)
            with open(self.path("port"), "w", encoding="ascii") as f:
                f.write(f"{port}\n")
            return True

    # ---- stop -----------------------------------------------------------------------------------

    def stop(self):
        """Ends the emulator if it lives. The machine has nothing to lose: its disks are memory."""
        with contextlib.suppress(OSError):
            os.unlink(self.path("port"))
        pid = self.pid()
        if not pid:
            return False
        fd = os.pidfd_open(pid)
        try:
            if self.pid() == pid:
                for sig, wait_s in ((signal.SIGTERM, 5), (signal.SIGKILL, 10)):
                    signal.pidfd_send_signal(fd, sig)
                    if select.select([fd], [], [], wait_s)[0]:
                        return True
                raise RigError(f"process {pid} does not end")
        finally:
            os.close(fd)
        return False

    def down(self):
        with self.lock():
            return self.stop()
