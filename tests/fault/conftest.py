"""Death at every step: a node and clients with armed fault points, and the accounting afterwards."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator

import pytest

import penstock
from support.books import books, nothing_left
from support.daemon import Daemon, start_daemon
from support.nodes import start_nodes
from support.waiting import until
from support.worker import Worker


@dataclass
class Armory:
    """Files that arm fault points (transport/fault_point.h): each kills or stops who reaches it first."""

    folder: Path

    def arm(self, point: str, what: str = "kill") -> None:
        (self.folder / point).write_text(what)

    def fired(self, point: str) -> bool:
        return not (self.folder / point).exists()

    def await_fired(self, point: str) -> None:
        until(lambda: self.fired(point), f"{point} is reached")

    def disarm_all(self) -> list[str]:
        left = sorted(path.name for path in self.folder.iterdir())
        for name in left:
            (self.folder / name).unlink(missing_ok=True)
        return left


@pytest.fixture(scope="session")
def short_tmp() -> Iterator[Path]:
    """A folder whose path is short: that of a socket may have 107 bytes only."""
    path = Path(tempfile.mkdtemp(prefix="pst-", dir="/tmp"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="module")
def module_armory(short_tmp: Path, request: pytest.FixtureRequest) -> Armory:
    folder = short_tmp / f"{request.module.__name__[-30:]}-faults"
    folder.mkdir()
    return Armory(folder)


@pytest.fixture(scope="module")
def daemon(short_tmp: Path, module_armory: Armory, request: pytest.FixtureRequest) -> Iterator[Daemon]:
    memory = getattr(request.module, "MEMORY", "256MiB")
    daemon = start_daemon(short_tmp / request.module.__name__[-30:], f"--memory={memory}",
                          PENSTOCK_FAULT_DIR=str(module_armory.folder))
    yield daemon
    assert daemon.stop() == 0, "penstockd did not stop gracefully"


@pytest.fixture(scope="module")
def module_store(daemon: Daemon) -> Iterator[penstock.Store]:
    """The observer: never dies, never writes large tensors, asks for the accounting."""
    with penstock.connect(str(daemon.socket_dir), timeout=30.0, label="observer") as store:
        yield store


@pytest.fixture
def store(module_store: penstock.Store) -> Iterator[penstock.Store]:
    yield module_store
    nothing_left(module_store)


@pytest.fixture
def armory(module_armory: Armory) -> Iterator[Armory]:
    yield module_armory
    assert module_armory.disarm_all() == [], "fault points that were armed and never reached"


@dataclass
class Pair:
    """Two nodes; 0 is the home of 'x'."""

    daemons: list[Daemon]
    home: penstock.Store
    other: penstock.Store

    def nothing_left(self) -> None:
        self.home.delete_prefix("")
        for store in (self.home, self.other):
            until(lambda: [books(store)[key] for key in ("drafts", "draft_bytes", "pins", "retired")] == [0, 0, 0, 0],
                  f"nothing is left: {books(store)}", deadline_s=30)
            assert int(store.stats()["tensors"]) == 0

    def await_another_process(self, which: int, pid: int) -> None:
        until(lambda: self.daemons[which].node_pid not in (None, pid), "the warden forks a new node")


@pytest.fixture(scope="module")
def pair(short_tmp: Path, module_armory: Armory, request: pytest.FixtureRequest) -> Iterator[Pair]:
    daemons = start_nodes(short_tmp / f"{request.module.__name__[-30:]}-pair", 2, PENSTOCK_FAULT_DIR=str(module_armory.folder))
    with penstock.connect(str(daemons[0].socket_dir), timeout=30) as home, penstock.connect(str(daemons[1].socket_dir), timeout=30) as other:
        yield Pair(daemons, home, other)
    assert [daemon.stop() for daemon in daemons] == [0, 0]


@pytest.fixture
def make_worker(daemon: Daemon, module_armory: Armory) -> Iterator:
    """Starts clients; those that still live at the end of the test are killed."""
    workers: list[Worker] = []

    def make(label: str = "worker") -> Worker:
        workers.append(Worker(daemon.socket_dir, module_armory.folder, label))
        return workers[-1]

    yield make
    for worker in workers:
        worker.__exit__()
