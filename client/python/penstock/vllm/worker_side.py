"""The connector in a worker of vLLM: blocks between its KV caches and the store."""

from __future__ import annotations

import importlib
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from penstock.kv_cache import KVCache
from penstock.vllm.scheduler_side import Transfer

__all__ = ["WorkerSide"]

_PENDING = 4  # steps whose blocks wait to be put; the next one waits for the oldest


class WorkerSide:
    """Loads before a step, saves after it. In the store a block is one tensor of u8: its bytes of all layers, in their order.

    Threading: vLLM's worker thread; what is saved is copied to the host there, and put by a thread of this object.
    Ownership: KV caches are the engine's, and are not touched between calls.
    """

    def __init__(self, cache: KVCache, block_count: int) -> None:
        """block_count: blocks in the engine's caches."""
        self._cache = cache
        self._block_count = block_count
        self._layers: list[Any] = []  # u8, a block an index of the first dimension
        self._failed: set[int] = set()
        self._putter = ThreadPoolExecutor(1, thread_name_prefix="penstock-vllm")
        self._pending: deque[Future[list[bool]]] = deque()

    def register(self, kv_caches: Mapping[str, Any]) -> None:
        """The engine's caches by layer. Raises ValueError for one whose blocks are not to be found."""
        layers: dict[int, Any] = {}
        for name, tensor in kv_caches.items():
            layers.setdefault(tensor.data_ptr(), self._by_block(name, tensor))  # layers may share theirs
        self._layers = list(layers.values())

    def load(self, transfers: Sequence[Transfer]) -> None:
        """Fills blocks. One that is not there, or of another size, is told by `take_failed`."""
        if not transfers:
            return
        rows = self._host_rows(len(transfers))
        read = self._cache.read_into([t.key for t in transfers], list(rows.numpy()))
        good = [i for i, ok in enumerate(read) if ok]
        self._failed |= {t.block_id for t, ok in zip(transfers, read) if not ok}
        if good:
            self._scatter(
                rows if len(good) == len(read) else rows[good], [transfers[i].block_id for i in good]
            )

    def save(self, transfers: Sequence[Transfer]) -> None:
        """Copies blocks out of the caches, and returns; they are in the store a little later."""
        if not transfers:
            return
        rows = self._gather([t.block_id for t in transfers]).cpu().numpy()
        while self._pending and (self._pending[0].done() or len(self._pending) >= _PENDING):
            self._pending.popleft().result()
        keys = [t.key for t in transfers]
        self._pending.append(self._putter.submit(self._cache.put, list(zip(keys, rows))))

    def take_failed(self) -> set[int]:
        """Blocks that could not be loaded since the last call."""
        failed, self._failed = self._failed, set()
        return failed

    def close(self) -> None:
        """Puts what is pending. Idempotent."""
        self._putter.shutdown(wait=True)
        self._cache.close()

    def _by_block(self, name: str, tensor: Any) -> Any:
        """A view of a cache as u8 with one block an index; some backends put K and V first, or split blocks."""
        for dimension in (0, 1):
            if dimension < tensor.dim() and tensor.shape[dimension] % self._block_count == 0:
                parts = tensor.shape[dimension] // self._block_count
                blocks = tensor.unflatten(dimension, (self._block_count, parts)).movedim(dimension, 0)
                return blocks.view(_torch().uint8)
        raise ValueError(
            f"kv_caches: {name} has shape {tuple(tensor.shape)}; one of its first two dimensions must be "
            f"a multiple of the {self._block_count} blocks"
        )

    def _host_rows(self, count: int) -> Any:
        """Host memory for so many blocks, a row each."""
        nbytes = sum(layer[0].numel() for layer in self._layers)
        pinned = bool(self._layers) and self._layers[0].is_cuda
        return _torch().empty((count, nbytes), dtype=_torch().uint8, pin_memory=pinned)

    def _gather(self, block_ids: list[int]) -> Any:
        return _torch().cat([layer[block_ids].reshape(len(block_ids), -1) for layer in self._layers], dim=1)

    def _scatter(self, rows: Any, block_ids: list[int]) -> None:
        begin = 0
        for layer in self._layers:
            end = begin + layer[0].numel()
            part = rows[:, begin:end].reshape(len(block_ids), *layer.shape[1:])
            layer[block_ids] = part.to(layer.device)
            begin = end


def _torch() -> Any:
    return importlib.import_module("torch")
