"""Real processes: a penstockd of its own for each test module, and the built `penstock` to talk to it."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Iterator

import pytest

import penstock
from support.daemon import BUILD, DEADLINE_S, Cli, Daemon, start_daemon
from support.nodes import start_nodes

__all__ = ["BUILD", "DEADLINE_S", "Cli", "Daemon", "start_daemon"]


@pytest.fixture(scope="session")
def short_tmp() -> Iterator[Path]:
    """A folder whose path is short: that of a socket may have 107 bytes only."""
    path = Path(tempfile.mkdtemp(prefix="pst-", dir="/tmp"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="module")
def daemon(short_tmp: Path, request: pytest.FixtureRequest) -> Iterator[Daemon]:
    socket_dir = short_tmp / request.module.__name__.rsplit(".", 1)[-1][:40]
    daemon = start_daemon(socket_dir, "--memory=256MiB")
    yield daemon
    assert daemon.stop() == 0, "penstockd did not stop gracefully"


@pytest.fixture(scope="module")
def module_cli(daemon: Daemon) -> Cli:
    return Cli(daemon.socket_dir)


@pytest.fixture
def cli(module_cli: Cli) -> Iterator[Cli]:
    """The module's store, empty at the start of each test."""
    module_cli.run("rm", "--all")
    yield module_cli


@pytest.fixture(scope="module")
def nodes(short_tmp: Path, request: pytest.FixtureRequest) -> Iterator[list[Daemon]]:
    """Two that know each other."""
    daemons = start_nodes(short_tmp / request.module.__name__.rsplit(".", 1)[-1][:30], 2)
    yield daemons
    assert [daemon.stop() for daemon in daemons] == [0, 0]


@pytest.fixture
def stores(nodes: list[Daemon]) -> Iterator[tuple[penstock.Store, penstock.Store]]:
    """Clients of the two nodes, which are empty."""
    with penstock.connect(str(nodes[0].socket_dir)) as a, penstock.connect(str(nodes[1].socket_dir)) as b:
        a.delete_prefix("")
        yield a, b
