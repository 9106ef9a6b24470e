"""Memory that programs of Mooncake give as addresses: registered, checked, and shown.

Threading: any thread.
Ownership: the caller's; it must stay mapped until it is unregistered. Nothing here keeps it alive.
Errors:    InvalidArgumentError of addresses that are not registered, or not writable host memory.
"""

from __future__ import annotations

import bisect
import ctypes
import threading
from typing import Any, TypeAlias

import numpy as np

from penstock._core import RegisteredMemory, TensorView
from penstock.errors import InvalidArgumentError
from penstock.store import Store

__all__ = ["BufferHandle", "RegisteredBuffers", "array_at", "copy_to"]

_Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]


class BufferHandle(np.ndarray[Any, np.dtype[Any]]):
    """An object's bytes where the store has them: the buffer protocol, `ptr()`, `size()` and `len()`.

    Read-only; the object stays there while the handle, or anything made from it, lives.
    """

    @staticmethod
    def of(view: TensorView) -> BufferHandle:
        """All bytes of a whole view, as signed ones, as the original has them."""
        return np.asarray(_Bytes(view)).view(BufferHandle)

    def ptr(self) -> int:
        """Their address."""
        return int(self.ctypes.data)

    def size(self) -> int:  # type: ignore[override]
        """How many there are."""
        return len(self)

    def __bool__(self) -> bool:
        return len(self) > 0

    def __repr__(self) -> str:
        return f"<BufferHandle of {len(self)} bytes>"

    __str__ = __repr__


class _Bytes:
    def __init__(self, view: TensorView) -> None:
        self._view = view
        self.__array_interface__ = {
            "data": (view.ptr, True),
            "shape": (view.nbytes,),
            "typestr": "|i1",
            "version": 3,
        }


class RegisteredBuffers:
    """The buffers of one client, which do not overlap."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._starts: list[int] = []
        self._buffers: dict[int, tuple[int, RegisteredMemory]] = {}  # start -> end, and for RDMA

    def add(self, store: Store, address: int, size: int) -> None:
        """Takes [address, address + size), and registers it with the device where RDMA is in use."""
        _check_writable(address, size)
        with self._lock:
            at = bisect.bisect_right(self._starts, address)
            before = self._buffers[self._starts[at - 1]][0] if at else 0
            after = self._starts[at] if at < len(self._starts) else address + size
            if before > address or after < address + size:
                raise _wrong(f"buffer_ptr: {address:#x} and {size} bytes overlap what is registered")
            self._buffers[address] = (address + size, store.register(array_at(address, size)))
            self._starts.insert(at, address)

    def remove(self, address: int) -> None:
        """Gives back what was registered at `address`."""
        with self._lock:
            if address not in self._buffers:
                raise _wrong(f"buffer_ptr: nothing is registered at {address:#x}")
            self._starts.remove(address)
            _, memory = self._buffers.pop(address)
        memory.release()

    def clear(self) -> None:
        """Gives back all."""
        for address in list(self._starts):
            self.remove(address)

    def check(self, address: int, size: int) -> None:
        """Refuses what does not lie in one registered buffer."""
        _check_numbers(address, size)
        if size < 0:
            raise _wrong(f"size: is {size}; allowed are 0 and more")
        with self._lock:
            at = bisect.bisect_right(self._starts, address)
            end = self._buffers[self._starts[at - 1]][0] if at else 0
        if address + size > end:
            raise _wrong(f"buffer_ptr: {address:#x} and {size} bytes lie in no buffer: use register_buffer")


def array_at(address: int, size: int) -> _Array:
    """The bytes at an address."""
    memory: Any = (ctypes.c_ubyte * size).from_address(address)
    return np.frombuffer(memory, np.uint8)


def copy_to(address: int, view: TensorView, offset: int, size: int) -> None:
    """Copies bytes of a whole view to an address, without the GIL."""
    ctypes.memmove(address, view.ptr + offset, size)


def _check_writable(address: int, size: int) -> None:
    """Refuses what this process cannot write: a copy there would end it. Memory of a GPU is none of ours."""
    _check_numbers(address, size)
    if size <= 0:
        raise _wrong(f"size: is {size}; allowed are 1 and more")
    reached = address
    with open("/proc/self/maps") as maps:
        for line in maps:  # in the order of their addresses
            area, access = line.split(maxsplit=2)[:2]
            start, end = (int(bound, 16) for bound in area.split("-"))
            if start <= reached < end and access.startswith("rw"):
                reached = end
            if reached >= address + size:
                return
    raise _wrong(f"buffer_ptr: {address:#x} and {size} bytes are not writable host memory")


def _check_numbers(address: int, size: int) -> None:
    for name, number in (("buffer_ptr", address), ("size", size)):
        if not isinstance(number, int):
            raise TypeError(f"{name}: must be an int, not {type(number).__name__}")


def _wrong(message: str) -> InvalidArgumentError:
    return InvalidArgumentError(message, code="INVALID_ARGUMENT")
