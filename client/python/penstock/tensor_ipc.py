"""Arrays by name between processes of one host, with less to know than a store: create, attach, done.

    with tensor_ipc.create_shared_tensor("weights", array) as shared: ...      # in one process
    with tensor_ipc.attach_shared_tensor("weights", shape=(3, 4)) as shared:   # in others
        shared.array                                                           # no copy

A shared tensor is a tensor of the store, read-only for everybody, that goes when its creator closes it
or drops it; who has attached keeps what he sees. With ``writable=True`` it is a region instead: all may
change it, under ``shared.reading()`` and ``shared.writing()``, and it goes with the last who has it open.
"""

from __future__ import annotations

import json
import os
import weakref
from types import TracebackType
from typing import Any

import numpy as np

from penstock import _core
from penstock.errors import AlreadyExistsError, InvalidArgumentError, NotFoundError, UnavailableError
from penstock.store import Store, connect

__all__ = ["SharedTensor", "attach_shared_tensor", "create_shared_tensor"]

_HEAD = 4096  # bytes of a region before its elements: dtype and shape as JSON, as long as one page


def create_shared_tensor(
    name: str, array: Any, *, writable: bool = False, address: str | None = None, timeout: float = 5.0
) -> SharedTensor:
    """Shares a copy of `array` (anything that Store.put takes) under `name`.

    writable: a region that all may change, instead of a read-only tensor. address: as
    ``penstock.connect``. The tensor goes with ``close()``, the end of the block or of this process (a
    process that is killed leaves a read-only one behind: ``store.delete(name)``). Raises
    AlreadyExistsError when the name is taken; nothing was changed then.
    """
    store = connect(address, timeout=timeout, label="tensor_ipc")
    try:
        if writable:
            return _create_region(store, name, array)
        info = store.put(name, array, if_absent=True)
        return SharedTensor(store, name, store.get(name, version=info.version), None, info.version)
    except BaseException:
        store.close()
        raise


def attach_shared_tensor(
    name: str,
    shape: int | tuple[int, ...] | None = None,
    dtype: Any = None,
    *,
    writable: bool = False,
    address: str | None = None,
    timeout: float = 5.0,
) -> SharedTensor:
    """The tensor that another process shares as `name`, without a copy.

    shape, dtype: checked if given. writable: it was created so. Raises NotFoundError when there is none
    and InvalidArgumentError when it is another one than was asked for.
    """
    store = connect(address, timeout=timeout, label="tensor_ipc")
    try:
        if writable:
            shared = _attach_region(store, name)
        else:
            shared = SharedTensor(store, name, store.get(name), None, None)
        _check(shared, shape, dtype)
        return shared
    except BaseException:
        store.close()
        raise


class SharedTensor:
    """An array that processes share; ``.array`` is it. A context manager: closes at its end."""

    def __init__(
        self,
        store: Store,
        name: str,
        view: _core.TensorView | None,
        region: _core.Region | None,
        version: int | None,
        layout: tuple[str, tuple[int, ...]] | None = None,
    ) -> None:
        self.name = name
        self._store, self._view, self._region = store, view, region
        if view is not None:
            self._layout = view.dtype, view.shape
        else:
            assert layout is not None
            self._layout = layout
        # Not __del__: this also runs at the end of the program, while the store can still be asked.
        self._finalizer = weakref.finalize(self, _end, store, name, view, region, version, os.getpid())

    @property
    def dtype(self) -> str:
        """Element type by Penstock's name."""
        return self._layout[0]

    @property
    def shape(self) -> tuple[int, ...]:
        """Elements per dimension."""
        return self._layout[1]

    @property
    def writable(self) -> bool:
        """Whether processes may change it, under its lock."""
        return self._region is not None

    @property
    def closed(self) -> bool:
        """Whether close() was called."""
        return not self._finalizer.alive

    @property
    def array(self) -> np.ndarray[Any, np.dtype[Any]]:
        """It as a numpy.ndarray over the shared memory; read-only unless `writable`."""
        if self.closed:
            raise UnavailableError(f"shared tensor {self.name!r}: it was closed", hint="")
        if self._view is not None:
            return self._view.numpy()
        assert self._region is not None
        return self._region.numpy(*self._layout, offset=_HEAD)

    def reading(self, timeout: float | None = None) -> _core.RegionHold:
        """Holds a writable one together with other readers; see Region.reading."""
        return self._locked("reading").reading(timeout)

    def writing(self, timeout: float | None = None) -> _core.RegionHold:
        """Holds a writable one alone; see Region.writing."""
        return self._locked("writing").writing(timeout)

    def close(self) -> None:
        """Ends the use of it here; its creator also takes a read-only one out of the store. Idempotent.

        Arrays that were made from it stay good.
        """
        self._finalizer()

    def __enter__(self) -> SharedTensor:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, np.dtype[Any]]:
        if copy:
            return np.array(self.array, dtype=dtype, copy=True)
        return np.asarray(self.array, dtype=dtype)

    def __repr__(self) -> str:
        kind = "writable" if self.writable else "read-only"
        return f"SharedTensor(name={self.name!r}, dtype={self.dtype!r}, shape={self.shape}, {kind})"

    def _locked(self, what: str) -> _core.Region:
        if self._region is None:
            raise InvalidArgumentError(
                f"{what}: the shared tensor {self.name!r} is read-only and needs no lock; "
                "create and attach it with writable=True"
            )
        return self._region


def _end(
    store: Store,
    name: str,
    view: _core.TensorView | None,
    region: _core.Region | None,
    version: int | None,
    owner: int,
) -> None:
    if region is not None:
        region.close()
    if view is not None:
        view.release()
    if version is not None and os.getpid() == owner:  # a forked child did not create it
        try:
            store.delete(name, version)
        except (NotFoundError, UnavailableError):
            pass  # deleted before, or the store is gone
    store.close()


def _create_region(store: Store, name: str, array: Any) -> SharedTensor:
    source = np.asarray(array)
    layout = _core.dtype_name(source.dtype), source.shape
    region = store.region(name, _HEAD + max(source.nbytes, 1), exclusive=True)
    # Attaching waits for this hold, or finds the head empty: the memory is all zero at first.
    with region.writing():
        shared = SharedTensor(store, name, None, region, None, layout)
        shared.array[...] = source
        head = json.dumps(layout).encode()
        region.numpy()[: len(head)] = np.frombuffer(head, np.uint8)
    return shared


def _attach_region(store: Store, name: str) -> SharedTensor:
    region = store.region(name)
    with region.reading():
        head = region.numpy()[: min(_HEAD, region.nbytes)].tobytes().rstrip(b"\0")
    try:
        dtype, shape = json.loads(head)
        layout = _core.dtype_name(dtype), tuple(int(n) for n in shape)
        region.numpy(*layout, offset=_HEAD)
    except (ValueError, TypeError) as error:
        region.close()
        if not head:
            raise NotFoundError(f"shared tensor {name!r}: it is being created", name=name) from None
        raise InvalidArgumentError(f"name: the region {name!r} is no shared tensor") from error
    return SharedTensor(store, name, None, region, None, layout)


def _check(shared: SharedTensor, shape: int | tuple[int, ...] | None, dtype: Any) -> None:
    wanted = (shape,) if isinstance(shape, int) else shape
    problem = ""
    if wanted is not None and tuple(wanted) != shared.shape:
        problem = f"shape: is {tuple(wanted)}, but the shared tensor {shared.name!r} has {shared.shape}"
    elif dtype is not None and _core.dtype_name(dtype) != shared.dtype:
        problem = (
            f"dtype: is {_core.dtype_name(dtype)}, but the shared tensor {shared.name!r} has {shared.dtype}"
        )
    if problem:
        shared.close()
        raise InvalidArgumentError(problem)
