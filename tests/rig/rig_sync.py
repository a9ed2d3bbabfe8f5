# SPDX-License-Identifier: MIT
"""Keeps L1's view of the project tree current.

L1 caches every file of the outer machine for good; that makes it fast and lets programs share page
cache as on a real host, but a file changed after L1 started would be seen old, or torn. So the
tree's state is noted when L1 starts, and before each command the files that changed since are
copied in, through an export without cache. Only the project tree is followed: after changing
anything else, restart the rig.
"""
import fcntl
import json
import os
import stat

from rig_build import REPO, RigError, say

TREE = "/run/rig/tree"
LARGE_MB = 256
SKIP = {".git", os.path.join("build", "rig")}
# Reads "R\0path\0" and "C\0path\0" pairs; removal first, so that a directory may become a file.
SCRIPT = r"""
set -e
cd "$1"
list=/run/rig/sync.$$
trap 'rm -f $list' EXIT
while IFS= read -r -d '' what && IFS= read -r -d '' path; do
	case $what in
	R) rm -rf -- "$path" ;;
	C) printf '%s\0' "$path" ;;
	esac
done >$list
tar -C /run/rig/tree -S --no-recursion --null --verbatim-files-from -T $list -cf - \
	--ignore-failed-read --warning=no-file-changed --warning=no-file-removed |
	tar -xpf - --warning=no-timestamp
"""


def scan(root=REPO):
    """{relative path: what identifies a version of it}"""
    found, todo = {}, [""]
    while todo:
        at = todo.pop()
        try:
            entries = list(os.scandir(os.path.join(root, at)))
        except OSError:
            continue
        for e in entries:
            rel = os.path.join(at, e.name)
            if rel in SKIP:
                continue
            try:
                st = e.stat(follow_symlinks=False)
            except OSError:
                continue
            if stat.S_ISDIR(st.st_mode):
                found[rel] = [st.st_mode]
                todo.append(rel)
            elif stat.S_ISREG(st.st_mode) or stat.S_ISLNK(st.st_mode):
                found[rel] = [st.st_mode, st.st_ino, st.st_size, st.st_mtime_ns, st.st_ctime_ns]
    return found


def save(machine, state):
    tmp = machine.path("tree.json.tmp")
    with open(tmp, "w", encoding="utf-8", errors="surrogateescape") as f:
        json.dump(state, f)
    os.rename(tmp, machine.path("tree.json"))


def start(machine):
    save(machine, scan())


def changes(old, new):
    """(paths to remove, paths to copy), parents before children."""
    gone = [p for p in old if p not in new or stat.S_IFMT(old[p][0]) != stat.S_IFMT(new[p][0])]
    fresh = [p for p in new if old.get(p) != new[p]]
    return sorted(gone), sorted(fresh)


def sync(machine, execute):
    """execute(argv, stdin bytes) runs a command in L1 and returns its exit code."""
    with open(machine.path("sync.lock"), "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with open(machine.path("tree.json"), encoding="utf-8", errors="surrogateescape") as f:
            old = json.load(f)
        new = scan()
        gone, fresh = changes(old, new)
        if not gone and not fresh:
            return 0
        size = sum(new[p][2] for p in fresh if len(new[p]) > 2) >> 20
        if size > LARGE_MB:
            say(f"copying {len(fresh)} files changed since it started, {size} MB, into its memory")
        words = [w for p in gone for w in ("R", p)] + [w for p in fresh for w in ("C", p)]
        data = b"".join(os.fsencode(w) + b"\0" for w in words)
        code = execute(["bash", "-c", SCRIPT, "sync", REPO], data)
        if code:
            raise RigError(f"bringing {len(fresh)} changed files into the rig failed: exit {code}")
        save(machine, new)
        return len(gone) + len(fresh)
