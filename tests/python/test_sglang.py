"""penstock.sglang: the calls that SGLang 0.5.23 made (recorded/sglang_*.jsonl), made again without SGLang."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest

import penstock
from support.recorded import calls, content

torch = pytest.importorskip("torch")

from penstock.sglang.calls import HiCacheCalls, Hits  # noqa: E402

PAGE, LAYERS, HEADS, DIM = 16, 3, 2, 8


class HostPool:
    """As SGLang's: all tokens in one buffer, whose order the layout tells."""

    def __init__(self, layout: str, pages: int = 32, dtype=torch.bfloat16) -> None:
        self.layout, self.page_size, self.dtype = layout, PAGE, dtype
        self.layer_num, self.head_num, self.head_dim = LAYERS, HEADS, DIM
        tokens = pages * PAGE
        shape = (2, LAYERS, tokens, HEADS, DIM) if layout == "layer_first" else (2, tokens, LAYERS, HEADS, DIM)
        self.kv_buffer = torch.zeros(shape, dtype=dtype)

    def get_data_page(self, index: int, flat: bool = True):
        tokens = slice(index, index + PAGE)
        page = self.kv_buffer[:, :, tokens] if self.layout == "layer_first" else self.kv_buffer[:, tokens]
        return page.flatten() if flat else page

    def get_dummy_flat_data_page(self):
        return torch.zeros(2 * LAYERS * PAGE * HEADS * DIM, dtype=self.dtype)

    def set_from_flat_data_page(self, index: int, page) -> None:
        self.get_data_page(index, flat=False).copy_(page.reshape(self.get_data_page(index, flat=False).shape))


class CopyingPool(HostPool):
    """Some pools put a page together from several buffers."""

    def get_data_page(self, index: int, flat: bool = True):
        return super().get_data_page(index, flat=False).clone().flatten() if flat else super().get_data_page(index, flat).clone()

    def set_from_flat_data_page(self, index: int, page) -> None:
        there = HostPool.get_data_page(self, index, flat=False)
        there.copy_(page.reshape(there.shape))


def config(**change):
    facts = {
        "tp_rank": 0, "tp_size": 1, "pp_rank": 0, "pp_size": 1, "attn_cp_rank": 0, "attn_cp_size": 1, "dp_rank": 0, "dcp_rank": 0,
        "dcp_size": 1, "is_mla_model": False, "is_page_first_layout": False, "model_name": "org/tiny", "extra_config": {},
    }
    return SimpleNamespace(**(facts | change))


@pytest.fixture
def backend(node, store):
    backend = HiCacheCalls(config(extra_config={"address": node.address}), {})
    backend.register_mem_pool_host(HostPool("layer_first"))
    yield backend
    backend.close()


def page_of(key: str):
    return torch.frombuffer(bytearray(content(key, 2 * 2 * LAYERS * PAGE * HEADS * DIM)), dtype=torch.bfloat16)


def indices(first_page: int, count: int):
    return torch.arange(first_page * PAGE, (first_page + count) * PAGE)


def same(a, b) -> bool:
    return torch.equal(a.flatten().view(torch.uint8), b.flatten().view(torch.uint8))


def test_importing_it_imports_neither_sglang_nor_torch():
    code = "import sys, penstock.sglang; assert not {'sglang', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


# --- what SGLang called ---


def test_the_generic_calls_of_a_controller(backend):
    for call in calls("sglang_generic"):
        keys = call.args[0] if call.args else []
        if call.name == "batch_set":
            assert [tensor["tensor"] for tensor in call.args[1]] == [[1536]] * len(keys)
            assert backend.batch_set(keys, [page_of(key) for key in keys]) is call.result
        elif call.name == "batch_get":
            targets = [torch.zeros(1536, dtype=torch.bfloat16) for _ in keys]
            pages = backend.batch_get(keys, targets)
            assert [page is not None for page in pages] == [page is not None for page in call.result]
            assert all(page is target for page, target in zip(pages, targets) if page is not None)
            assert all(same(page, page_of(key)) for page, key in zip(pages, keys) if page is not None)
        elif call.name == "batch_exists":
            assert backend.batch_exists(keys, None) == call.result
        else:
            assert call.name == "close"


@pytest.mark.parametrize("kind", [HostPool, CopyingPool])
@pytest.mark.parametrize("layout", ["layer_first", "page_first"])
def test_the_v1_calls_of_a_controller(backend, layout, kind):
    pool = kind(layout)
    backend.register_mem_pool_host(pool)
    for call in calls("sglang_v1"):
        keys = call.args[0] if call.args else []
        if call.name == "batch_set_v1":
            assert call.args[1]["tensor"] == [len(keys) * PAGE]
            for i, key in enumerate(keys):
                pool.set_from_flat_data_page(i * PAGE, page_of(key))
            assert backend.batch_set_v1(keys, indices(0, len(keys)), None) == call.result
        elif call.name == "batch_get_v1":
            pool.kv_buffer.zero_()
            assert backend.batch_get_v1(keys, indices(16, len(keys)), None) == call.result
            assert all(same(pool.get_data_page((16 + i) * PAGE), page_of(key)) for i, key in enumerate(keys))
            assert not pool.get_data_page(0).any() and not pool.get_data_page((16 + len(keys)) * PAGE).any()
        elif call.name == "batch_exists":
            assert backend.batch_exists(keys, None) == call.result


# --- what else there is ---


def test_a_missing_page_leaves_its_place_alone(backend, store):
    pool = HostPool("page_first")
    backend.register_mem_pool_host(pool)
    pool.kv_buffer.fill_(1)
    assert backend.batch_set_v1(["a", "c"], indices(0, 2)) == [True, True]
    pool.kv_buffer.fill_(2)
    assert backend.batch_get_v1(["a", "b", "c"], indices(0, 3)) == [True, False, True]
    assert [pool.get_data_page(i * PAGE).unique().tolist() for i in range(4)] == [[1], [2], [1], [2]]


def test_one_page_by_itself(backend):
    page = page_of("x")
    assert backend.set("x", page) is True and backend.set("x", page) is True
    assert backend.exists("x") is True and backend.exists("y") is False
    target = torch.zeros_like(page)
    assert backend.get("x", target) is target and same(target, page) and backend.get("y", target) is None
    assert same(backend.get("x"), page)
    assert backend.get("x", torch.zeros(3, dtype=torch.bfloat16)) is None  # another size


def test_a_page_is_copied_once_and_keeps_its_dtype(backend, store):
    pool = HostPool("layer_first")
    backend.register_mem_pool_host(pool)
    backend.batch_set_v1(["a"], indices(3, 1))
    (info,) = store.list("sglang/org%2Ftiny/")
    assert info.dtype == "bf16" and info.shape == (2, LAYERS, PAGE, HEADS, DIM) and not info.keep


def test_indices_that_do_not_fit_the_keys(backend):
    with pytest.raises(ValueError, match="^host_indices: are 16, not 16 for each of 2 keys"):
        backend.batch_get_v1(["a", "b"], indices(0, 1))


def test_no_keys(backend):
    none = torch.arange(0)
    assert backend.batch_set_v1([], none) == backend.batch_get_v1([], none) == backend.batch_get([], []) == []
    assert backend.batch_set([], []) is True and backend.batch_exists([]) == 0


def test_clear_takes_only_this_layouts_pages(backend, store, node):
    backend.batch_set_v1(["a", "b"], indices(0, 2))
    other = HiCacheCalls(config(model_name="other", extra_config={"address": node.address}))
    other.register_mem_pool_host(HostPool("layer_first"))
    other.batch_set_v1(["a"], indices(0, 1))
    assert backend.clear() is True
    assert backend.batch_exists(["a"]) == 0 and other.batch_exists(["a"]) == 1
    other.close()


# --- who shares pages with whom ---


def prefix(pool=None, **change) -> str:
    backend = HiCacheCalls(config(**change))
    backend.register_mem_pool_host(pool or HostPool("layer_first"))
    return backend._cache.prefix


def test_ranks_layouts_and_models_have_pages_of_their_own():
    mine = prefix()
    assert mine.startswith("sglang/org%2Ftiny/") and prefix() == mine
    others = [
        prefix(tp_rank=1, tp_size=2), prefix(tp_rank=0, tp_size=2), prefix(pp_rank=1, pp_size=2), prefix(attn_cp_size=2),
        prefix(model_name="org/other"), prefix(model_name=None), prefix(HostPool("page_first")), prefix(HostPool("layer_first", dtype=torch.float16)),
        prefix(extra_config={"prefix": "elsewhere"}),
    ]  # fmt: skip
    assert len({mine, *others}) == 10


def test_ranks_of_a_model_with_mla_share_theirs():
    assert len({prefix(is_mla_model=True, tp_rank=rank, tp_size=4) for rank in range(4)}) == 1


def test_data_parallel_engines_share_theirs():
    assert prefix(dp_rank=1) == prefix(dp_rank=0)


# --- hybrid models ---


def transfer(name: str, policy: str = "all_pages", keys=(), host_indices=None):
    return SimpleNamespace(name=name, keys=list(keys), host_indices=host_indices, hit_policy=policy)


def test_pools_of_a_hybrid_model(backend):
    swa = HostPool("page_first", dtype=torch.float16)
    backend.register_mem_host_pool_v2(swa, "swa")
    keys = list("abcdef")
    swa.kv_buffer.fill_(3)
    assert backend.batch_set_v1(keys, indices(0, 6)) == [True] * 6
    assert backend.batch_set_v2([transfer("swa", keys="de", host_indices=indices(0, 2))]) == {"swa": [True, True]}
    assert backend.hits(keys, [transfer("swa", "trailing_pages", "xy")]) == Hits(5, {"kv": 6, "swa": 5}, [5])
    assert backend.hits(keys, [transfer("swa", "trailing_pages")]) == Hits(5, {"kv": 6, "swa": 5}, [4, 5])
    assert backend.hits(keys, [transfer("swa")]) == Hits(0, {"kv": 6}, [])
    assert backend.hits("zab", [transfer("swa")]) == Hits(0, {}, [])
    assert backend.hits(keys, []) == Hits(6, {"kv": 6}, [1, 2, 3, 4, 5, 6])
    swa.kv_buffer.zero_()
    got = backend.batch_get_v2([transfer("swa", keys="cde", host_indices=indices(4, 3)), transfer("kv", keys="a")])
    assert got == {"swa": [False, True, True], "kv": [False]}  # no room for "a"
    assert [swa.get_data_page((4 + i) * PAGE).unique().tolist() for i in range(3)] == [[0], [3], [3]]
    with pytest.raises(NotImplementedError, match="^hit_policy: block_groups"):
        backend.hits(keys, [transfer("swa", "block_groups")])


# --- a store that is not there ---


def test_without_a_store(caplog):
    backend = HiCacheCalls(config(extra_config={"address": "/nowhere"}))
    backend.register_mem_pool_host(HostPool("layer_first"))
    assert backend.batch_set_v1(["a"], indices(0, 1)) == backend.batch_get_v1(["a"], indices(0, 1)) == [False]
    assert backend.batch_set(["a"], [page_of("a")]) is False and backend.batch_get(["a"], [page_of("a")]) == [None]
    assert backend.batch_exists(["a"]) == 0 and backend.exists("a") is False and backend.clear() is False
    assert len(caplog.records) == 1
    backend.close()


def test_fields_that_are_wrong():
    with pytest.raises(penstock.InvalidArgumentError, match="^root: "):
        HiCacheCalls(config(extra_config={"prefix": "/x"}))
