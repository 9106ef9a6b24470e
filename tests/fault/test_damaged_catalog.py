"""The catalog of a real node is damaged while its process is dead: what is hit is put aside and said, the rest is served."""

from __future__ import annotations

import json
import os
import re
import signal
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator

import pytest

import penstock
from support.daemon import Cli, Daemon, start_daemon
from support.pattern import pattern, shows
from support.waiting import freeze, is_stopped, until
from support.worker import Worker

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="writes into another process's memory")

RECORD_FIXED, CHUNK_HEADER = 88, 4096  # proto/layout/catalog_layout.h


class Warden:
    """Its memory, which the next node process inherits."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon

    def __enter__(self) -> Warden:
        """Stopped, with no node below it."""
        node = until(lambda: self.daemon.node_pid, "there is a node")
        freeze(self.daemon.process.pid)
        until(lambda: is_stopped(self.daemon.process.pid), "the warden is stopped")
        os.kill(node, signal.SIGKILL)
        return self

    def __exit__(self, *_: object) -> None:
        os.kill(self.daemon.process.pid, signal.SIGCONT)

    def segment(self, kind: str) -> tuple[int, int]:
        """Address and size of the first one."""
        maps = Path(f"/proc/{self.daemon.process.pid}/maps").read_text()
        start, end = re.search(rf"([0-9a-f]+)-([0-9a-f]+) .*memfd:penstock-{kind}-", maps).groups()
        return int(start, 16), int(end, 16) - int(start, 16)

    def read(self, address: int, nbytes: int) -> bytes:
        with open(f"/proc/{self.daemon.process.pid}/mem", "rb", buffering=0) as memory:
            memory.seek(address)
            return memory.read(nbytes)

    def write(self, address: int, data: bytes) -> None:
        with open(f"/proc/{self.daemon.process.pid}/mem", "r+b", buffering=0) as memory:
            memory.seek(address)
            assert memory.write(data) == len(data)

    def record(self, name: str) -> int:
        """Address of the live record of a tensor of rank 1."""
        start, size = self.segment("records")
        data = self.read(start, size)
        at = -1
        while (at := data.find(name.encode(), at + 1)) >= 0:
            record = at - RECORD_FIXED - 8
            if record % 64 == 0 and data[record] & 1 and struct.unpack_from("<H", data, record + 56)[0] == len(name):
                return start + record
        raise AssertionError(f"no live record of {name}")


@dataclass
class Damaged:
    daemon: Daemon
    store: penstock.Store
    cli: Cli
    generation: int = 1

    def await_next(self) -> None:
        self.generation += 1
        until(lambda: int(self.cli.json("df")["generation"]) >= self.generation, "the next node serves")

    def is_empty(self) -> bool:
        told = self.cli.run("df", "-o", "json", code=None)
        return told.returncode == 0 and json.loads(told.stdout)["tensors"] == 0

    def warnings(self) -> str:
        return "\n".join(line for line in self.cli.text("events").splitlines() if "warning" in line.lower())


@pytest.fixture
def damaged(short_tmp: Path, request: pytest.FixtureRequest) -> Iterator[Damaged]:
    daemon = start_daemon(short_tmp / f"d{abs(hash(request.node.name)) % 10**8}", "--memory=128MiB")
    with penstock.connect(str(daemon.socket_dir), timeout=30) as store:
        for seed, name in enumerate(("first/tensor", "victim/tensor", "third/tensor")):
            store.put(name, pattern(seed, 5000))
        yield Damaged(daemon, store, Cli(daemon.socket_dir))
    assert daemon.stop() == 0


FIELDS = [
    # Where in the record, what is written there, and what the node says.
    ("name_hash", 8, b"\1" * 8),
    ("segment", 28, struct.pack("<I", 9999)),
    ("outside the segment", 32, struct.pack("<Q", 1 << 50)),
    ("nbytes", 40, struct.pack("<Q", 1)),
    ("name_bytes", 56, struct.pack("<H", 65535)),
    ("metadata_bytes", 58, struct.pack("<H", 65535)),
    ("dtype", 60, b"\xee"),
    ("rank", 61, b"\xee"),
    ("flags", 62, b"\x09"),
    ("state", 63, b"\xee"),
    ("state", 63, b"\x00"),
    ("replicas", 84, struct.pack("<H", 0)),
    ("cluster_state", 86, b"\xee"),
    ("shape", 88, struct.pack("<q", -1)),
    ("name", 96, b"\0"),
    ("state", 8, b"\xff" * 80),
]


@pytest.mark.parametrize("said, offset, data", FIELDS, ids=[f"{said.replace(' ', '_')}-{offset}" for said, offset, _ in FIELDS])
def test_a_damaged_record_is_put_aside(damaged: Damaged, said: str, offset: int, data: bytes) -> None:
    view = damaged.store.get("victim/tensor")
    with Warden(damaged.daemon) as warden:
        warden.write(warden.record("victim/tensor") + offset, data)
    damaged.await_next()
    store = damaged.store
    with pytest.raises(penstock.NotFoundError):
        store.get("victim/tensor")
    assert shows(store.get("first/tensor").numpy(), 0) and shows(store.get("third/tensor").numpy(), 2)
    df = damaged.cli.json("df")
    assert (int(df["damaged"]), int(df["tensors"])) == (1, 2) and "damaged (put aside)" in damaged.cli.text("df")
    assert "is put aside: " in damaged.warnings() and said in damaged.warnings()
    for i in range(200):  # nothing gets the memory that the view shows
        store.put(f"more/{i}", pattern(1000 + i, 5000))
    assert shows(view.numpy(), 1)
    store.put("victim/tensor", pattern(7, 5000))
    os.kill(damaged.daemon.node_pid, signal.SIGKILL)
    damaged.await_next()
    assert shows(store.get("victim/tensor").numpy(), 7) and shows(view.numpy(), 1)
    assert int(damaged.cli.json("df")["damaged"]) == 1 and "an earlier process has found damaged" in damaged.warnings()


def test_two_records_of_one_block_are_both_put_aside(damaged: Damaged) -> None:
    with Warden(damaged.daemon) as warden:
        warden.write(warden.record("victim/tensor") + 32, warden.read(warden.record("first/tensor") + 32, 8))
    damaged.await_next()
    assert [info.name for info in damaged.store.list()] == ["third/tensor"]
    assert int(damaged.cli.json("df")["damaged"]) == 2 and "overlaps another one" in damaged.warnings()


def test_a_damaged_slab_is_put_aside(damaged: Damaged) -> None:
    damaged.store.put("n" * 400, pattern(9, 100))
    with Warden(damaged.daemon) as warden:
        start, _ = warden.segment("records")
        slab = (warden.record("n" * 400) - start) // (64 << 10)
        warden.write(start + 16 + 2 * slab, struct.pack("<H", 60000))
    damaged.await_next()
    assert len(list(damaged.store.list())) == 3 and not damaged.store.exists("n" * 400)
    assert "stride 60000" in damaged.warnings()
    assert damaged.store.put("n" * 400, pattern(9, 100)).nbytes == 100


@pytest.mark.parametrize("offset", [0, 8, 12])
def test_a_catalog_without_a_header_is_given_up_and_the_next_process_starts_empty(damaged: Damaged, offset: int) -> None:
    with Worker(damaged.daemon.socket_dir) as worker:
        worker.do("view = store.get('victim/tensor')")
        with Warden(damaged.daemon) as warden:
            warden.write(warden.segment("catalog")[0] + offset, b"\x55" * 4)
        until(damaged.is_empty, "an empty store")
        assert worker.do("shows(view.numpy(), 1)"), "what was mapped stays its reader's"
        assert worker.do("store.put('anew', pattern(4, 8)).version") == 1, "its client has opened another session"
    assert "was given up: catalog header" in damaged.warnings()
    with penstock.connect(str(damaged.daemon.socket_dir)) as again:
        assert shows(again.get("anew").numpy(), 4)
        again.put("victim/tensor", pattern(3, 5000))
        generation = int(again.stats()["generation"])
        os.kill(damaged.daemon.node_pid, signal.SIGKILL)
        until(lambda: int(again.stats()["generation"]) > generation, "the next process serves")
        assert shows(again.get("victim/tensor").numpy(), 3)
