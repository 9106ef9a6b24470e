"""Snapshots: numbers, retention, pins; nothing is seen before the end, nothing stays of a writer that died."""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import Any, Callable, Iterator

import numpy as np
import pytest

import penstock

PREFIX = "ckpt/llama"
Eventually = Callable[[Callable[[], Any], str], Any]


@pytest.fixture(autouse=True)
def no_snapshots_left(store: penstock.Store) -> Iterator[None]:
    yield
    for number in store.snapshots(PREFIX):
        store.remove_snapshot(PREFIX, number)


def internal(store: penstock.Store) -> list[str]:
    """Names of what snapshots consist of."""
    return [info.name for info in store.list(".penstock/snapshot/")]


def write(store: penstock.Store, value: float = 0.0, **options: Any) -> penstock.SnapshotInfo:
    return store.put_state_dict(PREFIX, {"w": np.full(1000, value), "b": np.full(3, value)}, **options)


def test_numbers_grow_and_latest_follows(store: penstock.Store) -> None:
    assert store.snapshots(PREFIX) == [] and store.latest(PREFIX, default=None) is None
    with pytest.raises(penstock.NotFoundError, match="has no snapshot"):
        store.latest(PREFIX)
    assert [write(store, value).number for value in (1, 2, 3)] == [1, 2, 3]
    assert store.snapshots(PREFIX) == [1, 2, 3] and store.latest(PREFIX) == 3
    assert store.get_state_dict(PREFIX)["w"][0] == 3 and store.get_state_dict(PREFIX, number=1)["b"][0] == 1
    with pytest.raises(penstock.NotFoundError, match="no snapshot 4"):
        store.get_state_dict(PREFIX, number=4)


def test_a_number_of_ones_own_must_be_free(store: penstock.Store) -> None:
    assert write(store, number=100).number == 100
    assert write(store, number=50).number == 50 and store.latest(PREFIX) == 100
    assert write(store).number == 101
    with pytest.raises(penstock.ConflictError, match="^number: snapshot 50 .* exists"):
        write(store, number=50)
    assert store.snapshots(PREFIX) == [50, 100, 101]


def test_infos_tell_what_a_snapshot_is(store: penstock.Store) -> None:
    write(store, metadata={"step": "7"})
    (info,) = store.snapshot_infos(PREFIX)
    assert (info.number, info.tensors, info.nbytes, info.pinned, info.metadata) == (1, 2, 8024, False, {"step": "7"})


def test_nobody_sees_it_before_the_end(store: penstock.Store) -> None:
    write(store, 1)
    with store.snapshot(PREFIX) as snap:
        snap.put("w", np.full(10, 2.0))
        assert store.latest(PREFIX) == 1 and store.get_state_dict(PREFIX)["w"][0] == 1 and snap.number is None
        assert list(store.list()) == [], "its tensors are not listed"
    assert store.latest(PREFIX) == 2 == snap.number


def test_an_exception_leaves_nothing(store: penstock.Store) -> None:
    with pytest.raises(ZeroDivisionError), store.snapshot(PREFIX) as snap:
        snap.put_many({"w": np.ones(10), "big": np.ones(1 << 20)})
        assert len(internal(store)) == 2
        raise ZeroDivisionError
    assert store.snapshots(PREFIX) == [] and internal(store) == []
    assert repr(snap) == "Snapshot('ckpt/llama', given up)"
    with pytest.raises(penstock.Error, match="committed or aborted before"):
        snap.put("w", np.ones(1))


def test_keep_last_removes_the_oldest_but_not_the_pinned(store: penstock.Store) -> None:
    for value in range(3):
        write(store, value)
    store.pin_snapshot(PREFIX, 1)
    write(store, keep_last=2)
    assert store.snapshots(PREFIX) == [1, 3, 4]
    store.pin_snapshot(PREFIX, 1, pinned=False)
    write(store, keep_last=1)
    assert store.snapshots(PREFIX) == [5]
    assert len(internal(store)) == 3, "two tensors and a manifest"


def test_views_outlive_the_snapshot(store: penstock.Store) -> None:
    write(store, 5)
    loaded = store.get_state_dict(PREFIX)
    store.remove_snapshot(PREFIX, 1)
    assert loaded["w"].sum() == 5000 and internal(store) == []
    with pytest.raises(penstock.NotFoundError, match="no snapshot 1"):
        store.remove_snapshot(PREFIX, 1)


def test_wait_snapshot_wakes_with_the_next_one(store: penstock.Store, node: penstock.LocalNode) -> None:
    write(store)
    with pytest.raises(penstock.DeadlineError):
        store.wait_snapshot(PREFIX, after=1, timeout=0.05)
    with node.connect() as other:
        thread = threading.Thread(target=write, args=(other,))
        thread.start()
        assert store.wait_snapshot(PREFIX, after=1, timeout=20) == 2
        thread.join()


def test_users_cannot_touch_the_reserved_names(store: penstock.Store) -> None:
    write(store)
    for call in (lambda: store.put(".penstock/x", np.ones(1)), lambda: store.delete(internal(store)[0]), lambda: store.delete_prefix(".penstock/")):
        with pytest.raises(penstock.InvalidArgumentError, match="reserved|internal"):
            call()
    store.delete_prefix("")
    assert store.latest(PREFIX) == 1


@pytest.mark.parametrize("prefix", ["", "/", "a//b", "x" * 500, ".penstock/x"])
def test_a_prefix_that_cannot_be_one_is_told_at_once(store: penstock.Store, prefix: str) -> None:
    with pytest.raises(penstock.InvalidArgumentError, match="^prefix: "):
        store.snapshot(prefix)
    with pytest.raises(penstock.InvalidArgumentError, match="^prefix: "):
        store.get_state_dict(prefix)


def test_a_writer_that_is_killed_leaves_nothing(store: penstock.Store, node: penstock.LocalNode, eventually: Eventually) -> None:
    before = store.stats()
    code = f"""
import numpy as np, penstock, sys
store = penstock.connect({node.address!r})
snap = store.snapshot({PREFIX!r})
snap.put_many({{"w": np.ones(1000), "big": np.ones(1 << 20)}})
print("put", flush=True)
sys.stdin.read()
"""
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None and writer.stdout.readline() == b"put\n"
        assert len(internal(store)) == 2
        writer.kill()
        eventually(lambda: internal(store) == [], "the tensors of the dead writer")
    assert store.snapshots(PREFIX) == []
    eventually(lambda: store.stats()["tensor_bytes"] <= before["tensor_bytes"] + 64, "its memory")


def test_a_forked_child_cannot_go_on_with_it(store: penstock.Store, run_python: Any) -> None:
    code = f"""
import numpy as np, os
snap = store.snapshot({PREFIX!r})
snap.put("w", np.ones(10))
if os.fork() == 0:
    try:
        snap.commit()
    except penstock.Error as error:
        print(type(error).__name__, "belongs to the process that forked" in str(error), flush=True)
    os._exit(0)
os.wait()
print(snap.commit().number)
"""
    done = run_python(code)
    assert done.stdout.split() == ["ConflictError", "True", "1"], done
    assert store.get_state_dict(PREFIX)["w"].sum() == 10


def test_many_writers_of_one_prefix_get_numbers_of_their_own(store: penstock.Store, node: penstock.LocalNode) -> None:
    numbers: list[int] = []

    def writer(value: int) -> None:
        with node.connect() as other:
            for i in range(5):
                numbers.append(write(other, value * 10 + i).number)

    threads = [threading.Thread(target=writer, args=(value,)) for value in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(numbers) == list(range(1, 31)) == store.snapshots(PREFIX)


def test_a_reader_is_not_disturbed_by_removals(store: penstock.Store, node: penstock.LocalNode) -> None:
    write(store)
    stop = threading.Event()

    def churn() -> None:
        with node.connect() as other:
            for value in range(200):
                write(other, value, keep_last=1)
        stop.set()

    thread = threading.Thread(target=churn)
    thread.start()
    while not stop.is_set():
        loaded = store.get_state_dict(PREFIX)
        assert (loaded["w"] == loaded["w"][0]).all() and loaded["b"][0] == loaded["w"][0]
        del loaded
    thread.join()


# --- several ranks ----------------------------------------------------------------------------------------------------


def rank_thread(node: penstock.LocalNode, rank: int, ranks: int, results: dict[int, Any], whole: Any, timeout: float = 20.0) -> None:
    rows = len(whole) // ranks
    try:
        with node.connect() as store, store.snapshot(PREFIX, number=7, rank=rank, ranks=ranks, timeout=timeout) as snap:
            snap.put_shard("w", whole[rank * rows : (rank + 1) * rows], global_shape=whole.shape, offset=(rank * rows, 0))
        results[rank] = snap.number
    except Exception as error:  # noqa: BLE001: told by the test
        results[rank] = error


def test_a_snapshot_of_several_ranks_commits_when_all_have_put(store: penstock.Store, node: penstock.LocalNode) -> None:
    whole = np.arange(80.0).reshape(8, 10)
    results: dict[int, Any] = {}
    threads = [threading.Thread(target=rank_thread, args=(node, rank, 4, results, whole)) for rank in range(4)]
    for thread in threads[1:]:
        thread.start()
    threads[1].join(0.3)
    assert store.snapshots(PREFIX) == [] and results == {}
    threads[0].start()
    for thread in threads:
        thread.join()
    assert results == {rank: 7 for rank in range(4)}
    assert (store.get_state_dict(PREFIX)["w"] == whole).all()
    assert len(internal(store)) == 4 + 1, "shards and the manifest"


def test_a_rank_that_is_missing_is_told(store: penstock.Store, node: penstock.LocalNode) -> None:
    results: dict[int, Any] = {}
    whole = np.arange(80.0).reshape(8, 10)
    threads = [threading.Thread(target=rank_thread, args=(node, rank, 3, results, whole, 0.5)) for rank in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert isinstance(results[0], penstock.DeadlineError) and "rank 2 of 3 has not put" in str(results[0])
    assert isinstance(results[1], (penstock.ConflictError, penstock.DeadlineError))
    assert store.snapshots(PREFIX) == [] and internal(store) == []


RANK = """
import numpy as np, penstock, sys
store = penstock.connect(sys.argv[1])
rank = int(sys.argv[2])
snap = store.snapshot("ckpt/llama", number=1, rank=rank, ranks=2, timeout=20)
snap.put_shard("w", np.full((2, 2), rank), global_shape=(4, 2), offset=(2 * rank, 0))
print("put", flush=True)
sys.stdin.readline()
print(snap.commit().number, flush=True)
"""


def start_ranks(node: penstock.LocalNode) -> list[subprocess.Popen[str]]:
    return [
        subprocess.Popen([sys.executable, "-c", RANK, node.address, str(rank)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]


@pytest.mark.parametrize("dead", [0, 1])
def test_a_rank_that_dies_ends_the_snapshot_for_all(store: penstock.Store, node: penstock.LocalNode, eventually: Eventually, dead: int) -> None:
    ranks = start_ranks(node)
    for rank in ranks:
        assert rank.stdout is not None and rank.stdout.readline() == "put\n"
    ranks[dead].kill()
    ranks[dead].wait()
    assert ranks[dead].communicate() is not None
    out, err = ranks[1 - dead].communicate("\n", timeout=30)
    assert out == "" and "ConflictError" in err and ("rank 1 died" in err or "rank 0 gave it up or died" in err), err
    eventually(lambda: internal(store) == [], "what the ranks had put")
    assert store.snapshots(PREFIX) == []
    again = start_ranks(node)
    for rank in again:
        assert rank.stdin is not None
        rank.stdin.write("\n")
        rank.stdin.flush()
    outs = [rank.communicate(timeout=30) for rank in again]
    assert [out for out, _ in outs] == ["put\n1\n"] * 2, outs
    assert store.get_state_dict(PREFIX)["w"].tolist() == [[0, 0], [0, 0], [1, 1], [1, 1]]


def test_a_rank_that_waits_no_longer_takes_the_snapshot_away_from_rank_0(store: penstock.Store, node: penstock.LocalNode) -> None:
    """What it has put is only deleted once rank 0 cannot publish it any more."""
    with node.connect() as first, node.connect() as second:
        snap = first.snapshot(PREFIX, number=1, rank=0, ranks=2)
        snap.put_shard("w", np.zeros((2, 2)), global_shape=(4, 2), offset=(0, 0))
        other = second.snapshot(PREFIX, number=1, rank=1, ranks=2, timeout=0.5)
        other.put_shard("w", np.ones((2, 2)), global_shape=(4, 2), offset=(2, 0))
        with pytest.raises(penstock.DeadlineError, match="rank 0 has not committed it in time"):
            other.commit()
        with pytest.raises(penstock.ConflictError):
            snap.commit()
    assert store.snapshots(PREFIX) == [] and internal(store) == []


def test_after_a_put_that_failed_it_can_only_be_aborted(store: penstock.Store) -> None:
    snap = store.snapshot(PREFIX)
    snap.put("w", np.ones(3))
    with pytest.raises(penstock.InvalidArgumentError, match="key: 'w' is given twice"):
        snap.put_many({"x": np.ones(3), "w": np.ones(3)})
    with pytest.raises(penstock.ConflictError, match="can only be aborted: key: 'w' is given twice"):
        snap.commit()
    snap.abort()
    assert store.snapshots(PREFIX) == [] and internal(store) == []


def test_watching_everything_passes_over_what_snapshots_consist_of(store: penstock.Store) -> None:
    watch = store.watch("")
    write(store)
    store.put("x", np.ones(1))
    event = watch.next(timeout=20)
    assert event is not None and event.info.name == "x"
    watch.close()


def test_notebooks_show_snapshots(store: penstock.Store) -> None:
    with store.snapshot(PREFIX, metadata={"<step>": "7"}) as snap:
        assert "being written" in snap._repr_html_() and PREFIX in snap._repr_html_()
        snap.put("w", np.ones(1000))
    (info,) = store.snapshot_infos(PREFIX)
    for shown in (snap._repr_html_(), info._repr_html_()):
        assert "7.8 KiB" in shown and "number 1" in shown and "&lt;step&gt;" in shown and "<step>" not in shown


@pytest.mark.parametrize(("offset", "shape", "text"), [(5.5, (2,), "^offset: must be"), ((0,), "x", None), ((0,), None, "^global_shape: must be")])
def test_what_is_no_offset_or_shape_is_told_by_its_field(store: penstock.Store, offset: Any, shape: Any, text: str | None) -> None:
    with pytest.raises(TypeError, match=text), store.snapshot(PREFIX) as snap:
        snap.put_shard("w", np.ones(1), global_shape=shape, offset=offset)
    assert store.snapshots(PREFIX) == []


def test_deleting_and_listing_everything_passes_over_many_members(store: penstock.Store) -> None:
    with store.snapshot(PREFIX) as snap:
        snap.put_many({str(i): np.zeros(1, np.uint8) for i in range(3000)})
        for name in ("!before", "after/a", "after/b"):
            store.put(name, 1)
        assert [info.name for info in store.list()] == ["!before", "after/a", "after/b"]
        assert [info.name for info in store.list(limit=2)] == ["!before", "after/a"]
        assert store.delete_prefix("") == 3 and len(internal(store)) == 3000
        assert list(store.list(".p")) == [] and store.delete_prefix(".p") == 0
