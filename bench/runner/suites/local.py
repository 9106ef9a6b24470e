"""A get from C++: hot and random names, flat over the sizes, beside a gRPC call over a UNIX socket."""

from __future__ import annotations

from runner.node import Node
from runner.records import Ask, Case
from runner.rounds import measure
from runner.setting import Needs, Setting

NEEDS = Needs(programs=("local_bench",))

_GRPC = Ask("c++", "grpc unary")


def _get(name: str, measurement: str, goal: str) -> Case:
    return Case(name, "ns", Ask("c++", measurement), _GRPC, "ns of a gRPC call", goal)


def run(setting: Setting) -> list[dict]:
    names = 100_000 if setting.quick else 1_000_000
    hot = "value <= 60 and ratio >= 500"
    cases = [
        *(_get(f"get, hot name, {size}", f"get hot {size}", hot) for size in ("4 KiB", "1 MiB", "64 MiB", "1 GiB")),
        _get(f"get, random of {names:,}", "get random", "value <= 500"),
    ]
    with Node(setting.build, "4GiB") as node:
        with setting.program("local_bench", f"--address={node.address}", f"--names={names}") as worker:
            return measure("local", cases, {"c++": worker}, setting)
