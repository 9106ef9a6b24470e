"""A tensor that eight ranks have put, read by four: beside a read of as many bytes that lie in one piece."""

from __future__ import annotations

from runner.node import Node
from runner.records import Ask, Case
from runner.rounds import measure
from runner.setting import Needs, Setting

NEEDS = Needs(python=True, groups=("torch",))

_CONTIGUOUS = Ask("python", "contiguous", 1e-6)

CASES = [
    Case("8 shards by rows, read by 4 ranks by rows, 256 MiB", "ms", Ask("python", "reshard rows", 1e-6), _CONTIGUOUS, "ms of a contiguous read", "ratio >= 0.833"),
    Case("8 shards by rows, read by 4 ranks by columns, 256 MiB", "ms", Ask("python", "reshard columns", 1e-6), _CONTIGUOUS, "ms of a contiguous read", "ratio >= 0.833"),
]


def run(setting: Setting) -> list[dict]:
    with Node(setting.build, "8GiB") as node, setting.python("state_dicts", node.address) as worker:
        return measure("resharding", CASES, {"python": worker}, setting)
