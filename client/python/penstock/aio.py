"""The calls of a Store for asyncio: ``await store.aio.get("x")``.

A get that the catalog can answer is done at once, in the event loop: it takes less than a switch of
threads. Everything else runs in a small pool of threads, which belongs to the process and is made
anew after a fork. Cancelling an await leaves its call running to its end in the pool.
"""

from __future__ import annotations

import asyncio
import functools
import os
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeAlias, TypeVar

from penstock._core import (
    ChannelReader,
    ChannelStep,
    ChannelWriter,
    Draft,
    Region,
    RegionHold,
    TensorInfo,
    TensorView,
)
from penstock.errors import DeadlineError, Error
from penstock.events import Event, Watch

if TYPE_CHECKING:
    from penstock.store import Store

__all__ = ["AsyncChannelReader", "AsyncDraft", "AsyncHold", "AsyncRegion", "AsyncStore", "AsyncWatch"]

_P = ParamSpec("_P")
_T = TypeVar("_T")
_Transports: TypeAlias = list[dict[str, Any]]  # in the class, `list` is its method

_THREADS = 8
_WATCH_SLICE = 0.5  # seconds that a waiting watch, or reader of a channel, holds a thread at a time

_pool: ThreadPoolExecutor | None = None


def _threads() -> ThreadPoolExecutor:
    global _pool
    if _pool is None:
        _pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="penstock-aio")
    return _pool


def _forget_pool() -> None:
    global _pool
    _pool = None  # its threads did not come along


os.register_at_fork(after_in_child=_forget_pool)


async def _run(call: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(_threads(), functools.partial(call, *args, **kwargs))


class AsyncStore:
    """Awaitable twins of the calls of one Store; same arguments, same results, same errors."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def get(self, name: str, box: Any = None, **options: Any) -> Any:
        """As Store.get."""
        if box is None and not options:
            view = self._store._get_if_warm(name)
            if view is not None:
                return view
        return await _run(self._store.get, name, box, **options)

    async def get_many(
        self, names: Iterable[str], errors: Literal["raise", "return"] = "raise"
    ) -> dict[str, TensorView | Error]:
        """As Store.get_many."""
        return await _run(self._store.get_many, names, errors)

    async def put(self, name: str, tensor: Any, **options: Any) -> TensorInfo:
        """As Store.put; do not change the tensor before it is done."""
        return await _run(self._store.put, name, tensor, **options)

    async def put_many(
        self, tensors: Mapping[str, Any] | Iterable[tuple[str, Any]], **options: Any
    ) -> list[TensorInfo | Error]:
        """As Store.put_many."""
        return await _run(self._store.put_many, tensors, **options)

    def create(self, name: str, shape: Any, dtype: Any, **options: Any) -> AsyncDraft:
        """As Store.create: ``async with store.aio.create(...) as draft:``, or await it for a Draft."""
        return AsyncDraft(functools.partial(self._store.create, name, shape, dtype, **options))

    async def get_or_create(
        self, name: str, make: Callable[[], Any], timeout: float | None = None
    ) -> TensorView:
        """As Store.get_or_create; `make` runs in a thread."""
        return await _run(self._store.get_or_create, name, make, timeout)

    async def longest_prefix(self, names: Iterable[str]) -> int:
        """As Store.longest_prefix."""
        return await _run(self._store.longest_prefix, names)

    async def delete(self, name: str, version: int | None = None) -> bool:
        """As Store.delete."""
        return await _run(self._store.delete, name, version)

    async def delete_prefix(self, prefix: str) -> int:
        """As Store.delete_prefix."""
        return await _run(self._store.delete_prefix, prefix)

    async def exists(self, name: str) -> bool:
        """As Store.exists."""
        return await _run(self._store.exists, name)

    async def stat(self, name: str, version: int | None = None) -> TensorInfo:
        """As Store.stat."""
        return await _run(self._store.stat, name, version)

    async def list(
        self, prefix: str = "", limit: int | None = None, after: str | None = None
    ) -> AsyncIterator[TensorInfo]:
        """As Store.list: ``async for info in store.aio.list("model/"):``."""
        infos = await _run(self._store.list, prefix, limit, after)

        def one() -> TensorInfo | None:
            return next(infos, None)

        while (info := await _run(one)) is not None:
            yield info

    def watch(self, prefix: str = "", from_version: int | None = None) -> AsyncWatch:
        """As Store.watch: ``async for event in store.aio.watch("model/"):``."""
        return AsyncWatch(self._store.watch(prefix, from_version))

    async def wait(
        self, name: str, version: int | None = None, timeout: float | None = None
    ) -> TensorInfo:
        """As Store.wait."""
        return await _run(self._store.wait, name, version, timeout)

    async def channel(self, name: str, shape: Any, dtype: Any, slots: int = 8) -> ChannelWriter:
        """As Store.channel. Writing waits for nobody, so the writer is the same."""
        return await _run(self._store.channel, name, shape, dtype, slots)

    async def subscribe(
        self, name: str, timeout: float | None = None, **options: Any
    ) -> AsyncChannelReader:
        """As Store.subscribe."""
        return AsyncChannelReader(await _run(self._store.subscribe, name, timeout, **options))

    async def region(self, name: str, nbytes: int | None = None, **options: Any) -> AsyncRegion:
        """As Store.region."""
        return AsyncRegion(await _run(self._store.region, name, nbytes, **options))

    async def stats(self) -> dict[str, Any]:
        """As Store.stats."""
        return await _run(self._store.stats)

    async def transports(self) -> _Transports:
        """As Store.transports."""
        return await _run(self._store.transports)


class AsyncDraft:
    """A draft to come: await it, or use it with ``async with``, which publishes or aborts."""

    def __init__(self, create: Callable[[], Draft]) -> None:
        self._create = create
        self._draft: Draft | None = None

    def __await__(self) -> Any:
        return _run(self._create).__await__()

    async def __aenter__(self) -> Draft:
        self._draft = await self
        return self._draft

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._draft is not None
        if kind is not None:
            await _run(self._draft.abort)
        elif self._draft.state == "open":
            await _run(self._draft.publish)


class AsyncWatch:
    """Asynchronous iterator over events; ``close()`` ends it."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def __aiter__(self) -> AsyncWatch:
        return self

    async def __anext__(self) -> Event:
        while True:
            event = await _run(self._watch.next, _WATCH_SLICE)
            if event is not None:
                return event
            if self._watch._core.closed:
                raise StopAsyncIteration

    def close(self) -> None:
        """Ends the watch. Idempotent."""
        self._watch.close()

    async def __aenter__(self) -> AsyncWatch:
        return self

    async def __aexit__(self, *exception: object) -> None:
        self.close()


class AsyncChannelReader:
    """A reader of a channel whose ``next`` is awaitable. A context manager, as ChannelReader."""

    def __init__(self, reader: ChannelReader) -> None:
        self.reader = reader

    def latest(self) -> ChannelStep | None:
        """As ChannelReader.latest: it waits for nobody."""
        return self.reader.latest()

    async def next(self, timeout: float | None = None) -> ChannelStep:
        """As ChannelReader.next."""
        try:
            return self.reader.next(0)  # it is there: less than a switch of threads
        except DeadlineError:
            pass
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            left = _WATCH_SLICE if end is None else min(_WATCH_SLICE, max(0.0, end - time.monotonic()))
            try:
                return await _run(self.reader.next, left)
            except DeadlineError:
                if end is not None and time.monotonic() >= end:
                    raise

    def close(self) -> None:
        """Ends this reader. Idempotent."""
        self.reader.close()

    async def __aenter__(self) -> AsyncChannelReader:
        return self

    async def __aexit__(self, *exception: object) -> None:
        self.close()


class AsyncRegion:
    """A region whose lock is awaitable: ``async with region.writing() as hold:``. `region`: the Region."""

    def __init__(self, region: Region) -> None:
        self.region = region

    def reading(self, timeout: float | None = None) -> AsyncHold:
        """As Region.reading; it is the task that holds it, not the thread."""
        return AsyncHold(self.region, False, timeout)

    def writing(self, timeout: float | None = None) -> AsyncHold:
        """As Region.writing; it is the task that holds it, not the thread."""
        return AsyncHold(self.region, True, timeout)

    async def __aenter__(self) -> AsyncRegion:
        return self

    async def __aexit__(self, *exception: object) -> None:
        self.region.close()


class AsyncHold:
    """A hold to come: await it for a RegionHold, or use it with ``async with``, which releases it."""

    def __init__(self, region: Region, write: bool, timeout: float | None) -> None:
        self._region, self._write, self._timeout = region, write, timeout
        self._hold: RegionHold | None = None

    async def _take(self) -> RegionHold:
        owner = id(asyncio.current_task())
        try:
            return self._region._hold(self._write, 0, owner)
        except DeadlineError:
            return await _run(self._region._hold, self._write, self._timeout, owner)

    def __await__(self) -> Any:
        return self._take().__await__()

    async def __aenter__(self) -> RegionHold:
        self._hold = await self
        return self._hold

    async def __aexit__(self, *exception: object) -> None:
        assert self._hold is not None
        if self._hold.held:
            self._hold.release()
