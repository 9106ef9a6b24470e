"""Clients in processes of their own, which a test may stop and kill.

    with Worker(address) as worker:
        worker.do("view = store.get('x')")
        worker.start("store.put('y', pattern(1, 8))")   # does not wait
        worker.kill()

Code runs in one namespace: store, np, penstock, pattern, shows, and what earlier code left there.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from support.daemon import ROOT, clean_environment

DEADLINE_S = 60.0


class CallFailed(Exception):
    """The code raised. `kind`: the name of the exception's class."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(f"{kind}: {text}")
        self.kind = kind


class Died(Exception):
    """The process ended before it answered."""


class Worker:
    def __init__(self, address: Path, fault_dir: Path | None = None, label: str = "worker", prefix: tuple[str, ...] = ()) -> None:
        """`prefix`: a command that execs it, such as `ip netns exec NAME`."""
        env = clean_environment(PENSTOCK_ADDRESS=str(address))
        env["PYTHONPATH"] = os.pathsep.join((str(ROOT / "tests"), env.get("PYTHONPATH", "")))
        if fault_dir is not None:
            env["PENSTOCK_FAULT_DIR"] = str(fault_dir)
        self.process = subprocess.Popen(
            [*prefix, sys.executable, "-m", "support.worker_main"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env, bufsize=0,
        )
        self._unread = b""
        self.do(f"store = penstock.connect(timeout=30.0, label={label!r})")

    @property
    def pid(self) -> int:
        return self.process.pid

    def start(self, code: str) -> None:
        self.process.stdin.write(json.dumps(code).encode() + b"\n")

    def result(self, deadline_s: float = DEADLINE_S) -> Any:
        """What the code that was started last returned."""
        end = time.monotonic() + deadline_s
        while b"\n" not in self._unread:
            ready, _, _ = select.select([self.process.stdout], [], [], max(0.0, end - time.monotonic()))
            assert ready, f"worker {self.pid} did not answer within {deadline_s} s"
            chunk = os.read(self.process.stdout.fileno(), 1 << 16)
            if not chunk:
                raise Died(f"worker {self.pid} ended with {self.process.wait()}")
            self._unread += chunk
        line, _, self._unread = self._unread.partition(b"\n")
        answer = json.loads(line)
        if "error" in answer:
            raise CallFailed(answer["error"], answer["text"])
        return answer["value"]

    def do(self, code: str, deadline_s: float = DEADLINE_S) -> Any:
        self.start(code)
        return self.result(deadline_s)

    def wait_killed(self) -> float:
        """Waits until it died of SIGKILL. Returns the time at which that was seen."""
        code = self.process.wait(timeout=DEADLINE_S)
        assert code == -signal.SIGKILL, f"worker ended with {code}"
        return time.monotonic()

    def kill(self) -> float:
        self.process.kill()
        return self.wait_killed()

    def stop(self) -> None:
        """SIGSTOP; returns when it is stopped."""
        os.kill(self.pid, signal.SIGSTOP)
        self.wait_stopped()

    def wait_stopped(self) -> None:
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WNOWAIT)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def close(self) -> None:
        """Lets it end by itself, as a program does."""
        self.process.stdin.close()
        assert self.process.wait(timeout=DEADLINE_S) == 0, "the worker did not end well"

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()
