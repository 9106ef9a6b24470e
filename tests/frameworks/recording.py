"""Writes down what an engine calls: a line of JSON a call, with its arguments' shapes and its result.

The sequences that tests/python replays were made so: PENSTOCK_RECORD=FOLDER tests/frameworks/run.
"""

from __future__ import annotations

import functools
import inspect
import json
import os
import threading
from pathlib import Path
from typing import Any, Callable, Iterable

_lock = threading.Lock()


class Recorder:
    """Stands for `thing`; calls of `methods` from outside are written down."""

    def __init__(self, thing: Any, methods: Iterable[str], name: str) -> None:
        self._thing = thing
        for method in methods:
            setattr(self, method, _recorded(getattr(thing, method), method, name))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._thing, name)


def write_call(name: str, method: str, args: Any, kwargs: Any, result: Any, more: Callable[[Any], Any] | None = None) -> None:
    """Adds a line to FOLDER/NAME.jsonl, if somebody asked for it. more: describes what `describe` does not know."""
    folder = os.environ.get("PENSTOCK_RECORD")
    if not folder:
        return
    line = {"call": method, "args": describe(args, more), "kwargs": describe(kwargs, more), "result": describe(result, more)}
    with _lock, open(Path(folder) / f"{name}.jsonl", "a") as file:
        file.write(json.dumps(line) + "\n")


def _recorded(method: Any, name: str, file: str) -> Any:
    @functools.wraps(method)
    async def awaited(*args: Any, **kwargs: Any) -> Any:
        result = await method(*args, **kwargs)
        write_call(file, name, args, kwargs, result)
        return result

    @functools.wraps(method)
    def called(*args: Any, **kwargs: Any) -> Any:
        result = method(*args, **kwargs)
        write_call(file, name, args, kwargs, result)
        return result

    return awaited if inspect.iscoroutinefunction(method) else called


def describe(thing: Any, more: Callable[[Any], Any] | None = None) -> Any:
    """What of a value matters to a connector."""
    if more is not None and (found := more(thing)) is not None:
        return found
    if thing is None or isinstance(thing, (bool, int, float, str)):
        return thing
    if isinstance(thing, (list, tuple, set)):
        return [describe(item, more) for item in thing]
    if isinstance(thing, dict):
        return {str(key): describe(value, more) for key, value in thing.items()}
    if isinstance(thing, memoryview):
        return {"buffer": thing.nbytes, "format": thing.format}
    if hasattr(thing, "get_memory_format"):  # LMCache's MemoryObj
        dtypes = [str(dtype) for dtype in thing.get_dtypes()]
        shapes = [list(shape) for shape in thing.get_shapes()]
        return {"chunk": shapes, "dtypes": dtypes, "format": thing.get_memory_format().name}
    if hasattr(thing, "to_string"):  # its keys
        return {"key": thing.to_string()}
    if hasattr(thing, "data_ptr"):
        return {"tensor": list(thing.shape), "dtype": str(thing.dtype), "strides": list(thing.stride())}
    return {"type": f"{type(thing).__module__}.{type(thing).__qualname__}"}
