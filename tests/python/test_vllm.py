"""penstock.vllm: the calls that vLLM 0.32.0 made (recorded/vllm_*.jsonl), made again without vLLM."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

import penstock
from penstock.kv_cache import KVCache
from support.recorded import calls, content

torch = pytest.importorskip("torch")

from penstock.vllm.block_keys import BlockKeys  # noqa: E402
from penstock.vllm.scheduler_side import SchedulerSide, Transfer  # noqa: E402
from penstock.vllm.weights import stored_weights, weights_prefix  # noqa: E402
from penstock.vllm.worker_side import WorkerSide  # noqa: E402

BLOCK = 32


def test_importing_it_imports_neither_vllm_nor_torch():
    code = "import sys, penstock.vllm; assert not {'vllm', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


class Request:
    """As vLLM's: an id, and tokens that come one by one."""

    def __init__(self, request_id: str, tokens=(), **more) -> None:
        self.request_id, self.all_token_ids = request_id, list(tokens)
        self.__dict__ |= more

    @property
    def num_tokens(self) -> int:
        return len(self.all_token_ids)


def step(new=(), cached=(), scheduled=None, resumed=()):
    """A SchedulerOutput. new: (request id, computed tokens); cached: (request id, new block ids or None, computed tokens)."""
    ids, blocks, computed = zip(*cached, strict=True) if cached else ((), (), ())
    return SimpleNamespace(
        scheduled_new_reqs=[SimpleNamespace(req_id=i, num_computed_tokens=n) for i, n in new],
        scheduled_cached_reqs=SimpleNamespace(
            req_ids=list(ids), new_block_ids=[None if b is None else (b,) for b in blocks],
            num_computed_tokens=list(computed), resumed_req_ids=set(resumed)),
        num_scheduled_tokens=scheduled or {},
    )  # fmt: skip


@pytest.fixture
def cache(node, store):
    cache = KVCache("vllm", layout={"rank": 0}, address=node.address)
    yield cache
    cache.close()


@pytest.fixture
def scheduler(cache):
    return SchedulerSide([cache], BLOCK, loads=True, saves=True)


# --- what vLLM called ---


class Engine:
    """The recorded calls, made of both sides; blocks get bytes that their keys tell."""

    def __init__(self, cache, name: str, eventually) -> None:
        self.calls, self.cache, self.eventually = calls(name), cache, eventually
        self.final = {c.args[0]["request"]: c.args[0]["tokens"] for c in self.calls if c.name == "request_finished"}
        self.requests: dict[str, Request] = {}
        self.loaded = self.saved = 0

    def run(self) -> None:
        for call in self.calls:
            getattr(self, call.name)(call)
        self.end()

    def end(self) -> None:
        assert self.scheduler._tracked == {}
        self.worker.close()

    def request(self, recorded) -> Request:
        request = self.requests.setdefault(recorded["request"], Request(recorded["request"]))
        request.all_token_ids = recorded["tokens"]
        return request

    def register_kv_caches(self, call) -> None:  # an engine begins
        if self.requests:
            self.end()
        self.scheduler = SchedulerSide([self.cache], BLOCK, loads=True, saves=True)
        count = 1 + max(i for c in self.calls for i in (c.args[1]["blocks"][0] if c.name == "update_state_after_alloc" else [0]))
        layers = {name: torch.zeros([count, *t["tensor"][1:]], dtype=torch.float32) for name, t in call.args[0].items()}
        self.layers = list(layers.values())
        self.worker = WorkerSide(KVCache("vllm", layout={"rank": 0}, address=self.cache._connection["address"]), count)
        self.worker.register(layers)

    def get_num_new_matched_tokens(self, call) -> None:
        assert [self.scheduler.matched_tokens(self.request(call.args[0]), call.args[1]), False] == call.result

    def update_state_after_alloc(self, call) -> None:
        self.scheduler.allocated(self.request(call.args[0]), call.args[1]["blocks"][0], call.args[2])

    def build_connector_meta(self, call) -> None:
        output, cached = call.args[0], call.args[0]["cached"]
        computed = {i: n for i, n, _ in output["new"]} | dict(zip(cached["req_ids"], cached["num_computed_tokens"]))
        for req_id, count in output["num_scheduled_tokens"].items():
            request = self.requests[req_id]
            request.all_token_ids = self.final[req_id][: max(request.num_tokens, computed[req_id] + count)]
        blocks = [None if ids is None else ids[0] for ids in cached["new_block_ids"]]
        self.transfers = self.scheduler.transfers(step(
            [(i, n) for i, n, _ in output["new"]], list(zip(cached["req_ids"], blocks, cached["num_computed_tokens"])),
            output["num_scheduled_tokens"], cached["resumed"]))  # fmt: skip
        assert [list(map(list, transfers)) for transfers in self.transfers] == call.result

    def rows(self, transfers):
        """A block's bytes, over all layers, and what they are to be."""
        for key, block_id in transfers:
            blocks = [layer[block_id].reshape(-1).view(torch.uint8) for layer in self.layers]
            yield blocks, torch.frombuffer(bytearray(content(key, sum(b.numel() for b in blocks))), dtype=torch.uint8)

    def start_load_kv(self, call) -> None:
        self.worker.load(self.transfers.loads)
        for blocks, expected in self.rows(self.transfers.loads):
            assert torch.equal(torch.cat(blocks), expected)
            self.loaded += 1

    def wait_for_save(self, call) -> None:
        for blocks, expected in self.rows(self.transfers.saves):
            for block, part in zip(blocks, expected.split([b.numel() for b in blocks])):
                block.copy_(part)
            self.saved += 1
        self.worker.save(self.transfers.saves)
        keys = [transfer.key for transfer in self.transfers.saves]
        self.eventually(lambda: all(self.cache.contains(keys)), "the blocks are stored")

    def get_block_ids_with_load_errors(self, call) -> None:
        assert sorted(self.worker.take_failed()) == sorted(call.result)

    def request_finished(self, call) -> None:
        self.scheduler.finished(self.request(call.args[0]))


@pytest.mark.parametrize("name", ["vllm_same_prompt", "vllm_chunks", "vllm_preempted"])
def test_what_vllm_called_gets_the_answers_that_it_got(cache, store, eventually, name):
    engine = Engine(cache, name, eventually)
    engine.run()
    assert engine.loaded > 0 and engine.saved > 0
    assert {(info.dtype, info.keep) for info in store.list("vllm/")} == {("u8", False)}


# --- keys ---


def keys(count: int = 9, tokens=range(100), block_size: int = BLOCK, **more) -> list[str]:
    return BlockKeys(Request("r", tokens, **more), block_size).first(count)


def test_only_full_blocks_have_keys_and_they_come_with_the_tokens():
    assert [len(keys(tokens=range(n))) for n in (0, 1, 31, 32, 33, 63, 64)] == [0, 0, 0, 1, 1, 1, 2]
    assert keys(2) == keys()[:2] and len(set(keys())) == 3
    request = Request("r", range(40))
    growing = BlockKeys(request, BLOCK)
    assert growing.first(9) == keys(1)
    request.all_token_ids += range(40, 100)
    assert growing.first(9) == keys() and growing.first(2) == keys(2)


def test_a_key_stands_for_all_tokens_before_its_end():
    other = keys(tokens=[7, *range(1, 100)])
    assert not set(other) & set(keys())
    late = keys(tokens=[*range(70), 7, *range(71, 100)])
    assert late[:2] == keys(2) and late[2] != keys()[2]


def test_what_else_the_values_depend_on():
    def image(offset, identifier="x"):
        return SimpleNamespace(identifier=identifier, mm_position=SimpleNamespace(offset=offset))

    plain, in_second = keys(), keys(mm_features=[image(40)])
    assert in_second[0] == plain[0] and in_second[1] != plain[1] and in_second[2] != plain[2]
    assert len({keys(mm_features=f)[1] for f in ([image(40)], [image(41)], [image(40, "y")], [image(40), image(50)])}) == 4
    firsts = {keys(**more)[0] for more in ({}, {"cache_salt": "a"}, {"lora_request": SimpleNamespace(lora_name="l")},
                                           {"mm_features": [image(0)]})}  # fmt: skip
    assert len(firsts) == 4 and keys(block_size=16)[1] != plain[0]
    assert keys(prompt_embeds=object()) == []


# --- the scheduler's side ---


def test_the_last_token_is_always_computed(scheduler, cache):
    tokens = list(range(96))
    cache.put((key, np.zeros(8, np.uint8)) for key in keys(tokens=tokens))
    counts = [scheduler.matched_tokens(Request(str(n), tokens[:n]), 0) for n in (0, 1, 32, 33, 64, 65, 96)]
    assert counts == [0, 0, 0, 32, 32, 64, 64]
    assert [scheduler.matched_tokens(Request("r", tokens), n) for n in (0, 32, 64)] == [64, 32, 0]


def test_a_block_counts_only_if_every_worker_has_it(node, cache, store):
    other = KVCache("vllm", layout={"rank": 1}, address=node.address)
    scheduler = SchedulerSide([cache, other], BLOCK, loads=True, saves=True)
    cache.put((key, np.zeros(8, np.uint8)) for key in keys())
    other.put((key, np.zeros(8, np.uint8)) for key in keys()[:1])
    assert scheduler.matched_tokens(Request("r", range(100)), 0) == 32
    assert scheduler.clear() is True and list(store.list("vllm/")) == []
    scheduler.close()


def test_roles(cache):
    cache.put((key, np.zeros(8, np.uint8)) for key in keys())
    request = Request("r", range(100))
    producer = SchedulerSide([cache], BLOCK, loads=False, saves=True)
    assert producer.matched_tokens(request, 0) == 0
    producer.allocated(request, [1, 2, 3, 4], 0)
    made = producer.transfers(step(new=[("r", 0)], scheduled={"r": 100}))
    assert made.loads == [] and [t.block_id for t in made.saves] == [1, 2, 3]
    consumer = SchedulerSide([cache], BLOCK, loads=True, saves=False)
    assert consumer.matched_tokens(request, 0) == 96
    consumer.allocated(request, [1, 2, 3, 4], 96)
    made = consumer.transfers(step(new=[("r", 96)], scheduled={"r": 4}))
    assert [t.block_id for t in made.loads] == [1, 2, 3] and made.saves == []


def test_a_match_that_the_engine_does_not_take_is_not_loaded(scheduler, cache):
    cache.put((key, np.zeros(8, np.uint8)) for key in keys())
    request = Request("r", range(100))
    assert scheduler.matched_tokens(request, 0) == 96
    scheduler.allocated(request, [5, 6, 7, 8], 0)
    made = scheduler.transfers(step(new=[("r", 0)], scheduled={"r": 100}))
    assert made.loads == [] and [t.block_id for t in made.saves] == [5, 6, 7]


def test_drafted_tokens_are_not_saved(scheduler):
    request = Request("r", range(62))
    scheduler.matched_tokens(request, 0)
    scheduler.allocated(request, [1, 2, 3], 0)
    scheduler.transfers(step(new=[("r", 0)], scheduled={"r": 62}))
    drafts = scheduler.transfers(step(cached=[("r", None, 61)], scheduled={"r": 5}))  # one token, four drafted
    assert drafts.saves == []
    request.all_token_ids += [1, 2, 3]
    assert [t.block_id for t in scheduler.transfers(step(cached=[("r", None, 63)], scheduled={"r": 1})).saves] == [2]


def test_blocks_of_a_resumed_request_replace_the_older_ones(scheduler):
    request = Request("r", range(40))
    scheduler.matched_tokens(request, 0)
    scheduler.allocated(request, [1, 2], 0)
    assert [t.block_id for t in scheduler.transfers(step(new=[("r", 0)], scheduled={"r": 40})).saves] == [1]
    scheduler.matched_tokens(request, 0)  # after it was preempted
    request.all_token_ids = list(range(70))
    scheduler.allocated(request, [7, 8, 9], 0)
    made = scheduler.transfers(step(cached=[("r", [7, 8, 9], 0)], scheduled={"r": 70}, resumed=["r"]))
    assert [t.block_id for t in made.saves] == [8]
    request.all_token_ids = list(range(130))
    made = scheduler.transfers(step(cached=[("r", [10], 70)], scheduled={"r": 60}))
    assert [t.block_id for t in made.saves] == [9, 10]
    scheduler.finished(request)
    scheduler.finished(request)
    assert scheduler._tracked == {}


def test_requests_that_nobody_told_of_are_let_alone(scheduler):
    made = scheduler.transfers(step(new=[("a", 0)], cached=[("b", [1], 0)], scheduled={"a": 64, "b": 64}))
    assert made.loads == made.saves == []


# --- a worker's side ---


def worker(cache, layers, count: int = 8) -> WorkerSide:
    side = WorkerSide(cache, count)
    side.register({f"layer.{i}": layer for i, layer in enumerate(layers)})
    return side


def kv(kind: str, count: int = 8):
    """KV caches of a layer, as several backends lay them out; filled with other numbers each."""
    shapes = {"cpu": (count, 1, 4, 6), "kv_first": (2, count, 4, 3), "split": (count * 2, 1, 2, 6), "strided": (count, 4, 1, 6)}
    tensor = torch.randn(shapes[kind])
    return tensor.transpose(1, 2) if kind == "strided" else tensor


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e4m3fn, torch.uint8])
@pytest.mark.parametrize("kind", ["cpu", "kv_first", "split", "strided"])
def test_blocks_come_back_whatever_the_layout(cache, kind, dtype):
    layers = [kv(kind).to(dtype), kv(kind).to(dtype)]
    before = [layer.clone() for layer in layers]
    side = worker(cache, layers)
    side.save([Transfer("a", 3), Transfer("b", 5)])
    side._putter.submit(int).result()  # the puts before it are done
    for layer in layers:
        layer.view(torch.uint8).zero_()
    side.load([Transfer("b", 1), Transfer("a", 5), Transfer("b", 3)])
    assert side.take_failed() == set()

    def block(tensor, i):
        if kind == "kv_first":
            return tensor[:, i]
        return tensor[2 * i : 2 * i + 2] if kind == "split" else tensor[i]

    for layer, old in zip(layers, before):
        for new, from_old in ((1, 5), (5, 3), (3, 5)):
            assert torch.equal(block(layer, new).view(torch.uint8), block(old, from_old).view(torch.uint8))
        assert not any(block(layer, i).view(torch.uint8).any() for i in (0, 2, 4, 6, 7))


def test_layers_that_share_a_cache_are_stored_once(cache, store):
    layer = kv("cpu")
    side = worker(cache, [layer, layer])
    side.save([Transfer("a", 0)])
    side._putter.submit(int).result()
    (info,) = store.list("vllm/")
    assert info.nbytes == layer[0].numel() * 4


def test_blocks_that_are_gone_or_of_another_size_are_told_once(cache):
    layer = kv("cpu")
    before = layer.clone()
    side = worker(cache, [layer])
    side.save([Transfer("a", 0)])
    side._putter.submit(int).result()
    cache.put([("odd", np.zeros(5, np.uint8))])
    side.load([Transfer("no", 1), Transfer("a", 2), Transfer("odd", 3)])
    assert side.take_failed() == {1, 3} and side.take_failed() == set()
    assert torch.equal(layer[2], before[0]) and torch.equal(layer[[0, 1, 3]], before[[0, 1, 3]])
    side.load([Transfer("no", 1)])
    assert side.take_failed() == {1}


def test_steps_without_transfers_do_nothing(cache):
    side = WorkerSide(cache, 8)  # nothing is registered
    side.load([])
    side.save([])
    assert side.take_failed() == set()
    side.close()


def test_caches_without_the_blocks_are_refused(cache):
    with pytest.raises(ValueError, match=r"^kv_caches: layer\.0 has shape \(3, 5, 8\)"):
        worker(cache, [torch.zeros(3, 5, 8)])


def test_many_steps_are_put_in_order_and_closing_puts_the_rest(cache, store):
    layer = torch.zeros(8, 1, 4, 6)
    side = worker(KVCache("vllm", layout={"rank": 0}, address=cache._connection["address"]), [layer])
    for i in range(50):
        layer[0] = float(i)
        side.save([Transfer("same", 0), Transfer(str(i), 0)])
    side.close()
    assert len(list(store.list("vllm/"))) == 51
    (view,) = cache.views(["same"])
    assert np.array_equal(view.numpy().view(np.float32), np.full(24, 49, np.float32))


def test_without_a_store(caplog):
    gone = KVCache("vllm", address="/nowhere")
    scheduler = SchedulerSide([gone], BLOCK, loads=True, saves=True)
    assert scheduler.matched_tokens(Request("r", range(100)), 0) == 0 and scheduler.clear() is False
    side = worker(gone, [kv("cpu")])
    side.load([Transfer("a", 1)])
    side.save([Transfer("a", 1)])
    assert side.take_failed() == {1}
    side.close()
    assert len(caplog.records) == 1


# --- weights ---


def test_weights_are_views_in_the_order_of_their_names(store):
    tensors = {f"layers.{i}.w": torch.full((3, 4), float(i), dtype=torch.bfloat16) for i in range(70)}
    for name, tensor in tensors.items():
        store.put(f"models/m/{name}", tensor)
    store.put("models/m2/other", 1)
    got = dict(stored_weights(store, "models/m/"))
    assert list(got) == sorted(tensors) and all(torch.equal(got[name], tensor) for name, tensor in tensors.items())
    big = torch.randn(1 << 16)
    store.put("models/big/w", big)
    ((name, tensor),) = stored_weights(store, "models/big/")
    store.delete_prefix("")
    assert name == "w" and torch.equal(tensor, big)  # it stays valid


def test_no_weights_and_settings_that_are_wrong(store):
    with pytest.raises(penstock.NotFoundError, match="^prefix: there is no tensor under models/m/"):
        next(stored_weights(store, "models/m/"))
    assert weights_prefix({"prefix": "models/m/"}) == weights_prefix({"prefix": "models/m", "address": "x"}) == "models/m/"
    for settings in ({}, {"prefix": ""}, {"prefix": 3}, {"prefix": "/"}):
        with pytest.raises(penstock.InvalidArgumentError, match="^prefix: "):
            weights_prefix(settings)
    with pytest.raises(penstock.InvalidArgumentError, match="knows no .'adress'"):
        weights_prefix({"prefix": "m", "adress": "x"})
