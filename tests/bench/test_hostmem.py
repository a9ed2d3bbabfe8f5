#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The arithmetic of tests/bench/hostmem.py. Run by make bench-density, before it."""
import mmap
import os
import sys
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
sys.dont_write_bytecode = True
import hostmem  # noqa: E402  (the path comes first)

MIB, KIB = 1 << 20, 1 << 10


ROLLUP = """55d8d4a00000-7ffdc93fe000 ---p 00000000 00:00 0                          [rollup]
Rss:               90000 kB
Pss:                1500 kB
Pss_Anon:           1000 kB
Pss_Shmem:           300 kB
Private_Clean:        20 kB
Private_Dirty:       700 kB
AnonHugePages:         0 kB
"""
# Guest RAM of 8 MiB at 0x7f0000000000: RAM file, huge pages in the midst of it, a hole.
SMAPS = """55d8d4a00000-55d8d4a80000 r-xp 00000000 fe:00 77                         /usr/bin/clone
Rss:                 400 kB
Pss:                 100 kB
VmFlags: rd ex
55d8d6000000-55d8d6100000 rw-p 00000000 00:00 0                          [heap]
Pss:                 150 kB
7efffffe0000-7f0000000000 ---p 00000000 00:00 0
Pss:                   0 kB
7f0000000000-7f0000200000 rw-p 00000000 00:00 0
Pss:                2048 kB
7f0000200000-7f0000400000 rw-p 00200000 00:15 99                         /templates/dense/ram
Pss:                  64 kB
7f0000400000-7f0000800000 rw-p 00000000 00:00 0
Pss:                 512 kB
7f0000800000-7f0000a00000 ---p 00000000 00:00 0
Pss:                   0 kB
7f0000a00000-7f0000a21000 rw-p 00000000 00:00 0
Pss:                  33 kB
"""


class Reading(unittest.TestCase):
    def test_meminfo__keeps_the_keys_that_there_are_in_bytes(self):
        got = hostmem.meminfo("MemTotal:  8 kB\nMemFree:   100 kB\nShmem: 3 kB\nHugePages_Total: 5\nPageTables:     7 kB\n",
                              "Node 0, zone DMA\n  pages free 9\n    cpu: 0\n              count: 2\n"
                              "              high:  8\n    cpu: 1\n              count: 3\n")
        self.assertEqual(got, {"MemFree": 120 * KIB, "Shmem": 3 * KIB, "PageTables": 7 * KIB})

    def test_meminfo__of_this_host_has_what_a_difference_needs(self):
        got = hostmem.meminfo()
        for k in ("MemFree", "MemAvailable", "SwapFree", "Shmem"):
            self.assertIn(k, got)
        self.assertGreater(got["MemFree"], 0)

    def test_rollup__private_is_clean_and_dirty(self):
        self.assertEqual(hostmem.rollup(ROLLUP), {"pss": 1500 * KIB, "private": 720 * KIB, "pss_shmem": 300 * KIB})

    def test_mappings__pss_belongs_to_the_mapping_above_it(self):
        got = hostmem.mappings(SMAPS)
        self.assertEqual(len(got), 8)
        self.assertEqual(got[0], {"begin": 0x55d8d4a00000, "end": 0x55d8d4a80000, "perms": "r-xp", "offset": 0,
                                  "path": "/usr/bin/clone", "pss": 100 * KIB})
        self.assertEqual([m["pss"] // KIB for m in got], [100, 150, 0, 2048, 64, 512, 0, 33])
        self.assertEqual([m["path"] for m in got[1:6]], ["[heap]", "", "", "/templates/dense/ram", ""])

    def test_mappings__of_this_process_are_its_whole_pss(self):
        with mmap.mmap(-1, 4 * MIB) as own:
            own.write(b"x" * (4 * MIB))
            pid = os.getpid()
            whole = hostmem.rollup(hostmem.read(f"/proc/{pid}/smaps_rollup"))["pss"]
            parts = sum(m["pss"] for m in hostmem.mappings(hostmem.read(f"/proc/{pid}/smaps")))
        self.assertGreater(parts, 4 * MIB)
        self.assertLess(abs(whole - parts), 2 * MIB)


class GuestMemory(unittest.TestCase):
    def test_guest_ram__is_told_by_the_ram_file_wherever_it_is_mapped(self):
        maps = [m for m in hostmem.mappings(SMAPS) if m["perms"] != "---p"]  # the guards do not help
        self.assertEqual(hostmem.guest_ram(maps, 8 * MIB), [(0x7f0000000000, 0x7f0000800000)])

    def test_guest_ram__of_a_layer_upon_a_layer_is_one(self):
        maps = hostmem.mappings(SMAPS.replace("7f0000400000-7f0000800000 rw-p 00000000 00:00 0",
                                              "7f0000400000-7f0000800000 rw-p 00400000 00:15 98   /templates/base/ram"))
        self.assertEqual(hostmem.guest_ram(maps, 8 * MIB), [(0x7f0000000000, 0x7f0000800000)])

    def test_guest_ram__without_a_file_lies_between_guards(self):
        maps = hostmem.mappings(SMAPS.replace("/templates/dense/ram", ""))
        self.assertEqual(hostmem.guest_ram(maps, 8 * MIB), [(0x7f0000000000, 0x7f0000800000)])
        self.assertEqual(hostmem.guest_ram(maps, 6 * MIB), [])
        with_a_gap = [m for m in maps if m["begin"] != 0x7f0000200000]
        self.assertEqual(hostmem.guest_ram(with_a_gap, 8 * MIB), [])

    def test_guest_ram__without_a_guard_is_not_told(self):
        text = SMAPS.replace("/templates/dense/ram", "")
        for guard in ("7efffffe0000-7f0000000000 ---p", "7f0000800000-7f0000a00000 ---p"):
            maps = hostmem.mappings(text.replace(guard, guard.replace("---p", "rw-p")))
            self.assertEqual(hostmem.guest_ram(maps, 8 * MIB), [])

    def test_own_pss__is_all_but_guest_memory(self):
        self.assertEqual(hostmem.own_pss(hostmem.mappings(SMAPS), 8 * MIB), (100 + 150 + 33) * KIB)

    def test_own_pss__is_unknown_where_guest_memory_is(self):
        self.assertIsNone(hostmem.own_pss(hostmem.mappings(SMAPS.replace("/templates/dense/ram", "")), 4 * MIB))


class Sums(unittest.TestCase):
    BASE = {"MemFree": 1000 * MIB, "MemAvailable": 1100 * MIB, "SwapFree": 50 * MIB, "Shmem": 10 * MIB, "Slab": 5 * MIB,
            "PageTables": MIB}

    def then(self, **changed):
        return {**self.BASE, **{k: v * MIB for k, v in changed.items()}}

    def test_difference__used_is_what_is_not_free_any_more(self):
        got = hostmem.difference(self.BASE, self.then(MemFree=900, MemAvailable=1020, Slab=9, PageTables=3), 0)
        self.assertEqual(got, {"used": 100 * MIB, "not_available": 80 * MIB, "files_in_memory": 0, "slab": 4 * MIB,
                               "page_tables": 2 * MIB})

    def test_difference__files_in_memory_are_a_disks(self):
        got = hostmem.difference(self.BASE, self.then(MemFree=900, Shmem=40), 0)
        self.assertEqual((got["used"], got["files_in_memory"]), (70 * MIB, 30 * MIB))

    def test_difference__what_vms_map_of_such_files_is_theirs(self):
        got = hostmem.difference(self.BASE, self.then(MemFree=900, Shmem=40), 12 * MIB)
        self.assertEqual((got["used"], got["files_in_memory"]), (82 * MIB, 18 * MIB))
        got = hostmem.difference(self.BASE, self.then(MemFree=900, Shmem=40), 31 * MIB)
        self.assertEqual((got["used"], got["files_in_memory"]), (100 * MIB, 0))

    def test_difference__swapped_out_is_used(self):
        self.assertEqual(hostmem.difference(self.BASE, self.then(SwapFree=20), 0)["used"], 30 * MIB)

    def test_add_up__those_read_stand_for_all(self):
        rolls = [{"pss": 10, "private": 4, "pss_shmem": 2}, {"pss": 30, "private": 8, "pss_shmem": 2}]
        self.assertEqual(hostmem.add_up(rolls, 10, [7, 3, 9]), {
            "processes": 10, "read": 2, "pss": 200, "private": 60, "pss_shmem": 20, "own_read": 3, "own_pss_median": 7,
            "own_pss_max": 9})
        self.assertEqual(hostmem.add_up([], 3, []), {"processes": 3, "read": 0, "pss": 0, "private": 0, "pss_shmem": 0})

    def test_spread_over__is_even_and_keeps_few_as_they_are(self):
        self.assertEqual(hostmem.spread_over(list(range(10)), 4), [0, 2, 5, 7])
        self.assertEqual(hostmem.spread_over([1, 2], 4), [1, 2])

    def test_processes__one_that_is_gone_counts_nothing(self):
        gone = 1 << 30  # beyond pid_max
        got = hostmem.processes({os.getpid(), gone}, {gone}, 8 * MIB, 10)
        self.assertEqual((got["processes"], got["read"]), (2, 1))
        self.assertNotIn("own_read", got)


if __name__ == "__main__":
    unittest.main()
