"""The calls of LMCache's in-process connector over one KVCache; knows nothing of LMCache's classes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeAlias, TypeVar

import numpy as np

from penstock._core import TensorView
from penstock.kv_cache import KVCache

__all__ = ["RemoteCalls", "open_cache"]

_T = TypeVar("_T")
_Chunks: TypeAlias = list[Any]  # in the class, `list` is its method
_Keys: TypeAlias = list[str]
_LAYOUT = "lmcache"  # the tensor's metadata that tells a chunk's shapes, dtypes and format
_THREADS = 4


def open_cache(config: Any, metadata: Any, plugin_name: str = "penstock") -> KVCache:
    """The KVCache of an engine, from LMCache's configuration and metadata.

    Read from ``extra_config``: remote_storage_plugin.NAME.{address, prefix, timeout, ttl}. The fingerprint is made of what the
    scheduler and all workers of an engine know alike; rank and dtype are in LMCache's keys.
    """
    extra = (config.extra_config if config is not None else None) or {}
    settings = {
        field: extra.get(f"remote_storage_plugin.{plugin_name}.{field}")
        for field in ("address", "prefix", "timeout", "ttl")
    }
    return KVCache(
        settings["prefix"] or "lmcache",
        model=metadata.model_name,
        layout={
            "kv_shape": list(metadata.kv_shape),
            "kv_dtype": str(metadata.kv_dtype),
            "mla": metadata.use_mla,
            "chunk": metadata.chunk_size,
        },
        address=settings["address"],
        timeout=float(settings["timeout"] or 2.0),
        ttl=settings["ttl"],
        label="lmcache",
    )


class RemoteCalls:
    """What LMCache asks of a RemoteConnector. Chunks are tensors of u8, with their layout as metadata.

    Coroutines run in LMCache's loop and hand the work to threads of this object. A chunk that is missing is None; memory that was
    taken for chunks whose caller went away is given back.
    """

    _cache: KVCache
    _pool: ThreadPoolExecutor
    _allocate: Callable[..., Any]  # (shapes, dtypes, fmt) -> MemoryObj | None
    _dtype: Callable[[str | None], Any]
    _format: Callable[[str], Any]

    def open_calls(
        self,
        cache: KVCache,
        allocate: Callable[..., Any],
        dtype: Callable[[str | None], Any],
        memory_format: Callable[[str], Any],
    ) -> None:
        """To be called first. dtype, memory_format: the engine's own of a name."""
        self._cache = cache
        self._allocate = allocate
        self._dtype = dtype
        self._format = memory_format
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="penstock-lmcache")

    # --- whether it is there ---

    async def exists(self, key: Any) -> bool:
        """Whether the chunk of the key is stored."""
        return await self._in_thread(self.exists_sync, key)

    def exists_sync(self, key: Any) -> bool:
        """The same, for threads without a loop."""
        return self._cache.longest_prefix([key.to_string()]) == 1

    def support_batched_contains(self) -> bool:
        """LMCache asks what batches there are: these are."""
        return True

    def batched_contains(self, keys: Sequence[Any]) -> int:
        """How many from the first on are there."""
        return self._cache.longest_prefix([key.to_string() for key in keys])

    def support_batched_async_contains(self) -> bool:
        """LMCache asks what batches there are: these are."""
        return True

    async def batched_async_contains(self, lookup_id: str, keys: Sequence[Any], pin: bool = False) -> int:
        """How many leading chunks of the keys are stored."""
        return await self._in_thread(self.batched_contains, keys)

    # --- get ---

    async def get(self, key: Any) -> Any:
        """A chunk in memory of LMCache's, or None."""
        return (await self.batched_get([key]))[0]

    def support_batched_get(self) -> bool:
        """LMCache asks what batches there are: these are."""
        return True

    async def batched_get(self, keys: Sequence[Any]) -> _Chunks:
        """A MemoryObj a key, None where there is none, or no memory for it."""
        future = self._pool.submit(self._get_chunks, [key.to_string() for key in keys])
        try:
            return await asyncio.shield(asyncio.wrap_future(future))
        except (
            asyncio.CancelledError
        ):  # LMCache's timeout: the thread goes on, and nobody takes what it brings
            future.add_done_callback(_give_back)
            raise

    def support_batched_get_non_blocking(self) -> bool:
        """LMCache asks what batches there are: these are."""
        return True

    async def batched_get_non_blocking(self, lookup_id: str, keys: Sequence[Any]) -> _Chunks:
        """The chunks before the first that is missing."""
        chunks = await self.batched_get(keys)
        count = next((i for i, chunk in enumerate(chunks) if chunk is None), len(chunks))
        for chunk in chunks[count:]:
            if chunk is not None:
                chunk.ref_count_down()
        return chunks[:count]

    # --- put, remove ---

    async def put(self, key: Any, memory_obj: Any) -> None:
        """Stores a chunk; its memory stays the caller's."""
        await self.batched_put([key], [memory_obj])

    def support_batched_put(self) -> bool:
        """LMCache asks what batches there are: these are."""
        return True

    async def batched_put(self, keys: Sequence[Any], memory_objs: Sequence[Any]) -> None:
        """Copies chunks into the store; LMCache itself counts their references down."""
        await self._in_thread(self._put_chunks, keys, memory_objs)

    def remove_sync(self, key: Any) -> bool:
        """Deletes a chunk; whether there was one."""
        return self._cache.delete([key.to_string()])[0]

    # --- the rest ---

    async def list(self) -> _Keys:
        """The keys of all chunks."""
        return await self._in_thread(self._cache.keys)

    def support_ping(self) -> bool:
        """LMCache asks whether it may ping: it may."""
        return True

    async def ping(self) -> int:
        """0 if the store is there."""
        return 0 if await self._in_thread(self._cache.answers) else 1

    async def close(self) -> None:
        """Ends the use of the store. Idempotent."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._cache.close()

    async def _in_thread(self, call: Callable[..., _T], *arguments: Any) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, call, *arguments)

    def _put_chunks(self, keys: Sequence[Any], memory_objs: Sequence[Any]) -> None:
        alike: dict[str, _Chunks] = {}  # by layout: nearly always one, of full chunks
        for key, chunk in zip(keys, memory_objs):
            item = (key.to_string(), np.frombuffer(chunk.byte_array, np.uint8))
            alike.setdefault(_layout(chunk), []).append(item)
        for layout, items in alike.items():
            self._cache.put(items, metadata={_LAYOUT: layout})

    def _get_chunks(self, keys: Sequence[str]) -> _Chunks:
        chunks: _Chunks = []
        for view in self._cache.views(keys):
            chunks.append(None if view is None else self._chunk(view))
        return chunks

    def _chunk(self, view: TensorView) -> Any:
        layout = view.metadata.get(_LAYOUT)
        if layout is None:
            return None  # somebody else's tensor
        facts = json.loads(layout)
        dtypes = [self._dtype(name) for name in facts["dtypes"]]
        chunk = self._allocate(facts["shapes"], dtypes, self._format(facts["fmt"]))
        if chunk is not None and not self._cache.copy(view, chunk.byte_array):
            chunk.ref_count_down()
            return None
        return chunk


def _layout(chunk: Any) -> str:
    dtypes = [None if dtype is None else str(dtype).removeprefix("torch.") for dtype in chunk.get_dtypes()]
    shapes = [list(shape) for shape in chunk.get_shapes()]
    return json.dumps({"shapes": shapes, "dtypes": dtypes, "fmt": chunk.get_memory_format().name})


def _give_back(future: Future[list[Any]]) -> None:
    if not future.cancelled() and future.exception() is None:
        for chunk in future.result():
            if chunk is not None:
                chunk.ref_count_down()
