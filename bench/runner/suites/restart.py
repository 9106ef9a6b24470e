"""How long does a node not serve when its process is killed, with a million tensors, beside an empty one?"""

from __future__ import annotations

from runner.node import Node
from runner.records import Ask, Case
from runner.rounds import measure
from runner.setting import Needs, Setting

NEEDS = Needs(python=True)

_MS = 1e-6  # a worker's nanoseconds in milliseconds


def run(setting: Setting) -> list[dict]:
    count = 100_000 if setting.quick else 1_000_000
    cases = [
        Case(f"SIGKILL to the next put that is answered, {count:,} tensors", "ms", Ask("full", "put after SIGKILL", _MS),
             Ask("empty", "put after SIGKILL", _MS), "ms with none", "value <= 1000"),
        Case(f"longest local get meanwhile, {count:,} tensors", "ms", Ask("full", "longest get after SIGKILL", _MS)),
    ]
    with (
        Node(setting.build, "1GiB") as full, Node(setting.build, "256MiB") as empty,
        setting.python("restart", full.address, full.process.pid, count) as of_full,
        setting.python("restart", empty.address, empty.process.pid, 1) as of_empty,
    ):
        return measure("restart", cases, {"full": of_full, "empty": of_empty}, setting)
