"""The cluster's directory: tensors stay where they are put, the homes of their names decide; nodes come, go and die."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Iterator

import numpy as np
import pytest

import penstock
from support.cluster import Cluster, agree, info, kill_host, patiently
from support.daemon import Cli
from support.etcd import Etcd, needs_etcd_reason
from support.waiting import freeze, until

pytestmark = pytest.mark.skipif(needs_etcd_reason is not None, reason=str(needs_etcd_reason))


@pytest.fixture(scope="module")
def etcd(short_tmp: Path) -> Iterator[Etcd]:
    with Etcd(short_tmp / "etcd") as running:
        yield running


@pytest.fixture
def cluster(short_tmp: Path, etcd: Etcd, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    made = Cluster(short_tmp, etcd, request.node.name.removeprefix("test_").translate(str.maketrans("[]", "--")).strip("-")[-60:])
    yield made
    made.stop()


def value(i: int, size: int = 1000) -> np.ndarray:
    return np.full(size, i % 251, np.uint8)


def test_what_any_node_puts_every_node_has(cluster):
    stores = cluster.start_all(3)
    names = [f"x/{i}" for i in range(60)]
    for i, name in enumerate(names):
        put = stores[i % 3].put(name, value(i), metadata={"i": str(i)})
        assert put.version == 1
    for store in stores:
        for i, name in enumerate(names):
            assert np.array_equal(store.get(name).numpy(), value(i))
        assert [item.name for item in store.list("x/")] == sorted(names)
        told = store.stat("x/7")
        assert (told.version, told.shape, told.metadata, len(told.nodes)) == (1, (1000,), {"i": "7"}, 1)
        assert store.longest_prefix([*names[:5], "x/none", names[6]]) == 5
    # A tensor is where it was put, whoever is the home of its name.
    assert {stores[0].stat(name).nodes[0] for name in names[::3]} == {info(cluster.daemons[0])["node_uuid"]}


def test_overwrites_and_deletes_are_seen_by_all_at_once(cluster):
    stores = cluster.start_all(3)
    for i in range(40):
        writer = stores[i % 3]
        assert writer.put("x", value(i)).version == i + 1
        for store in stores:  # the copies that they had are not served any more
            view = store.get("x")
            assert view.version == i + 1 and view.numpy()[0] == i % 251
    stores[1].delete("x")
    for store in stores:
        with pytest.raises(penstock.NotFoundError):
            store.get("x")
        assert not store.exists("x")
    assert stores[2].put("x", value(1)).version > 40  # versions of a name do not begin again
    assert stores[0].delete("never") is False


def test_conditions_are_judged_by_the_home(cluster):
    stores = cluster.start_all(2)
    stores[0].put("x", value(0))
    for store in stores:
        with pytest.raises(penstock.AlreadyExistsError, match="if_absent"):
            store.put("x", value(1), if_absent=True)
        with pytest.raises(penstock.ConflictError, match="the present version is 1"):
            store.put("x", value(1), if_version=7)
        with pytest.raises(penstock.ConflictError, match="not larger than 1"):
            store.put("x", value(1), version=1)
    assert stores[1].put("x", value(1), if_version=1).version == 2
    assert stores[0].put("x", value(2), version=10).version == 10
    won = [0] * 2
    barrier = threading.Barrier(2)

    def race(me: int) -> None:
        for i in range(100):
            barrier.wait()
            try:
                stores[me].put(f"race/{i}", value(me), if_absent=True)
                won[me] += 1
            except penstock.AlreadyExistsError:
                pass

    threads = [threading.Thread(target=race, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(won) == 100


def test_who_waits_for_a_name_gets_it_from_any_node(cluster):
    stores = cluster.start_all(2)
    got = []
    waiting = threading.Thread(target=lambda: got.append(int(stores[0].get("later", wait=20).numpy()[0])))
    waiting.start()
    time.sleep(0.3)
    stores[1].put("later", value(9))
    waiting.join(10)
    assert got == [9]


def test_many_names_are_put_got_listed_and_deleted_together(cluster):
    stores = cluster.start_all(3)
    names = [f"many/{i:04d}" for i in range(1500)]
    stores[0].put_many({name: value(i, 64) for i, name in enumerate(names)})
    got = stores[2].get_many(names)
    assert all(np.array_equal(got[name].numpy(), value(i, 64)) for i, name in enumerate(names))
    assert [item.name for item in stores[1].list("many/")] == names
    assert stores[1].delete_prefix("many/") == len(names)
    assert list(stores[0].list("many/")) == []


def test_replicas_are_there_before_the_put_returns_and_outlive_a_host(cluster):
    stores = cluster.start_all(3)
    for i in range(20):
        stores[i % 3].put(f"safe/{i}", value(i), replicas=2)
        assert len(stores[0].stat(f"safe/{i}").nodes) == 2
        stores[i % 3].put(f"sole/{i}", value(i))
    dead = info(cluster.daemons[2])["node_uuid"]
    kill_host(cluster.daemons[2])
    agree(cluster.daemons[:2], 2)
    for i in range(20):
        for store in stores[:2]:
            assert np.array_equal(patiently(lambda: store.get(f"safe/{i}")).numpy(), value(i))
    # What only the lost host had is told as lost, by name, and not as never there; it can be put again.
    lost = [i for i in range(20) if i % 3 == 2]
    for i in lost:
        with pytest.raises(penstock.UnavailableError, match=f"sole/{i}"):
            stores[0].get(f"sole/{i}")
    events = Cli(cluster.daemons[0].socket_dir).text("events") + Cli(cluster.daemons[1].socket_dir).text("events")
    for i in lost:
        assert f"'sole/{i}' version 1 is lost" in events
    assert patiently(lambda: stores[1].put("sole/2", value(3))).version == 2
    Cli(cluster.daemons[0].socket_dir).json("nodes", "--forget", dead)
    for i in lost[1:]:
        with pytest.raises(penstock.DataLossError, match=f"'sole/{i}' version 1: every node that had it is gone for good"):
            patiently(lambda: stores[0].get(f"sole/{i}"))
    # And the second copies are made again, on the nodes that are left.
    until(lambda: all(len(stores[0].stat(f"safe/{i}").nodes) == 2 for i in range(20)), "all have two copies again", 30)


def test_a_node_process_that_dies_keeps_what_it_has_and_its_names(cluster):
    stores = cluster.start_all(2)
    for i in range(50):
        stores[i % 2].put(f"x/{i}", value(i))
    victim = cluster.daemons[0]
    before = victim.node_pid
    os.kill(before, signal.SIGKILL)
    until(lambda: victim.node_pid != before, "another process", 10)
    for store in stores:
        for i in range(50):
            assert np.array_equal(patiently(lambda: store.get(f"x/{i}")).numpy(), value(i))
    assert patiently(lambda: stores[1].put("x/0", value(7))).version == 2
    assert patiently(lambda: stores[0].get("x/0")).version == 2


def test_a_host_that_was_away_comes_back_with_what_is_still_current(cluster):
    stores = cluster.start_all(2)
    sleeper = cluster.daemons[1]
    for name in ("kept", "overwritten", "deleted"):
        stores[1].put(name, value(1))
    for pid in (sleeper.process.pid, sleeper.node_pid):
        freeze(pid)
    agree(cluster.daemons[:1], 1)
    assert patiently(lambda: stores[0].put("overwritten", value(2))).version == 2
    patiently(lambda: stores[0].delete("deleted"))
    for pid in (sleeper.process.pid, sleeper.node_pid):
        os.kill(pid, signal.SIGCONT)
    agree(cluster.daemons, 2)
    for store in stores:
        assert patiently(lambda: store.get("kept")).numpy()[0] == 1
        assert patiently(lambda: store.get("overwritten")).version == 2
        with pytest.raises(penstock.NotFoundError):
            patiently(lambda: store.get("deleted"))


def test_who_watches_one_node_sees_what_happens_at_all(cluster):
    stores = cluster.start_all(3)
    seen: list[tuple[str, str, int]] = []
    enough = threading.Event()

    def watch() -> None:
        for event in stores[0].watch("w/"):
            seen.append((event.kind, event.info.name, event.info.version))
            if event.info.name == "w/end":
                enough.set()
                return

    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    time.sleep(1.5)
    for i in range(30):
        stores[i % 3].put(f"w/{i}", value(i))
    stores[1].delete("w/4")
    time.sleep(1.5)  # events of different homes come in any order
    stores[2].put("w/end", value(0))
    assert enough.wait(20)
    puts = [name for kind, name, _ in seen if kind == "put"]
    assert sorted(puts) == sorted([f"w/{i}" for i in range(30)] + ["w/end"])
    assert [name for kind, name, _ in seen if kind == "delete"] == ["w/4"]


def test_a_node_is_drained_and_then_stopped_without_a_loss(cluster):
    stores = cluster.start_all(3)
    for i in range(200):
        stores[0].put(f"x/{i}", value(i))
    held = stores[0].get("x/7")
    leaving = info(cluster.daemons[0])["node_uuid"]
    cli = Cli(cluster.daemons[1].socket_dir)
    told = cli.json("drain", leaving)
    assert (told["node_uuid"], told["tensors"]) == (leaving, 0)
    assert "is drained" in cli.text("drain", leaving)
    assert not any(leaving in stores[1].stat(f"x/{i}").nodes for i in range(200))
    # It is a member still: its clients read and put as before, and what they put goes elsewhere.
    assert stores[0].get("x/3").numpy()[0] == 3 and held.numpy()[0] == 7
    stores[0].put("late", value(9))
    until(lambda: leaving not in stores[1].stat("late").nodes, "the late one has gone, too", 20)
    assert cluster.daemons[0].stop() == 0
    for i in range(200):
        assert patiently(lambda: stores[1].get(f"x/{i}")).numpy()[0] == i % 251
    assert patiently(lambda: stores[2].get("late")).numpy()[0] == 9


def test_the_order_to_copy_a_put_says_how_to_read_it(cluster):
    """So a replica costs no call beside the directory's messages; what went over the wire is counted at the node that read it."""
    stores = cluster.start_all(2)
    source, target = (Cli(daemon.socket_dir) for daemon in cluster.daemons)
    stores[0].put("first", value(0), replicas=2)  # opens the session

    def calls() -> int:
        return sum(int(session["requests"]) for session in source.json("sessions") if session["label"] == "node")

    def read() -> tuple[int, int]:
        (peer,) = target.json("nodes")[0]["peers"]
        return int(peer["reads"]), int(peer["read_bytes"])

    before, (reads, read_bytes) = calls(), read()
    for i in range(50):
        stores[0].put(f"x/{i}", value(i), replicas=2)
    assert read() == (reads + 50, read_bytes + 50 * 1000)
    assert calls() - before <= 5, "a renewal, perhaps"
    stores[0].put("none", np.zeros(0, np.uint8), replicas=2)
    stores[0].put("large", value(7, 5 << 20), replicas=2)
    kill_host(cluster.daemons[0])
    agree(cluster.daemons[1:], 1)
    for i in range(50):
        assert np.array_equal(patiently(lambda: stores[1].get(f"x/{i}")).numpy(), value(i))
    assert np.array_equal(stores[1].get("large").numpy(), value(7, 5 << 20)) and stores[1].get("none").shape == (0,)


def test_replicas_that_cannot_be_are_refused(cluster):
    (store,) = cluster.start_all(1)
    with pytest.raises(penstock.InvalidArgumentError, match="replicas: 2 asked for, but the cluster has 1 node"):
        store.put("x", value(1), replicas=2)
    with pytest.raises(penstock.NotFoundError):
        store.get("x")
    assert store.put("x", value(1)).version == 1


@pytest.mark.parametrize("count", [1, 2])
def test_no_history_is_lost_when_all_processes_die_at_once(cluster, count):
    stores = cluster.start_all(count)
    for i in range(100):
        stores[i % count].put(f"x/{i}", value(i))
        if i % 3 == 0:
            stores[0].delete(f"x/{i}")
    before = [daemon.node_pid for daemon in cluster.daemons]
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    until(lambda: all(daemon.node_pid not in (None, pid) for daemon, pid in zip(cluster.daemons, before)), "other processes", 10)
    for store in stores:
        for i in range(100):
            if i % 3 == 0:
                with pytest.raises(penstock.NotFoundError):
                    patiently(lambda: store.get(f"x/{i}"))
            else:
                assert patiently(lambda: store.get(f"x/{i}")).numpy()[0] == i % 251
    assert patiently(lambda: stores[0].put("x/0", value(1))).version == 3, "after 1 and the deletion, which is remembered, too"
    for daemon in cluster.daemons:
        assert "were lost together" not in Cli(daemon.socket_dir).text("events")
