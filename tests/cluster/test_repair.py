"""Copies that are lost are made again, tensors are moved, and of each copy it is known why it is where it is."""

from __future__ import annotations

import time
import urllib.request
from pathlib import Path
from typing import Iterator

import numpy as np
import pytest

import penstock
from support.cluster import Cluster, agree, connect, info, kill_host, patiently
from support.daemon import Cli, Daemon
from support.etcd import Etcd, needs_etcd_reason
from support.waiting import until

pytestmark = pytest.mark.skipif(needs_etcd_reason is not None, reason=str(needs_etcd_reason))

MIB = 1 << 20


@pytest.fixture(scope="module")
def etcd(short_tmp: Path) -> Iterator[Etcd]:
    with Etcd(short_tmp / "etcd") as running:
        yield running


@pytest.fixture
def cluster(short_tmp: Path, etcd: Etcd, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    made = Cluster(short_tmp, etcd, request.node.name.removeprefix("test_")[-60:])
    yield made
    made.stop()


def value(i: int, size: int = 1000) -> np.ndarray:
    return np.full(size, i % 251, np.uint8)


def uuid(daemon: Daemon) -> str:
    return info(daemon)["node_uuid"]


def cli(daemon: Daemon) -> Cli:
    return Cli(daemon.socket_dir)


def total(daemons: list[Daemon], field: str) -> int:
    return sum(cli(daemon).json("df")[field] for daemon in daemons)


def metric(daemon: Daemon, name: str) -> float:
    with urllib.request.urlopen(f"http://{info(daemon)['http_address']}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.split(" ")[0].split("{")[0] == name)


def why(daemon: Daemon, name: str) -> dict[str, str]:
    return {item["node"]: item["why"] for item in cli(daemon).json("stat", "--why", name)[0]["placements"]}


def test_sole_copies_that_are_lost_are_told_by_name_and_counted(cluster):
    stores = cluster.start_all(3, "--http_port=0")
    left = cluster.daemons[:2]
    for i in range(12):
        stores[2].put(f"sole/{i}", value(i))
        stores[2].put(f"safe/{i}", value(i), replicas=2)
    assert total(cluster.daemons, "lost") == 0
    kill_host(cluster.daemons[2])
    agree(left, 2)
    until(lambda: total(left, "lost") == 12, "all are counted as lost", 30)
    assert sum(metric(daemon, "penstock_lost_tensors") for daemon in left) == 12
    events = "".join(cli(daemon).text("events") for daemon in left)
    for i in range(12):
        assert f"'sole/{i}' version 1 is lost: every node that had it is gone" in events
    assert "'safe/" not in events
    # Those of which a copy was left have two again, and it is known why.
    until(lambda: total(left, "under_replicated") == 0 and all(len(stores[0].stat(f"safe/{i}").nodes) == 2 for i in range(12)), "repaired", 30)
    assert total(left, "repaired") == 12 and total(left, "repaired_bytes") == 12 * 1000
    assert sum(metric(daemon, "penstock_repaired_tensors_total") for daemon in left) == 12
    assert any(text.startswith("repair of a lost copy: ") for text in why(left[0], "safe/0").values())
    assert any("lack copies; " in cli(daemon).text("df") for daemon in left)
    # What is put again is not lost any more.
    for i in range(12):
        assert patiently(lambda i=i: stores[0].put(f"sole/{i}", value(i))).version == 2
    until(lambda: total(left, "lost") == 0, "nothing is lost any more", 20)


def test_a_drain_keeps_to_the_bandwidth_and_a_put_does_not(cluster):
    stores = cluster.start_all(2, "--repair_bandwidth=2MiB")
    begun = time.monotonic()
    for i in range(4):
        stores[0].put(f"now/{i}", value(i, 3 * MIB), replicas=2)  # 12 MiB, for which its clients wait
    assert time.monotonic() - begun < 5, "a put's own copies are not throttled"
    for i in range(8):
        stores[0].put(f"x/{i}", value(i, MIB))
    begun = time.monotonic()
    told = cli(cluster.daemons[1]).json("drain", uuid(cluster.daemons[0]))
    seconds = time.monotonic() - begun
    assert told["tensors"] == 0
    # The first of 8 MiB begins at once, the last after 3.5 s.
    assert 2.5 < seconds < 12, seconds
    for i in range(8):
        placed = why(cluster.daemons[1], f"x/{i}")
        assert list(placed) == [uuid(cluster.daemons[1])]
        assert placed[uuid(cluster.daemons[1])].startswith("taken over from a node that drains: ")
        assert np.array_equal(patiently(lambda i=i: stores[1].get(f"x/{i}")).numpy(), value(i, MIB))


def test_stat_says_why_each_node_was_chosen(cluster):
    stores = cluster.start_all(2)
    stores[0].put("x", value(1), replicas=2)
    placed = why(cluster.daemons[1], "x")
    assert placed[uuid(cluster.daemons[0])] == "put here by its client"
    chosen = placed[uuid(cluster.daemons[1])]
    assert chosen.startswith("replica: same host, ") and "% free, " in chosen and "% busy" in chosen, "one machine is one host"
    text = cli(cluster.daemons[0]).text("stat", "--why", "x")
    assert f"{uuid(cluster.daemons[1])}: {chosen}" in text
    assert "placements" not in cli(cluster.daemons[0]).json("stat", "x")[0]


def test_tensors_are_moved_and_copied_and_views_stay(cluster):
    stores = cluster.start_all(3)
    a, b, c = (uuid(daemon) for daemon in cluster.daemons)
    stores[0].put("x", value(7))
    view = stores[0].get("x")
    tool = cli(cluster.daemons[2])
    assert tool.json("move", "x", "--to", b) == [{"name": "x", "from": a, "bytes": 1000}]
    assert list(stores[2].stat("x").nodes) == [b] and why(cluster.daemons[0], "x")[b].startswith("moved here on request: ")
    assert view.numpy()[0] == 7 and stores[0].get("x").numpy()[0] == 7
    assert tool.json("move", "x", "--to", c[:12], "--copy") == [{"name": "x", "from": None, "bytes": 1000}]
    assert sorted(stores[0].stat("x").nodes) == sorted([b, c])
    assert why(cluster.daemons[0], "x")[c].startswith("copied here on request: ")
    assert "it was there" in tool.text("move", "x", "--to", c, "--copy")
    # One is enough (replicas=1), so the other may go; and then it stays.
    assert tool.json("move", "x", "--to", c) == [{"name": "x", "from": b, "bytes": 0}]
    assert tool.json("move", "x", "--to", c)[0]["bytes"] == 0 and list(stores[0].stat("x").nodes) == [c]
    # Never fewer than were asked for.
    stores[0].put("two", value(3), replicas=2)
    other = next(node for node in (a, b, c) if node not in stores[0].stat("two").nodes)
    tool.json("move", "two", "--to", other)
    assert len(stores[0].stat("two").nodes) == 2 and other in stores[0].stat("two").nodes
    for i in range(30):
        stores[0].put(f"tree/{i}", value(i))
    assert len(tool.json("move", "-r", "tree", "--to", b)) == 30
    assert all(list(stores[0].stat(f"tree/{i}").nodes) == [b] for i in range(30))
    # What cannot be done changes nothing, and says why.
    assert "no such tensor in the cluster" in tool.error(3, "move", "none", "--to", a)
    assert "is no member of the cluster" in tool.error(3, "move", "x", "--to", "00000000000000000000000000000000")
    assert "--to NODE is missing" in tool.error(2, "move", "x")
    stores[0].put("large", value(1, 20 * MIB))
    stores[1].put("fill", value(1, 50 * MIB))
    until(lambda: "has no room for" in tool.run("move", "large", "--to", b, code=None).stderr.decode(), "the node that is full is known", 10)
    tool.json("drain", a, "--no-wait")
    until(lambda: f"node {a} drains" in tool.run("move", "x", "--to", a, code=None).stderr.decode(), "so is one that drains", 10)
    assert list(stores[1].stat("x").nodes) == [c]


def test_python_moves_tensors_too(cluster):
    stores = cluster.start_all(2)
    stores[0].put("x", value(7))
    a, b = (uuid(daemon) for daemon in cluster.daemons)
    assert stores[1].move("x", b, copy=True) is None
    assert stores[1].move("x", b[:10], timeout=20) == a
    assert list(stores[0].stat("x").nodes) == [b]
    with pytest.raises(penstock.NotFoundError, match="no such tensor"):
        stores[0].move("none", b)
    with pytest.raises(penstock.NotFoundError, match="to: node .* is no member"):
        stores[0].move("x", "f" * 32)
    with pytest.raises(penstock.InvalidArgumentError, match="^to: is empty"):
        stores[0].move("x", "")
    with pytest.raises(TypeError, match="^to"):
        stores[0].move("x", 7)
    with pytest.raises(TypeError, match="^copy"):
        stores[0].move("x", b, copy=1)


def test_a_node_that_joins_gets_its_share(cluster):
    (first,) = cluster.start_all(1, "--memory=512MiB")
    for i in range(24):
        first.put(f"x/{i}", value(i, 10 * MIB))
    second = cluster.start("--memory=512MiB")
    agree(cluster.daemons, 2)
    store = connect(second)
    # 240 MiB: the new one gets some of it, until they differ by less than a tenth of 512 MiB and 64 MiB.
    def held() -> list[int]:
        return [cli(daemon).json("df")["held_bytes"] for daemon in cluster.daemons]

    until(lambda: held()[0] - held()[1] <= 64 * MIB, "they are about even", 90)
    time.sleep(3)
    before = held()
    assert abs(before[0] - before[1]) <= 64 * MIB and sum(before) == 240 * MIB, "and it stays so, with one copy of each"
    moved = [i for i in range(24) if uuid(second) in store.stat(f"x/{i}").nodes]
    assert why(second, f"x/{moved[0]}")[uuid(second)].startswith("taken over from a fuller node: ")
    for i in range(24):
        assert np.array_equal(patiently(lambda i=i: store.get(f"x/{i}")).numpy(), value(i, 10 * MIB))


def test_a_node_alone_says_where_its_tensor_came_from(short_tmp):
    from support.daemon import start_daemon

    daemon = start_daemon(short_tmp / "alone", "--memory=64MiB")
    penstock.connect(str(daemon.socket_dir)).put("x", value(1))
    assert why(daemon, "x") == {uuid(daemon): "put here by its client"}
    assert "in no cluster" in cli(daemon).error(8, "move", "x", "--to", "00")
    daemon.stop()
