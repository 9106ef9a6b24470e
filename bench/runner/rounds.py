"""Runs a suite's cases: a warm-up, then rounds in which each value is followed by its ceiling."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Protocol

from runner.records import Case, record
from runner.worker import WorkerError


class Answers(Protocol):
    def ask(self, measurement: str) -> float: ...


def measure(suite: str, cases: list[Case], workers: Mapping[str, Answers], rounds: int) -> list[dict]:
    """One record a case that could be measured; the others are told on stderr."""
    values: dict[str, list[float]] = {case.name: [] for case in cases}
    ceilings: dict[str, list[float]] = {case.name: [] for case in cases}
    broken: set[str] = set()
    for number in range(rounds + 1):
        for case in cases:
            if case.name in broken:
                continue
            try:
                value = workers[case.value.worker].ask(case.value.measurement) * case.value.scale
                ceiling = None
                if case.ceiling:
                    ceiling = workers[case.ceiling.worker].ask(case.ceiling.measurement) * case.ceiling.scale
            except WorkerError as error:
                print(f"bench: {suite}: {case.name}: not measured: {error}", file=sys.stderr)
                broken.add(case.name)
                continue
            if number == 0:  # warms caches, mappings and pools up
                continue
            values[case.name].append(value)
            if ceiling is not None:
                ceilings[case.name].append(ceiling)
    return [record(suite, case, values[case.name], ceilings[case.name]) for case in cases if case.name not in broken]
