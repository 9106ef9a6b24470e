"""The Python side of worker.h: reads names of measurements on stdin, answers each with one line of JSON."""

from __future__ import annotations

import gc
import json
import os
import sys
from collections.abc import Callable
from statistics import median
from time import perf_counter_ns

Measurement = Callable[[], float]


def serve(measurements: dict[str, Measurement]) -> None:
    """Until stdin ends. What a measurement prints goes to stderr: stdout is for the answers."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    gc.freeze()
    for line in sys.stdin:
        name = line.rstrip("\n")
        try:
            answer = {"value": measurements[name]()}
        except KeyError:
            answer = {"error": f"this worker measures no {name!r}"}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


def each_ns(operation: Callable[[], object], seconds: float = 0.04, batch: int = 32) -> float:
    """What a call costs: the median of short batches, so one that the scheduler broke off does not count.

    The loop's own cost is taken off.
    """
    batches = []
    numbers = range(batch)
    end = perf_counter_ns() + seconds * 1e9
    now = 0
    while now < end:
        start = perf_counter_ns()
        for _ in numbers:
            operation()
        now = perf_counter_ns()
        batches.append(now - start)
    return max(median(batches) / batch - _empty_call_ns(), 0.0)


def once_ns(operation: Callable[[], object]) -> float:
    start = perf_counter_ns()
    operation()
    return perf_counter_ns() - start


def _empty_call_ns() -> float:
    """What the loop and the call of a lambda cost without what it does."""
    global _empty
    if _empty is None:
        nothing = lambda: None  # noqa: E731
        fastest = []
        for _ in range(20):
            start = perf_counter_ns()
            for _ in range(1000):
                nothing()
            fastest.append((perf_counter_ns() - start) / 1000)
        _empty = min(fastest)
    return _empty


_empty: float | None = None
