"""penstock.sglang under SGLang's HiCacheController: pages written to the store and prefetched from it, byte for byte."""

from __future__ import annotations

import logging
from typing import Any, Iterator

import pytest
import torch

import sglang_engine
from recording import Recorder
from sglang_engine import PAGE, Controller

LAYOUTS = ("layer_first", "page_first", "page_first_direct", "page_head")
_CALLS = ("register_mem_pool_host", "on_host_pools_registered", "batch_exists", "batch_get", "batch_set", "batch_get_v1", "batch_set_v1",
          "exists", "get", "set", "clear", "close")


@pytest.fixture(scope="session", autouse=True)
def engine() -> None:
    sglang_engine.start()


@pytest.fixture
def open_controller(store: Any) -> Iterator[Any]:
    opened = []

    def open_one(layout: str, interface_v1: int, **options: Any) -> Controller:
        opened.append(Controller(layout, interface_v1, **options))
        controller = opened[-1].controller
        controller.storage_backend = Recorder(controller.storage_backend, _CALLS, f"sglang_{'v1' if interface_v1 else 'generic'}")
        return opened[-1]

    yield open_one
    for one in opened:
        one.close()


def equal(a: list[Any], b: list[Any]) -> bool:
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b))


@pytest.mark.parametrize("interface_v1", [0, 1])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_pages_come_back_byte_for_byte(open_controller, store, layout, interface_v1):
    one = open_controller(layout, interface_v1)
    tokens = list(range(10 * PAGE))
    written, pages = one.backup(tokens)
    assert written == len(tokens) and any(page.any() for page in pages)
    infos = list(store.list("sglang/org%2Ftiny/"))
    assert len(infos) == 10 and {info.dtype for info in infos} == {"bf16"} and not any(info.keep for info in infos)
    read, again = one.prefetch(tokens)
    assert read == len(tokens) and equal(again, pages)


@pytest.mark.parametrize("interface_v1", [0, 1])
def test_only_what_was_written_is_prefetched(open_controller, interface_v1):
    one = open_controller("page_first", interface_v1)
    tokens = list(range(4 * PAGE))
    _, pages = one.backup(tokens)
    read, again = one.prefetch(tokens + [7] * (3 * PAGE))
    assert read == len(tokens) and equal(again, pages)
    assert one.prefetch([9] * (2 * PAGE)) == (0, [])


@pytest.mark.parametrize("interface_v1", [0, 1])
def test_more_pages_than_one_batch_of_sglang(open_controller, interface_v1):
    one = open_controller("layer_first", interface_v1)
    tokens = list(range(150 * PAGE))  # it takes 128 at a time
    written, pages = one.backup(tokens)
    assert written == len(tokens) and equal(one.prefetch(tokens)[1], pages)


def test_another_engine_of_the_same_layout_has_the_pages(open_controller):
    tokens = list(range(5 * PAGE))
    _, pages = open_controller("page_first", 1).backup(tokens)
    read, again = open_controller("page_first", 1).prefetch(tokens)
    assert read == len(tokens) and equal(again, pages)
    assert open_controller("layer_first", 1).prefetch(tokens) == (0, [])


@pytest.mark.parametrize("interface_v1", [0, 1])
@pytest.mark.parametrize("layout", ("layer_first", "page_first"))
def test_models_with_mla(open_controller, layout, interface_v1):
    one = open_controller(layout, interface_v1, mla=True)
    tokens = list(range(6 * PAGE))
    _, pages = one.backup(tokens)
    assert equal(one.prefetch(tokens)[1], pages)


def test_a_host_pool_in_shared_memory(open_controller):
    one = open_controller("page_first", 1, allocator="shm")
    assert one.host.fd is not None
    tokens = list(range(6 * PAGE))
    _, pages = one.backup(tokens)
    assert equal(one.prefetch(tokens)[1], pages)


@pytest.mark.parametrize("interface_v1", [0, 1])
def test_other_bytes_in_the_store_are_other_pages(open_controller, store, interface_v1):
    one = open_controller("page_first", interface_v1)
    tokens = list(range(2 * PAGE))
    _, pages = one.backup(tokens)
    for info in list(store.list("sglang/")):
        store.put(info.name, torch.zeros(info.shape, dtype=torch.bfloat16), keep=False)
    read, again = one.prefetch(tokens)
    assert read == len(tokens) and not equal(again, pages) and not any(page.any() for page in again)


@pytest.mark.parametrize("interface_v1", [0, 1])
def test_a_page_that_was_evicted_ends_the_prefetch_before_it(open_controller, store, interface_v1, monkeypatch):
    one = open_controller("page_first", interface_v1)
    tokens = list(range(4 * PAGE))
    _, pages = one.backup(tokens)
    lookup = one.controller.storage_backend.batch_exists
    hashes: list[str] = []

    def then_evict(keys: list[str], extra_info: Any = None) -> int:
        hashes.extend(keys)
        count = lookup(keys, extra_info)
        assert store.delete(one.controller.storage_backend._cache.name(keys[2]))
        return count

    monkeypatch.setattr(one.controller.storage_backend, "batch_exists", then_evict, raising=False)
    read, again = one.prefetch(tokens)
    assert read == 2 * PAGE and equal(again, pages[:2])


@pytest.mark.parametrize("interface_v1", [0, 1])
def test_without_the_store_it_misses_and_goes_on(open_controller, node, interface_v1, caplog):
    one = open_controller("page_first", interface_v1)
    tokens = list(range(4 * PAGE))
    one.backup(tokens)
    node.close()
    caplog.set_level(logging.WARNING, "penstock")
    assert one.prefetch(tokens) == (0, []) and one.backup(tokens)[0] == 0
    assert len([r for r in caplog.records if r.name == "penstock.kv_cache"]) == 1
    assert all(thread.is_alive() for thread in (one.controller.backup_thread, one.controller.prefetch_thread))


def test_hybrid_models_pools(open_controller, store):
    from sglang.srt.mem_cache.hicache_storage import PoolHitPolicy, PoolName, PoolTransfer

    one = open_controller("page_first", 1)
    backend = one.controller.storage_backend
    other = sglang_engine.host_pool(sglang_engine.device_pool(dtype=torch.float32), "layer_first")
    backend.register_mem_host_pool_v2(other, PoolName.SWA)
    keys = [f"{i:064x}" for i in range(6)]
    indices = torch.arange(6 * PAGE)
    assert backend.batch_set_v1(keys, indices) == [True] * 6
    window = PoolTransfer(PoolName.SWA, host_indices=indices[3 * PAGE : 5 * PAGE], keys=keys[3:5])
    assert backend.batch_set_v2([window]) == {PoolName.SWA: [True, True]}

    def lookup(policy: Any, count: int) -> Any:
        asked = PoolTransfer(PoolName.SWA, keys=keys[:count], hit_policy=policy)
        found = backend.batch_exists_v2(keys, [asked])
        return found.kv_hit_pages, found.extra_pool_hit_pages, found.restorable_prefix_pages

    assert lookup(PoolHitPolicy.TRAILING_PAGES, 2) == (5, {"kv": 6, "swa": 5}, [5])
    assert lookup(PoolHitPolicy.TRAILING_PAGES, 1) == (5, {"kv": 6, "swa": 5}, [4, 5])
    assert lookup(PoolHitPolicy.ALL_PAGES, 6) == (0, {"kv": 6}, [])
    before = [other.get_data_page(index * PAGE).clone() for index in (3, 4)]
    other.kv_buffer.zero_()
    assert backend.batch_get_v2([window, PoolTransfer(PoolName.KV, host_indices=indices, keys=[*keys[:5], "no"])]) == {
        PoolName.SWA: [True, True], PoolName.KV: [True] * 5 + [False]}
    assert equal([other.get_data_page(index * PAGE) for index in (3, 4)], before)
    assert backend.clear() and list(store.list("sglang/")) == []
