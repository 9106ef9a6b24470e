"""Puts and drafts through a node that is not the home of the name: they are written and published there."""

from __future__ import annotations

import os
import signal
import threading
import time

import numpy as np
import pytest

import penstock
from support.daemon import Cli
from support.nodes import start_nodes
from support.pattern import pattern, shows
from support.waiting import freeze, until
from support.worker import Worker

MIB = 1 << 20


def is_home(store: penstock.Store, name: str) -> bool:
    return store.get(name).path == "map"


@pytest.mark.parametrize("nbytes", [0, 1, 8, 4096, 70_000, MIB, MIB + 1, 3 * MIB, 40 * MIB + 3])
def test_what_is_put_through_another_node_is_at_home_where_it_was(stores, nbytes):
    a, b = stores
    first = a.put("x", pattern(1, nbytes), metadata={"step": "1"})
    second = b.put("x", pattern(2, nbytes), metadata={"step": "2"})
    assert second.version == first.version + 1 and second.nodes == first.nodes and second.created > first.created
    for store in (a, b):
        view = store.get("x")
        assert shows(view.numpy(), 2) and (view.version, view.metadata) == (second.version, {"step": "2"})
    assert is_home(a, "x") and not is_home(b, "x")
    assert a.put("x", pattern(3, nbytes)).version == second.version + 1
    assert shows(b.get("x").numpy(), 3)
    assert all(int(store.stats()["drafts"]) == 0 for store in stores)


def test_a_new_name_is_at_home_where_it_is_put(stores):
    a, b = stores
    b.put("y", 2)
    assert int(a.get("y").numpy()) == 2 and is_home(b, "y") and not is_home(a, "y")
    b.put("y", 3)
    assert int(a.get("y").numpy()) == 3


def test_shapes_dtypes_and_options_arrive(stores):
    a, b = stores
    for array in (np.array(True), np.arange(6, dtype=np.int64).reshape(2, 3), np.zeros((2, 0, 3), np.float16), np.array(2 + 3j)):
        a.put("x", 0)
        b.put("x", array)
        got = a.get("x")
        assert got.numpy().dtype == array.dtype and got.shape == array.shape and np.array_equal(got.numpy(), array)
    b.put("x", 1, ttl=60, keep=False)
    info = a.stat("x")
    assert not info.keep and 50 < info.ttl <= 60


def test_the_home_judges_conditions(stores):
    a, b = stores
    version = a.put("x", 1).version
    with pytest.raises(penstock.AlreadyExistsError):
        b.put("x", 2, if_absent=True)
    with pytest.raises(penstock.ConflictError):
        b.put("x", 2, if_version=version + 1)
    with pytest.raises(penstock.ConflictError):
        b.put("x", 2, version=version)
    assert int(a.get("x").numpy()) == int(b.get("x").numpy()) == 1
    assert b.put("x", 2, if_version=version).version == version + 1
    assert b.put("x", 3, version=version + 10).version == version + 10
    b.get("x")  # a copy has no say
    a.put("x", 4)
    with pytest.raises(penstock.ConflictError):
        b.put("x", 5, if_version=version + 10)
    assert b.put("x", 5, if_version=version + 11).version == version + 12
    assert all(int(store.stats()["drafts"]) == 0 for store in stores)


def test_drafts(stores):
    a, b = stores
    version = a.put("x", pattern(1, 2 * MIB)).version
    with b.create("x", (2, MIB), "u8") as draft:
        draft.numpy()[:] = pattern(2, 2 * MIB).reshape(2, MIB)
        assert shows(a.get("x").numpy(), 1), "not before it is published"
    assert a.get("x").version == version + 1 and shows(a.get("x").numpy().reshape(-1), 2)
    aborted = b.create("x", MIB, "u8")
    aborted.abort()
    assert a.get("x").version == version + 1
    made = b.get_or_create("x", lambda: np.zeros(3))
    assert shows(made.numpy().reshape(-1), 2), "it is there, on the other node"
    b.get_or_create("new", lambda: pattern(4, MIB))
    assert shows(a.get("new").numpy(), 4)


def test_many(stores):
    a, b = stores
    names = [f"m/{i:03}" for i in range(100)]
    a.put_many({name: pattern(1, 4096) for name in names[::2]})
    b.put_many({name: pattern(2, 4096) for name in names})
    for i, name in enumerate(names):
        assert shows(a.get(name).numpy(), 2)
        assert is_home(a, name) == (i % 2 == 0)


def test_every_put_of_many_writers_is_published_once(stores):
    a, b = stores
    first = a.put("x", -1).version
    for n in range(50):
        b.put("x", n)
        assert int(a.get("x").numpy()) == n
    writers = [threading.Thread(target=lambda: [b.put("x", 7) for _ in range(20)]) for _ in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert a.stat("x").version == first + 50 + 80


def test_a_full_home_says_so(short_tmp):
    a, b = start_nodes(short_tmp / "full", 2, "--memory=64MiB")
    with penstock.connect(str(a.socket_dir), timeout=15) as at_a, penstock.connect(str(b.socket_dir), timeout=15) as at_b:
        at_a.put("x", pattern(1, MIB))
        at_a.put("fill", pattern(2, 45 * MIB))
        with pytest.raises(penstock.StoreFullError):
            at_b.put("x", pattern(3, 40 * MIB))
        assert shows(at_b.get("x").numpy(), 1)
        at_a.delete("fill")
        at_b.put("x", pattern(3, 30 * MIB))
        assert shows(at_a.get("x").numpy(), 3)
        assert [int(store.stats()["drafts"]) for store in (at_a, at_b)] == [0, 0]
    assert [a.stop(), b.stop()] == [0, 0]


def test_a_home_that_is_gone_is_named_and_nothing_changes(short_tmp):
    a, b = start_nodes(short_tmp / "gone", 2)
    with penstock.connect(str(b.socket_dir)) as at_b:
        with penstock.connect(str(a.socket_dir)) as at_a:
            at_a.put("x", pattern(1, MIB))
        view = at_b.get("x")
        a.process.send_signal(signal.SIGKILL)
        a.process.wait()
        until(lambda: a.node_pid is None, "the home is gone")
        for nbytes in (8, 3 * MIB):
            with pytest.raises(penstock.UnavailableError, match="127.0.0.1"):
                at_b.put("x", pattern(2, nbytes))
        assert shows(view.numpy(), 1) and int(at_b.stats()["drafts"]) == 0
    assert b.stop() == 0


def test_a_home_that_is_stopped_ends_the_put_in_time(short_tmp):
    a, b = start_nodes(short_tmp / "stopped", 2)
    with penstock.connect(str(a.socket_dir)) as at_a, penstock.connect(str(b.socket_dir), timeout=20) as at_b:
        at_a.put("x", pattern(1, MIB))
        node = a.node_pid
        freeze(node)
        try:
            since = time.monotonic()
            with pytest.raises(penstock.UnavailableError, match="127.0.0.1"):
                at_b.put("x", pattern(2, MIB))
            assert time.monotonic() - since < 9
        finally:
            os.kill(node, signal.SIGCONT)
        until(lambda: at_b.put("x", pattern(3, MIB)) if _answers(at_b) else None, "the home answers again")
        assert shows(at_a.get("x").numpy(), 3)
        until(lambda: int(at_a.stats()["drafts"]) == 0, "what the stopped put left goes at its deadline", deadline_s=20)
    assert [a.stop(), b.stop()] == [0, 0]


def _answers(store: penstock.Store) -> bool:
    try:
        return store.exists("x")
    except penstock.UnavailableError:
        return False


def test_a_writer_that_dies_leaves_nothing_on_either_node(nodes, stores):
    a, b = stores
    a.put("x", pattern(1, MIB))
    for _ in range(5):
        with Worker(nodes[1].socket_dir) as worker:
            worker.do(f"draft = store.create('x', {30 * MIB}, 'u8')")
            worker.start("draft.publish()")
            worker.kill()
        for store in (a, b):
            until(lambda: int(store.stats()["drafts"]) == 0, "no drafts", deadline_s=20)
        seen = a.get("x").numpy()
        assert shows(seen, 1) or not seen.any(), "the old bytes, or all of the new"


def test_a_session_that_was_idle_is_renewed_before_it_is_used(tmp_path):
    """One that ends while a transfer goes on fails that transfer; it lives 10 s, or from the last renewal on."""
    a, b = start_nodes(tmp_path, 2, "--memory=128MiB")
    with penstock.connect(str(a.socket_dir)) as at_a, penstock.connect(str(b.socket_dir)) as at_b:
        at_a.put("x", pattern(1, 100))
        at_b.put("x", pattern(2, 100))

        def sessions() -> list[int]:
            return [int(s["id"]) for s in Cli(a.socket_dir).json("sessions") if s["label"] == "node"]

        (first,) = sessions()
        opened = time.monotonic()
        until(lambda: time.monotonic() > opened + 6, "more than half of its life is over")
        at_b.put("x", pattern(3, 100))
        until(lambda: time.monotonic() > opened + 11.5, "it would be over without the renewal")
        assert sessions() == [first]
        until(lambda: sessions() == [], "it ends when nobody uses it", deadline_s=20)
    for daemon in (a, b):
        daemon.stop()


def test_a_client_of_a_new_process_is_not_taken_for_one_of_the_old(short_tmp):
    """Sessions of a node's process and of the next one differ, so their first requests do."""
    a, b = start_nodes(short_tmp / "sessions", 2)
    ids = []
    with penstock.connect(str(a.socket_dir)) as at_a:
        for i in range(1, 4):
            with penstock.connect(str(b.socket_dir)) as at_b:
                ids.append(at_b.session_id)
                if i == 1:
                    at_a.put("x", pattern(0, 1000))
                assert at_b.put("x", pattern(i, 1000)).version == i + 1
                assert shows(at_b.get("x").numpy(), i) and shows(at_a.get("x").numpy(), i)
            before = b.node_pid
            os.kill(before, signal.SIGKILL)
            until(lambda: b.node_pid not in (None, before), "another process")
    assert sorted(set(ids)) == ids
    assert [a.stop(), b.stop()] == [0, 0]
