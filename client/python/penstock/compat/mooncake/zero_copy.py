"""Mooncake's calls over registered memory: the bytes go between the store's memory and the caller's, once.

Addresses are those of host memory that `register_buffer` was told; others are refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from penstock._core import TensorView
from penstock.compat.mooncake.codes import ErrorCode, mismatch, report, returns_code
from penstock.compat.mooncake.config import ReplicateConfig
from penstock.compat.mooncake.memory import array_at, copy_to
from penstock.compat.mooncake.session import BYTES, KIND, Session
from penstock.errors import Error, InvalidArgumentError

__all__ = ["ZeroCopyCalls"]


class ZeroCopyCalls(Session):
    """The part of MooncakeDistributedStore that takes addresses."""

    @returns_code
    def register_buffer(self, buffer_ptr: int, size: int) -> int:
        """Host memory for the calls below; it must stay mapped until it is unregistered."""
        self._buffers.add(self._store, buffer_ptr, size)
        return int(ErrorCode.OK)

    @returns_code
    def unregister_buffer(self, buffer_ptr: int) -> int:
        """Ends it; by the address that was registered."""
        self._buffers.remove(buffer_ptr)
        return int(ErrorCode.OK)

    def put_from(self, key: str, buffer_ptr: int, size: int, config: ReplicateConfig | None = None) -> int:
        """Stores the bytes at an address; as put."""
        return self.batch_put_from([key], [buffer_ptr], [size], config)[0]

    def upsert_from(self, key: str, buffer_ptr: int, size: int, config: ReplicateConfig | None = None) -> int:
        """Stores the bytes at an address; as upsert."""
        return self.batch_upsert_from([key], [buffer_ptr], [size], config)[0]

    @returns_code
    def put_from_with_metadata(
        self,
        key: str,
        buffer_ptr: int,
        metadata_buffer_ptr: int,
        size: int,
        metadata_size: int,
        config: ReplicateConfig | None = None,
    ) -> int:
        """Stores the bytes at the second address and then those at the first, as one object."""
        if not size:
            return int(ErrorCode.OK)
        parts = self._arrays([metadata_buffer_ptr, buffer_ptr], [metadata_size, size])
        return self._put_parts(key, parts, config, replace=False)

    def batch_put_from(
        self,
        keys: list[str],
        buffer_ptrs: list[int],
        sizes: list[int],
        config: ReplicateConfig | None = None,
    ) -> list[int]:
        """Stores several; a code each."""
        return self._put_from("put_from", keys, buffer_ptrs, sizes, config, replace=False)

    def batch_upsert_from(
        self,
        keys: list[str],
        buffer_ptrs: list[int],
        sizes: list[int],
        config: ReplicateConfig | None = None,
    ) -> list[int]:
        """Stores several in place of what is there; a code each."""
        return self._put_from("upsert_from", keys, buffer_ptrs, sizes, config, replace=True)

    def batch_put_from_multi_buffers(
        self,
        keys: list[str],
        all_buffer_ptrs: list[list[int]],
        all_sizes: list[list[int]],
        config: ReplicateConfig | None = None,
    ) -> list[int]:
        """Stores objects of several pieces; a code each."""
        if code := mismatch("batch_put_from_multi_buffers", keys, all_buffer_ptrs, all_sizes):
            return [code] * len(keys)
        return [self._put_pieces(*item, config) for item in zip(keys, all_buffer_ptrs, all_sizes)]

    @returns_code
    def get_into(self, key: str, buffer_ptr: int, size: int) -> int:
        """Reads an object to an address: how many bytes, or a negative code; -600 if it has more than `size`.

        Of another host, an object that put() stored comes straight there.
        """
        self._buffers.check(buffer_ptr, size)
        name = self._names.name(key)
        view = self._store._get_if_warm(name)
        if view is None:
            info = self._store.stat(name)
            _check_room(info.nbytes, size)
            if info.dtype == "u8" and len(info.shape) == 1:
                self._store.get(name, out=array_at(buffer_ptr, info.nbytes))
                return info.nbytes
            view = self._store.get(name)
        return _scatter(view, [buffer_ptr], [size])

    def batch_get_into(self, keys: list[str], buffer_ptrs: list[int], sizes: list[int]) -> list[int]:
        """Reads several; how many bytes each, or a negative code."""
        if code := mismatch("batch_get_into", keys, buffer_ptrs, sizes):
            return [code] * len(keys)
        return self._get_into(
            "batch_get_into", keys, [[ptr] for ptr in buffer_ptrs], [[size] for size in sizes]
        )

    def batch_get_into_multi_buffers(
        self,
        keys: list[str],
        all_buffer_ptrs: list[list[int]],
        all_sizes: list[list[int]],
        prefer_alloc_in_same_node: bool = False,
    ) -> list[int]:
        """Reads objects, each into several buffers in turn; how many bytes, or a negative code."""
        if code := mismatch("batch_get_into_multi_buffers", keys, all_buffer_ptrs, all_sizes):
            return [code] * len(keys)
        return self._get_into("batch_get_into_multi_buffers", keys, all_buffer_ptrs, all_sizes)

    def _put_from(
        self, call: str, keys: list[str], ptrs: list[int], sizes: list[int], config: Any, replace: bool
    ) -> list[int]:
        if code := mismatch(call, keys, ptrs, sizes):
            return [code] * len(keys)
        codes: dict[int, int] = {}
        items = []
        for i, (key, ptr, size) in enumerate(zip(keys, ptrs, sizes)):
            try:
                items.append((i, (key, self._arrays([ptr], [size])[0], {KIND: BYTES})))
            except Error as error:
                codes[i] = report(call, error)
        done = self._put_all(call, [item for _, item in items], config, replace)
        codes.update((i, code) for (i, _), code in zip(items, done))
        return [codes[i] for i in range(len(keys))]

    @returns_code
    def _put_pieces(self, key: str, ptrs: list[int], sizes: list[int], config: Any) -> int:
        return self._put_parts(key, self._arrays(ptrs, sizes), config, replace=False)

    def _arrays(self, ptrs: Sequence[int], sizes: Sequence[int]) -> list[Any]:
        """The bytes at registered addresses."""
        if len(ptrs) != len(sizes):
            raise _wrong(f"sizes: are {len(sizes)} for {len(ptrs)} buffers; must be as many")
        for ptr, size in zip(ptrs, sizes):
            self._buffers.check(ptr, size)
        return [array_at(ptr, size) for ptr, size in zip(ptrs, sizes)]

    def _get_into(
        self, call: str, keys: list[str], all_ptrs: list[list[int]], all_sizes: list[list[int]]
    ) -> list[int]:
        # One call for all that is not here yet: the node copies it to this host, as for any reader.
        views = self._views(call, keys)
        return [self._into(view, ptrs, sizes) for view, ptrs, sizes in zip(views, all_ptrs, all_sizes)]

    @returns_code
    def _into(self, view: TensorView | int, ptrs: list[int], sizes: list[int]) -> int:
        if isinstance(view, int):
            return view
        self._arrays(ptrs, sizes)
        return _scatter(view, ptrs, sizes)


def _scatter(view: TensorView, ptrs: Sequence[int], sizes: Sequence[int]) -> int:
    """Fills the buffers one after the other with the bytes of a view; how many they are."""
    _check_room(view.nbytes, sum(sizes))
    for ptr, size, offset in _pieces(view.nbytes, ptrs, sizes):
        copy_to(ptr, view, offset, size)
    return view.nbytes


def _pieces(nbytes: int, ptrs: Sequence[int], sizes: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    offset = 0
    for ptr, room in zip(ptrs, sizes):
        size = min(room, nbytes - offset)
        yield ptr, size, offset
        offset += size


def _check_room(nbytes: int, room: int) -> None:
    if nbytes > room:
        raise _wrong(f"size: there is room for {room} bytes, but the object has {nbytes}")


def _wrong(message: str) -> InvalidArgumentError:
    return InvalidArgumentError(message, code="INVALID_ARGUMENT")
