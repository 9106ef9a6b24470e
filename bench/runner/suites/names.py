"""Very many names: memory of each, lookups, and listing them all while others get."""

from __future__ import annotations

from runner.footprint import Footprint
from runner.node import Node
from runner.records import Ask, Case
from runner.rounds import measure
from runner.setting import Needs, Setting

NEEDS = Needs(programs=("names_bench",))


def _cases(few: int, many: int) -> list[Case]:
    return [
        Case(f"memory of a tensor, {many:,} of them, beyond data and name", "bytes", Ask("footprint", f"bytes {many}"),
             goal="value <= 200"),
        Case(f"get among {few:,}", "ns", Ask("few", f"get among {few}"), goal="value <= 500"),
        Case(f"get among {many:,}", "ns", Ask("many", f"get among {many}"), Ask("few", f"get among {few}"),
             f"ns among {few:,}", "value <= 500"),
        Case(f"list of {many:,} by prefix", "ns a name", Ask("many", "list")),
        Case("get while that runs, 99.9 %", "ns", Ask("many", "99.9 % get while listing"),
             Ask("many", "99.9 % get"), "ns without it", "ratio >= 0.5"),
        Case("get while that runs, the worst", "us", Ask("many", "worst get while listing", 1e-3),
             Ask("many", "worst get", 1e-3), "us without it"),
    ]


def run(setting: Setting) -> list[dict]:
    few, many = 10_000, 100_000 if setting.quick else 1_000_000
    with (
        Node(setting.build, "1GiB") as small,
        Node(setting.build, "2GiB") as large,
        setting.program("names_bench", f"--address={small.address}") as few_worker,
        setting.program("names_bench", f"--address={large.address}") as many_worker,
    ):
        few_worker.ask(f"fill {few}")
        many_worker.ask(f"fill {many}")
        workers = {"few": few_worker, "many": many_worker, "footprint": Footprint(setting)}
        return measure("names", _cases(few, many), workers, setting)
