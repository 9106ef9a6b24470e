"""LocalClient: the calls of TorchStore over one Penstock store.

What differs from the original: a value is visible on its own once it is there (put_batch is no transaction);
a DTensor is once each process has put its part; errors are those of Penstock, which are also the builtins of the original.

Threading: any event loop and thread; what may wait runs in the threads of `penstock.aio`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from penstock._core import TensorView
from penstock._aio_threads import run
from penstock.box import Box
from penstock.compat import tensors
from penstock.compat.batches import put_all
from penstock.compat.names import Namespace
from penstock.compat.torchstore import values
from penstock.compat.torchstore.transport import TensorSlice
from penstock.errors import Error, InvalidArgumentError, NotFoundError
from penstock.store import Store

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

__all__ = ["LocalClient"]

_PATIENCE = 600.0  # seconds for the other processes of a sharded state dict

_Targets: TypeAlias = "Mapping[str, torch.Tensor | DTensor | None]"


class LocalClient:
    """A store of TorchStore, `store_name`, in the Penstock store that `connect` returns."""

    def __init__(self, connect: Callable[[], Store], store_name: str) -> None:
        self._connect = connect
        self._names = Namespace("torchstore", store_name)
        self._direct: dict[str, dict[str, Any]] = {}  # what put_state_dict(direct_rdma=True) refreshes

    async def put(self, key: str, value: Any) -> None:
        """Stores a tensor or an object under `key`, in place of what was there."""
        await run(self._put, {key: value})

    async def put_batch(self, entries: dict[str, Any]) -> None:
        """Stores several; they become visible one after the other."""
        if not isinstance(entries, dict):
            raise TypeError(f"entries: must be a dict, not {type(entries).__name__}")
        if not entries:
            raise _wrong("entries: is empty; allowed are dicts with at least one key")
        await run(self._put, entries)

    async def get(
        self,
        key: str,
        inplace_tensor: torch.Tensor | DTensor | None = None,
        tensor_slice_spec: TensorSlice | None = None,
    ) -> Any:
        """The value of `key`, a new one; or what it was read into.

        inplace_tensor: is filled and returned: of the shape of what is read, of any dtype and device; of a
        DTensor, this process's part. tensor_slice_spec: reads this part of the tensor.
        Raises KeyError if there is none.
        """
        return await run(self._get, key, inplace_tensor, tensor_slice_spec)

    async def get_batch(self, keys: list[str] | _Targets) -> dict[str, Any]:
        """The values of several keys, in their order; a dict gives tensors to read into, or None.

        Nothing is read into anything when one of them is missing or does not fit. Raises KeyError.
        """
        if not isinstance(keys, (list, dict)):
            raise TypeError(f"keys: must be a list or a dict, not {type(keys).__name__}")
        if not keys:
            raise _wrong("keys: is empty; allowed are lists and dicts with at least one key")
        if len(set(keys)) != len(keys):
            raise _wrong("keys: has a key twice; allowed are different ones")
        return await run(self._get_batch, keys if isinstance(keys, dict) else dict.fromkeys(keys))

    async def keys(self, prefix: str | None = None) -> list[str]:
        """All keys, sorted; with `prefix` those that are it, or go on after it with a dot."""
        return await run(self._keys, prefix)

    async def exists(self, key: str) -> bool:
        """Whether there is a value."""
        return await run(lambda: self._connect().exists(self._names.name(key)))

    async def delete(self, key: str) -> None:
        """Removes a key. Raises KeyError if there is none."""
        await run(self._delete, key)

    async def delete_batch(self, keys: list[str]) -> None:
        """Removes keys; those that are missing do not matter."""
        if not isinstance(keys, list):
            raise TypeError(f"keys: must be a list, not {type(keys).__name__}")
        await run(self._delete_batch, keys)

    def _put(self, entries: dict[str, Any]) -> dict[str, int]:
        """Returns the names that are not whole yet, and the versions that they will have at least."""
        items, shards, pending = [], [], {}
        for key, value in entries.items():
            name, metadata = self._names.name(key), self._names.metadata(key)
            if values.is_sharded(value):
                pending[name] = 1
                for local, offset in values.shards(value, f"value of {key!r}"):
                    shards.append((name, local, tuple(value.shape), offset, metadata))
                continue
            array, kind = values.encode(value, f"value of {key!r}")
            items.append((name, array, kind | metadata))
        store = self._connect()
        for result in put_all(store, items):
            if isinstance(result, Error):
                raise result
        for name, *_ in shards:  # none is whole before this process has put its part
            pending[name] = _version(store, name) + 1
        for name, local, shape, offset, metadata in shards:
            if store.put_shard(name, local, global_shape=shape, offset=offset, metadata=metadata or None):
                del pending[name]
        return pending

    def _put_all(self, entries: dict[str, Any]) -> None:
        """Returns when the parts of all processes are there."""
        end = time.monotonic() + _PATIENCE
        for name, version in self._put(entries).items():
            self._connect().wait(name, version, timeout=max(end - time.monotonic(), 0))

    def _get(self, key: str, target: Any, spec: TensorSlice | None) -> Any:
        name = self._names.name(key)
        if target is None and spec is None:
            return values.decode(self._found(key, lambda store: store.get(name)), f"key {key!r}")
        part = values.slice_of(target, spec)
        info = self._found(key, lambda store: store.stat(name))
        _check_is_tensor(info.metadata, key)
        box = None if part is None else Box(part.offsets, part.local_shape)
        if target is None:
            return tensors.own_tensor(self._found(key, lambda store: store.get(name, box)))
        local = values.local_part(target, info.shape, part)
        if tensors.takes_bytes(local, info.dtype):
            # Of another host they come straight into it.
            self._found(key, lambda store: store.get(name, box, out=local))
            torch.autograd.graph.increment_version(local)
        else:
            tensors.fill(local, self._found(key, lambda store: store.get(name, box)))
        return target

    def _get_batch(self, targets: _Targets) -> dict[str, Any]:
        names = {self._names.name(key): key for key in targets}
        views: dict[str, TensorView] = {}
        for name, view in self._connect().get_many(names, errors="return").items():
            if isinstance(view, Error):
                raise _missing(names[name]) if isinstance(view, NotFoundError) else view
            views[names[name]] = view
        results: dict[str, Any] = {}
        fills = []
        for key, target in targets.items():
            if target is None:
                results[key] = values.decode(views[key], f"key {key!r}")
                continue
            _check_is_tensor(views[key].metadata, key)
            part = values.slice_of(target, None)
            local = values.local_part(target, views[key].shape, part)
            fills.append(
                (local, views[key] if part is None else views[key][Box(part.offsets, part.local_shape)])
            )
            results[key] = target
        for local, view in fills:
            tensors.fill(local, view)
        return results

    def _keys(self, prefix: str | None) -> list[str]:
        if prefix is not None and not isinstance(prefix, str):
            raise TypeError(f"prefix: must be a str or None, not {type(prefix).__name__}")
        names = self._names.beginning(prefix or "")
        keys = [self._names.key(info) for info in self._connect().list(names)]
        if prefix is not None:  # the original's keys are paths whose parts end with dots
            keys = [key for key in keys if key == prefix or key.startswith(prefix + ".")]
        return sorted(keys)

    def _delete(self, key: str) -> None:
        if not self._connect().delete(self._names.name(key)):
            raise _missing(key)

    def _delete_batch(self, keys: list[str]) -> None:
        store = self._connect()
        for name in [self._names.name(key) for key in keys]:
            store.delete(name)

    def _found(self, key: str, call: Callable[[Store], Any]) -> Any:
        try:
            return call(self._connect())
        except NotFoundError:
            raise _missing(key) from None

    def _delete_all(self) -> None:
        self._connect().delete_prefix(self._names.prefix)

    def _remembered(self, key: str, state_dict: dict[str, Any] | None) -> dict[str, Any]:
        """What put_state_dict(direct_rdma=True) stores; it may be left out from the second time on."""
        if state_dict is not None:
            self._direct[key] = state_dict
        elif key not in self._direct:
            raise _wrong(f"state_dict: is None, but none was put as {key!r} yet; the first call must give it")
        return self._direct[key]


def _version(store: Store, name: str) -> int:
    try:
        return store.stat(name).version
    except NotFoundError:
        return 0


def _check_is_tensor(metadata: dict[str, str], key: str) -> None:
    if values.is_object(metadata):
        raise _wrong(
            f"inplace_tensor or tensor_slice_spec: was given, but {key!r} holds an object; allowed is neither"
        )


def _missing(key: str) -> NotFoundError:
    return NotFoundError(f"key: there is no {key!r} in the store", code="NOT_FOUND", name=key, hint="")


def _wrong(message: str) -> InvalidArgumentError:
    return InvalidArgumentError(message, code="INVALID_ARGUMENT")
