#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The picture of tests/bench/density. Run by make bench-density, before it."""
import copy
import os
import sys
import unittest
import xml.dom.minidom

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
sys.dont_write_bytecode = True
import densities  # noqa: E402  (the path comes first)
import density_svg  # noqa: E402
from test_density import MIB, measured, stage  # noqa: E402


class Picture(unittest.TestCase):
    def test_picture__is_the_same_again_and_well_formed(self):
        one = density_svg.draw(measured())
        self.assertEqual(one, density_svg.draw(copy.deepcopy(measured())))
        doc = xml.dom.minidom.parseString(one)
        curves = [p for p in doc.getElementsByTagName("path") if p.getAttribute("class").startswith("line ")]
        self.assertEqual(len([p for p in curves if not p.getAttribute("style")]), 8)
        words = " ".join(t.firstChild.data for t in doc.getElementsByTagName("text"))
        for want in ("VMs (logarithmic)", "memory used, host-wide (logarithmic)", "clone, idle: 285 MiB (100)",
                     "QEMU, idle: 2.0 GiB (10)", "no sharing: one VM x N: 19.5 GiB (100)"):
            self.assertIn(want, words)

    def test_picture__of_one_point_can_be_drawn(self):
        data = densities.empty()
        densities.put(data, {"stage": stage("forks", 1, "idle", 90 * MIB)})
        xml.dom.minidom.parseString(density_svg.draw(data))

    def test_picture__of_nothing_is_refused(self):
        with self.assertRaises(SystemExit):
            density_svg.draw(densities.empty())

    def test_scale__ends_at_the_plots_edges(self):
        s = density_svg.Scale([("", "idle", [(1, 64 * MIB), (100, 1024 * MIB)])])
        self.assertEqual((s.x(1), s.x(100)), (density_svg.LEFT, density_svg.WIDTH - density_svg.RIGHT))
        self.assertEqual((s.y(64 * MIB), s.y(1024 * MIB)),
                         (density_svg.HEIGHT - density_svg.BOTTOM, density_svg.TOP))
        self.assertEqual(s.ticks_x(), [1, 2, 5, 10, 20, 50, 100])

    def test_labels__are_kept_apart_and_inside(self):
        self.assertEqual(density_svg.apart([10, 11, 50], 20, 0, 100), [10, 30, 50])
        self.assertEqual(density_svg.apart([95, 99], 20, 0, 100), [80, 100])
        self.assertEqual(density_svg.apart([50, 10], 5, 0, 100), [50, 10])

    def test_amounts__are_said_in_their_unit(self):
        self.assertEqual([density_svg.amount(p) for p in (-1, 0, 9, 10, 15)],
                         ["512 KiB", "1 MiB", "512 MiB", "1 GiB", "32 GiB"])


if __name__ == "__main__":
    unittest.main()
