"""Mooncake's reads of parts of objects into registered memory."""

from __future__ import annotations

from collections.abc import Mapping

from penstock._core import TensorView
from penstock.compat.mooncake.codes import mismatch, returns_code
from penstock.compat.mooncake.memory import copy_to
from penstock.compat.mooncake.session import Session
from penstock.errors import InvalidArgumentError

__all__ = ["RangeCalls"]

_CALL = "get_into_ranges"


class RangeCalls(Session):
    """The part of MooncakeDistributedStore for ranges."""

    def get_into_ranges(
        self,
        buffer_ptrs: list[int],
        all_keys: list[list[str]],
        all_dst_offsets: list[list[list[int]]],
        all_src_offsets: list[list[list[int]]],
        all_sizes: list[list[list[int]]],
    ) -> list[list[list[int]]]:
        """Reads ranges: [i][j][k] is the k-th of object j for buffer i; how many bytes, or a negative code.

        Each reads `size` bytes from `src_offset` of the object to `buffer_ptr` + `dst_offset`.
        """
        if code := mismatch(_CALL, buffer_ptrs, all_keys, all_dst_offsets, all_src_offsets, all_sizes):
            return [[[code] for _ in keys] for keys in all_keys]
        names = list(dict.fromkeys(key for keys in all_keys for key in keys))
        views = dict(zip(names, self._views(_CALL, names)))
        plan = zip(buffer_ptrs, all_keys, all_dst_offsets, all_src_offsets, all_sizes)
        return [self._fill_buffer(views, *item) for item in plan]

    def _fill_buffer(
        self,
        views: Mapping[str, TensorView | int],
        buffer: int,
        keys: list[str],
        all_dst: list[list[int]],
        all_src: list[list[int]],
        all_sizes: list[list[int]],
    ) -> list[list[int]]:
        if code := mismatch(_CALL, keys, all_dst, all_src, all_sizes):
            return [[code] for _ in keys]
        results = []
        for key, destinations, sources, sizes in zip(keys, all_dst, all_src, all_sizes):
            view = views[key]
            code = mismatch(_CALL, destinations, sources, sizes) or (view if isinstance(view, int) else 0)
            if isinstance(view, int) or code:
                results.append([code] * len(sizes))
            else:
                results.append([self._read(view, buffer, *r) for r in zip(destinations, sources, sizes)])
        return results

    @returns_code
    def _read(self, view: TensorView, buffer: int, destination: int, source: int, size: int) -> int:
        if min(source, destination, size) < 0 or source + size > view.nbytes:
            raise InvalidArgumentError(
                f"ranges: {size} bytes from {source} to {destination} of an object of {view.nbytes} bytes",
                code="INVALID_ARGUMENT",
            )
        self._buffers.check(buffer, destination + size)
        copy_to(buffer + destination, view, source, size)
        return size
