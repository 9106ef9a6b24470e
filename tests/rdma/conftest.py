"""Two nodes on one device, and clients of both."""

from __future__ import annotations

from typing import Iterator

import pytest

import penstock
from support.daemon import Daemon
from support.nodes import start_nodes


@pytest.fixture(scope="module")
def nodes(tmp_path_factory) -> Iterator[list[Daemon]]:
    daemons = start_nodes(tmp_path_factory.mktemp("n"), 2, "--memory=64MiB")
    yield daemons
    assert [daemon.stop() for daemon in daemons] == [0, 0]


@pytest.fixture
def stores(nodes) -> Iterator[tuple[penstock.Store, penstock.Store]]:
    with penstock.connect(str(nodes[0].socket_dir), timeout=30) as a, penstock.connect(str(nodes[1].socket_dir), timeout=30) as b:
        a.delete_prefix("")
        yield a, b


@pytest.fixture
def strict(nodes) -> Iterator[penstock.Store]:
    with penstock.connect(str(nodes[1].socket_dir), timeout=30, require_transport="rdma") as store:
        yield store
