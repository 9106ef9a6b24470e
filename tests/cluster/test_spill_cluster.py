"""Spilled tensors of a cluster on etcd: held as before, for readers of other nodes, too; a damaged file is served by another holder."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Iterator

import pytest

import penstock
from support.cluster import patiently
from support.daemon import Cli, Daemon, start_daemon
from support.etcd import Etcd, needs_etcd_reason
from support.pattern import pattern, shows
from support.waiting import until

pytestmark = pytest.mark.skipif(needs_etcd_reason is not None, reason=str(needs_etcd_reason))

NBYTES, COUNT = 2 << 20, 60  # of 64 MiB


@pytest.fixture(scope="module")
def etcd(short_tmp: Path) -> Iterator[Etcd]:
    with Etcd(short_tmp / "etcd-spill") as running:
        yield running


@pytest.fixture
def start(short_tmp: Path, tmp_path: Path, etcd: Etcd, request: pytest.FixtureRequest) -> Iterator:
    daemons: list[Daemon] = []

    def node(spill: str) -> Daemon:
        where = short_tmp / f"{abs(hash(request.node.name)) % 10**6}-{len(daemons)}"
        daemons.append(start_daemon(where, "--memory=64MiB", "--data_port=0", etcd.flag, f"--cluster={request.node.name[:60]}", "--member_ttl=2s",
                                    f"--host_label=h{len(daemons)}", f"--spill_dir={tmp_path / spill}"))
        return daemons[-1]

    yield node
    for daemon in daemons:
        daemon.stop()


def agree(*daemons: Daemon) -> None:
    def up(daemon: Daemon) -> int:
        return [node["state"] for node in Cli(daemon.socket_dir).json("nodes")[0]["cluster"].get("nodes", [])].count("up")

    until(lambda: all(up(daemon) == len(daemons) for daemon in daemons), "all see all", 30)


def connect(daemon: Daemon) -> penstock.Store:
    return penstock.connect(str(daemon.socket_dir), timeout=60)


def test_all_is_read_on_any_node_and_after_a_death(start, tmp_path: Path) -> None:
    daemons = [start("a"), start("b")]
    agree(*daemons)
    with connect(daemons[0]) as a, connect(daemons[1]) as b:
        for i in range(COUNT):
            a.put(f"t/{i}", pattern(i, NBYTES))
        assert len(list((tmp_path / "a").glob("*.tensor"))) > 20
        for store in (a, b):
            for i in range(COUNT):
                assert shows(store.get(f"t/{i}").numpy(), i), f"t/{i}"
        pid = daemons[0].node_pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        until(lambda: daemons[0].node_pid not in (None, pid), "the warden forks a new node")
        for store in (b, a):
            for i in range(COUNT):
                assert shows(patiently(lambda: store.get(f"t/{i}")).numpy(), i), f"t/{i}"
        a.put("t/0", pattern(99, NBYTES))
        assert shows(b.get("t/0").numpy(), 99)
        assert b.delete_prefix("t/") == COUNT
        until(lambda: not list((tmp_path / "a").glob("*.tensor")), "files go with their tensors")


def test_a_damaged_file_is_served_by_another_holder(start, tmp_path: Path) -> None:
    daemons = [start("a"), start("b")]
    agree(*daemons)
    with connect(daemons[0]) as a, connect(daemons[1]):
        a.put("t/0", pattern(0, NBYTES), replicas=2)
        for i in range(1, 40):
            a.put(f"t/{i}", pattern(i, NBYTES))
        (path,) = [file for file in (tmp_path / "a").glob("*.tensor") if b"\x03t/0\x12" in file.read_bytes()[:4096]]
        with path.open("r+b") as file:
            file.seek(500_000)
            file.write(b"????????")
        for _ in range(3):
            assert shows(a.get("t/0").numpy(), 0)
        until(lambda: path.with_suffix(".bad").exists(), "it is set aside")
        assert a.put("t/0", pattern(5, 100)).version == 2 and shows(a.get("t/0").numpy(), 5)


def test_the_files_of_an_earlier_life_are_removed(start, tmp_path: Path) -> None:
    (first,) = [start("a")]
    agree(first)
    with connect(first) as a:
        for i in range(40):
            a.put(f"t/{i}", pattern(i, NBYTES))
    assert list((tmp_path / "a").glob("*.tensor"))
    assert first.stop() == 0
    start("a")
    assert not list((tmp_path / "a").glob("*.tensor"))
