"""penstock.lmcache: the calls that LMCache 0.5.6 made (recorded/lmcache_*.jsonl), made again without LMCache."""

from __future__ import annotations

import asyncio
import select
import subprocess
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest

import penstock
from penstock.lmcache import NativeConnector
from penstock.lmcache.remote import RemoteCalls, open_cache
from support.recorded import calls, content, ctypes_buffer

torch = pytest.importorskip("torch")


def readable(fd: int, milliseconds: int = 20_000) -> bool:
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    return bool(poller.poll(milliseconds))


@pytest.fixture
def native(node, store):
    connector = NativeConnector(address=node.address)
    yield connector
    connector.close()


def drained(connector, ids) -> dict:
    """Completions by batch, as LMCache gets them: poll, then drain."""
    done = {}
    while not set(ids) <= set(done):
        assert readable(connector.event_fd())
        done |= {batch: rest for batch, *rest in connector.drain_completions()}
    return done


# --- native_plugin ---


def test_importing_it_imports_no_lmcache():
    code = "import sys, penstock.lmcache; penstock.lmcache.NativeConnector; assert 'lmcache' not in sys.modules, 'imported'"
    subprocess.run([sys.executable, "-c", code], check=True)


def sessions(name: str) -> list[list]:
    found = [[]]
    for call in calls(name):
        found[-1].append(call)
        if call.name == "close":
            found.append([])
    return [session for session in found if session]


@pytest.mark.parametrize("session", sessions("lmcache_native"), ids=["basic_check", "server"])
def test_what_lmcache_called_gets_the_answers_that_it_got(node, store, session):
    connector = NativeConnector(address=node.address)
    buffers, batches, done = {}, {}, {}
    for call in session:
        if call.name.startswith("submit"):
            keys, sizes = call.args[0], [b["buffer"] for b in call.args[1]] if len(call.args) > 1 else None
            if call.name == "submit_batch_set":
                arguments = [keys, [ctypes_buffer(content(k, n)) for k, n in zip(keys, sizes)]]
            elif sizes is not None:
                arguments = [keys, [ctypes_buffer(bytes(n)) for n in sizes]]
            else:
                arguments = [keys]
            batch = getattr(connector, call.name)(*arguments)
            batches[call.result], buffers[call.result] = batch, (call, arguments)
        elif call.name == "drain_completions":
            for recorded, ok, error, answers in call.result:
                done |= drained(connector, {batches[recorded]} - set(done))
                assert done[batches[recorded]] == [ok, error, answers], buffers[recorded][0]
    loaded = [arguments for call, arguments in buffers.values() if call.name == "submit_batch_get"]
    assert loaded
    for keys, views in loaded:
        assert [bytes(view) for view in views] == [content(k, view.nbytes) for k, view in zip(keys, views)]
    connector.close()
    assert {info.dtype for info in store.list("lmcache/")} == {"u8"}


def test_the_eventfd_is_readable_only_while_something_has_ended(native):
    assert not readable(native.event_fd(), 0) and native.drain_completions() == []
    native.submit_batch_exists(["a"])
    native.submit_batch_exists(["b"])
    assert set(drained(native, [1, 2])) == {1, 2}
    assert not readable(native.event_fd(), 0)


def test_a_chunk_that_is_missing_is_false_in_its_place(native):
    buffers = [ctypes_buffer(bytes(16)) for _ in range(3)]
    native.submit_batch_set(["a", "c"], [ctypes_buffer(b"a" * 16), ctypes_buffer(b"c" * 16)])
    drained(native, [1])
    native.submit_batch_get(["a", "b", "c"], buffers)
    native.submit_batch_exists(["a", "b", "c"])
    done = drained(native, [2, 3])
    assert done[2] == done[3] == [True, "", [True, False, True]]
    assert [bytes(b) for b in buffers] == [b"a" * 16, bytes(16), b"c" * 16]


def test_deleting_tells_what_there_was(native, store):
    native.submit_batch_set(["a"], [ctypes_buffer(b"x")])
    drained(native, [1])
    native.submit_batch_delete(["a", "b"])
    assert drained(native, [2])[2] == [True, "", [True, False]]


def test_empty_batches_end_as_well(native):
    native.submit_batch_get([], [])
    native.submit_batch_set([], [])
    native.submit_batch_exists([])
    assert drained(native, [1, 2, 3]) == {1: [True, "", []], 2: [True, "", []], 3: [True, "", []]}


def test_many_threads_get_their_own_answers(native):
    def work(name):
        for i in range(20):
            key = f"{name}/{i}"
            ids.append((native.submit_batch_set([key], [ctypes_buffer(content(key, 100))]), True))
            ids.append((native.submit_batch_exists([f"no/{key}"]), False))

    ids = []
    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    done = drained(native, [batch for batch, _ in ids])
    assert len(done) == 160 and all(done[batch] == [True, "", [answer]] for batch, answer in ids)


def test_without_a_store_everything_ends_as_a_miss(caplog):
    connector = NativeConnector(address="/nowhere")
    buffer = ctypes_buffer(bytes(8))
    connector.submit_batch_exists(["a"])
    connector.submit_batch_get(["a"], [buffer])
    connector.submit_batch_set(["a"], [buffer])
    done = drained(connector, [1, 2, 3])
    assert done[1] == done[2] == [True, "", [False]] and done[3] == [False, "1 of 1 chunks were not stored", [False]]
    assert len(caplog.records) == 1
    connector.close()


def test_what_breaks_ends_too(native):
    native.submit_batch_get(["a"], [])  # no buffer for it
    ok, error, answers = drained(native, [1])[1]
    assert not ok and "ValueError" in error and answers == [False]


def test_prefix_and_layout_keep_servers_apart(node, store):
    one = NativeConnector(address=node.address, prefix="a", layout={"dtype": "f16"})
    other = NativeConnector(address=node.address, prefix="a", layout={"dtype": "bf16"})
    one.submit_batch_set(["k"], [ctypes_buffer(b"1")])
    drained(one, [1])
    other.submit_batch_exists(["k"])
    assert drained(other, [1])[1][2] == [False] and len(list(store.list("a/"))) == 1
    one.close()
    other.close()


def test_closing_waits_for_what_is_under_way(node, store):
    connector = NativeConnector(address=node.address)
    buffer = ctypes_buffer(content("k", 1 << 20))
    connector.submit_batch_set(["k"], [buffer])
    connector.close()
    connector.close()
    with pytest.raises(RuntimeError, match="closed"):
        connector.submit_batch_exists(["k"])


def test_arguments_that_are_wrong():
    with pytest.raises(penstock.InvalidArgumentError, match="^threads: "):
        NativeConnector(threads=0)
    with pytest.raises(penstock.InvalidArgumentError, match="^root: "):
        NativeConnector(prefix="a//b")


# --- in the engine's process ---


class Key:
    def __init__(self, text: str) -> None:
        self.text = text

    def to_string(self) -> str:
        return self.text


class Chunk:
    """As LMCache's MemoryObj: bytes of one or several groups, with shapes and dtypes."""

    def __init__(self, shapes, dtypes, fmt, fill=None) -> None:
        self.shapes, self.dtypes, self.fmt, self.references = [torch.Size(s) for s in shapes], dtypes, fmt, 1
        size = sum(s.numel() * d.itemsize for s, d in zip(self.shapes, dtypes))
        self.memory = ctypes_buffer(bytes(size) if fill is None else content(fill, size))

    @property
    def byte_array(self):
        return self.memory

    def get_shapes(self):
        return self.shapes

    def get_dtypes(self):
        return self.dtypes

    def get_memory_format(self):
        return SimpleNamespace(name=self.fmt)

    def ref_count_down(self) -> None:
        self.references -= 1


CONFIG = SimpleNamespace(extra_config=None)
METADATA = SimpleNamespace(model_name="/m/", kv_shape=(1, 2, 512, 1, 1), kv_dtype=torch.bfloat16, use_mla=False, chunk_size=256)


@pytest.fixture
def remote(node, store):
    config = SimpleNamespace(extra_config={"remote_storage_plugin.penstock.address": node.address})
    calls = RemoteCalls()
    calls.allocated = []

    def allocate(shapes, dtypes, fmt):
        calls.allocated.append(Chunk(shapes, dtypes, fmt))
        return calls.allocated[-1]

    calls.open_calls(open_cache(config, METADATA), allocate, lambda name: getattr(torch, name), str)
    yield calls
    asyncio.run(calls.close())


@pytest.mark.parametrize("session", sessions("lmcache_remote"), ids=["test_remote", "test_storage_manager"])
def test_what_lmcache_called_in_process(remote, session, store):
    def given(argument):
        if isinstance(argument, list):
            return [given(item) for item in argument]
        if "key" in argument:
            return Key(argument["key"])
        dtypes = [getattr(torch, dtype.removeprefix("torch.")) for dtype in argument["dtypes"]]
        return Chunk(argument["chunk"], dtypes, argument["format"], fill="chunk")

    async def replay():
        for call in session[:-1]:
            result = await getattr(remote, call.name)(*[given(a) for a in call.args], **call.kwargs)
            if call.name == "get":
                assert [list(s) for s in result.shapes] == call.result["chunk"]
                assert [str(d) for d in result.dtypes] == call.result["dtypes"] and result.fmt == call.result["format"]
                assert bytes(result.memory) == content("chunk", len(result.memory))
            else:
                assert result == call.result, call

    asyncio.run(replay())
    assert session[-1].name == "close" and len(list(store.list("lmcache/%2Fm%2F/"))) == 5


def test_partial_chunks_and_groups_keep_their_shapes(remote):
    chunks = [
        Chunk([(2, 1, 256, 1)], [torch.bfloat16], "KV_2LTD", "full"),
        Chunk([(2, 1, 7, 1)], [torch.bfloat16], "KV_2LTD", "partial"),
        Chunk([(2, 1, 7, 1), (1, 3, 7, 5)], [torch.bfloat16, torch.float8_e4m3fn], "KV_2LTD", "groups"),
    ]
    keys = [Key(name) for name in ("full", "partial", "groups")]

    async def run():
        await remote.batched_put(keys, chunks)
        return await remote.batched_get([*keys, Key("missing")])

    got = asyncio.run(run())
    assert got.pop() is None
    for chunk, again in zip(chunks, got):
        assert (again.shapes, again.dtypes, again.fmt) == (chunk.shapes, chunk.dtypes, chunk.fmt)
        assert bytes(again.memory) == bytes(chunk.memory) and chunk.references == again.references == 1


def test_only_what_comes_before_a_gap_is_handed_out(remote):
    async def run():
        await remote.batched_put([Key("a"), Key("c")], [Chunk([(4,)], [torch.uint8], "BINARY", k) for k in "ac"])
        assert await remote.batched_async_contains("lookup", [Key("a"), Key("b"), Key("c")]) == 1
        assert remote.batched_contains([Key("a")]) == 1 and await remote.list() == ["a", "c"]
        return await remote.batched_get_non_blocking("lookup", [Key("a"), Key("b"), Key("c")])

    assert [bytes(c.memory) for c in asyncio.run(run())] == [content("a", 4)]
    assert [chunk.references for chunk in remote.allocated] == [1, 0]


def test_memory_comes_back_if_nobody_waits_any_more(remote, eventually):
    gate = threading.Event()
    allocate = remote._allocate
    remote._allocate = lambda *layout: gate.wait(20) and allocate(*layout)

    async def run():
        await remote.put(Key("a"), Chunk([(4,)], [torch.uint8], "BINARY", "a"))
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(remote.get(Key("a")), 0.05)
        gate.set()

    asyncio.run(run())
    eventually(lambda: [chunk.references for chunk in remote.allocated] == [0], "the chunk was given back")


def test_no_memory_for_a_chunk_is_a_miss(remote):
    async def run():
        await remote.put(Key("a"), Chunk([(4,)], [torch.uint8], "BINARY", "a"))
        remote._allocate = lambda *_: None
        assert await remote.get(Key("a")) is None

    asyncio.run(run())


def test_without_a_store_in_process(caplog):
    calls = RemoteCalls()
    config = SimpleNamespace(extra_config={"remote_storage_plugin.mine.address": "/nowhere"})
    calls.open_calls(open_cache(config, METADATA, "mine"), None, None, None)

    async def run():
        await calls.put(Key("a"), Chunk([(4,)], [torch.uint8], "BINARY", "a"))
        assert await calls.get(Key("a")) is None and not await calls.exists(Key("a")) and not calls.remove_sync(Key("a"))
        assert await calls.ping() == 1
        await calls.close()

    asyncio.run(run())
    assert len(caplog.records) == 1


def test_scheduler_and_workers_share_a_prefix_that_other_layouts_do_not():
    prefixes = {
        open_cache(CONFIG, SimpleNamespace(**(vars(METADATA) | change))).prefix
        for change in ({}, {"role": "scheduler"}, {"worker_id": 1}, {"kv_dtype": torch.float16}, {"chunk_size": 128}, {"use_mla": True})
    }
    assert len(prefixes) == 4
    assert np.all([prefix.startswith("lmcache/%2Fm%2F/") for prefix in prefixes])
