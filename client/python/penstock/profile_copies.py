"""Which operations of a program copied an array, how many bytes, and why.

    with profile_copies() as profile:
        work()
    print(profile)                                   # "zero-copy OK", or a line per place that copied

    python -m penstock.profile_copies [--verbose] SCRIPT [ARGUMENT...]     # exit code 1 when something copied

A result that shares no byte with what it was made from is a copy: addresses are compared. What a store copies, it says itself: the
bytes of a put, and of a get into memory of the caller. Seen are calls of NumPy, torch, Arrow and the store, of all threads, that are
looked up after the profile began (not names imported before, `from numpy import array`). Methods of NumPy arrays are seen in this
thread and those that begin meanwhile: `copy`, `flatten`, `tobytes` and `tolist` always copy; of `astype`, `reshape` and `ravel` the
memory tells that was taken meanwhile, for arrays of 16 KiB and more (another thread's may be among it). What C++ does inside one of
these calls is part of it. The program runs slower meanwhile.
"""

from __future__ import annotations

import argparse
import builtins
import functools
import os
import runpy
import sys
import threading
import tracemalloc
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, NamedTuple

import numpy as np

from penstock._core import TensorView
from penstock.store import Store

__all__ = ["Copy", "profile_copies"]


class Copy(NamedTuple):
    """One operation that copied."""

    operation: str
    nbytes: int
    why: str
    where: str  # FILE:LINE of the caller


class profile_copies:
    """Watches the process while its block runs. Several may be active at once; each sees everything."""

    def __init__(self) -> None:
        self.copies: list[Copy] = []
        self.shared: list[tuple[str, str]] = []  # operations that copied nothing, and where

    @property
    def nbytes(self) -> int:
        """Copied, in all."""
        return sum(copy.nbytes for copy in self.copies)

    @property
    def zero_copy(self) -> bool:
        """Whether nothing was copied."""
        return not self.copies

    def report(self, verbose: bool = False) -> str:
        """A line per place that copied, and the sum. `verbose`: also what copied nothing."""
        places: dict[tuple[str, str, str], list[int]] = {}
        for copy in self.copies:
            places.setdefault((copy.where, copy.operation, copy.why), []).append(copy.nbytes)
        lines = [
            f"{where}: {operation} copied {sum(sizes)} bytes{f' in {len(sizes)} calls' if len(sizes) > 1 else ''}: {why}"
            for (where, operation, why), sizes in places.items()
        ]
        if verbose:
            lines += [
                f"{where}: {operation} copied nothing" for operation, where in dict.fromkeys(self.shared)
            ]
        lines.append(f"{len(self.copies)} copies of {self.nbytes} bytes" if self.copies else "zero-copy OK")
        return "\n".join(lines)

    __str__ = report

    def __enter__(self) -> profile_copies:
        _watch.add(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _watch.remove(self)


_NEW = "its result is new memory"
_NUMPY = {
    "array": "numpy.array copies unless copy=None or copy=False",
    "asarray": "another dtype or order was asked for, or the source has no buffer",
    "asanyarray": "another dtype or order was asked for, or the source has no buffer",
    "ascontiguousarray": "the array was not contiguous, or had another dtype",
    "asfortranarray": "the array was not in Fortran order",
    "copy": _NEW,
    "require": "the array did not fulfil the requirements",
    "reshape": "the array was not contiguous",
    "ravel": "the array was not contiguous",
    "concatenate": "it joins arrays in new memory",
    "stack": "it joins arrays in new memory",
    "vstack": "it joins arrays in new memory",
    "hstack": "it joins arrays in new memory",
}
_TORCH = {
    "tensor": "torch.tensor always copies: torch.as_tensor or from_numpy share",
    "as_tensor": "another dtype or device was asked for",
    "asarray": "another dtype or device was asked for, or copy=True",
    "clone": _NEW,
    "cat": "it joins tensors in new memory",
    "stack": "it joins tensors in new memory",
    "from_numpy": _NEW,
    "from_dlpack": _NEW,
}
_TENSOR = {
    "clone": _NEW,
    "contiguous": "the tensor was not contiguous",
    "to": "another dtype or device was asked for",
    "cpu": "it lay on another device",
    "cuda": "it lay on the host",
    "type": "another dtype was asked for",
    "float": "it had another dtype",
    "double": "it had another dtype",
    "half": "it had another dtype",
    "bfloat16": "it had another dtype",
    "int": "it had another dtype",
    "long": "it had another dtype",
    "reshape": "the tensor was not contiguous",
    "flatten": "the tensor was not contiguous",
    "numpy": _NEW,
}
_ARROW = {"array": "Arrow has another layout for it, or it was no array of one dimension"}
# Methods of numpy.ndarray: those that always copy, and those of which the memory they take tells.
_ALWAYS = {
    "copy": _NEW,
    "flatten": "flatten always copies: ravel or reshape need not",
    "tobytes": "bytes have memory of their own",
    "tolist": "lists have Python's objects",
}
_BY_MEMORY = {
    "astype": "it had another dtype, or copy=True, the default",
    "reshape": "the array was not contiguous",
    "ravel": "the array was not contiguous",
}
_LEAST_BY_MEMORY = 16384
_HERE = os.path.dirname(os.path.abspath(__file__))


class _Watch:
    """What is patched while a profile is active."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._profiles: list[profile_copies] = []
        self._restore: list[Callable[[], None]] = []
        self._frameworks: set[str] = set()
        self._inside = threading.local()

    def add(self, profile: profile_copies) -> None:
        with self._lock:
            self._profiles.append(profile)
            if len(self._profiles) == 1:
                self._begin()

    def remove(self, profile: profile_copies) -> None:
        with self._lock:
            self._profiles.remove(profile)
            if not self._profiles:
                self._end()

    def _begin(self) -> None:
        self._patch_frameworks()
        self._patch(Store, "put", self._put)
        self._patch(Store, "get", self._get)
        self._follow_imports()
        if not tracemalloc.is_tracing():
            tracemalloc.start()
            self._restore.append(tracemalloc.stop)
        before = sys.getprofile()
        self._restore.append(lambda: sys.setprofile(before))
        self._restore.append(lambda: threading.setprofile(None))
        threading.setprofile(self._method)
        sys.setprofile(self._method)

    def _end(self) -> None:
        while self._restore:
            self._restore.pop()()
        self._frameworks.clear()

    def _patch_frameworks(self) -> None:
        for module, names in (("numpy", _NUMPY), ("torch", _TORCH), ("pyarrow", _ARROW)):
            loaded = sys.modules.get(module)
            if (
                loaded is None
                or module in self._frameworks
                or not all(hasattr(loaded, name) for name in names)
            ):
                continue  # not there, or on its way
            self._frameworks.add(module)
            for name, why in names.items():
                self._patch(loaded, name, functools.partial(self._compare, f"{module}.{name}", why))
            if module == "torch":
                for name, why in _TENSOR.items():
                    self._patch(
                        loaded.Tensor, name, functools.partial(self._compare, f"torch.Tensor.{name}", why)
                    )

    def _patch(self, owner: Any, name: str, seen: Callable[..., None]) -> None:
        """Calls `seen(result, arguments...)` after each outermost call of `owner.name`."""
        own = name in vars(owner)
        original = getattr(owner, name)

        @functools.wraps(original)
        def watched(*arguments: Any, **options: Any) -> Any:
            if getattr(self._inside, "on", False):
                return original(*arguments, **options)
            self._inside.on = True
            try:
                result = original(*arguments, **options)
                seen(result, *arguments, **options)
                return result
            finally:
                self._inside.on = False

        setattr(owner, name, watched)
        self._restore.append(lambda: setattr(owner, name, original) if own else delattr(owner, name))

    def _follow_imports(self) -> None:
        original = builtins.__import__

        @functools.wraps(original)
        def importing(*arguments: Any, **options: Any) -> Any:
            module = original(*arguments, **options)
            with self._lock:
                if self._restore:
                    self._patch_frameworks()
            return module

        builtins.__import__ = importing
        self._restore.append(lambda: setattr(builtins, "__import__", original))

    def _compare(self, operation: str, why: str, result: Any, *arguments: Any, **options: Any) -> None:
        sources = _ranges(next(iter((*arguments, *options.values())), None))
        if not sources:
            return  # made of no array
        made = _ranges(result)
        if any(begin < end_ and begin_ < end for begin, end in sources for begin_, end_ in made):
            self._kept(operation)
        elif nbytes := sum(end - begin for begin, end in made):
            self._copied(operation, nbytes, why)

    def _put(self, result: Any, *_: Any, **__: Any) -> None:
        self._copied(
            "Store.put",
            result.nbytes,
            "its bytes go into the store's memory: Store.create gives that memory to fill",
        )

    def _get(self, result: Any, *_: Any, **options: Any) -> None:
        if options.get("out") is not None:
            self._copied(
                "Store.get",
                sum(end - begin for begin, end in _ranges(options["out"])),
                "out= is the caller's memory: without it the store's is shown",
            )
        elif isinstance(result, TensorView):
            self._kept("Store.get")

    def _method(self, frame: FrameType, event: str, argument: Any) -> None:
        if (
            event not in ("c_call", "c_return")
            or type(getattr(argument, "__self__", None)) is not np.ndarray
            or getattr(self._inside, "on", False)
        ):
            return
        name, array = argument.__name__, argument.__self__
        if event == "c_call":
            if name in _ALWAYS and array.nbytes:
                self._copied(f"numpy.ndarray.{name}", array.nbytes, _ALWAYS[name], frame)
            elif name in _BY_MEMORY and array.nbytes >= _LEAST_BY_MEMORY:
                self._inside.before = tracemalloc.get_traced_memory()[0]
        elif name in _BY_MEMORY and array.nbytes >= _LEAST_BY_MEMORY:
            took = tracemalloc.get_traced_memory()[0] - getattr(self._inside, "before", 0)
            if took >= array.size:  # of the smallest dtype; an array object itself takes some hundred bytes
                self._copied(f"numpy.ndarray.{name}", took, _BY_MEMORY[name], frame)
            else:
                self._kept(f"numpy.ndarray.{name}", frame)

    def _copied(self, operation: str, nbytes: int, why: str, frame: FrameType | None = None) -> None:
        copy = Copy(operation, nbytes, why, _where(frame))
        for profile in self._profiles:
            profile.copies.append(copy)

    def _kept(self, operation: str, frame: FrameType | None = None) -> None:
        for profile in self._profiles:
            profile.shared.append((operation, _where(frame)))


_watch = _Watch()


def _where(frame: FrameType | None) -> str:
    """The nearest caller that is none of this package's."""
    found = frame or sys._getframe(1)
    while found.f_back is not None and found.f_code.co_filename.startswith(_HERE):
        found = found.f_back
    name = found.f_code.co_filename
    return f"{os.path.relpath(name) if os.path.isabs(name) else name}:{found.f_lineno}"


def _ranges(array: Any) -> list[tuple[int, int]]:
    """[first byte, end) of the pieces of memory that it shows; nothing for what is no array."""
    torch, arrow = sys.modules.get("torch"), sys.modules.get("pyarrow")
    if isinstance(array, np.ndarray):
        return [np.lib.array_utils.byte_bounds(array)] if array.nbytes else []
    if isinstance(array, TensorView):
        return _ranges(array.numpy())
    if torch is not None and isinstance(array, torch.Tensor):
        if not array.numel() or array.layout != torch.strided or array.device.type == "meta":
            return []
        spans = sum((size - 1) * stride for size, stride in zip(array.shape, array.stride()))
        return [(array.data_ptr(), array.data_ptr() + (spans + 1) * array.element_size())]
    if arrow is not None and isinstance(array, arrow.Array):
        return [
            (one.address, one.address + one.size) for one in array.buffers() if one is not None and one.size
        ]
    if isinstance(array, (bytes, bytearray, memoryview)):
        return _ranges(np.frombuffer(array, np.uint8)) if len(array) else []
    if isinstance(array, (list, tuple)) and len(array) <= 65536:
        return [piece for one in array if not isinstance(one, (list, tuple)) for piece in _ranges(one)]
    return []


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m penstock.profile_copies",
        description="Runs a program and tells which of its operations copied arrays.",
    )
    parser.add_argument("--verbose", action="store_true", help="tell also which copied nothing")
    parser.add_argument("script", help="a Python program")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="its own")
    given = parser.parse_args(arguments)
    if not os.path.isfile(given.script):
        parser.error(f"script: no file {given.script}")
    before = sys.argv, list(sys.path)
    sys.argv = [given.script, *given.arguments]
    sys.path.insert(0, os.path.dirname(os.path.abspath(given.script)))
    try:
        with profile_copies() as profile:
            runpy.run_path(given.script, run_name="__main__")
    finally:
        sys.argv, sys.path = before
    print(profile.report(given.verbose))
    return 0 if profile.zero_copy else 1


if __name__ == "__main__":
    sys.exit(main())
