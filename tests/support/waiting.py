"""Waiting for a condition: with a deadline, never for a length of time."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any, Callable

DEADLINE_S = 30.0  # a bound for what takes milliseconds on a quiet machine


def until(condition: Callable[[], Any], what: str, deadline_s: float = DEADLINE_S) -> Any:
    """The first true value of `condition`; fails when there is none in time."""
    end = time.monotonic() + deadline_s
    while not (value := condition()):
        assert time.monotonic() < end, f"not within {deadline_s} s: {what}"
        time.sleep(0.002)
    return value


def is_stopped(pid: int) -> bool:
    """By SIGSTOP, all its threads."""
    return all(task.read_text().rsplit(")", 1)[1].split()[0] in "TZ" for task in Path(f"/proc/{pid}/task").glob("*/stat"))


def freeze(pid: int) -> None:
    """SIGSTOP; returns when no thread of it runs any more, which on a busy machine takes its time."""
    os.kill(pid, signal.SIGSTOP)
    until(lambda: is_stopped(pid), f"process {pid} is stopped")
