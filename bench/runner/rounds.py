"""Runs a suite's cases: a warm-up, then rounds in which each value is followed by its ceiling."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Protocol

from runner.records import Case, record
from runner.setting import Setting
from runner.worker import WorkerError


class Answers(Protocol):
    def ask(self, measurement: str) -> float: ...


def measure(suite: str, cases: list[Case], workers: Mapping[str, Answers], setting: Setting) -> list[dict]:
    """One record a case that could be measured; the others are told on stderr."""
    values: dict[str, list[float]] = {case.name: [] for case in cases}
    ceilings: dict[str, list[float]] = {case.name: [] for case in cases}
    broken: set[str] = set()
    for number in range(setting.rounds + 1):
        if number > 1 and time.monotonic() > setting.deadline:
            print(f"bench: {suite}: out of time after {number - 1} of {setting.rounds} rounds", file=sys.stderr)
            break
        for case in cases:
            if case.name in broken:
                continue
            try:
                value, ceiling = _ask(case, workers)
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


def _ask(case: Case, workers: Mapping[str, Answers]) -> tuple[float, float | None]:
    value = workers[case.value.worker].ask(case.value.measurement) * case.value.scale
    if case.ceiling is None:
        return value, None
    return value, workers[case.ceiling.worker].ask(case.ceiling.measurement) * case.ceiling.scale
