"""Watching a store: what happened to which tensor, in order."""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import Iterator

from penstock import _core
from penstock._core import TensorInfo

__all__ = ["Event", "Watch"]


@dataclass(frozen=True)
class Event:
    """One thing that happened.

    kind: "put", "delete", "expire", "evict", or "resync": events were lost (a slow watcher, a node
    restart), list again. info: the tensor, by name and version at least. sequence: grows with every
    event; ``store.watch(from_version=event.sequence)`` goes on after it. time: seconds since 1970.
    """

    kind: str
    info: TensorInfo
    sequence: int
    time: float
    text: str = ""


class Watch(Iterator[Event]):
    """Iterator over the events under a prefix, from the moment of the call on.

    ``close()``, from any thread, ends the iteration, as does leaving a ``with`` block; Ctrl-C ends a
    waiting ``next()``. One thread at a time iterates.
    """

    def __init__(self, core: _core.Watch) -> None:
        self._core = core

    def __iter__(self) -> Watch:
        return self

    def __next__(self) -> Event:
        event = self.next()
        if event is None:
            raise StopIteration
        return event

    def next(self, timeout: float | None = None) -> Event | None:
        """The next event; None when there was none for `timeout` seconds, or the watch is closed."""
        event = self._core.next(timeout)
        return None if event is None else Event(*event)

    def close(self) -> None:
        """Ends the watch. Idempotent."""
        self._core.close()

    def __enter__(self) -> Watch:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
