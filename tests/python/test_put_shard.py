"""store.put_shard: tensors that several sessions put together."""

from __future__ import annotations

import multiprocessing
import threading
import uuid
from typing import Any, Callable, Iterator

import numpy as np
import penstock
import pytest

ConnectedStores = list[penstock.Store]


@pytest.fixture
def stores(node: penstock.LocalNode, store: penstock.Store) -> Iterator[ConnectedStores]:
    """Sessions of their own. `store` sees that nothing is left."""
    opened = [node.connect() for _ in range(4)]
    yield opened
    for one in opened:
        one.close()
    assert [info.name for info in store.list(".penstock/")] == []


@pytest.fixture
def w() -> str:
    """A name that had no version yet."""
    return f"w/{uuid.uuid4()}"


def rows(store: penstock.Store, name: str, first: int, count: int, value: Any, whole: int = 4, **options: Any) -> penstock.TensorInfo | None:
    return store.put_shard(name, np.full((count, 3), value, dtype=np.float32), global_shape=(whole, 3), offset=(first, 0), **options)


def test_the_last_shard_makes_one_ordinary_tensor(store: penstock.Store, stores: ConnectedStores, w: str) -> None:
    a, b, c, _ = stores
    assert rows(a, w, 0, 1, 1) is None and rows(b, w, 3, 1, 3) is None
    assert not store.exists(w) and list(store.list()) == []
    info = rows(c, w, 1, 2, 2)
    assert info is not None and (info.name, info.version, info.shape, info.dtype) == (w, 1, (4, 3), "f32")
    view = store.get(w)
    assert view.numpy()[:, 0].tolist() == [1, 2, 2, 3] and view.path == "map" and view.is_zero_copy
    assert store.get(w, np.s_[1:4, 1]).numpy().tolist() == [2, 2, 3]
    assert store.stat(w).created == info.created


@pytest.mark.parametrize("dtype", ["f32", "bf16", "u8", "c128"])
def test_any_split_of_any_dtype(store: penstock.Store, stores: ConnectedStores, dtype: str, w: str) -> None:
    shape = (6, 5, 4)
    raw = np.random.default_rng(1).integers(0, 2**8, (*shape, penstock._core.numpy_dtype(dtype).itemsize), dtype=np.uint8)
    whole = raw.view(penstock._core.numpy_dtype(dtype))[..., 0]
    cuts = [(slice(0, 4), slice(0, 2), slice(None)), (slice(0, 4), slice(2, 5), slice(0, 3)), (slice(0, 4), slice(2, 5), slice(3, 4)), (slice(4, 6), slice(None), slice(None))]
    for one, cut in zip(stores, cuts):
        one.put_shard(w, whole[cut], global_shape=shape, offset=[s.start or 0 for s in cut])  # strided
    assert store.get(w).bytes() == whole.tobytes() and store.stat(w).dtype == dtype


def test_large_shards_are_copied_by_several_threads(store: penstock.Store, stores: ConnectedStores, w: str) -> None:
    whole = np.random.default_rng(2).random((512, 8192))
    for i, one in enumerate(stores):
        one.put_shard(w + "rows", whole[128 * i : 128 * (i + 1)], global_shape=whole.shape, offset=(128 * i, 0))
        one.put_shard(w + "columns", whole[:, 2048 * i : 2048 * (i + 1)], global_shape=whole.shape, offset=(0, 2048 * i))
    for name in (w + "rows", w + "columns"):
        assert np.array_equal(store.get(name).numpy(), whole)


def test_one_shard_may_be_the_whole(store: penstock.Store, stores: ConnectedStores, w: str) -> None:
    for name, value in ((w, np.ones((2, 3))), ("scalar", np.float32(5)), ("nothing", np.zeros((0, 3)))):
        info = stores[0].put_shard(name, value, global_shape=np.shape(value), offset=[0] * np.ndim(value))
        assert info is not None and info.shape == np.shape(value) and np.array_equal(store.get(name).numpy(), value)


def test_shards_without_elements_are_no_part_of_it(store: penstock.Store, stores: ConnectedStores, w: str) -> None:
    assert rows(stores[0], w, 4, 0, 0) is None and rows(stores[0], w, 0, 0, 0) is None
    assert rows(stores[1], w, 0, 4, 7) is not None
    assert stores[2].put_shard("none", np.zeros((0, 2)), global_shape=(0, 4), offset=(0, 2)) is not None
    assert store.stat("none").shape == (0, 4)


def test_the_options_are_those_of_the_tensor(store: penstock.Store, stores: ConnectedStores, w: str) -> None:
    options: dict[str, Any] = {"keep": False, "ttl": 60.0, "metadata": {"step": "5"}, "version": 5}
    assert rows(stores[0], w, 0, 2, 1, **options) is None
    for other in ({"keep": True}, {"ttl": 61.0}, {"ttl": None}, {"metadata": {"step": "6"}}, {"metadata": None}):
        with pytest.raises(penstock.InvalidArgumentError, match=f"^{next(iter(other))}"):
            rows(stores[1], w, 2, 2, 2, **(options | other))
    info = rows(stores[1], w, 2, 2, 2, **options)
    assert info is not None
    for seen in (info, store.stat(w)):
        assert (seen.version, seen.keep, seen.metadata) == (5, False, {"step": "5"}) and seen.ttl is not None


def test_rounds_with_versions_may_overlap(store: penstock.Store, stores: ConnectedStores, w: str) -> None:
    a, b, *_ = stores
    for step in (1, 2, 3):
        assert rows(a, w, 0, 2, step, version=step) is None
    for step in (1, 2):
        info = rows(b, w, 2, 2, 10 + step, version=step)
        assert info is not None and info.version == step
        assert store.get(w).numpy()[:, 0].tolist() == [step, step, 10 + step, 10 + step]
    assert rows(b, w, 2, 2, 0, version=2) is None  # comes late, and changes nothing
    assert store.get(w).numpy()[3, 0] == 12
    with pytest.raises(penstock.ConflictError, match="^version: 1 is not larger than 2"):
        rows(a, w, 0, 2, 1, version=1)
    assert rows(b, w, 2, 2, 13, version=3) is not None


def test_a_newer_version_ends_older_rounds(store: penstock.Store, stores: ConnectedStores, w: str) -> None:
    a, b, *_ = stores
    assert rows(a, w, 0, 2, 1, version=1) is None
    store.put(w, np.zeros(3), version=4)
    with pytest.raises(penstock.ConflictError, match="^version: 1 is not larger than 4"):
        rows(b, w, 2, 2, 1, version=1)
    assert rows(a, w, 0, 2, 5, version=5) is None and rows(b, w, 2, 2, 5, version=5) is not None


def test_without_a_version_the_next_round_waits_for_this_one(store: penstock.Store, stores: ConnectedStores, w: str) -> None:
    a, b, *_ = stores
    for value in (1, 2, 3):
        assert rows(a, w, 0, 2, value) is None
        with pytest.raises(penstock.ConflictError, match=r"this session has put \[0:2, 0:3\] already, and \[2:4, 0:3\] of '.*' is missing yet.*version"):
            rows(a, w, 0, 2, value)
        info = rows(b, w, 2, 2, value)
        assert info is not None and info.version == value and (store.get(w).numpy() == value).all()


def test_the_same_box_of_several_sessions_counts_once(store: penstock.Store, stores: ConnectedStores, w: str) -> None:
    a, b, c, d = stores
    assert [rows(one, w, 0, 2, 1) for one in (a, b)] == [None, None]
    with pytest.raises(penstock.ConflictError, match=r"^local: differs from \[0:2, 0:3\] of .*version"):
        rows(c, w, 0, 2, 9)
    assert rows(c, w, 2, 2, 2) is not None
    assert store.get(w).numpy()[:, 0].tolist() == [1, 1, 2, 2]
    assert [rows(one, w + "v", at, 2, value, version=7) for one, at, value in ((a, 0, 1), (b, 0, 8), (a, 0, 8))] == [None] * 3
    assert rows(c, w + "v", 2, 2, 2, version=7) is not None and rows(d, w + "v", 2, 2, 8, version=7) is None
    assert store.get(w + "v").numpy()[:, 0].tolist() == [1, 1, 2, 2]


def test_shards_that_do_not_fit_change_nothing(store: penstock.Store, stores: ConnectedStores, w: str) -> None:
    a, b, *_ = stores
    assert rows(a, w, 0, 2, 1) is None
    wrong: list[tuple[Callable[[], Any], type[Exception], str]] = [
        (lambda: rows(b, w, 1, 3, 2), ValueError, r"^offset: shards \[1:4, 0:3\] and \[0:2, 0:3\] overlap"),
        (lambda: rows(b, w, 0, 4, 2), ValueError, r"^offset: shards .* overlap"),
        (lambda: rows(b, w, 2, 3, 2), ValueError, r"^offset: the shard is not inside"),
        (lambda: rows(b, w, -1, 2, 2), ValueError, r"^offset: the shard is not inside"),
        (lambda: rows(b, w, 2, 2, 2, whole=5), ValueError, r"^global_shape: is \(5, 3\), but .* \(4, 3\)"),
        (lambda: b.put_shard(w, np.zeros((2, 3)), global_shape=(4, 3), offset=(2, 0)), ValueError, "^local: dtype: is f64, but .* f32"),
        (lambda: b.put_shard(w, np.zeros(6, "f4"), global_shape=(4, 3), offset=(2, 0)), ValueError, r"^local: has shape \(6,\)"),
        (lambda: b.put_shard(w, np.zeros((2, 3), "f4"), global_shape=(4, 3), offset=2), ValueError, "^offset: has 1 numbers"),
        (lambda: b.put_shard(w, np.zeros((2, 3), "f4"), global_shape=(4, -3), offset=(2, 0)), ValueError, "^global_shape"),
        (lambda: b.put_shard(w, np.zeros((2, 3), "f4"), global_shape="x", offset=(2, 0)), TypeError, "^global_shape"),
        (lambda: b.put_shard(w, np.zeros((2, 3), "f4"), global_shape=(4, 3), offset=None), TypeError, "^offset"),
        (lambda: b.put_shard(w, object(), global_shape=(4, 3), offset=(2, 0)), TypeError, "^local"),
        (lambda: b.put_shard(5, np.zeros((2, 3), "f4"), global_shape=(4, 3), offset=(2, 0)), TypeError, "^name"),
        (lambda: b.put_shard("a//b", np.zeros((2, 3), "f4"), global_shape=(4, 3), offset=(2, 0)), ValueError, "^name"),
        (lambda: b.put_shard("n" * 500, np.zeros((2, 3), "f4"), global_shape=(4, 3), offset=(2, 0)), ValueError, "^name: of 500 bytes.* 495"),
        (lambda: rows(b, w, 2, 2, 2, version=0), ValueError, "^version"),
        (lambda: rows(b, w, 2, 2, 2, ttl=0), ValueError, "ttl"),
        (lambda: rows(b, w, 2, 2, 2, keep=1), TypeError, "^keep"),
        (lambda: rows(b, w, 2, 2, 2, if_absent=True), TypeError, "if_absent"),
    ]
    for call, error, text in wrong:
        with pytest.raises(error, match=text):
            call()
    assert [info.name for info in store.list(".penstock/shard/")] != [] and len(list(store.list(".penstock/shard/"))) == 1
    assert rows(b, w, 2, 2, 2) is not None
    assert store.get(w).numpy()[:, 0].tolist() == [1, 1, 2, 2]


def test_a_session_that_ends_takes_its_shards_with_it(node: penstock.LocalNode, store: penstock.Store, stores: ConnectedStores, eventually: Any, w: str) -> None:
    a, b, *_ = stores
    assert rows(a, w, 0, 2, 1) is None
    with node.connect() as short:
        assert rows(short, w, 2, 1, 2) is None
    eventually(lambda: len(list(store.list(".penstock/shard/"))) == 1, "the shard has gone")
    assert rows(b, w, 3, 1, 4) is None, "the box is open again"
    assert rows(b, w, 2, 1, 3) is not None
    assert store.get(w).numpy()[:, 0].tolist() == [1, 1, 3, 4]


def test_a_tensor_whose_sessions_have_all_ended_begins_anew(node: penstock.LocalNode, stores: ConnectedStores, store: penstock.Store, eventually: Any, w: str) -> None:
    with node.connect() as short:
        assert rows(short, w, 0, 2, 1) is None
    eventually(lambda: list(store.list(".penstock/shard/")) == [], "the shard has gone")
    for i, one in enumerate(stores):  # another shape
        done = rows(one, w, i, 1, i, whole=4)
    assert done is not None and store.get(w).numpy()[:, 0].tolist() == [0, 1, 2, 3]


def test_a_name_that_was_deleted_is_put_again(store: penstock.Store, stores: ConnectedStores, w: str) -> None:
    a, b, *_ = stores
    versions = []
    for value in (1, 2, 3):
        rows(a, w, 0, 2, value)
        info = rows(b, w, 2, 2, value)
        assert info is not None and (store.get(w).numpy() == value).all()
        versions.append(info.version)
        assert store.delete(w)
    assert versions == sorted(set(versions))


def test_a_put_of_the_whole_in_between_is_the_earlier_one(store: penstock.Store, stores: ConnectedStores, w: str) -> None:
    a, b, *_ = stores
    rows(a, w, 0, 2, 1)
    store.put(w, np.zeros(3))
    info = rows(b, w, 2, 2, 2)
    assert info is not None and info.version == 2 and store.get(w).shape == (4, 3)


def test_waiting_for_it(store: penstock.Store, stores: ConnectedStores, w: str) -> None:
    a, b, *_ = stores
    rows(a, w, 0, 2, 1)
    thread = threading.Timer(0.05, rows, (b, w, 2, 2, 2))
    thread.start()
    assert store.wait(w, timeout=20).shape == (4, 3)
    thread.join()


def _rank(address: str, w: str, rank: int, ranks: int, rounds: int, versions: bool, published: Any) -> None:
    with penstock.connect(address, timeout=60.0) as store:
        for number in range(1, rounds + 1):
            shard = np.full((16, 1000), 1000 * number + rank)
            by_columns = number % 2 == 0  # the next round is split otherwise
            shape, offset = ((16, 1000 * ranks), (0, 1000 * rank)) if by_columns else ((16 * ranks, 1000), (16 * rank, 0))
            info = store.put_shard(w, shard, global_shape=shape, offset=offset, version=number if versions else None)
            if info is not None:
                published.put(info.version)
            if not versions:
                store.wait(w, number, timeout=60)
        store.wait(w, rounds, timeout=60)


@pytest.mark.parametrize("versions", [False, True])
def test_many_processes_at_once_in_rounds(node: penstock.LocalNode, store: penstock.Store, versions: bool, w: str) -> None:
    ranks, rounds = 8, 6
    context = multiprocessing.get_context("spawn")
    published = context.Queue()
    processes = [context.Process(target=_rank, args=(node.address, w, rank, ranks, rounds, versions, published)) for rank in range(ranks)]
    for process in processes:
        process.start()
    seen = 0
    while seen < rounds:  # whatever is seen is of one round
        view = store.get(w, wait=60)
        value = view.numpy() if view.version % 2 else view.numpy().T
        blocks = value.reshape(ranks, 16, 1000) if view.version % 2 else value.reshape(ranks, 1000, 16)
        assert (blocks == (1000 * view.version + np.arange(ranks))[:, None, None]).all()
        seen = view.version
        del view, value, blocks
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    assert sorted(published.get() for _ in range(rounds)) == list(range(1, rounds + 1)), "each is published once"
    assert published.empty() and list(store.list(".penstock/")) == []


def test_replicas_that_race_publish_once(store: penstock.Store, stores: ConnectedStores, w: str) -> None:
    for number in range(1, 20):
        results: list[Any] = []

        def put(one: penstock.Store, at: int) -> None:
            results.append(rows(one, w, at, 2, number, version=number))

        threads = [threading.Thread(target=put, args=(one, 2 * (i % 2))) for i, one in enumerate(stores)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(results) == 4 and [r.version for r in results if r is not None] == [number]
        assert (store.get(w).numpy() == number).all()
