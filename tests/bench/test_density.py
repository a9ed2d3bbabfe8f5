#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What tests/bench/density makes of its figures, its targets, its command line. Run by make bench-density, before it."""
import copy
import importlib.machinery
import importlib.util
import os
import sys
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
sys.dont_write_bytecode = True
import densities  # noqa: E402  (the path comes first)

MIB = 1 << 20


def script(name):
    """A program beside us, as a module."""
    loader = importlib.machinery.SourceFileLoader(name, f"{HERE}/{name}")
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(name, loader))
    loader.exec_module(module)
    return module


def stage(part, count, state, used, **more):
    procs = {"processes": count, "read": count, "pss": 0, "private": 0, "own_read": 20, "own_pss_median": 390000,
             "own_pss_max": 500000}
    return {"part": part, "count": count, "state": state, "seconds": 1.0, "processes": procs,
            "memory": {"used": int(used), "not_available": int(used), "files_in_memory": 0}, **more}


def measured():
    """Figures by which each target is just met."""
    data = densities.empty()
    for s in (stage("alone", 1, "idle", 200 * MIB), stage("forks", 0, "template", 100e6),
              stage("forks", 1, "idle", 104e6, made=1), stage("forks", 10, "idle", 100e6 + 39.9e6, made=10),
              stage("forks", 10, "build", 400e6, made=10), stage("forks", 100, "exec", 290e6, made=100),
              stage("forks", 100, "idle", 299e6, made=100), stage("forks", 100, "parked", 150e6, made=100),
              stage("ksm", 0, "template", 90e6), stage("ksm", 10, "merged", 120e6, made=10), stage("forks", 100, "build", 1299e6, made=100),
              stage("forks", 100, "reported", 900e6, made=100), stage("forks", 100, "balloon", 499e6, made=100),
              stage("qemu", 1, "idle", 210 * MIB), stage("qemu", 10, "idle", 2000 * MIB),
              stage("busybox", 1000, "exec", 2e9, made=1000, answered=1000, fork_seconds=9.0, forked=700)):
        densities.put(data, {"stage": s})
    densities.put(data, {"host": {"name": "rig", "kernel": "6.1", "processor": "x"},
                         "options": {"part": "forks", "image": "debian", "memory": 512}})
    return data


class Targets(unittest.TestCase):
    def said(self, data):
        return [t["met"] for t in densities.targets(data)]

    def changed(self, part, count, state, used=None, **more):
        data = copy.deepcopy(measured())
        s = densities.find(data, part, count, state)
        if used is not None:
            s["memory"]["used"] = int(used)
        s.update(more)
        return data

    def test_targets__all_are_met_just_so(self):
        self.assertEqual(self.said(measured()), [True] * 5)

    def test_targets__each_is_missed_by_its_own_figure(self):
        self.assertEqual(self.said(self.changed("forks", 100, "idle", 300e6)), [False, True, True, True, True])
        self.assertEqual(self.said(self.changed("forks", 10, "idle", 140e6)), [True, False, True, True, True])
        self.assertEqual(self.said(self.changed("forks", 100, "balloon", 500e6)), [True, True, True, False, True])
        self.assertEqual(self.said(self.changed("busybox", 1000, "exec", answered=999)), [True] * 4 + [False])
        data = measured()
        densities.find(data, "forks", 100, "idle")["processes"]["own_pss_median"] = 400000
        self.assertEqual(self.said(data), [True, True, False, True, True])

    def test_targets__without_figures_are_neither_met_nor_missed(self):
        got = densities.targets(densities.empty())
        self.assertEqual([(t["met"], t["got"]) for t in got], [(None, "not measured")] * 5)

    def test_targets__ninety_nine_forks_are_not_a_hundred(self):
        self.assertEqual(self.said(self.changed("forks", 100, "idle", made=99))[0], None)
        self.assertEqual(self.said(self.changed("busybox", 1000, "exec", made=999, answered=999))[4], False)

    def test_targets__layers_that_are_asked_for_are_beside_and_decide_nothing(self):
        said = [t["got"] for t in densities.targets(measured())]
        self.assertEqual(said[0].split("; ")[2:], ["parked: 1.50 times"])
        self.assertEqual(said[1], "39.9 MB; merged by KSM: 30.0 MB")
        missed = densities.targets(self.changed("forks", 100, "idle", 300e6))[0]
        self.assertEqual((missed["met"], "parked: 1.50" in missed["got"]), (False, True))

    def test_returned__is_the_share_of_what_diverged(self):
        self.assertAlmostEqual(densities.returned(measured(), 100), 0.8)
        self.assertAlmostEqual(densities.returned(measured(), 100, "reported"), 0.399)
        self.assertIsNone(densities.returned(measured(), 10))
        self.assertIn("80% of 100 forks'; 40% by reporting alone", densities.targets(measured())[3]["got"])

    def test_a_fork__is_what_is_above_the_template(self):
        data = measured()
        self.assertEqual(densities.a_fork(data, densities.find(data, "forks", 100, "idle")), 199e6 / 100)
        self.assertEqual(densities.a_fork(data, densities.find(data, "qemu", 10, "idle")), 200 * MIB)
        self.assertIsNone(densities.a_fork(data, densities.find(data, "forks", 0, "template")))


class Keeping(unittest.TestCase):
    def test_put__a_stage_measured_again_replaces_the_first(self):
        data = measured()
        n = len(data["stages"])
        densities.put(data, {"stage": stage("forks", 10, "idle", 7)})
        self.assertEqual((len(data["stages"]), densities.used(data, "forks", 10, "idle")), (n, 7))

    def test_forget__takes_one_part_only(self):
        data = measured()
        densities.put(data, {"failed": {"part": "forks", "count": 50, "state": "build", "why": "x"}})
        densities.forget(data, "forks")
        self.assertEqual({s["part"] for s in data["stages"]}, {"alone", "ksm", "qemu", "busybox"})
        self.assertEqual((data["failed"], data["hosts"], data["options"]), ([], {}, {}))

    def test_command_line__parts_and_options_are_told_apart(self):
        density = script("density")
        self.assertEqual(density.split(["forks", "--counts", "1,2", "qemu"]), (["forks", "qemu"], ["--counts", "1,2"]))
        self.assertEqual(density.split(["--image", "forks"]), ([], ["--image", "forks"]))
        self.assertEqual(density.split(["--idle=5", "forks"]), (["forks"], ["--idle=5"]))
        self.assertEqual(density.split(["--quick", "--idle=9"]), ([], [*density.QUICK, "--idle=9"]))
        self.assertEqual([density.seconds_of("alone", o) for o in ([], ["--seconds", "5"], ["--seconds=6"])],
                         [density.SECONDS["alone"], 5, 6])

    def test_again__only_counts_that_were_not_finished(self):
        density, data = script("density"), measured()
        data["options"]["forks"]["counts"] = [1, 10, 100]
        self.assertEqual(density.rest_of(data, "forks"), ["--counts", "1,10"])
        self.assertEqual(density.rest_of(data, "qemu"), [])
        data["options"]["forks"]["counts"] = [100]
        self.assertIsNone(density.rest_of(data, "forks"))


class Lines(unittest.TestCase):
    def test_lines__are_all_that_was_measured_and_none_shared(self):
        got = {kind: points for _, kind, points in densities.lines(measured())}
        self.assertEqual(list(got), ["exec", "idle", "parked", "build", "balloon", "ksm", "qemu", "none"])
        self.assertEqual(got["idle"], [(1, 104000000), (10, 139900000), (100, 299000000)])
        self.assertEqual(got["none"], [(1, 200 * MIB), (100, 20000 * MIB)])


class Guests(unittest.TestCase):
    def test_build__is_a_shell_script_with_its_size(self):
        text = script("density_guests").BUILD.format(size=6)
        self.assertIn("head -c 6M", text)
        self.assertIn("END { for (i = 1;", text)
        self.assertIn("${f##*/}", text)

    def test_needed__counts_files_in_memory_and_is_never_nothing(self):
        needed = script("density_guests").needed
        a, b = ({"memory": {"used": u * MIB, "files_in_memory": f * MIB}} for u, f in ((300, 120), (100, 20)))
        self.assertEqual(needed(a, b, 10), 300 * MIB * 5 // 4 // 10)
        self.assertEqual(needed(b, a, 10), 8 * MIB)


if __name__ == "__main__":
    unittest.main()
