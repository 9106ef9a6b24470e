"""Boxes of another host's tensor: the bytes on the wire beside the bytes asked for, and columns beside rows."""

from __future__ import annotations

import sys

from runner.hosts import TwoHosts
from runner.records import Ask, Case
from runner.rounds import measure
from runner.setting import Needs, Setting
from runner.two_nodes import two_nodes

NEEDS = Needs(python=True, groups=("hosts",))

CASES = [
    Case("columns, 16 MiB in runs of 1 KiB", "ms", Ask("two hosts", "columns", 1e-6), Ask("two hosts", "rows", 1e-6),
         "ms of as many bytes in one run", "ratio >= 0.5"),
    Case("columns, on the wire", "x asked", Ask("two hosts", "columns on the wire"), goal="value <= 1.05"),
    Case("rows, on the wire", "x asked", Ask("two hosts", "rows on the wire"), goal="value <= 1.05"),
]


def run(setting: Setting) -> list[dict]:
    if why := TwoHosts.why_not():
        print(f"bench: boxes: not measured: {why}", file=sys.stderr)
        return []
    with TwoHosts() as hosts, two_nodes(hosts, setting, "2GiB") as worker:
        return measure("boxes", CASES, {"two hosts": worker}, setting)
