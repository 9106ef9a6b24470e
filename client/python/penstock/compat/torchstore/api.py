"""The functions of TorchStore's module, over the store of this host. See the package's docstring."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from penstock._aio_threads import run
from penstock.compat.torchstore import connection, state_dicts
from penstock.compat.torchstore.client import LocalClient
from penstock.compat.torchstore.strategy import TorchStoreStrategy
from penstock.compat.torchstore.transport import TensorSlice
from penstock.errors import InvalidArgumentError

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

__all__ = [
    "client",
    "delete",
    "delete_batch",
    "exists",
    "get",
    "get_batch",
    "get_state_dict",
    "initialize",
    "initialize_spmd",
    "keys",
    "put",
    "put_batch",
    "put_state_dict",
    "reset_client",
    "shutdown",
]

DEFAULT_TORCHSTORE_NAME = "torchstore"

_clients: dict[str, LocalClient] = {}


async def initialize(
    num_storage_volumes: int = 1,
    strategy: TorchStoreStrategy | None = None,
    store_name: str = DEFAULT_TORCHSTORE_NAME,
    mesh: Any = None,
    relay_meshes: Sequence[Any] | None = None,
) -> None:
    """Connects to the store, or starts one for this program if there is none and no $PENSTOCK_ADDRESS.

    num_storage_volumes, strategy, mesh: change nothing; the nodes of the store are its volumes. What an
    earlier program left under `store_name` is still there. relay_meshes: are refused.
    Raises RuntimeError, as the original, of several volumes without a strategy, UnavailableError.
    """
    if relay_meshes is not None:
        raise InvalidArgumentError(
            "relay_meshes: routing is not offered; allowed is None: readers fetch once a host by themselves",
            code="INVALID_ARGUMENT",
        )
    if num_storage_volumes != 1 and strategy is None:
        raise RuntimeError(f"strategy: is None with {num_storage_volumes} volumes; give one, or one volume")
    if strategy is not None and not isinstance(strategy, TorchStoreStrategy):
        raise TypeError(f"strategy: must be a TorchStoreStrategy, not {type(strategy).__name__}")
    await run(connection.store_or_node)
    await client(store_name)


async def initialize_spmd(
    strategy: TorchStoreStrategy | None = None,
    store_name: str = DEFAULT_TORCHSTORE_NAME,
    **options: Any,
) -> None:
    """As `initialize`, called by every rank of a torchrun job. `options` of the original change nothing.

    Never starts a store: the ranks would have one each. Raises UnavailableError.
    """
    if strategy is not None and not isinstance(strategy, TorchStoreStrategy):
        raise TypeError(f"strategy: must be a TorchStoreStrategy, not {type(strategy).__name__}")
    await run(connection.store)
    await client(store_name)


async def shutdown(store_name: str = DEFAULT_TORCHSTORE_NAME) -> None:
    """Deletes what is in `store_name`; a store that `initialize` started ends with the last one."""
    await run((await client(store_name))._delete_all)
    reset_client(store_name)
    if not _clients:
        await run(connection.close)


def reset_client(store_name: str = DEFAULT_TORCHSTORE_NAME) -> None:
    """Forgets the client of a store; the next call makes a new one."""
    _clients.pop(store_name, None)


async def client(
    store_name: str = DEFAULT_TORCHSTORE_NAME, *, role: Any = None, group: int | None = None
) -> LocalClient:
    """The client of a store, the same each time. role, group: of routing, are refused."""
    if role is not None or group is not None:
        raise InvalidArgumentError(
            "role, group: routing is not offered; allowed is None", code="INVALID_ARGUMENT"
        )
    if store_name not in _clients:
        _clients[store_name] = LocalClient(connection.store, store_name)
    return _clients[store_name]


async def put(key: str, value: torch.Tensor | Any, store_name: str = DEFAULT_TORCHSTORE_NAME) -> None:
    """Stores a tensor or an object under `key`, in place of what was there.

    Objects: see `allow_pickle`. Of a DTensor each process puts its part under the same key; it is there once all
    have, and until then ConflictError is raised for a part that is put again.
    """
    await (await client(store_name)).put(key, value)


async def put_batch(
    entries: dict[str, torch.Tensor | Any], store_name: str = DEFAULT_TORCHSTORE_NAME
) -> None:
    """Stores several; they become visible one after the other."""
    await (await client(store_name)).put_batch(entries)


async def get(
    key: str,
    inplace_tensor: torch.Tensor | DTensor | None = None,
    tensor_slice_spec: TensorSlice | None = None,
    store_name: str = DEFAULT_TORCHSTORE_NAME,
) -> torch.Tensor | Any:
    """The value of `key`, in memory of its own, or `inplace_tensor`, which it was read into.

    inplace_tensor: of the shape of what is read, any dtype and device; of a DTensor, the part of this process
    is read. tensor_slice_spec: the part to read. Raises KeyError if there is none, ValueError if it does not
    fit.
    """
    return await (await client(store_name)).get(key, inplace_tensor, tensor_slice_spec)


async def get_batch(
    keys: list[str] | dict[str, torch.Tensor | DTensor | None], store_name: str = DEFAULT_TORCHSTORE_NAME
) -> dict[str, Any]:
    """The values of several keys, in their order; a dict gives tensors to read into, or None.

    Raises KeyError if one is missing; nothing was read into anything then.
    """
    return await (await client(store_name)).get_batch(keys)


async def delete(key: str, *, store_name: str = DEFAULT_TORCHSTORE_NAME) -> None:
    """Removes a key. Raises KeyError if there is none."""
    await (await client(store_name)).delete(key)


async def delete_batch(keys: list[str], *, store_name: str = DEFAULT_TORCHSTORE_NAME) -> None:
    """Removes keys; those that are missing do not matter."""
    await (await client(store_name)).delete_batch(keys)


async def keys(prefix: str | None = None, *, store_name: str = DEFAULT_TORCHSTORE_NAME) -> list[str]:
    """All keys, sorted; with `prefix` those that are it, or go on after it with a dot, as in the original."""
    return await (await client(store_name)).keys(prefix)


async def exists(key: str, store_name: str = DEFAULT_TORCHSTORE_NAME) -> bool:
    """Whether there is a value."""
    return await (await client(store_name)).exists(key)


async def put_state_dict(
    state_dict: dict[str, Any] | None,
    key: str,
    store_name: str = DEFAULT_TORCHSTORE_NAME,
    direct_rdma: bool = False,
    transfer_dtype: torch.dtype | None = None,
) -> None:
    """Stores a state dict, nested or not, under ``key/...``; readers see it when it is whole.

    With DTensors all ranks must call it; each waits for the others' parts, at most 10 minutes (DeadlineError).

    transfer_dtype: floating-point tensors are stored so. direct_rdma: `state_dict` may be None from the
    second call on, and what the first gave is stored as it is now; the bytes go into the store in any case.
    """
    store = await client(store_name)
    await state_dicts.put_state_dict(store, state_dict, key, direct_rdma, transfer_dtype)


async def get_state_dict(
    key: str,
    user_state_dict: dict[str, Any] | None = None,
    strict: bool = True,
    store_name: str = DEFAULT_TORCHSTORE_NAME,
    direct_rdma: bool = False,
) -> dict[str, Any]:
    """A state dict. Tensors of `user_state_dict` are read into and returned; of DTensors, the part here.

    strict: `user_state_dict` must have the paths that are stored, or StateDictMismatchError is raised (a
    ValueError and an AssertionError). direct_rdma: reads the tensors of `user_state_dict` only. Raises
    RuntimeError if none was put.
    """
    store = await client(store_name)
    return await state_dicts.get_state_dict(store, key, user_state_dict, strict, direct_rdma)
