"""The runner's side of a worker: a process that answers one measurement a line (bench/workers/worker.h)."""

from __future__ import annotations

import json
import subprocess
import threading
from pathlib import Path

ANSWER_DEADLINE_S = 180


class WorkerError(RuntimeError):
    """The worker could not measure what it was asked, or is gone."""


class Worker:
    """Ends with its context: its stdin closes, it returns, or it is killed."""

    def __init__(self, command: list[str | Path], env: dict[str, str] | None = None) -> None:
        self._name = Path(command[-1] if command[0] == "env" else command[0]).name
        self._process = subprocess.Popen(
            [str(word) for word in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env
        )

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._process.stdin.close()
        except BrokenPipeError:  # it has ended already
            pass
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def ask(self, measurement: str) -> float:
        watchdog = threading.Timer(ANSWER_DEADLINE_S, self._process.kill)
        watchdog.start()
        try:
            self._process.stdin.write(measurement.encode() + b"\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = b""
        finally:
            watchdog.cancel()
        if not line:
            raise WorkerError(f"{self._name} ended with {self._process.wait()} when asked for {measurement!r}")
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerError(f"{measurement}: {answer['error']}")
        return float(answer["value"])
