"""penstock.kv_cache: names, misses, and a store that is not there."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import penstock
from penstock import kv_cache
from penstock.kv_cache import KVCache, escape, fingerprint, unescape
from support.daemon import start_daemon


@pytest.fixture
def cache(node, store):
    cache = KVCache("kv", model="org/model", layout={"dtype": "f16"}, address=node.address)
    yield cache
    cache.close()


def block(key: str) -> np.ndarray:
    return np.frombuffer(key.encode().ljust(64, b"."), np.uint8)


# --- names ---


@given(st.text(st.characters(blacklist_categories=())))
def test_escaping_loses_nothing(key):
    part = escape(key)
    assert unescape(part) == key
    assert part and "/" not in part and part not in (".", "..") and part.isascii() and part.isprintable()


@pytest.mark.parametrize("one, other", [("a/b", "a%2Fb"), ("", "%"), (".", "%2E"), ("..", "%2E%2E"), ("é", "%C3%A9")])
def test_keys_that_look_alike_have_names_of_their_own(one, other):
    assert escape(one) != escape(other)


def test_a_key_that_is_too_long_is_named_by_its_digest(cache, store):
    keys = ["k" * 1000, "k" * 1001, "%" * 300]
    assert len({cache.name(key) for key in keys}) == 3 and all(len(cache.name(key)) <= 512 for key in keys)
    assert cache.put([(key, block(str(i))) for i, key in enumerate(keys)]) == [True] * 3
    assert cache.contains(keys) == [True] * 3 and cache.keys() == []
    longest = "k" * (512 - len(cache.prefix))
    assert cache.name(longest).endswith(longest) and not cache.name(longest + "k").endswith("k")
    assert len(KVCache("é" * 100).name("k" * 400).encode()) <= 512


def test_layouts_and_models_do_not_mix(node, store):
    caches = [
        KVCache("kv", model=model, layout=layout, address=node.address)
        for model in ("a", "b")
        for layout in ({"dtype": "f16"}, {"dtype": "bf16"})
    ]
    caches[0].put([("k", block("k"))])
    assert [cache.contains(["k"]) for cache in caches] == [[True], [False], [False], [False]]
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1}) != fingerprint({"a": 1, "b": 3})
    for cache in caches:
        cache.close()


@pytest.mark.parametrize("root", ["", "/kv", "kv/", "a//b", "..", ".penstock/kv", "a\nb", "r" * 450])
def test_roots_that_are_no_names(root):
    with pytest.raises(penstock.InvalidArgumentError, match="^root: "):
        KVCache(root)


def test_other_arguments_that_are_wrong():
    with pytest.raises(TypeError, match="^root: "):
        KVCache(3)
    with pytest.raises(penstock.InvalidArgumentError, match="^timeout: "):
        KVCache("kv", timeout=0)


# --- pieces ---


def test_pieces_come_back_and_may_be_evicted(cache, store):
    keys = ["a", "b/c", "../d"]
    assert cache.put([(key, block(key)) for key in keys]) == [True] * 3
    assert [info.keep for info in store.list()] == [False] * 3
    out = [np.zeros(64, np.uint8) for _ in range(4)]
    assert cache.read_into([*keys, "e"], out) == [True, True, True, False]
    assert [bytes(o) for o in out] == [bytes(block(key)) for key in keys] + [bytes(64)]
    assert sorted(cache.keys()) == sorted(keys)


def test_no_keys_are_no_call():
    cache = KVCache("kv", address="/nowhere")
    assert cache.put([]) == cache.views([]) == cache.contains([]) == cache.read_into([], []) == cache.delete([]) == []
    assert cache.longest_prefix([]) == 0


def test_lookups_see_gaps(cache, store):
    keys = [str(i) for i in range(8)]
    there = [True, True, False, True, False, False, True, False]
    cache.put((key, block(key)) for key, is_there in zip(keys, there) if is_there)
    assert cache.contains(keys) == there
    assert cache.longest_prefix(keys) == 2 and cache.longest_prefix(keys[2:]) == 0


def test_a_key_twice_in_a_batch(cache, store):
    assert cache.put([("a", block("1")), ("a", block("2"))]) == [True, True]
    out = [np.zeros(64, np.uint8) for _ in range(2)]
    assert cache.read_into(["a", "a"], out) == [True, True]
    assert bytes(out[0]) == bytes(out[1]) == bytes(block("2"))


def test_a_piece_of_another_size_is_a_miss(cache, store, caplog):
    cache.put([("a", block("a"))])
    out = np.zeros(63, np.uint8)
    assert cache.read_into(["a", "a"], [out, out]) == [False, False] and not out.any()
    assert len(caplog.records) == 1 and "has 64 bytes and 63 were asked for" in caplog.text


def test_delete_and_clear(cache, store):
    cache.put((key, block(key)) for key in "abc")
    store.put("kv/other", 1)
    assert cache.delete(["a", "x"]) == [True, False]
    assert cache.clear() == 2 and cache.keys() == [] and store.exists("kv/other")


def test_bytes_of_any_dtype(cache, store):
    x = np.arange(24, dtype=np.float16).reshape(2, 3, 4)
    cache.put([("x", x), ("empty", x[:0])])
    out = np.zeros(24, np.float16)
    assert cache.read_into(["x", "empty"], [out, bytearray()]) == [True, True] and np.array_equal(out.reshape(x.shape), x)


# --- a store that is not there, or full ---


def test_a_store_that_is_away_is_a_miss_and_one_line(caplog, monkeypatch):
    monkeypatch.setattr(kv_cache, "RETRY_SECONDS", 0.0)
    with penstock.start_local(memory="64MiB") as node:
        cache = KVCache("kv", address=node.address)
        assert cache.put([("a", block("a"))]) == [True]
    out = np.zeros(64, np.uint8)
    for _ in range(3):
        assert cache.put([("b", block("b"))]) == [False]
        assert cache.read_into(["b"], [out]) == [False] and cache.views(["b", "c"]) == [None, None]
        assert cache.contains(["b", "c"]) == [False, False] and cache.longest_prefix(["b"]) == 0
        assert cache.delete(["b"]) == [False] and cache.clear() == 0 and cache.keys() == [] and not cache.answers()
    assert len(caplog.records) == 1 and "the store is away" in caplog.text
    cache.close()
    cache.close()
    assert cache.put([("b", block("b"))]) == [False] and len(caplog.records) == 1


def test_a_store_that_comes_is_used(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(kv_cache, "RETRY_SECONDS", 0.0)
    caplog.set_level(logging.INFO)
    cache = KVCache("kv", address=str(tmp_path / "sockets"))
    assert not cache.answers() and "the store is away" in caplog.text
    daemon = start_daemon(tmp_path / "sockets", "--memory=64MiB")
    try:
        assert cache.answers() and cache.put([("a", block("a"))]) == [True] and cache.contains(["a"]) == [True]
        assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    finally:
        cache.close()
        daemon.stop()


def test_a_store_that_is_away_is_not_asked_in_each_call(monkeypatch):
    asked = []
    monkeypatch.setattr("penstock.store.Store.__init__", lambda *_, **__: asked.append(1) or fail())

    def fail():
        raise penstock.UnavailableError("away")

    cache = KVCache("kv")
    for _ in range(100):
        assert cache.longest_prefix(["a"]) == 0
    assert len(asked) == 1


def test_pieces_of_another_node_that_is_away_are_missing_alone(cache, store, caplog, monkeypatch):
    cache.put([("here", block("here"))])
    get_many = penstock.Store.get_many

    def one_home_is_away(self, names, errors):
        found = get_many(self, names, errors)
        return found | {name: penstock.UnavailableError("its home") for name in found if name.endswith("there")}

    monkeypatch.setattr(penstock.Store, "get_many", one_home_is_away)
    for _ in range(3):
        here, there = cache.views(["here", "there"])
        assert here is not None and there is None and cache.contains(["here"]) == [True]
        here.release()
    assert len(caplog.records) == 1 and "get failed" in caplog.text


def test_a_piece_that_does_not_fit(caplog):
    with penstock.start_local(memory="64MiB") as node, node.connect() as store:
        cache = KVCache("kv", address=node.address)
        big = np.zeros(100 << 20, np.uint8)
        assert cache.put([("small", block("s")), ("big", big)]) == [True, False]
        assert cache.put([("big", big)]) == [False]
        assert len(caplog.records) == 1 and "put failed" in caplog.text
        assert cache.contains(["big"]) == [False]
        half = np.zeros(20 << 20, np.uint8)
        assert [cache.put([(str(i), half)]) for i in range(6)] == [[True]] * 6  # the coldest made room
        assert store.stats()["evictions"] > 0
        cache.close()
