"""The connector of LMCache's server: batches of gets, puts and lookups, answered through one eventfd."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias

import numpy as np

from penstock.errors import InvalidArgumentError
from penstock.kv_cache import KVCache

__all__ = ["NativeConnector"]

# (future id, whether all went well, what went wrong, one answer a key)
_Completion: TypeAlias = tuple[int, bool, str, list[bool]]


class NativeConnector:
    """LMCache's ``native_plugin``: duck-typed, of six methods and an eventfd; LMCache itself is not imported.

    ``submit_batch_*`` return the number of a batch at once; threads of this object do the work, straight from and into the memory that
    LMCache gave; then the eventfd becomes readable and ``drain_completions()`` tells the outcome. A chunk that is missing, of another
    size, or in a store that is away is False in the list of answers, never an exception.

    Threading: any thread. Ownership: the memoryviews belong to LMCache, which keeps them until their batch is told as complete.
    """

    def __init__(
        self,
        address: str | None = None,
        prefix: str = "lmcache",
        layout: Mapping[str, Any] | None = None,
        timeout: float = 2.0,
        ttl: float | None = None,
        threads: int = 4,
    ) -> None:
        """All arguments come from LMCache's ``adapter_params``.

        address: of the store, as in penstock.connect(). prefix: of the tensors' names. layout: whatever tells this server's KV layout
        from those of others that share the store; LMCache's keys have the model, but not its dtype or chunk size. timeout: seconds
        for a batch. ttl: seconds that a chunk lives, None = until it is evicted. threads: batches under way at once.
        """
        if threads < 1:
            raise InvalidArgumentError(
                f"threads: is {threads}; allowed are 1 and more", code="INVALID_ARGUMENT"
            )
        self._cache = KVCache(
            prefix, layout=layout, address=address, timeout=timeout, ttl=ttl, label="lmcache"
        )
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="penstock-lmcache")
        self._event_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._lock = threading.Lock()
        self._completions: deque[_Completion] = deque()
        self._last_id = 0
        self._closed = False

    def event_fd(self) -> int:
        """Readable while there are completions. It stays this object's."""
        return self._event_fd

    def submit_batch_get(self, keys: Sequence[str], memoryviews: Sequence[memoryview]) -> int:
        """Fills writable buffers with chunks."""
        return self._submit(keys, lambda: self._cache.read_into(keys, memoryviews))

    def submit_batch_set(self, keys: Sequence[str], memoryviews: Sequence[memoryview]) -> int:
        """Puts chunks as tensors of u8, all in one call. The batch is well if all are in the store now."""

        def put() -> list[bool]:
            return self._cache.put((k, np.frombuffer(m, np.uint8)) for k, m in zip(keys, memoryviews))

        return self._submit(keys, put, needs_all=True)

    def submit_batch_exists(self, keys: Sequence[str]) -> int:
        """Asks which chunks there are."""
        return self._submit(keys, lambda: self._cache.contains(keys))

    def submit_batch_delete(self, keys: Sequence[str]) -> int:
        """Its answers tell which of the keys there were."""
        return self._submit(keys, lambda: self._cache.delete(keys))

    def drain_completions(self) -> list[_Completion]:
        """What has ended since the last call; the eventfd is not readable any more afterwards."""
        with self._lock:
            self._reset_event()
            drained = list(self._completions)
            self._completions.clear()
        return drained

    def close(self) -> None:
        """Waits for what is under way, for LMCache frees the memory next. Idempotent."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._cache.close()
        with self._lock:
            os.close(self._event_fd)
            self._event_fd = -1

    def _submit(self, keys: Sequence[str], work: Callable[[], list[bool]], needs_all: bool = False) -> int:
        with self._lock:
            if self._closed:
                raise RuntimeError("the connector is closed")
            self._last_id += 1
            batch = self._last_id
        self._pool.submit(self._run, batch, len(keys), work, needs_all)
        return batch

    def _run(self, batch: int, count: int, work: Callable[[], list[bool]], needs_all: bool) -> None:
        try:
            answers, error = work(), ""
            if needs_all and not all(answers):
                error = f"{answers.count(False)} of {count} chunks were not stored"
        except Exception as failure:  # LMCache waits for the answer for ever if there is none
            answers, error = [False] * count, f"{type(failure).__name__}: {failure}"
        with self._lock:
            self._completions.append((batch, not error, error, answers))
            os.eventfd_write(self._event_fd, 1)

    def _reset_event(self) -> None:
        try:
            os.eventfd_read(self._event_fd)  # else LMCache's poll returns at once for ever
        except BlockingIOError:
            pass  # nothing has ended
