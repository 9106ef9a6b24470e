"""The threads in which the calls of store.aio run.

They belong to the process and are made anew after a fork: few for calls that end by themselves, more for
calls that wait for others, a slice of time each, so that a cancelled wait lets its thread go soon.
"""

from __future__ import annotations

import asyncio
import functools
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import ParamSpec, TypeAlias, TypeVar

from penstock.errors import DeadlineError, Error

__all__ = ["SLICE", "Seconds", "run", "run_waiting", "start_waiting"]

_P = ParamSpec("_P")
_T = TypeVar("_T")
Seconds: TypeAlias = float | timedelta

_THREADS = 8
_WAITING_THREADS = 32
SLICE = 0.5  # seconds that a waiting call holds a thread at a time

_pools: dict[int, ThreadPoolExecutor] = {}  # by number of threads


def _threads(count: int) -> ThreadPoolExecutor:
    pool = _pools.get(count)
    if pool is None:
        pool = _pools[count] = ThreadPoolExecutor(count, thread_name_prefix="penstock-aio")
    return pool


os.register_at_fork(after_in_child=_pools.clear)  # their threads did not come along


async def run(call: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """A call that ends by itself."""
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(_threads(_THREADS), functools.partial(call, *args, **kwargs))


def start_waiting(call: Callable[[float], _T]) -> asyncio.Future[_T]:
    """``call(SLICE)``, to be awaited by anyone."""
    loop = asyncio.get_running_loop()
    return loop.run_in_executor(_threads(_WAITING_THREADS), call, SLICE)


async def run_waiting(
    call: Callable[[Seconds | None], _T], timeout: Seconds | None, not_yet: tuple[type[Error], ...] = (DeadlineError,)
) -> _T:
    """``call(timeout)``, which raises one of `not_yet` when the time is over, a slice at a time."""
    loop = asyncio.get_running_loop()
    threads = _threads(_WAITING_THREADS)
    seconds = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
    sliced = seconds is None or (type(seconds) in (int, float) and seconds > SLICE)
    if not sliced:
        return await loop.run_in_executor(threads, call, timeout)  # short, or to be refused
    end = None if seconds is None else time.monotonic() + seconds
    while True:
        began = time.monotonic()
        left = SLICE if end is None else max(0.0, min(SLICE, end - began))
        try:
            return await loop.run_in_executor(threads, call, left)
        except not_yet:
            now = time.monotonic()
            if (end is not None and now >= end) or now - began < left / 2:  # what has not waited would never end
                raise
