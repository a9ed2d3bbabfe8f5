# SPDX-License-Identifier: MIT
"""Prepares what an emulated host boots: Debian's kernel, its modules, and an initrd.

Called by `rig build` and by `rig up`. Everything lands in the cache directory (build/rig, or
$RIG_CACHE) and is made again only when an input changed. Nothing is installed on the machine.
"""
import glob
import lzma
import os
import shutil
import struct
import subprocess
import sys

HERE = os.path.dirname(os.path.realpath(__file__))
REPO = os.path.dirname(os.path.dirname(HERE))
META = "linux-image-amd64"
BUSYBOX = "/bin/busybox"
MODULES = """9p 9pnet_virtio overlay virtio_pci virtio_net virtio_blk virtio_rng virtio_balloon
    kvm_amd vhost_net vhost_vsock tun vfio-pci i6300esb""".split()
APPLETS = """sh mount insmod mkdir ln rm cp cat chown chmod sed hostname ifconfig switch_root
    sync poweroff""".split()
RIGD_SOURCES = ("rigd.c", "rigd_session.c", "rigd_keep.c", "rigd.h")
NEEDED = {
    "qemu-system-x86_64": "qemu-system-x86",
    "depmod": "kmod",
    "cc": "gcc libc6-dev",
    "dpkg-deb": "dpkg",
    BUSYBOX: "busybox-static",
}


class RigError(Exception):
    """A failure to tell the user in one line."""


def say(text):
    print("rig: " + text, file=sys.stderr, flush=True)


def call(argv, **kw):
    """Runs argv quietly; its output becomes the error's text."""
    p = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                       stdin=subprocess.DEVNULL, check=False, **kw)
    if p.returncode:
        last = (p.stdout.strip().splitlines() or ["no output"])[-1]
        raise RigError(f"{' '.join(argv[:4])}: exit {p.returncode}: {last}")
    return p.stdout


def check_tools():
    missing = [pkg for tool, pkg in NEEDED.items() if not shutil.which(tool)]
    if missing:
        raise RigError("missing tools: apt-get install " + " ".join(missing))


# ---- the kernel ---------------------------------------------------------------------------------

def kernel_package():
    """The package that the meta package stands for, e.g. linux-image-6.1.0-56-amd64."""
    out = call(["apt-cache", "depends", "--important", META])
    for line in out.splitlines():
        kind, _, name = line.strip().partition(": ")
        if kind == "Depends" and name.startswith("linux-image-"):
            return name
    raise RigError(f"apt knows no {META}")


def download_kernel(dest):
    def attempt():
        package = kernel_package()
        call(["apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", package], cwd=dest)
        return package

    try:
        return attempt()
    except RigError:
        say("apt-get update")
        call(["apt-get", "-q", "update"])
        return attempt()


def vmlinux_of(bzimage):
    """The ELF inside a bzImage when it is xz-compressed, else None.

    QEMU enters it by PVH; unpacking here costs 0.3 s, in an emulated machine ten times that.
    """
    with open(bzimage, "rb") as f:
        data = f.read()
    setup = (data[0x1F1] or 4) + 1
    off, length = struct.unpack_from("<II", data, 0x248)
    payload = data[setup * 512 + off:][:length]
    if data[0x202:0x206] != b"HdrS" or not payload.startswith(b"\xfd7zXZ"):
        return None
    return lzma.LZMADecompressor().decompress(payload)


def build_kernel(cache):
    """Returns the directory with vmlinuz, vmlinux (perhaps), version and lib/modules/VERSION."""
    final = os.path.join(cache, "kernel")
    if os.path.exists(os.path.join(final, "version")):
        return final
    tmp = final + ".tmp"
    shutil.rmtree(tmp, ignore_errors=True)
    os.makedirs(tmp)
    say(f"fetching {META}")
    package = download_kernel(tmp)
    deb = glob.glob(os.path.join(tmp, "*.deb"))[0]
    call(["dpkg-deb", "-x", deb, tmp])
    os.unlink(deb)
    version = package.removeprefix("linux-image-")
    if not os.path.isdir(os.path.join(tmp, "lib")):
        os.symlink("usr/lib", os.path.join(tmp, "lib"))
    call(["depmod", "-b", tmp, version])
    bzimage = os.path.join(tmp, "vmlinuz")
    os.rename(os.path.join(tmp, "boot", "vmlinuz-" + version), bzimage)
    elf = vmlinux_of(bzimage)
    if elf:
        with open(os.path.join(tmp, "vmlinux"), "wb") as f:
            f.write(elf)
    with open(os.path.join(tmp, "version"), "w", encoding="ascii") as f:
        f.write(version + "\n")
    shutil.rmtree(final, ignore_errors=True)
    os.rename(tmp, final)
    return final


def kernel_version(kernel):
    with open(os.path.join(kernel, "version"), encoding="ascii") as f:
        return f.read().strip()


def module_files(kernel):
    """Paths of MODULES and all they need, in loading order."""
    root = os.path.join(kernel, "lib/modules", kernel_version(kernel))
    deps, by_name = {}, {}
    with open(os.path.join(root, "modules.dep"), encoding="ascii") as f:
        for line in f:
            path, _, rest = line.partition(":")
            deps[path] = rest.split()
            by_name[os.path.basename(path).split(".ko")[0].replace("-", "_")] = path
    order = []
    for name in MODULES:
        path = by_name.get(name.replace("-", "_"))
        if path is None:  # built into this kernel
            continue
        for p in reversed(deps[path]):
            if p not in order:
                order.append(p)
        if path not in order:
            order.append(path)
    return [os.path.join(root, p) for p in order]


# ---- the initrd ---------------------------------------------------------------------------------

def cpio_entry(name, mode, data=b"", ino=0):
    """One member of a newc archive. The only device node is /dev/console."""
    rdev = (5, 1) if mode & 0o170000 == 0o020000 else (0, 0)
    head = "070701" + "".join(f"{v:08x}" for v in (
        ino, mode, 0, 0, 1, 0, len(data), 0, 0, *rdev, len(name) + 1, 0))
    raw = head.encode() + name.encode() + b"\0"
    return raw + b"\0" * (-len(raw) % 4) + data + b"\0" * (-len(data) % 4)


def cpio_archive(members):
    """members: (name, mode, bytes). Uncompressed: an emulated CPU unpacks slowly."""
    body = b"".join(cpio_entry(n, m, d, i + 1) for i, (n, m, d) in enumerate(members))
    body += cpio_entry("TRAILER!!!", 0)
    return body + b"\0" * (-len(body) % 512)


def read_bytes(path):
    with open(path, "rb") as f:
        return f.read()


def compile_c(out, *sources, static=False):
    if os.path.exists(out) and all(os.path.getmtime(s) < os.path.getmtime(out) for s in sources):
        return
    flags = ["-std=gnu11", "-D_GNU_SOURCE", "-O2", "-Wall", "-Wextra"]
    tmp = f"{out}.{os.getpid()}"
    call(["cc", *flags, *(["-static"] if static else []), "-o", tmp,
          *[s for s in sources if s.endswith(".c")]])
    os.rename(tmp, out)


def build_initrd(cache, kernel):
    out = os.path.join(cache, "initrd")
    rigd = os.path.join(cache, "rigd")
    compile_c(rigd, *(os.path.join(HERE, f) for f in RIGD_SOURCES),
              static=True)
    init = os.path.join(HERE, "l1-init")
    inputs = [rigd, init, BUSYBOX, os.path.join(kernel, "version"), os.path.realpath(__file__)]
    if os.path.exists(out) and all(os.path.getmtime(p) < os.path.getmtime(out) for p in inputs):
        return out
    dirs = "bin dev proc sys lower rw new modules".split()
    members = [(d, 0o40755, b"") for d in dirs]
    members += [("init", 0o100755, read_bytes(init)),
                ("bin/busybox", 0o100755, read_bytes(BUSYBOX)),
                ("bin/rigd", 0o100755, read_bytes(rigd)),
                ("dev/console", 0o020600, b"")]
    members += [("bin/" + a, 0o120777, b"busybox") for a in APPLETS]
    files = module_files(kernel)
    members += [("modules/" + os.path.basename(p), 0o100644, read_bytes(p)) for p in files]
    order = "".join(os.path.basename(p) + "\n" for p in files)
    members.append(("modules/order", 0o100644, order.encode()))
    tmp = f"{out}.{os.getpid()}"
    with open(tmp, "wb") as f:
        f.write(cpio_archive(members))
    os.rename(tmp, out)
    return out


def cache_dir():
    return os.environ.get("RIG_CACHE") or os.path.join(REPO, "build", "rig")


def build(cache=None):
    """Makes all of it; returns (kernel directory, initrd)."""
    cache = os.path.abspath(cache or cache_dir())
    check_tools()
    os.makedirs(cache, exist_ok=True)
    kernel = build_kernel(cache)
    return kernel, build_initrd(cache, kernel)
