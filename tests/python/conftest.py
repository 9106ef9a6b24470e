"""A private node for the whole run, and a store per test that checks what the test left behind."""

from __future__ import annotations

import gc
import subprocess
import sys
import time
from typing import Any, Callable, Iterator

import pytest

import penstock

DEADLINE = 20.0  # seconds; a bound for what takes milliseconds on a quiet machine


def until(condition: Callable[[], Any], what: str) -> Any:
    """The first true value of `condition`; fails when there is none in time."""
    end = time.monotonic() + DEADLINE
    while not (value := condition()):
        assert time.monotonic() < end, f"not within {DEADLINE} s: {what}"
        time.sleep(0.005)
    return value


@pytest.fixture(scope="session")
def node() -> Iterator[penstock.LocalNode]:
    gc.collect()
    gc.freeze()  # what is loaded now stays: each collection of a test is quick
    with penstock.start_local(memory="384MiB") as node:
        yield node


def accounting(store: penstock.Store) -> dict[str, int]:
    """What this session holds, as the node counts it."""
    gc.collect()
    mine = [s for s in store._ask("Sessions")["sessions"] if s["id"] == store.session_id]
    assert len(mine) == 1, "the node does not know this session"
    return {"pins": mine[0]["pins"], "drafts": mine[0]["drafts"]}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    report = yield
    if report.when == "call":
        item.stash[_PASSED] = report.passed
    return report


_PASSED = pytest.StashKey[bool]()


@pytest.fixture
def store(node: penstock.LocalNode, request: pytest.FixtureRequest) -> Iterator[penstock.Store]:
    with node.connect(label="pytest") as store:
        yield store
        if not request.node.stash.get(_PASSED, False):
            store.delete_prefix("")  # the traceback of a failed test keeps its views
        elif not store.closed:
            nothing = {"pins": 0, "drafts": 0}
            until(lambda: accounting(store) == nothing, f"nothing left of {accounting(store)}")
            store.delete_prefix("")
            assert list(store.list()) == []


@pytest.fixture
def held(store: penstock.Store) -> Callable[[], dict[str, int]]:
    """What the session of `store` holds now."""
    return lambda: accounting(store)


@pytest.fixture
def run_python(node: penstock.LocalNode) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a piece of Python in a process of its own, with `store` open."""

    def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        prelude = f"import penstock, sys\nstore = penstock.connect({node.address!r})\n"
        return subprocess.run(
            [sys.executable, "-c", prelude + code, *arguments],
            capture_output=True,
            text=True,
            timeout=60,
        )

    return run


@pytest.fixture
def eventually() -> Callable[[Callable[[], Any], str], Any]:
    return until


@pytest.fixture
def spawn(node: penstock.LocalNode) -> Iterator[Callable[[str], "subprocess.Popen[str]"]]:
    """Starts a Python process with `store` open; its standard output is read by the test. Killed at the end."""
    processes: list[subprocess.Popen[str]] = []

    def start(code: str) -> subprocess.Popen[str]:
        prelude = f"import penstock, sys, os, time, numpy as np\nstore = penstock.connect({node.address!r})\n"
        process = subprocess.Popen(
            [sys.executable, "-c", prelude + code], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.wait()
        for pipe in (process.stdout, process.stdin):
            assert pipe is not None
            pipe.close()


@pytest.fixture
def no_mutable_left(store: penstock.Store, eventually: Callable[[Callable[[], Any], str], Any]) -> Iterator[None]:
    """Checks that neither channels nor regions are left of a test."""
    yield
    gc.collect()
    counts = lambda: [store.stats()[key] for key in ("channels", "channel_bytes", "regions", "region_bytes")]  # noqa: E731
    eventually(lambda: counts() == [0] * 4, f"channels and regions are left: {counts()}")
