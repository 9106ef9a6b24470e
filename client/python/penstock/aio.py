"""The calls of a Store for asyncio: ``await store.aio.get("x")``.

A get that the catalog can answer is done at once, in the event loop: it takes less than a switch of
threads. Everything else runs in threads, which belong to the process and are made anew after a fork:
few for calls that end by themselves, more for calls that wait for others, half a second at a time, so
that no number of waiting tasks keeps a put from running.

Cancelling an await never stops a call half-way: a put goes on to its end, a view or draft that comes
too late is released, a wait ends within half a second, and no event of a watch is lost.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar, overload

from penstock._aio_threads import Seconds, run, run_waiting, start_waiting
from penstock._core import (
    ChannelReader,
    ChannelStep,
    ChannelWriter,
    Draft,
    Region,
    RegionHold,
    RegisteredMemory,
    TensorInfo,
    TensorView,
)
from penstock.errors import DeadlineError, Error, NotFoundError, UnavailableError
from penstock.events import Event, Watch

if TYPE_CHECKING:
    from penstock.snapshot import Snapshot, SnapshotInfo
    from penstock.store import Store

__all__ = ["AsyncChannelReader", "AsyncDraft", "AsyncHold", "AsyncRegion", "AsyncSnapshot", "AsyncStore", "AsyncWatch"]

_Out = TypeVar("_Out")
_Transports: TypeAlias = list[dict[str, Any]]  # in the class, `list` is its method
_Numbers: TypeAlias = list[int]

_MISSING = object()
_LIST_PAGE = 1000  # what is taken from a list at a time


class AsyncStore:
    """Awaitable twins of the calls of one Store; same arguments, same results, same errors."""

    def __init__(self, store: Store) -> None:
        self._store = store

    @overload
    async def get(
        self,
        name: str,
        box: Any = None,
        *,
        version: int | None = None,
        out: None = None,
        device: Any = None,
        wait: Seconds | None = None,
    ) -> TensorView: ...
    @overload
    async def get(
        self,
        name: str,
        box: Any = None,
        *,
        version: int | None = None,
        out: _Out,
        device: Any = None,
        wait: Seconds | None = None,
    ) -> _Out: ...
    async def get(
        self,
        name: str,
        box: Any = None,
        *,
        version: int | None = None,
        out: Any = None,
        device: Any = None,
        wait: Seconds | None = None,
    ) -> Any:
        """As Store.get."""
        if box is None and version is None and out is None and device is None:
            view = self._store._get_if_warm(name)
            if view is not None:
                return view

        def get(left: Seconds | None) -> Any:
            return self._store.get(name, box, version=version, out=out, device=device, wait=left)

        return await (run(get, None) if wait is None else run_waiting(get, wait))

    async def get_many(
        self, names: Iterable[str], errors: Literal["raise", "return"] = "raise"
    ) -> dict[str, TensorView | Error]:
        """As Store.get_many."""
        return await run(self._store.get_many, names, errors)

    async def put(
        self,
        name: str,
        tensor: Any,
        *,
        replicas: int = 1,
        keep: bool = True,
        ttl: Seconds | None = None,
        metadata: dict[str, str] | None = None,
        version: int | None = None,
        if_absent: bool = False,
        if_version: int | None = None,
        soft_pin: bool = False,
    ) -> TensorInfo:
        """As Store.put; do not change the tensor before it is done, nor after a cancelled await."""
        return await run(
            self._store.put,
            name,
            tensor,
            replicas=replicas,
            keep=keep,
            ttl=ttl,
            metadata=metadata,
            version=version,
            if_absent=if_absent,
            if_version=if_version,
            soft_pin=soft_pin,
        )

    async def put_shard(
        self,
        name: str,
        local: Any,
        *,
        global_shape: int | Iterable[int],
        offset: int | Iterable[int],
        keep: bool = True,
        ttl: Seconds | None = None,
        metadata: dict[str, str] | None = None,
        version: int | None = None,
    ) -> TensorInfo | None:
        """As Store.put_shard; do not change the shard before it is done, nor after a cancelled await."""
        return await run(
            self._store.put_shard,
            name,
            local,
            global_shape=global_shape,
            offset=offset,
            keep=keep,
            ttl=ttl,
            metadata=metadata,
            version=version,
        )

    async def put_many(
        self,
        tensors: Mapping[str, Any] | Iterable[tuple[str, Any]],
        *,
        errors: Literal["raise", "return"] = "raise",
        **options: Any,
    ) -> list[TensorInfo | Error]:
        """As Store.put_many."""
        return await run(self._store.put_many, tensors, errors=errors, **options)

    def create(
        self,
        name: str,
        shape: int | Iterable[int],
        dtype: Any,
        *,
        replicas: int = 1,
        keep: bool = True,
        ttl: Seconds | None = None,
        metadata: dict[str, str] | None = None,
        version: int | None = None,
        if_absent: bool = False,
        if_version: int | None = None,
        soft_pin: bool = False,
    ) -> AsyncDraft:
        """As Store.create: ``async with store.aio.create(...) as draft:``, or await it for a Draft."""
        return AsyncDraft(
            functools.partial(
                self._store.create,
                name,
                shape,
                dtype,
                replicas=replicas,
                keep=keep,
                ttl=ttl,
                metadata=metadata,
                version=version,
                if_absent=if_absent,
                if_version=if_version,
                soft_pin=soft_pin,
            )
        )

    async def get_or_create(
        self, name: str, make: Callable[[], Any], timeout: Seconds | None = None
    ) -> TensorView:
        """As Store.get_or_create; `make` runs in a thread, and to its end when the await is cancelled."""
        outcome: list[BaseException] = []  # of make: it is called once, whatever it raises

        def make_once() -> Any:
            try:
                return make()
            except BaseException as error:
                outcome.append(error)
                raise

        def get_or_create(left: Seconds | None) -> TensorView | None:
            try:
                return self._store.get_or_create(name, make_once if callable(make) else make, left)
            except DeadlineError:
                if outcome:
                    return None
                raise

        try:
            view = await run_waiting(get_or_create, timeout)
        except DeadlineError as error:
            raise DeadlineError(
                f"get_or_create {name!r}: another caller has been making it for {timeout} s",
                code=error.code,
                name=name,
            ) from None
        if view is None:
            raise outcome[0]
        return view

    async def longest_prefix(self, names: Iterable[str]) -> int:
        """As Store.longest_prefix."""
        return await run(self._store.longest_prefix, names)

    async def register(self, array: Any) -> RegisteredMemory:
        """As Store.register."""
        return await run(self._store.register, array)

    async def delete(self, name: str, version: int | None = None) -> bool:
        """As Store.delete."""
        return await run(self._store.delete, name, version)

    async def delete_prefix(self, prefix: str) -> int:
        """As Store.delete_prefix."""
        return await run(self._store.delete_prefix, prefix)

    async def move(self, name: str, to: str, copy: bool = False, timeout: Seconds | None = None) -> str | None:
        """As Store.move."""
        return await run_waiting(functools.partial(self._store.move, name, to, copy), timeout)

    async def exists(self, name: str) -> bool:
        """As Store.exists."""
        return await run(self._store.exists, name)

    async def stat(self, name: str, version: int | None = None) -> TensorInfo:
        """As Store.stat."""
        return await run(self._store.stat, name, version)

    async def list(
        self, prefix: str = "", limit: int | None = None, after: str | None = None
    ) -> AsyncIterator[TensorInfo]:
        """As Store.list: ``async for info in store.aio.list("model/"):``."""
        infos = await run(self._store.list, prefix, limit, after)

        def page() -> tuple[TensorInfo, ...]:
            return tuple(itertools.islice(infos, _LIST_PAGE))

        while some := await run(page):
            for info in some:
                yield info

    def watch(self, prefix: str = "", from_version: int | None = None) -> AsyncWatch:
        """As Store.watch: ``async for event in store.aio.watch("model/"):``."""
        return AsyncWatch(self._store.watch(prefix, from_version))

    async def wait(self, name: str, version: int | None = None, timeout: Seconds | None = None) -> TensorInfo:
        """As Store.wait."""
        return await run_waiting(functools.partial(self._store.wait, name, version), timeout)

    async def channel(self, name: str, shape: Any, dtype: Any, slots: int = 8) -> ChannelWriter:
        """As Store.channel. Writing waits for nobody, so the writer is the same."""
        return await run(self._store.channel, name, shape, dtype, slots)

    async def subscribe(
        self, name: str, timeout: Seconds | None = None, *, shape: int | Iterable[int] | None = None, dtype: Any = None
    ) -> AsyncChannelReader:
        """As Store.subscribe."""

        def subscribe(left: Seconds | None) -> ChannelReader:
            return self._store.subscribe(name, left, shape=shape, dtype=dtype)

        not_yet = (DeadlineError, NotFoundError, UnavailableError)
        return AsyncChannelReader(await run_waiting(subscribe, timeout, not_yet) if timeout else await run(subscribe, timeout))

    async def region(
        self, name: str, nbytes: int | None = None, *, exclusive: bool = False, timeout: Seconds | None = None
    ) -> AsyncRegion:
        """As Store.region."""

        def region(left: Seconds | None) -> Region:
            return self._store.region(name, nbytes, exclusive=exclusive, timeout=left)

        not_yet = (DeadlineError, NotFoundError)
        return AsyncRegion(await run_waiting(region, timeout, not_yet) if timeout else await run(region, timeout))

    def snapshot(
        self,
        prefix: str,
        *,
        number: int | None = None,
        keep_last: int | None = None,
        metadata: dict[str, str] | None = None,
        process_group: Any = None,
        rank: int = 0,
        ranks: int | None = None,
        timeout: float = 600.0,
    ) -> AsyncSnapshot:
        """As Store.snapshot: ``async with store.aio.snapshot(...) as snap: await snap.put_state_dict(sd)``."""
        return AsyncSnapshot(
            functools.partial(
                self._store.snapshot,
                prefix,
                number=number,
                keep_last=keep_last,
                metadata=metadata,
                process_group=process_group,
                rank=rank,
                ranks=ranks,
                timeout=timeout,
            )
        )

    async def put_state_dict(self, prefix: str, state_dict: Any, **options: Any) -> SnapshotInfo:
        """As Store.put_state_dict; do not change its tensors before it is done, nor after a cancelled await."""
        return await run(self._store.put_state_dict, prefix, state_dict, **options)

    async def get_state_dict(
        self,
        prefix: str,
        number: int | Literal["latest"] = "latest",
        *,
        into: Any = None,
        strict: bool = True,
        dtype: Any = None,
        framework: Literal["numpy", "torch", "view"] | None = None,
        name: str | None = None,
    ) -> Any:
        """As Store.get_state_dict."""
        options: dict[str, Any] = {"into": into, "strict": strict, "dtype": dtype, "framework": framework, "name": name}
        return await run(self._store.get_state_dict, prefix, number, **options)

    async def snapshots(self, prefix: str) -> _Numbers:
        """As Store.snapshots."""
        return await run(self._store.snapshots, prefix)

    async def snapshot_infos(self, prefix: str) -> Sequence[SnapshotInfo]:
        """As Store.snapshot_infos."""
        return await run(self._store.snapshot_infos, prefix)

    async def latest(self, prefix: str, default: Any = _MISSING) -> Any:
        """As Store.latest."""
        return await (run(self._store.latest, prefix) if default is _MISSING else run(self._store.latest, prefix, default))

    async def remove_snapshot(self, prefix: str, number: int) -> None:
        """As Store.remove_snapshot."""
        await run(self._store.remove_snapshot, prefix, number)

    async def pin_snapshot(self, prefix: str, number: int, pinned: bool = True) -> None:
        """As Store.pin_snapshot."""
        await run(self._store.pin_snapshot, prefix, number, pinned)

    async def wait_snapshot(self, prefix: str, after: int = 0, timeout: float | None = None) -> int:
        """As Store.wait_snapshot."""

        def wait(left: Any) -> int:
            return self._store.wait_snapshot(prefix, after, left)

        return await run_waiting(wait, timeout)

    async def stats(self) -> dict[str, Any]:
        """As Store.stats."""
        return await run(self._store.stats)

    async def transports(self) -> _Transports:
        """As Store.transports."""
        return await run(self._store.transports)

    async def close(self) -> None:
        """As Store.close."""
        await run(self._store.close)


class AsyncDraft:
    """A draft to come: await it, or use it with ``async with``, which publishes or aborts.

    Cancelled while it is made, it is aborted once it is there; cancelled in the block, too.
    """

    def __init__(self, create: Callable[[], Draft]) -> None:
        self._create = create
        self._draft: Draft | None = None

    def __await__(self) -> Generator[Any, None, Draft]:
        return run(self._create).__await__()

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
            await run(self._draft.abort)
        elif self._draft.state == "open":
            await run(self._draft.publish)


class AsyncWatch:
    """Asynchronous iterator over events; ``close()`` ends it. One task at a time iterates.

    Cancelling an ``anext()``, by ``asyncio.wait_for`` for instance, loses no event: the next one gets it.
    """

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._next: asyncio.Future[Event | None] | None = None

    def __aiter__(self) -> AsyncWatch:
        return self

    async def __anext__(self) -> Event:
        while True:
            event = await self._step()
            if event is not None:
                return event
            if self._watch._core.closed:
                raise StopAsyncIteration

    async def _step(self) -> Event | None:
        loop = asyncio.get_running_loop()
        if self._next is None or self._next.cancelled() or self._next.get_loop() is not loop:
            self._next = start_waiting(self._watch.next)
        try:
            event = await asyncio.shield(self._next)
        except asyncio.CancelledError:
            raise  # the call goes on and keeps what comes
        except BaseException:
            self._next = None
            raise
        self._next = None
        return event

    def close(self) -> None:
        """Ends the watch. Idempotent."""
        self._watch.close()

    async def __aenter__(self) -> AsyncWatch:
        return self

    async def __aexit__(self, *exception: object) -> None:
        self.close()


class AsyncSnapshot:
    """A Snapshot whose calls are awaitable, in an ``async with`` block. `snapshot`: the Snapshot itself."""

    snapshot: Snapshot

    def __init__(self, make: Callable[[], Snapshot]) -> None:
        self._make = make

    async def put(self, key: str, tensor: Any) -> None:
        """As Snapshot.put."""
        await run(self.snapshot.put, key, tensor)

    async def put_many(self, tensors: Mapping[str, Any]) -> None:
        """As Snapshot.put_many."""
        await run(self.snapshot.put_many, tensors)

    async def put_shard(self, key: str, local: Any, *, global_shape: Iterable[int], offset: Iterable[int]) -> None:
        """As Snapshot.put_shard."""
        await run(self.snapshot.put_shard, key, local, global_shape=global_shape, offset=offset)

    async def put_state_dict(self, state_dict: Any, name: str = "") -> None:
        """As Snapshot.put_state_dict."""
        await run(self.snapshot.put_state_dict, state_dict, name)

    async def commit(self) -> SnapshotInfo:
        """As Snapshot.commit."""
        return await run(self.snapshot.commit)

    async def abort(self) -> None:
        """As Snapshot.abort."""
        await run(self.snapshot.abort)

    @property
    def number(self) -> int | None:
        """As Snapshot.number."""
        return self.snapshot.number

    async def __aenter__(self) -> AsyncSnapshot:
        self.snapshot = await run(self._make)
        return self

    async def __aexit__(self, kind: Any, value: Any, traceback: Any) -> None:
        await run(self.snapshot.__exit__, kind, value, traceback)


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
        return await run_waiting(self.reader.next, timeout)

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

            def hold(left: Seconds | None) -> RegionHold:
                return self._region._hold(self._write, left, owner)

            return await run_waiting(hold, self._timeout)

    def __await__(self) -> Any:
        return self._take().__await__()

    async def __aenter__(self) -> RegionHold:
        self._hold = await self
        return self._hold

    async def __aexit__(self, *exception: object) -> None:
        assert self._hold is not None
        if self._hold.held:
            self._hold.release()
