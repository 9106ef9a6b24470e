"""Shards that come from two nodes, and from a host without one."""

from __future__ import annotations

import threading
import uuid
from typing import Any

import numpy as np
import penstock
import pytest

from support.waiting import until


def internal(store: penstock.Store) -> list[str]:
    return [info.name for info in store.list(".penstock/")]


@pytest.fixture
def pair(stores):
    a, b = stores
    yield a, b
    until(lambda: internal(a) == [] == internal(b), f"nothing is left: {internal(a)} {internal(b)}")


@pytest.fixture
def w() -> str:
    """A name that had no version yet."""
    return f"w/{uuid.uuid4()}"


def put(store: penstock.Store, w: str, at: int, value: int, **options: Any) -> penstock.TensorInfo | None:
    return store.put_shard(w, np.full((500, 1000), value), global_shape=(1000, 1000), offset=(500 * at, 0), **options)


def shows(store: penstock.Store, w: str, upper: int, lower: int) -> bool:
    value = store.get(w).numpy()
    return bool((value[:500] == upper).all() and (value[500:] == lower).all())


@pytest.mark.parametrize("first", [0, 1])
def test_shards_of_two_hosts_are_one_tensor_on_both(pair, w, first):
    assert put(pair[first], w, 0, 1) is None
    info = put(pair[1 - first], w, 1, 2)
    assert info is not None
    for store in pair:
        assert store.wait(w, timeout=10).version == info.version == 1 and shows(store, w, 1, 2)


def test_columns_of_two_hosts(pair, w):
    whole = np.random.default_rng(0).random((300, 2000))
    for i, store in enumerate(pair):
        store.put_shard(w, whole[:, 1000 * i : 1000 * (i + 1)], global_shape=whole.shape, offset=(0, 1000 * i))
    for store in pair:
        assert np.array_equal(store.get(w).numpy(), whole)


@pytest.mark.parametrize("versions", [False, True])
def test_both_begin_at_the_same_moment_again_and_again(pair, w, versions):
    """There must be one index, on whichever node."""
    rounds, barrier = 20, threading.Barrier(2)
    published: list[int] = []
    errors: list[BaseException] = []

    def rank(at: int) -> None:
        try:
            for number in range(1, rounds + 1):
                barrier.wait(60)
                info = put(pair[at], w, at, number, version=number if versions else None)
                if info is not None:
                    published.append(info.version)
                pair[at].wait(w, number, timeout=20)
                assert shows(pair[at], w, number, number)
        except BaseException as error:
            errors.append(error)
            barrier.abort()

    threads = [threading.Thread(target=rank, args=(at,)) for at in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == [] and published == list(range(1, rounds + 1))


def test_a_replica_on_the_other_host(pair, w):
    a, b = pair
    assert put(a, w, 0, 1) is None and put(b, w, 0, 1) is None
    with pytest.raises(penstock.ConflictError, match="^local: differs"):
        put(b, w, 0, 3)
    assert put(b, w, 1, 2) is not None and shows(a, w, 1, 2)


def test_a_session_on_the_other_host_that_ends_takes_its_shard_with_it(pair, w, nodes):
    a, b = pair
    with penstock.connect(str(nodes[1].socket_dir)) as short:
        assert put(short, w, 0, 1) is None
    until(lambda: [name for name in internal(b) if name.startswith(".penstock/shard/")] == [], "the shard has gone")
    assert put(a, w, 1, 2) is None
    assert put(b, w, 0, 3) is not None and shows(a, w, 3, 2)


def test_a_host_without_a_node_takes_part(pair, w, nodes):
    a, b = pair
    peers = [f"127.0.0.1:{node.ready['grpc_port']}" for node in nodes]
    with penstock.start_local("128MiB", peers=peers) as gateway, gateway.connect() as far:
        assert put(far, w, 0, 1) is None
        (shard,) = a.list(".penstock/shard/")
        assert shard.ttl is not None and 3500 < shard.ttl <= 3600, "no session's end deletes it, so its time does"
        assert put(a, w, 0, 1, version=7) is None
        (near,) = [info for info in a.list(".penstock/shard/") if info.name != shard.name]
        assert near.ttl is None
        assert put(b, w, 1, 2, version=7) is not None
        assert put(a, w, 1, 2) is not None
        assert put(b, w, 0, 3) is None and put(far, w, 1, 4) is not None
        assert shows(a, w, 3, 4) and shows(far, w, 3, 4)
        until(lambda: internal(far) == [], "nothing is left")
