"""Runs one command to its end, with a time limit, and leaves no process behind.

The runner makes itself the subreaper of all that it starts: a daemon whose parent died becomes the runner's own
child, so nothing can slip away by forking twice or by a new session, and no environment marker is needed. What is
still alive a moment after the command ended is named in the result and killed.

One command at a time: run() reaps every child of this process.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Mapping, Sequence

_PR_SET_CHILD_SUBREAPER = 36
_POLL_SECONDS = 0.01


@dataclass(frozen=True)
class Ended:
    code: int  # as subprocess: negative = killed by that signal
    timed_out: bool
    seconds: float
    left_behind: list[str] = field(default_factory=list)  # "pid 123: penstockd --memory=1GiB"

    @property
    def ok(self) -> bool:
        return self.code == 0 and not self.timed_out

    def why(self) -> str:
        if self.timed_out:
            return f"killed after the time limit ({self.seconds:.0f} s)"
        if self.code < 0:
            return f"died of {signal.Signals(-self.code).name}"
        return f"exit code {self.code}"


def run(
    argv: Sequence[str | Path],
    *,
    log: BinaryIO,
    timeout: float,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    grace: float = 3.0,
) -> Ended:
    """Runs `argv` with its output in `log`. `grace`: how long its orphans may take to end by themselves."""
    _become_subreaper()
    log.flush()
    start = time.monotonic()
    child = subprocess.Popen(
        [str(a) for a in argv],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        cwd=cwd,
        env=None if env is None else dict(env),
        start_new_session=True,
    )
    try:
        code = _wait_for(child.pid, start + timeout)
        timed_out = code is None
        if timed_out:
            kill_descendants()
            code = -signal.SIGKILL
        seconds = time.monotonic() - start
        left = [] if timed_out else _wait_for_orphans(grace)
    finally:
        kill_descendants()
        child.returncode = 0  # reaped here, not by subprocess
    return Ended(code, timed_out, seconds, left)


def _become_subreaper() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def _wait_for(pid: int, deadline: float) -> int | None:
    """The exit code of `pid`, or None at the deadline. Orphans that end meanwhile are reaped."""
    while True:
        for reaped, status in _reap():
            if reaped == pid:
                return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= deadline:
            return None
        time.sleep(_POLL_SECONDS)


def _reap() -> list[tuple[int, int]]:
    ended = []
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            ended.append((pid, status))
    return ended


def _wait_for_orphans(grace: float) -> list[str]:
    deadline = time.monotonic() + grace
    while True:
        _reap()
        alive = descendants()
        if not alive or time.monotonic() >= deadline:
            return [f"pid {pid}: {_command_line(pid)}" for pid in alive]
        time.sleep(_POLL_SECONDS)


def descendants() -> list[int]:
    """Living processes below this one, parents first."""
    parents: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                # pid (comm) state ppid ...; comm may hold anything, so cut after the last ')'.
                fields = Path("/proc", entry, "stat").read_text("utf-8", "replace")
                state, parent = fields.rpartition(")")[2].split()[:2]
                if state not in "ZX":
                    parents.setdefault(int(parent), []).append(int(entry))
    found, queue = [], [os.getpid()]
    while queue:
        children = parents.get(queue.pop(0), [])
        found += children
        queue += children
    return found


def kill_descendants() -> None:
    """SIGKILL to all below this process until none is left: a dying one may just have forked."""
    deadline = time.monotonic() + 10
    while (alive := descendants()) and time.monotonic() < deadline:
        for pid in alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(_POLL_SECONDS)
        _reap()
    _reap()


def _command_line(pid: int) -> str:
    with contextlib.suppress(OSError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        return b" ".join(words).decode("utf-8", "replace").strip()[:200]
    return "(gone)"
