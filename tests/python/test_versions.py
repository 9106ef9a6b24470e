"""Versions, conditions, time to live."""

import numpy as np
import pytest

import penstock


def test_versions_grow(store):
    one = store.put("x", 1).version
    two = store.put("x", 2).version
    assert two > one
    store.delete("x")
    assert store.put("x", 3).version > two


def test_an_exact_version(store):
    version = store.put("x", np.arange(3)).version
    assert store.get("x", version=version).version == version
    with pytest.raises(penstock.NotFoundError):
        store.get("x", version=version + 1)
    assert store.stat("x", version).version == version


def test_a_version_of_the_callers(store):
    step = store.put("x", 0).version + 1000
    assert store.put("x", 1, version=step).version == step
    assert store.put("x", 2).version > step
    with pytest.raises(penstock.Error, match="version"):
        store.put("x", 3, version=step)
    assert store.get("x").numpy() == 2


def test_if_absent(store):
    store.put("x", 1, if_absent=True)
    with pytest.raises(penstock.AlreadyExistsError) as caught:
        store.put("x", 2, if_absent=True)
    assert isinstance(caught.value, FileExistsError) and caught.value.name == "x"
    assert store.get("x").numpy() == 1


def test_if_version(store):
    version = store.put("x", 1, if_version=0).version
    with pytest.raises(penstock.ConflictError) as caught:
        store.put("x", 2, if_version=version + 5)
    assert isinstance(caught.value, RuntimeError)
    assert store.put("x", 3, if_version=version).version > version
    assert store.get("x").numpy() == 3


def test_delete_of_a_version(store):
    version = store.put("x", 1).version
    newer = store.put("x", 2).version
    with pytest.raises(penstock.Error):
        if not store.delete("x", version):
            raise penstock.NotFoundError
    assert store.exists("x") and store.delete("x", newer) and not store.exists("x")


def test_time_to_live(store, eventually):
    store.put("short", 1, ttl=0.05)
    store.put("long", 1, ttl=1000)
    eventually(lambda: not store.exists("short"), "it expired")
    with pytest.raises(penstock.NotFoundError):
        store.get("short")
    assert store.stat("long").ttl > 900 and store.put("ever", 1).ttl is None


def test_time_to_live_as_timedelta(store):
    import datetime

    assert 50 < store.put("x", 1, ttl=datetime.timedelta(minutes=1)).ttl <= 60


def test_cache_class_is_evicted_for_new_puts(store, eventually):
    block = np.zeros(24 << 20, np.uint8)
    for i in range(40):  # more than the store holds
        store.put(f"cache/{i}", block, keep=False)
    assert store.exists("cache/39") and not store.exists("cache/0")
