"""Two nodes that read each other by RDMA. Runs in the guest (tests/rdma/run), where there is a device."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import Iterator

import numpy as np
import pytest

import penstock
from support.daemon import Cli, Daemon
from support.nodes import start_nodes
from support.pattern import pattern, shows
from support.waiting import until

MIB = 1 << 20
PACKETS = Path("/sys/class/infiniband/rxe0/ports/1/hw_counters/sent_pkts")

pytestmark = pytest.mark.skipif(not PACKETS.exists(), reason="no software RoCE device: tests/rdma/run has a guest with one")


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


def test_a_fetch_goes_over_verbs(nodes, stores):
    a, b = stores
    assert Cli(nodes[0].socket_dir).json("nodes")[0]["lanes"] == ["stream", "rdma"]
    before = int(PACKETS.read_text())
    for nbytes in (1, 4096, 70_000, MIB, 3 * MIB + 5):  # in arenas up to 1 MiB, beyond in an extent
        a.put("x", pattern(nbytes % 251, nbytes))
        view = b.get("x")
        assert view.path == "fetch" and shows(view.numpy(), nbytes % 251)
    here, peer = b.transports()
    assert here["path"] == "map" and (peer["path"], peer["why"], peer["reads"]) == ("rdma", "", 5)
    assert peer["node"] == a.stat("x").nodes[0]
    assert peer["read_bytes"] == 1 + 4096 + 70_000 + MIB + 3 * MIB + 5
    assert int(PACKETS.read_text()) - before > peer["read_bytes"] // 4096, "the bytes came over the device"


def test_what_is_read_is_a_whole_version_while_the_home_overwrites(stores):
    a, b = stores
    for n in range(20):
        a.put("x", np.full(MIB, n, np.uint8))
        view = b.get("x").numpy()
        assert view[0] == n and not np.any(view != n)


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
        assert told["path"] == "stream" and "a read failed" in told["why"]
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
