"""10,000 open views, a full store, a catalog that grows."""

from __future__ import annotations

import os

import pytest

from support.books import await_books, books
from support.pattern import pattern, shows
from support.waiting import until
from support.worker import CallFailed

MEMORY = "128MiB"
MIB = 1 << 20
NAMES = int(os.environ.get("TESTS_FAULT_NAMES", 200_000))  # tests/nightly: 1,000,000


def test_ten_thousand_open_views(store, make_worker):
    for i in range(10):
        store.put(f"x/{i}", pattern(i, 4096))
    before = books(store)
    worker = make_worker("reader")
    worker.do("views = [store.get(f'x/{i % 10}') for i in range(10_000)]")
    assert books(store)["pins"] == before["pins"] + 10_000
    mine = [row for row in store._ask("Sessions")["sessions"] if row["label"] == "reader"]
    assert int(mine[0]["pins"]) == 10_000
    for i in range(10):
        store.put(f"x/{i}", pattern(100 + i, 4096))  # all that they show is retired
    assert books(store)["retired"] == 10
    assert worker.do("all(shows(view.numpy(), i % 10) for i, view in enumerate(views))")
    worker.do("del views[:5000]")
    assert books(store)["pins"] == before["pins"] + 5_000
    await_books(store, before, worker.kill(), "10,000 views")


@pytest.mark.parametrize("size", [64 << 10, 4 * MIB], ids=["arenas", "extents"])
def test_a_full_store_says_so_and_takes_more_after_a_delete(store, make_worker, size):
    worker = make_worker("writer")
    worker.do(f"""
count = 0
error = None
try:
    while count < 10_000:
        store.put(f'x/{{count}}', pattern(count, {size}))
        count += 1
except penstock.StoreFullError as full:
    error = [type(full).__name__, full.code, str(full)]
""")
    count, error = worker.do("count"), worker.do("error")
    assert error is not None, f"{count} tensors of {size} bytes fit into {MEMORY}"
    assert count * size >= 128 * MIB * 0.7, f"full at {count * size} bytes of {MEMORY}"
    assert count * size <= 128 * MIB
    assert error[1] == "RESOURCE_EXHAUSTED"
    for words in ("the store is full", "128MiB", "tensors", "penstock pins", "--memory"):
        assert words in error[2]
    for i in (0, count // 2, count - 1):  # nothing was dropped to make room
        with store.get(f"x/{i}") as view:
            assert shows(view.numpy(), i)
    worker.do("view = store.get('x/0')")
    assert worker.do("store.delete('x/0')") and worker.do("store.delete('x/1')")
    worker.do(f"store.put('again', pattern(77, {size}))")  # in the room of x/1: x/0 is pinned
    assert worker.do("shows(view.numpy(), 0)")
    with store.get("again") as view:
        assert shows(view.numpy(), 77)
    with pytest.raises(CallFailed, match="StoreFullError"):
        worker.do(f"[store.put(f'more/{{i}}', pattern(i, {size})) for i in range(3)]")


def test_evictable_tensors_make_room_and_kept_ones_stay(store, make_worker):
    worker = make_worker("writer")
    worker.do("[store.put(f'keep/{i}', pattern(i, 64 << 10)) for i in range(100)]")
    worker.do("[store.put(f'cache/{i}', pattern(i, 64 << 10), keep=False) for i in range(4000)]")
    assert int(store.stats()["evictions"]) > 0
    assert worker.do("all(shows(store.get(f'keep/{i}').numpy(), i) for i in range(100))")
    assert worker.do("shows(store.get('cache/3999').numpy(), 3999)")
    assert not store.exists("cache/0")


@pytest.mark.timeout(1200)  # a million names in tests/nightly; 15 s otherwise
def test_the_catalog_grows(store, daemon, make_worker):
    """Old readers find names in an index that was replaced many times, and records in new chunks."""
    reader = make_worker("reader")
    reader.do("store.put('first', pattern(3, 8)); view = store.get('first')")
    writer = make_worker("writer")
    step = 50_000
    for start in range(0, NAMES, step):
        writer.do(f"store.put_many({{f'n/{{i}}': pattern(i, 8) for i in range({start}, {start + step})}})")
        assert reader.do(f"all(shows(store.get(f'n/{{i}}').numpy(), i) for i in range({start}, {start + step}, 97))")
        assert reader.do("shows(store.get('first').numpy(), 3)")
    assert reader.do("shows(view.numpy(), 3)")
    assert int(store.stats()["tensors"]) == NAMES + 1
    assert int(store.stats()["catalog_bytes"]) <= 400 * NAMES + (16 << 20)
    page = list(store.list("n/1", limit=3))
    assert [info.name for info in page] == ["n/1", "n/10", "n/100"]
    # A new node finds all of them again.
    before = int(store.stats()["generation"])
    os.kill(daemon.node_pid, 9)
    until(lambda: int(store.stats()["generation"]) == before + 1, "a new node")
    assert int(store.stats()["tensors"]) == NAMES + 1
    assert reader.do(f"all(shows(store.get(f'n/{{i}}').numpy(), i) for i in range(0, {NAMES}, 997))")
    assert store.delete_prefix("n/") == NAMES
