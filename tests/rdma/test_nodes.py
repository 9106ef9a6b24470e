"""Two nodes that read each other by RDMA. Runs in the guest (tests/rdma/run), where there is a device."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest

import penstock
from support.daemon import Cli
from support.nodes import start_nodes
from support.pattern import pattern, shows
from support.verbs import needs_verbs, sent_packets
from support.waiting import until

MIB = 1 << 20

pytestmark = needs_verbs


def test_the_nodes_run_with_the_ucx_that_is_meant(nodes):
    for daemon in nodes:
        maps = Path(f"/proc/{daemon.node_pid}/maps").read_text().split()
        loaded = {word for word in maps if "/libucp.so" in word}
        assert loaded and all(path.startswith(os.environ.get("LD_LIBRARY_PATH", "/usr/lib/")) for path in loaded)


def test_a_fetch_goes_over_verbs(nodes, stores):
    a, b = stores
    assert Cli(nodes[0].socket_dir).json("nodes")[0]["lanes"] == ["stream", "rdma"]
    before = sent_packets()
    for nbytes in (1, 4096, 70_000, MIB, 3 * MIB + 5):  # in arenas up to 1 MiB, beyond in an extent
        a.put("x", pattern(nbytes % 251, nbytes))
        view = b.get("x")
        assert view.path == "fetch" and shows(view.numpy(), nbytes % 251)
    here, peer = b.transports()
    assert here["path"] == "map" and (peer["path"], peer["why"], peer["reads"]) == ("rdma", "", 5)
    assert peer["node"] == a.stat("x").nodes[0]
    assert peer["read_bytes"] == 1 + 4096 + 70_000 + MIB + 3 * MIB + 5
    assert sent_packets() - before > peer["read_bytes"] // 4096, ("the bytes came over the device", peer)


def test_what_is_read_is_a_whole_version_while_the_home_overwrites(stores):
    a, b = stores
    for n in range(20):
        a.put("x", np.full(MIB, n, np.uint8))
        view = b.get("x").numpy()
        assert view[0] == n and not np.any(view != n)


def test_a_put_to_its_home_goes_over_verbs(stores, strict):
    a, b = stores
    for n, nbytes in enumerate((65_536, 3 * MIB + 5, MIB)):
        version = a.put("x", pattern(99, 10)).version
        before = sent_packets()
        assert b.put("x", pattern(n, nbytes)).version == version + 1
        assert shows(a.get("x").numpy(), n)
        assert sent_packets() - before > nbytes // 4096, ("the bytes went over the device", b.transports())
    a.put_many({f"m/{i}": pattern(i, 10) for i in range(8)})
    strict.put_many({f"m/{i}": pattern(i + 50, 100_000 * i) for i in range(8)})
    assert all(shows(view.numpy(), i + 50) for i, view in enumerate(a.get_many([f"m/{i}" for i in range(8)]).values()))
    for nbytes in (0, 1, 4096):  # over the stream lane, if nothing else is asked for
        a.put("x", pattern(99, 10))
        before = sent_packets()
        strict.put("x", pattern(7, nbytes))
        assert shows(a.get("x").numpy(), 7)
        assert nbytes == 0 or sent_packets() > before
    assert int(a.stats()["drafts"]) == 0


def test_a_put_survives_that_its_home_is_restarted_or_its_link_is_cut(nodes, stores, strict):
    a, b = stores
    a.put("x", pattern(1, 10))
    node = nodes[0].node_pid
    os.kill(node, signal.SIGKILL)
    until(lambda: nodes[0].node_pid not in (None, node), "the warden has made another node")

    def put() -> bool:
        try:
            strict.put("x", pattern(2, MIB))
        except penstock.UnavailableError:
            return False
        return True

    until(put, "b has a session with the new node")
    assert shows(a.get("x").numpy(), 2)
    subprocess.run(["ip", "link", "set", "rdma0", "down"], check=True)
    try:
        with pytest.raises(penstock.TransportError):
            strict.put("x", pattern(3, MIB))
        assert shows(a.get("x").numpy(), 2)
        b.put("x", pattern(4, MIB))
        assert shows(a.get("x").numpy(), 4) and "a transfer failed" in b.transports()[1]["why"]
    finally:
        subprocess.run(["ip", "link", "set", "rdma0", "up"], check=True)

    def by_rdma() -> bool:
        try:
            strict.put("x", pattern(5, MIB))
        except penstock.TransportError:
            return False
        return shows(a.get("x").numpy(), 5)

    until(by_rdma, "the link is used again", deadline_s=40)
    assert int(a.stats()["drafts"]) == 0


def test_a_home_that_is_restarted_is_read_again(nodes, stores):
    a, b = stores
    a.put("x", pattern(1, MIB))
    assert shows(b.get("x").numpy(), 1)
    node = nodes[0].node_pid
    os.kill(node, signal.SIGKILL)
    until(lambda: nodes[0].node_pid not in (None, node), "the warden has made another node")
    a.put("x", pattern(2, MIB))

    def fetched() -> bool:
        try:
            return shows(b.get("x").numpy(), 2)
        except penstock.UnavailableError:
            return False

    until(fetched, "b has a session with the new node")
    assert b.transports()[1]["path"] == "rdma", b.transports()


def test_a_link_that_is_cut_costs_no_read(stores):
    a, b = stores
    a.put("x", pattern(1, MIB))
    assert shows(b.get("x").numpy(), 1) and b.transports()[1]["path"] == "rdma"
    subprocess.run(["ip", "link", "set", "rdma0", "down"], check=True)
    try:
        a.put("x", pattern(2, MIB))
        assert shows(b.get("x").numpy(), 2)
        told = b.transports()[1]
        assert told["path"] == "stream" and "a transfer failed" in told["why"]
    finally:
        subprocess.run(["ip", "link", "set", "rdma0", "up"], check=True)

    def by_rdma() -> bool:
        a.put("x", pattern(3, MIB))
        assert shows(b.get("x").numpy(), 3)
        return b.transports()[1]["path"] == "rdma"

    until(by_rdma, "the link is used again", deadline_s=40)


def test_rdma_can_be_turned_off(tmp_path):
    daemons = start_nodes(tmp_path, 2, "--memory=64MiB", "--rdma=off")
    with penstock.connect(str(daemons[0].socket_dir), timeout=30) as a, penstock.connect(str(daemons[1].socket_dir), timeout=30) as b:
        a.put("x", pattern(1, MIB))
        assert shows(b.get("x").numpy(), 1)
        assert (b.transports()[1]["path"], b.transports()[1]["why"]) == ("stream", "--rdma=off")
        assert Cli(daemons[0].socket_dir).json("nodes")[0]["lanes"] == ["stream"]
    assert [daemon.stop() for daemon in daemons] == [0, 0]


def test_the_process_listens_only_where_it_was_told(nodes):
    """No listener of UCX's: gRPC and the data port are all."""
    listening = set()
    for family in ("tcp", "tcp6"):
        for line in Path(f"/proc/{nodes[0].node_pid}/net/{family}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A":
                listening.add(int(fields[9]))
    own = 0
    for fd in Path(f"/proc/{nodes[0].node_pid}/fd").iterdir():
        target = os.readlink(fd)
        own += target.startswith("socket:[") and int(target[8:-1]) in listening
    assert own == 2
