"""MooncakeDistributedStore, the client of Mooncake's Python module: objects of bytes, and what is there.

Threading: any thread.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from penstock.compat.mooncake.codes import ErrorCode, mismatch, report, returns_code
from penstock.compat.mooncake.config import ReplicateConfig
from penstock.compat.mooncake.memory import BufferHandle
from penstock.compat.mooncake.ranges import RangeCalls
from penstock.compat.mooncake.session import BYTES, KIND
from penstock.compat.mooncake.tensor_calls import TensorCalls
from penstock.compat.mooncake.zero_copy import ZeroCopyCalls
from penstock.errors import Error, InvalidArgumentError

__all__ = ["MooncakeDistributedStore"]


class MooncakeDistributedStore(ZeroCopyCalls, RangeCalls, TensorCalls):
    """A Mooncake client on Penstock; see the package's docstring. Calls return codes: 0, or negative ones."""

    def put(self, key: str, value: Any, config: ReplicateConfig | None = None) -> int:
        """Stores bytes. What is there under `key` stays, which is a success; so is to store no bytes."""
        return self._put_values("put", [key], [value], config, replace=False)[0]

    def put_batch(self, keys: list[str], values: list[Any], config: ReplicateConfig | None = None) -> int:
        """Stores several; 0, or the code of the first that failed."""
        return _first_failure(self._put_values("put_batch", keys, values, config, replace=False))

    @returns_code
    def put_parts(self, key: str, *parts: Any, config: ReplicateConfig | None = None) -> int:
        """Stores one object of several pieces."""
        return self._put_parts(key, [_bytes_of(part) for part in parts], config, replace=False)

    def upsert(self, key: str, value: Any, config: ReplicateConfig | None = None) -> int:
        """Stores bytes in place of what is there."""
        return self._put_values("upsert", [key], [value], config, replace=True)[0]

    def upsert_batch(self, keys: list[str], values: list[Any], config: ReplicateConfig | None = None) -> int:
        """The same of several; 0, or the code of the first that failed."""
        return _first_failure(self._put_values("upsert_batch", keys, values, config, replace=True))

    @returns_code
    def upsert_parts(self, key: str, *parts: Any, config: ReplicateConfig | None = None) -> int:
        """Stores one object of several pieces in place of what is there."""
        return self._put_parts(key, [_bytes_of(part) for part in parts], config, replace=True)

    def get(self, key: str) -> bytes:
        """The bytes of an object or a tensor; none if there is none."""
        return self.get_batch([key])[0]

    def get_batch(self, keys: list[str]) -> list[bytes]:
        """The bytes of several."""
        return [b"" if isinstance(view, int) else view.bytes() for view in self._views("get", keys)]

    def get_buffer(self, key: str) -> BufferHandle | None:
        """The bytes where the store has them, without a copy; None if there is no such object."""
        return self.batch_get_buffer([key])[0]

    def batch_get_buffer(self, keys: list[str]) -> list[BufferHandle | None]:
        """The same of several."""
        views = self._views("get_buffer", keys)
        return [None if isinstance(view, int) else BufferHandle.of(view) for view in views]

    @returns_code
    def get_size(self, key: str) -> int:
        """How many bytes there are, or a negative code."""
        return self._store.stat(self._names.name(key)).nbytes

    @returns_code
    def is_exist(self, key: str) -> int:
        """1 or 0, or a negative code."""
        return int(self._store.exists(self._names.name(key)))

    def batch_is_exist(self, keys: list[str]) -> list[int]:
        """The same of several."""
        mismatch("batch_is_exist", keys)
        return [self.is_exist(key) for key in keys]

    @returns_code
    def remove(self, key: str, force: bool = False) -> int:
        """Removes an object; who reads it now goes on. `force` changes nothing: there are no leases."""
        deleted = self._store.delete(self._names.name(key))
        return int(ErrorCode.OK if deleted else ErrorCode.OBJECT_NOT_FOUND)

    def batch_remove(self, keys: list[str], force: bool = False) -> list[int]:
        """The same of several."""
        mismatch("batch_remove", keys)
        return [self.remove(key) for key in keys]

    @returns_code
    def remove_by_regex(self, regex_pattern: str, force: bool = False) -> int:
        """Removes what has a match of Python's `re` in its key; how many."""
        try:
            pattern = re.compile(regex_pattern)
        except re.error as error:
            raise InvalidArgumentError(
                f"regex_pattern: {regex_pattern!r}: {error}", code="INVALID_ARGUMENT"
            ) from None
        infos = self._store.list(self._names.prefix)
        found = [info.name for info in infos if pattern.search(self._names.key(info))]
        return sum(self._store.delete(name) for name in found)

    @returns_code
    def remove_all(self, force: bool = False) -> int:
        """Removes all objects of this tenant; how many."""
        return self._store.delete_prefix(self._names.prefix)

    def _put_values(
        self, call: str, keys: list[str], values: list[Any], config: ReplicateConfig | None, replace: bool
    ) -> list[int]:
        if code := mismatch(call, keys, values):
            return [code]
        try:
            items = [(key, _bytes_of(value), {KIND: BYTES}) for key, value in zip(keys, values)]
        except Error as error:
            return [report(call, error)]
        return self._put_all(call, items, config, replace)


def _bytes_of(value: Any) -> np.ndarray[Any, np.dtype[np.uint8]]:
    try:
        return np.frombuffer(value, np.uint8)
    except (BufferError, ValueError) as error:
        raise InvalidArgumentError(
            f"value: {error}; allowed are bytes in one piece", code="INVALID_ARGUMENT"
        ) from None
    except TypeError:
        raise TypeError(f"value: must be bytes-like, not {type(value).__name__}") from None


def _first_failure(codes: list[int]) -> int:
    return next((code for code in codes if code), int(ErrorCode.OK))
