"""The links on which nodes tell each other about names: a small message and its answer, beside a bare gRPC call."""

from __future__ import annotations

from runner.records import Ask, Case
from runner.rounds import measure
from runner.setting import Needs, Setting

NEEDS = Needs(programs=("directory_link_bench",))

CASES = [
    Case("small message there and back, p50", "us", Ask("link", "message there and back"), Ask("link", "call"),
         "us of a gRPC call", "ratio >= 0.77"),
    Case("100,000 at once, each there and back", "us", Ask("link", "many messages there and back"), Ask("link", "call"),
         "us of a gRPC call"),
]


def run(setting: Setting) -> list[dict]:
    with setting.program("directory_link_bench") as worker:
        return measure("directory_link", CASES, {"link": worker}, setting)
