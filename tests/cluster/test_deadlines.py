"""Every call ends by its deadline and a second, whatever its peer does: stopped, gone, unreachable, slow."""

from __future__ import annotations

import os
import signal
import time
from typing import Callable, Iterator

import numpy as np
import pytest

import penstock
from support.daemon import Daemon
from support.nodes import start_nodes
from support.pattern import pattern, shows
from support.waiting import freeze, until

MIB = 1 << 20
TIMEOUT_S = 1.0
NBYTES = 3 * MIB

CALLS: dict[str, Callable[[penstock.Store], object]] = {
    "get": lambda s: s.get("x"),
    "get a version": lambda s: s.get("x", version=1),
    "get into an array": lambda s: s.get("x", out=np.empty(NBYTES, np.uint8)),
    "get a box": lambda s: s.get("x", np.s_[5:1000]),
    "get_many": lambda s: s.get_many(["x", "y"]),
    "put": lambda s: s.put("x", pattern(2, NBYTES)),
    "put a new one": lambda s: s.put("new", pattern(2, 10)),
    "put_many": lambda s: s.put_many({"x": pattern(2, 10), "y": pattern(2, NBYTES)}),
    "delete": lambda s: s.delete("x"),
    "delete_prefix": lambda s: s.delete_prefix("x"),
    "stat": lambda s: s.stat("x"),
    "exists": lambda s: s.exists("x"),
    "list": lambda s: list(s.list()),
    "longest_prefix": lambda s: s.longest_prefix(["x", "y"]),
    "wait": lambda s: s.wait("never", timeout=TIMEOUT_S),
}


@pytest.fixture(scope="module")
def nodes(tmp_path_factory) -> Iterator[list[Daemon]]:
    daemons = start_nodes(tmp_path_factory.mktemp("d"), 2, "--memory=128MiB")
    yield daemons
    for daemon in daemons:
        daemon.stop()


def stopped(home: Daemon) -> Callable[[], None]:
    """Its process takes part in nothing; the kernel goes on answering for it."""
    pid = home.node_pid
    freeze(pid)
    return lambda: os.kill(pid, signal.SIGCONT)


def gone(home: Daemon) -> Callable[[], None]:
    freeze(home.process.pid)  # the warden: it makes no other one
    os.kill(home.node_pid, signal.SIGKILL)
    return lambda: os.kill(home.process.pid, signal.SIGCONT)


CASES = [(what, fault, True) for what in CALLS for fault in (stopped, gone)]
CASES += [(what, stopped, False) for what in ("get", "get into an array", "put", "put_many")]  # the first call there opens a session


@pytest.mark.parametrize("what, fault, known", CASES, ids=lambda value: getattr(value, "__name__", str(value)))
def test_a_call_ends_in_time(nodes, what, fault, known):
    with penstock.connect(str(nodes[0].socket_dir), timeout=30) as a:
        a.delete_prefix("")
        for name in ("x", "y"):
            a.put(name, pattern(1, NBYTES))
        with penstock.connect(str(nodes[1].socket_dir), timeout=TIMEOUT_S) as b:
            if known:
                b.stat("x")
                b.get("y", out=np.empty(NBYTES, np.uint8))
            repair = fault(nodes[0])
            try:
                begin = time.monotonic()
                with pytest.raises((penstock.UnavailableError, penstock.DeadlineError, penstock.PartialError)):
                    CALLS[what](b)
                assert time.monotonic() - begin < TIMEOUT_S + 1
            finally:
                repair()

            def well() -> bool:
                try:
                    return shows(b.put("z", pattern(3, 1000)) and b.get("z").numpy(), 3)
                except (penstock.UnavailableError, penstock.DeadlineError):
                    return False

            until(well, "all is well again")
        until(lambda: int(a.stats()["drafts"]) == 0, "what was begun is over")
