"""A client dies, or stops for long, while it reads another node's tensor by itself."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Iterator

import pytest

import penstock
from support.daemon import Daemon
from support.nodes import start_nodes
from support.pattern import pattern
from support.waiting import freeze, until
from support.worker import Worker

SIZE = 1 << 20


@pytest.fixture(scope="module")
def nodes(short_tmp: Path) -> Iterator[list[Daemon]]:
    daemons = start_nodes(short_tmp / "reads", 2)
    yield daemons
    assert [daemon.stop() for daemon in daemons] == [0, 0]


@pytest.fixture
def home(nodes) -> Iterator[penstock.Store]:
    with penstock.connect(str(nodes[0].socket_dir)) as store:
        store.put("x", pattern(1, SIZE))
        yield store
        store.delete_prefix("")


@pytest.fixture
def reader(nodes, module_armory) -> Iterator[Worker]:
    with Worker(nodes[1].socket_dir, module_armory.folder) as worker:
        worker.do(f"out = np.zeros({SIZE}, np.uint8)")
        yield worker


def test_a_reader_that_is_killed_leaves_no_pin(home, reader, armory):
    armory.arm("client.read.opened")
    reader.start("store.get('x', out=out)")
    reader.wait_killed()
    until(lambda: int(home.stats()["pins"]) == 0, "the session there is closed", deadline_s=8)


def test_a_reader_whose_session_is_over_reads_what_is_there_now(nodes, home, reader, armory):
    """It and its node are stopped once the tensor is pinned, until the home has given it up."""
    armory.arm("client.read.opened", "stop")
    reader.start("store.get('x', out=out)")
    armory.await_fired("client.read.opened")
    until(lambda: int(home.stats()["pins"]) == 1, "pinned")
    node = nodes[1].node_pid
    freeze(node)
    try:
        home.put("x", pattern(2, SIZE))
        until(lambda: int(home.stats()["pins"]) == 0, "the session there is over")
    finally:
        os.kill(node, signal.SIGCONT)
        os.kill(reader.pid, signal.SIGCONT)
    reader.result()
    assert reader.do("shows(out, 2)") is True
