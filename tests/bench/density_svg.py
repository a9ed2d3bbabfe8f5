#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The picture of density: memory used host-wide over the number of VMs, both logarithmic, drawn from the JSON that
tests/bench/density wrote. The same figures give the same bytes. Readable on light and dark pages.

usage: tests/bench/density_svg.py FROM.json TO.svg
"""
import math
import sys
from xml.sax.saxutils import escape

sys.dont_write_bytecode = True
import densities  # noqa: E402  (after that)

WIDTH, HEIGHT = 920, 540
LEFT, RIGHT, TOP, BOTTOM = 84, 290, 66, 66  # of the plot, from the edges
MIB = densities.MIB
LABEL_APART = 19
# Kind: colour on light and on dark, dashes, the mark's shape. Told apart without colour, too.
KINDS = {"exec": ("#0b62c4", "#6cb2ff", "", "circle"), "idle": ("#00795f", "#45d3ae", "9 4", "square"),
         "build": ("#b4430a", "#ff9d5c", "", "triangle"), "balloon": ("#7a3fb0", "#c9a0f5", "3 3", "diamond"),
         "parked": ("#5c6b00", "#c3d34a", "6 2 1 2", "square"), "ksm": ("#00708c", "#57c7e3", "2 3", "circle"),
         "qemu": ("#b3123c", "#ff7d97", "", "cross"), "none": ("#6a6a6a", "#a8a8a8", "1 5", None)}


def style():
    def rules(at):
        ink, grid = (("#1c1c1c", "#d5d5d5"), ("#e8e8e8", "#4a4a4a"))[at]
        return (f"text{{fill:{ink}}}.grid{{stroke:{grid}}}.axis{{stroke:{ink}}}"
                + "".join(f".{k}{{stroke:{v[at]}}}.{k}-mark{{fill:{v[at]};stroke:{v[at]}}}.{k}-text{{fill:{v[at]}}}"
                          for k, v in KINDS.items()))
    return ("text{font:13px system-ui,sans-serif}.title{font-size:16px;font-weight:600}.small{font-size:12px}"
            ".line{fill:none;stroke-width:2.2;stroke-linejoin:round}.axis,.grid{fill:none}"
            f"{rules(0)}@media (prefers-color-scheme:dark){{{rules(1)}}}")


class Scale:
    """Logarithmic, both ways."""

    def __init__(self, lines):
        xs = [n for _, _, p in lines for n, _ in p]
        ys = [b for _, _, p in lines for _, b in p]
        self.x0, self.x1 = min(xs), max(max(xs), min(xs) + 1)
        self.low = math.floor(math.log2(min(ys) / MIB))
        self.high = max(math.ceil(math.log2(max(ys) / MIB)), self.low + 1)

    def x(self, n):
        return LEFT + (WIDTH - LEFT - RIGHT) * math.log(n / self.x0) / math.log(self.x1 / self.x0)

    def y(self, n):
        part = (math.log2(n / MIB) - self.low) / (self.high - self.low)
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * part

    def ticks_x(self):
        return [n for k in range(6) for n in (10 ** k, 2 * 10 ** k, 5 * 10 ** k) if self.x0 <= n <= self.x1]


def amount(power):
    """2^power MiB, as people say it."""
    if power >= 10:
        return f"{1 << (power - 10)} GiB"
    return f"{1 << power} MiB" if power >= 0 else f"{1024 >> -power} KiB"


def text(x, y, what, css="", anchor="start", more=""):
    return f'<text class="{css}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{more}>{escape(what)}</text>'


def axes(s):
    out, base, right = [], HEIGHT - BOTTOM, WIDTH - RIGHT
    for power in range(s.low, s.high + 1):
        y = s.y(MIB * 2.0 ** power)
        out.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{right}"/>')
        out.append(text(LEFT - 9, y + 4.5, amount(power), "small", "end"))
    for n in s.ticks_x():
        out.append(f'<path class="grid" d="M{s.x(n):.1f} {TOP}V{base}"/>')
        out.append(text(s.x(n), base + 19, f"{n}", "small", "middle"))
    out.append(f'<path class="axis" d="M{LEFT} {TOP}V{base}H{right}"/>')
    out.append(text((LEFT + right) / 2, base + 44, "VMs (logarithmic)", anchor="middle"))
    middle = (TOP + base) / 2
    out.append(text(20, middle, "memory used, host-wide (logarithmic)", anchor="middle",
                    more=f' transform="rotate(-90 20 {middle:.1f})"'))
    return out


def mark(shape, x, y, css):
    r = 4.5
    if shape == "circle":
        return f'<circle class="{css}" cx="{x:.1f}" cy="{y:.1f}" r="{r}"/>'
    points = {"square": [(-r, -r), (r, -r), (r, r), (-r, r)], "triangle": [(0, -r - 1), (r + 1, r), (-r - 1, r)],
              "diamond": [(0, -r - 1), (r + 1, 0), (0, r + 1), (-r - 1, 0)]}.get(shape)
    if points:
        at = " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in points)
        return f'<polygon class="{css}" points="{at}"/>'
    return (f'<path class="{css}" stroke-width="2.2" d="M{x - r:.1f} {y - r:.1f}L{x + r:.1f} {y + r:.1f}'
            f'M{x - r:.1f} {y + r:.1f}L{x + r:.1f} {y - r:.1f}"/>')


def apart(wanted, least, low, high):
    """Heights as near to those wanted as leaves `least` between them, within low..high; in the order given."""
    order = sorted(range(len(wanted)), key=lambda i: (wanted[i], i))
    at = [0.0] * len(wanted)
    floor = low
    for i in order:
        at[i] = floor = max(wanted[i], floor)
        floor += least
    ceiling = high
    for i in reversed(order):
        at[i] = ceiling = min(at[i], ceiling)
        ceiling -= least
    return at


def curves(s, lines):
    out = []
    for _, kind, points in lines:
        _, _, dashes, shape = KINDS[kind]
        way = "L".join(f"{s.x(n):.1f} {s.y(b):.1f}" for n, b in points)
        dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
        out.append(f'<path class="line {kind}"{dashed} d="M{way}"/>')
        out += [mark(shape, s.x(n), s.y(b), f"{kind}-mark") for n, b in points if shape]
    return out


def labels(s, lines):
    """Beside the plot, each with its line's mark, joined to where its line ends."""
    ends = [(s.x(p[-1][0]), s.y(p[-1][1])) for _, _, p in lines]
    out, x = [], WIDTH - RIGHT + 26
    for (name, kind, points), (ex, ey), y in zip(lines, ends, apart([y for _, y in ends], LABEL_APART, TOP,
                                                                    HEIGHT - BOTTOM)):
        out.append(f'<path class="line {kind}" style="stroke-width:.8" d="M{ex + 7:.1f} {ey:.1f}L{x - 5} {y:.1f}"/>')
        if KINDS[kind][3]:
            out.append(mark(KINDS[kind][3], x + 2, y, f"{kind}-mark"))
        last = f"{points[-1][1] / MIB / 1024:.1f} GiB" if points[-1][1] >= 1024 * MIB else f"{points[-1][1] / MIB:.0f} MiB"
        out.append(text(x + 12, y + 4.5, f"{name}: {last} ({points[-1][0]})", f"small {kind}-text"))
    return out


def below(data):
    """What was measured, and where."""
    part = next((p for p in ("forks", "ksm", "qemu", "alone", "busybox") if p in data["hosts"]), None)
    if not part:
        return "Caches dropped, kernel memory counted."
    host, options = data["hosts"][part], data["options"][part]
    where = "the rig, an emulated host" if host["name"] == "rig" else host["processor"]
    return (f"Guests: {options['image']}, {options['memory']} MiB. Caches dropped, kernel memory counted. On {where},"
            f" Linux {host['kernel']}.")


def draw(data):
    lines = densities.lines(data)
    if not lines:
        raise SystemExit("density_svg: no stage to draw a line of")
    s = Scale(lines)
    body = [text(LEFT, 26, "Memory of VMs forked from one template", "title"), text(LEFT, 47, below(data), "small"),
            *axes(s), *curves(s, lines), *labels(s, lines)]
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}"'
            f' role="img" aria-label="Memory used over the number of VMs">\n<style>{style()}</style>\n'
            + "\n".join(body) + "\n</svg>\n")


def main(args):
    if len(args) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        picture = draw(densities.load(args[0]))
    except (OSError, ValueError) as why:
        raise SystemExit(f"density_svg: {args[0]}: {why}") from why
    with open(args[1], "w", encoding="utf-8") as f:
        f.write(picture)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
