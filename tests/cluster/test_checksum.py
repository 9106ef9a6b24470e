"""--checksum: what was put has a CRC32C, and bytes that are not what they were are found when they are moved, and made good."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Iterator

import numpy as np
import pytest

import penstock
from support.cluster import Cluster, connect, patiently
from support.daemon import Cli, Daemon, start_daemon
from support.etcd import Etcd, needs_etcd_reason
from support.nodes import start_nodes
from support.waiting import until

MIB = 1 << 20
POLYNOMIAL = 0x82F63B78  # of Castagnoli, reflected


def crc32c(data: bytes) -> int:
    """RFC 3720, byte by byte."""
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (POLYNOMIAL if byte & 1 else 0)
        table.append(byte)
    crc = 0xFFFFFFFF
    for one in data:
        crc = crc >> 8 ^ table[(crc ^ one) & 0xFF]
    return crc ^ 0xFFFFFFFF


def tensor(seed: int, nbytes: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, nbytes, np.uint8)


def places(daemon: Daemon, data: bytes) -> list[int]:
    """Where in the node's memory (addresses of its warden, whose mappings are writable) something begins as `data` does."""
    found = []
    with open(f"/proc/{daemon.process.pid}/mem", "rb", buffering=0) as memory:
        for line in Path(f"/proc/{daemon.process.pid}/maps").read_text().splitlines():
            span = re.match(r"([0-9a-f]+)-([0-9a-f]+) rw-s .*memfd:", line)
            if span is None:
                continue
            begin, end = (int(text, 16) for text in span.groups())
            content = os.pread(memory.fileno(), end - begin, begin)
            found += [begin + match.start() for match in re.finditer(re.escape(data[:64]), content)]
    return found


def damage(daemon: Daemon, data: bytes) -> None:
    """Changes a byte of what the node keeps, as bad memory would."""
    where = places(daemon, data)
    assert where
    with open(f"/proc/{daemon.process.pid}/mem", "r+b", buffering=0) as memory:
        for place in where:
            at = place + len(data) // 2
            os.pwrite(memory.fileno(), bytes([os.pread(memory.fileno(), 1, at)[0] ^ 1]), at)


def has_whole(daemon: Daemon, data: bytes) -> bool:
    with open(f"/proc/{daemon.process.pid}/mem", "rb", buffering=0) as memory:
        return any(os.pread(memory.fileno(), len(data), place) == data for place in places(daemon, data))


def events(daemon: Daemon) -> str:
    return Cli(daemon.socket_dir).text("events")


@pytest.fixture
def nodes(short_tmp: Path) -> Iterator[list[Daemon]]:
    daemons = start_nodes(short_tmp, 2, "--checksum=on", "--memory=128MiB")
    yield daemons
    for daemon in daemons:
        daemon.stop()


def test_every_way_to_put_gets_the_checksum(short_tmp: Path) -> None:
    assert crc32c(b"123456789") == 0xE3069283
    daemon = start_daemon(short_tmp / "n", "--checksum=on", "--memory=128MiB")
    try:
        store = penstock.connect(str(daemon.socket_dir))
        small, large = tensor(1, 1000), tensor(2, 3 * MIB)
        store.put("staged", small)
        store.put("extent", large)
        store.put("extent", large[::-1].copy())  # over one that is there
        with store.create("draft", shape=(2 * MIB,), dtype="u8") as draft:
            draft.numpy()[...] = large[: 2 * MIB]
        store.put_many({f"many/{i}": tensor(i, 500) for i in range(5)})
        store.put("empty", np.zeros((0, 3), np.float32))
        assert store.stat("staged").crc32c == crc32c(small.tobytes())
        assert store.stat("extent").crc32c == crc32c(large[::-1].tobytes())
        assert store.stat("draft").crc32c == crc32c(large[: 2 * MIB].tobytes())
        assert [store.stat(f"many/{i}").crc32c for i in range(5)] == [crc32c(tensor(i, 500).tobytes()) for i in range(5)]
        assert store.stat("empty").crc32c == 0
        assert store.get("staged").info.crc32c == crc32c(small.tobytes())
        cli = Cli(daemon.socket_dir)
        assert cli.json("stat", "staged")[0]["crc32c"] == f"{crc32c(small.tobytes()):08x}"
        assert f"crc32c     {crc32c(small.tobytes()):08x}" in cli.text("stat", "staged")
        os.kill(daemon.node_pid, 9)
        until(lambda: patiently(lambda: store.stat("extent")).crc32c == crc32c(large[::-1].tobytes()), "the next process knows it")
    finally:
        daemon.stop()


def test_there_is_none_unless_it_is_asked_for(short_tmp: Path) -> None:
    daemon = start_daemon(short_tmp / "n", "--memory=64MiB")
    try:
        store = penstock.connect(str(daemon.socket_dir))
        store.put("x", tensor(1, 1000))
        assert store.stat("x").crc32c is None and Cli(daemon.socket_dir).json("stat", "x")[0]["crc32c"] is None
    finally:
        daemon.stop()


@pytest.mark.parametrize("nbytes", [5000, 6 * MIB])
def test_a_copy_has_it_too_and_damaged_bytes_are_never_given(nodes: list[Daemon], nbytes: int) -> None:
    a, b = (penstock.connect(str(daemon.socket_dir)) for daemon in nodes)
    data = tensor(3, nbytes)
    a.put("x", data)
    a.put("y", data[::-1].copy())
    assert np.array_equal(b.get("x").numpy(), data)
    assert b.stat("x").crc32c == crc32c(data.tobytes())
    b.put("x", data[: nbytes // 2])  # at the home, by another node
    assert a.stat("x").crc32c == crc32c(data[: nbytes // 2].tobytes())
    damage(nodes[0], data[::-1].tobytes())
    with pytest.raises(penstock.DataLossError, match="'y': this node's copy is damaged"):
        b.get("y")
    assert not [item for item in b.list() if item.name == "y" and item.nodes == [Cli(nodes[1].socket_dir).json("nodes")[0]["node_uuid"]]]
    assert "'y': the bytes that this node has do not have the CRC32C" in events(nodes[0])
    assert "'y': the bytes that came from node " in events(nodes[1])
    assert all(Cli(daemon.socket_dir).json("df")["checksum_errors"] >= 1 for daemon in nodes)
    a.put("y", data)
    assert np.array_equal(b.get("y").numpy(), data)


@pytest.mark.skipif(needs_etcd_reason is not None, reason=str(needs_etcd_reason))
@pytest.mark.parametrize("nbytes", [5000, 6 * MIB])
def test_a_damaged_replica_is_replaced(short_tmp: Path, nbytes: int) -> None:
    with Etcd(short_tmp / "etcd") as etcd:
        cluster = Cluster(short_tmp, etcd, "checksum")
        try:
            hosts = (f"--host_label=h{i}" for i in range(3))
            daemons = [cluster.start("--checksum=on", host) for host in hosts]
            until(lambda: all(len(Cli(d.socket_dir).json("nodes")[0]["cluster"].get("nodes", [])) == 3 for d in daemons), "all are members", 30)
            uuids = [Cli(daemon.socket_dir).json("nodes")[0]["node_uuid"] for daemon in daemons]
            stores = [connect(daemon) for daemon in daemons]
            data = tensor(4, nbytes)
            patiently(lambda: stores[0].put("x", data, replicas=2))
            holders = [uuids.index(uuid) for uuid in stores[0].stat("x").nodes]
            assert len(holders) == 2
            reader = ({0, 1, 2} - set(holders)).pop()
            damage(daemons[holders[0]], data.tobytes())
            assert not has_whole(daemons[holders[0]], data.tobytes())
            assert np.array_equal(patiently(lambda: stores[reader].get("x")).numpy(), data)
            assert "'x': the bytes that came from node " in events(daemons[reader])
            until(lambda: "'x': the bytes that this node has do not" in events(daemons[holders[0]]), "the holder has found it")

            def repaired() -> bool:
                now = [uuids.index(uuid) for uuid in stores[reader].stat("x").nodes]
                return len(now) == 2 and all(has_whole(daemons[holder], data.tobytes()) for holder in now)

            until(repaired, "two nodes hold the right bytes", 30)
            assert np.array_equal(patiently(lambda: stores[holders[0]].get("x")).numpy(), data)
        finally:
            cluster.stop()
