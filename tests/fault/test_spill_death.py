"""SIGKILL of the node at every step to and from the spill directory: what was put is read back, byte by byte."""

from __future__ import annotations

from pathlib import Path
from typing import Iterator

import pytest

import penstock
from support.daemon import Daemon, start_daemon
from support.pattern import pattern, shows
from support.waiting import until

COUNT, NBYTES = 100, 2 << 20  # of 128 MiB

OUT = ["node.spill.begin", "node.spill.writing", "node.spill.written", "node.spill.renamed", "node.spill.listed", "node.retire.even",
       "node.spill.retired"]
BACK = ["node.spill.reading", "node.spill.read", "node.adopt.live"]


@pytest.fixture
def spilling(short_tmp: Path, module_armory, tmp_path: Path) -> Iterator[Daemon]:
    daemon = start_daemon(short_tmp / "spilling", "--memory=128MiB", f"--spill_dir={tmp_path / 'spill'}", PENSTOCK_FAULT_DIR=str(module_armory.folder))
    yield daemon
    assert daemon.stop() == 0


def fill(store: penstock.Store) -> None:
    for i in range(COUNT):
        store.put(f"t/{i}", pattern(i, NBYTES))


def check(store: penstock.Store) -> None:
    for i in range(COUNT):
        assert shows(store.get(f"t/{i}").numpy(), i), f"t/{i}"


def ends_clean(store: penstock.Store, daemon: Daemon, folder: Path) -> None:
    assert store.delete_prefix("") == COUNT
    until(lambda: not list(folder.glob("*.tensor")), "the files go with their tensors")
    df = store.stats()
    assert [int(df[key]) for key in ("spilled", "spilled_bytes", "tensors", "tensor_bytes", "block_bytes", "drafts")] == [0] * 6
    assert not list(folder.glob("*.bad"))


@pytest.mark.parametrize("point", OUT)
def test_on_the_way_out(spilling: Daemon, armory, tmp_path: Path, point: str) -> None:
    with penstock.connect(str(spilling.socket_dir), timeout=60) as store:
        first = spilling.node_pid
        armory.arm(point)
        fill(store)
        armory.await_fired(point)
        until(lambda: spilling.node_pid not in (None, first), "the warden forks a new node")
        check(store)
        ends_clean(store, spilling, tmp_path / "spill")


@pytest.mark.parametrize("point", BACK)
def test_on_the_way_back(spilling: Daemon, armory, tmp_path: Path, point: str) -> None:
    with penstock.connect(str(spilling.socket_dir), timeout=60) as store:
        fill(store)
        first = spilling.node_pid
        armory.arm(point)
        check(store)
        armory.await_fired(point)
        assert spilling.node_pid != first
        check(store)
        ends_clean(store, spilling, tmp_path / "spill")
