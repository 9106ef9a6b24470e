"""Two and three nodes with --peers: what one was given, the clients of the others read."""

from __future__ import annotations

import os
import signal
import threading

import numpy as np
import pytest

import penstock
from support.daemon import Cli, start_daemon
from support.nodes import HAS_RDMA, calls_of_nodes, start_nodes
from support.pattern import pattern, shows
from support.waiting import until

MIB = 1 << 20


def test_a_get_on_another_node_maps_a_copy(stores):
    a, b = stores
    x = np.arange(3 * MIB, dtype=np.float32).reshape(3, 1024, 1024)
    info = a.put("model/x", x, metadata={"from": "a"})
    view = b.get("model/x")
    assert (view.path, view.is_zero_copy, a.get("model/x").path) == ("fetch", True, "map")
    assert np.array_equal(view.numpy(), x) and not view.numpy().flags.writeable
    assert (view.version, view.metadata, view.info.created) == (info.version, {"from": "a"}, info.created)
    again = b.get("model/x")
    assert again.ptr == view.ptr, "one copy for all"
    assert int(b.stats()["tensors"]) == 1 and int(b.stats()["cache_bytes"]) == x.nbytes


@pytest.mark.parametrize("nbytes", [0, 1, 4096, 70_000, 20 * MIB + 3])
def test_sizes(stores, nbytes):
    a, b = stores
    a.put("x", pattern(1, nbytes))
    assert shows(b.get("x").numpy(), 1)
    assert shows(b.get_many(["x"])["x"].numpy(), 1)
    out = np.empty(nbytes, dtype=np.uint8)
    b.get("x", out=out)
    assert shows(out, 1)


def test_shapes_and_dtypes(stores):
    a, b = stores
    for array in (np.array(True), np.arange(6, dtype=np.int64).reshape(2, 3), np.zeros((2, 0, 3), np.float16), np.array(2 + 3j)):
        a.put("x", array)
        got = b.get("x")
        assert got.numpy().dtype == array.dtype and got.shape == array.shape and np.array_equal(got.numpy(), array)


def test_an_overwrite_and_a_delete_are_seen_at_once_and_old_views_stay(stores):
    a, b = stores
    views = []
    for n in range(10):
        a.put("x", pattern(n, MIB))
        views.append(b.get("x"))
        assert shows(views[-1].numpy(), n)
    assert all(shows(view.numpy(), n) for n, view in enumerate(views))
    assert len({view.version for view in views}) == 10
    a.delete("x")
    with pytest.raises(penstock.NotFoundError):
        b.get("x")
    assert not b.exists("x") and int(b.stats()["tensors"]) == 0, "the copy went with it"
    assert shows(views[-1].numpy(), 9)
    a.put("x", pattern(20, MIB))
    assert shows(b.get("x").numpy(), 20)


def test_transports_tell_the_lane_and_why(nodes, stores):
    a, b = stores
    a.put("x", pattern(1, MIB))
    b.get("x")
    here, peer = b.transports()
    assert (here["path"], here["node"]) == ("map", b.put("own", 1).nodes[0])
    lane = "rdma" if HAS_RDMA else "stream"
    assert (peer["path"], peer["node"]) == (lane, a.stat("x").nodes[0])
    assert peer["address"] == f"127.0.0.1:{nodes[0].ready['grpc_port']}"
    assert HAS_RDMA or "no RDMA device" in peer["why"]
    assert peer["reads"] >= 1 and peer["read_bytes"] >= MIB
    (node,) = Cli(nodes[1].socket_dir).json("nodes")
    assert [(p["address"], p["lane"], p["why"]) for p in node["peers"]] == [(peer["address"], lane, peer["why"])]
    assert peer["address"] in Cli(nodes[1].socket_dir).text("nodes")


def test_many_at_once_wait_for_one_transfer(nodes, stores):
    a, b = stores
    a.put("x", pattern(5, 40 * MIB))
    before = b.transports()[1]["reads"]
    results: list[bool] = []

    def read() -> None:
        results.append(shows(b.get("x").numpy(), 5))

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 8
    assert b.transports()[1]["reads"] == before + 1, "eight asked, one read"
    assert int(b.stats()["tensors"]) == 1


def test_a_batch_costs_few_calls(nodes, stores):
    a, b = stores
    names = [f"batch/{i}" for i in range(600)]
    a.put_many({name: pattern(i, 4096) for i, name in enumerate(names)})
    b.put_many({f"here/{i}": pattern(1000 + i, 4096) for i in range(50)})
    before = calls_of_nodes(nodes[0])
    views = b.get_many([*names, *(f"here/{i}" for i in range(50))])
    assert calls_of_nodes(nodes[0]) - before <= 20
    assert all(shows(views[name].numpy(), i) for i, name in enumerate(names))
    assert all(shows(views[f"here/{i}"].numpy(), 1000 + i) for i in range(50))
    assert {views[name].path for name in names} == {"fetch"} and views["here/0"].path == "map"


def test_a_batch_of_puts_costs_few_calls(nodes, stores):
    a, b = stores
    names = [f"puts/{i}" for i in range(600)]
    a.put_many({name: pattern(0, 4096) for name in names})  # its home from now on
    before = calls_of_nodes(nodes[0])
    infos = b.put_many({name: pattern(i, 4096) for i, name in enumerate(names)})
    assert calls_of_nodes(nodes[0]) - before <= 30
    home = a.stat(names[0]).nodes
    assert all(info.version == 2 and info.nodes == home for info in infos)
    assert all(shows(a.get(name).numpy(), i) and shows(b.get(name).numpy(), i) for i, name in enumerate(names))


def test_each_of_a_batch_has_its_own_result(stores):
    a, b = stores
    a.put("a", pattern(1, 5 * MIB))
    b.put("b", pattern(2, 10))
    got = b.get_many(["a", "missing", "b", "a"], errors="return")
    assert shows(got["a"].numpy(), 1) and shows(got["b"].numpy(), 2) and isinstance(got["missing"], penstock.NotFoundError)
    with pytest.raises(penstock.PartialError) as failed:
        b.get_many(["missing", "a"])
    assert shows(failed.value.results["a"].numpy(), 1)
    put = b.put_many({"a": pattern(3, 10), "new": pattern(4, 10)}, if_absent=True, errors="return")
    assert isinstance(put[0], penstock.AlreadyExistsError) and put[1].version == 1
    assert shows(a.get("a").numpy(), 1) and shows(a.get("new").numpy(), 4)


def test_stat_and_exists_copy_nothing(stores):
    a, b = stores
    info = a.put("x", pattern(1, MIB), metadata={"k": "v"})
    assert b.exists("x") and not b.exists("y")
    seen = b.stat("x")
    assert (seen.version, seen.nbytes, seen.metadata, seen.nodes) == (info.version, MIB, {"k": "v"}, info.nodes)
    assert int(b.stats()["tensors"]) == 0
    with pytest.raises(penstock.NotFoundError):
        b.stat("y")


def test_a_deleted_name_may_get_another_home(stores):
    a, b = stores
    a.put("x", pattern(1, MIB))
    assert shows(b.get("x").numpy(), 1)
    a.delete("x")
    b.put("x", pattern(2, MIB), if_absent=True)  # the copy is nobody's tensor
    assert shows(a.get("x").numpy(), 2) and (a.get("x").path, b.get("x").path) == ("fetch", "map")


def test_lists_and_deletes_reach_all_nodes(stores):
    a, b = stores
    for i in range(40):
        (a, b)[i % 2].put(f"l/{i:02}", i)
    b.get("l/00")  # a copy is not listed twice
    names = [f"l/{i:02}" for i in range(40)]
    for store in (a, b):
        assert [info.name for info in store.list("l/")] == names
        assert [info.name for info in store.list("l/", limit=7, after="l/10")] == names[11:18]
    assert b.delete("l/00") and not b.delete("l/00") and not a.exists("l/00")
    with pytest.raises(penstock.NotFoundError):
        b.get("l/00")
    assert b.delete_prefix("l/1") == 10 and a.delete_prefix("l/") == 29
    assert list(a.list("")) == list(b.list("")) == []


def test_an_exact_version_needs_no_home(short_tmp):
    a, b = start_nodes(short_tmp / "exact", 2)
    with penstock.connect(str(a.socket_dir)) as store:
        version = store.put("x", pattern(1, MIB)).version
    with penstock.connect(str(b.socket_dir)) as store:
        view = store.get("x")
        os.kill(a.process.pid, signal.SIGKILL)
        a.process.wait()
        until(lambda: a.node_pid is None, "the home is gone")

        def refused() -> bool:
            try:
                store.get("x")
            except penstock.UnavailableError:
                return True
            return False

        until(refused, "the lease ended with its home")
        assert shows(store.get("x", version=version).numpy(), 1)
        for ask in (lambda: store.get("x"), lambda: store.get("never"), lambda: store.stat("never"), lambda: store.put("new", 1),
                    lambda: store.exists("never"), lambda: list(store.list(""))):
            with pytest.raises(penstock.UnavailableError, match="127.0.0.1"):
                ask()
        assert shows(view.numpy(), 1)
    assert b.stop() == 0


def test_a_home_that_is_restarted_is_found_again(short_tmp):
    a, b = start_nodes(short_tmp / "again", 2)
    with penstock.connect(str(a.socket_dir)) as at_a, penstock.connect(str(b.socket_dir)) as at_b:
        at_a.put("x", pattern(1, MIB))
        assert shows(at_b.get("x").numpy(), 1)
        before = a.node_pid
        os.kill(before, signal.SIGKILL)

        def fetched() -> bool:
            try:
                return shows(at_b.get("x").numpy(), 2)
            except penstock.UnavailableError:
                return False

        until(lambda: a.node_pid not in (None, before), "the warden has made another node")
        at_a.put("x", pattern(2, MIB))
        until(fetched, "b has a session with the new node")
    assert [a.stop(), b.stop()] == [0, 0]


def test_a_home_that_lost_its_memory_shows_its_new_bytes(short_tmp):
    a, b = start_nodes(short_tmp / "lost", 2)
    with penstock.connect(str(b.socket_dir)) as at_b:
        with penstock.connect(str(a.socket_dir)) as at_a:
            version = at_a.put("x", pattern(1, MIB)).version
        assert shows(at_b.get("x").numpy(), 1)
        assert a.stop() == 0  # warden and all: its memory is gone
        again = start_daemon(a.socket_dir, f"--grpc_port={a.ready['grpc_port']}", "--data_port=0", "--memory=256MiB")
        with penstock.connect(str(again.socket_dir)) as at_a:
            assert at_a.put("x", pattern(2, MIB)).version == version, "the numbers begin again"

        def fetched():
            try:
                return at_b.get("x")
            except penstock.UnavailableError:
                return None

        view = until(fetched, "b has a session with the new node")
        assert shows(view.numpy(), 2) and view.version == version
    assert [again.stop(), b.stop()] == [0, 0]


def test_a_copy_of_what_was_deleted_is_not_taken_for_what_another_home_made(short_tmp):
    daemons = start_nodes(short_tmp / "moved", 3)
    a, b, c = (penstock.connect(str(daemon.socket_dir)) for daemon in daemons)
    version = a.put("x", pattern(1, MIB)).version
    assert shows(c.get("x").numpy(), 1)
    a.delete("x")
    assert b.put("x", pattern(2, MIB)).version == version
    assert shows(c.get("x").numpy(), 2)
    for store in (a, b, c):
        store.close()
    assert [daemon.stop() for daemon in daemons] == [0, 0, 0]


def test_longest_prefix_counts_all_nodes(stores):
    a, b = stores
    names = [f"layer/{i}" for i in range(6)]
    for i, name in enumerate(names[:4]):
        (a, b)[i % 2].put(name, i)
    assert (a.longest_prefix(names), b.longest_prefix(names)) == (4, 4)
    assert b.longest_prefix(names[4:]) == 0


def test_a_wait_ends_when_another_node_is_given_it(stores):
    a, b = stores
    for store, put_at in ((b, a), (a, b)):
        timer = threading.Timer(0.3, put_at.put, ("late", pattern(3, MIB)))
        timer.start()
        assert shows(store.get("late", wait=10).numpy(), 3)
        timer.join()
        assert store.wait("late", timeout=5).nbytes == MIB
        a.delete("late")
    with pytest.raises(penstock.DeadlineError):
        b.wait("never", timeout=0.3)


def test_a_reading_node_that_dies_leaves_nothing(short_tmp):
    a, b = start_nodes(short_tmp / "dies", 2)
    with penstock.connect(str(a.socket_dir)) as at_a, penstock.connect(str(b.socket_dir), timeout=20) as at_b:
        for n in range(10):
            at_a.put(f"x/{n}", pattern(n, 10 * MIB))
        view = at_b.get("x/0")
        before = b.node_pid
        killer = threading.Timer(0.02, os.kill, (before, signal.SIGKILL))
        killer.start()
        for n in range(10):
            assert shows(at_b.get(f"x/{n}").numpy(), n)
        killer.join()
        until(lambda: b.node_pid not in (None, before), "the warden has made another node")
        assert shows(view.numpy(), 0) and all(shows(at_b.get(f"x/{n}").numpy(), n) for n in range(10))
        until(lambda: int(at_a.stats()["pins"]) == 0, "a's pins of the dead node went at its deadline", deadline_s=20)
        assert int(at_b.stats()["drafts"]) == 0
    assert [a.stop(), b.stop()] == [0, 0]


def test_copies_give_way(short_tmp):
    a, b = start_nodes(short_tmp / "small", 2, "--memory=64MiB")
    with penstock.connect(str(a.socket_dir)) as at_a, penstock.connect(str(b.socket_dir)) as at_b:
        for n in range(4):
            at_a.put(f"x/{n}", pattern(n, 10 * MIB))
        own = at_b.put("own", pattern(100, 10 * MIB))
        for _ in range(3):
            for n in range(4):
                assert shows(at_b.get(f"x/{n}").numpy(), n)
        at_b.put("more", pattern(101, 20 * MIB))
        assert at_b.stat("own").version == own.version and shows(at_b.get("own").numpy(), 100)
        assert all(shows(at_b.get(f"x/{n}").numpy(), n) for n in range(4))
    assert [a.stop(), b.stop()] == [0, 0]


def test_three_nodes(short_tmp):
    daemons = start_nodes(short_tmp / "three", 3)
    stores: list[penstock.Store] = [penstock.connect(str(daemon.socket_dir)) for daemon in daemons]
    for i, store in enumerate(stores):
        store.put(f"t/{i}", pattern(i, MIB))
    for store in stores:
        assert all(shows(store.get(f"t/{i}").numpy(), i) for i in range(3))
        assert [info.name for info in store.list("t/")] == ["t/0", "t/1", "t/2"]
        store.close()
    assert [daemon.stop() for daemon in daemons] == [0, 0, 0]


@pytest.mark.skipif(HAS_RDMA, reason="the fallback is from RDMA")
def test_required_rdma_is_an_error_where_there_is_none(nodes, stores):
    a, b = stores
    version = a.put("x", pattern(1, MIB)).version
    with penstock.connect(str(nodes[1].socket_dir), require_transport="rdma") as strict:
        out = np.zeros(MIB, np.uint8)
        for call in (lambda: strict.get("x"), lambda: strict.get("x", out=out), lambda: strict.get("x", np.s_[:5]), lambda: strict.put("x", out)):
            with pytest.raises(penstock.TransportError, match="require_transport.*no RDMA device"):
                call()
        result = strict.get_many(["x"], errors="return")["x"]
        assert isinstance(result, penstock.TransportError)
        strict.put("own", pattern(2, 10))
        assert shows(strict.get("own").numpy(), 2), "this host's own need no transport"
        assert a.stat("x").version == version and not out.any(), "nothing was put, nothing was read"
        assert shows(b.get("x").numpy(), 1) and shows(strict.get("x").numpy(), 1), "a copy that is here is mapped"
    with pytest.raises(penstock.InvalidArgumentError, match="require_transport"):
        penstock.connect(str(nodes[1].socket_dir), require_transport="pigeon")


@pytest.mark.skipif(HAS_RDMA, reason="the fallback is from RDMA")
def test_a_node_may_require_rdma_for_all(short_tmp):
    a, b = start_nodes(short_tmp / "strict", 2, "--memory=256MiB", "--require_transport=rdma")
    with penstock.connect(str(a.socket_dir)) as at_a, penstock.connect(str(b.socket_dir)) as at_b:
        at_a.put("x", pattern(1, MIB))
        for call in (lambda: at_b.get("x"), lambda: at_b.get("x", np.s_[:5]), lambda: at_b.put("x", 1)):
            with pytest.raises(penstock.TransportError, match="require_transport"):
                call()
        assert at_b.stat("x").nbytes == MIB, "names and shapes come by gRPC"
    assert [a.stop(), b.stop()] == [0, 0]
