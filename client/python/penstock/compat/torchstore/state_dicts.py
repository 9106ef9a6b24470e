"""State dicts of TorchStore: flattened as torch's checkpoints are, one key a tensor.

``put_state_dict(d, "v0")`` stores each leaf of `d` under ``v0/`` and its path, joined by dots, and last, as
the sign that all is there, the paths themselves under ``v0/MAPPING``. Tied tensors are stored once a path, as
the original does; read into tied parameters they stay tied. As in the original, torch makes the keys of inner
dicts text, and who puts over a state dict may be seen half-way.
"""

from __future__ import annotations

import logging
from typing import Any

import torch

from penstock._aio_threads import run
from penstock.compat.torchstore.client import LocalClient
from penstock.errors import InvalidArgumentError, NotFoundError

__all__ = ["StateDictMismatchError", "get_state_dict", "put_state_dict"]

logger = logging.getLogger(__name__)

_MAPPING = "MAPPING"


class StateDictMismatchError(InvalidArgumentError, AssertionError):
    """With strict=True: what is stored has other paths than the caller's. (The original asserts it.)"""


async def put_state_dict(
    store: LocalClient,
    state_dict: dict[str, Any] | None,
    key: str,
    direct_rdma: bool = False,
    transfer_dtype: torch.dtype | None = None,
) -> None:
    """Stores a state dict; as `penstock.compat.torchstore.put_state_dict`."""
    _check_key(key)
    if direct_rdma:
        state_dict = store._remembered(key, state_dict)
    if not isinstance(state_dict, dict):
        raise TypeError(f"state_dict: must be a dict, not {type(state_dict).__name__}")
    if transfer_dtype is not None and not isinstance(transfer_dtype, torch.dtype):
        raise TypeError(f"transfer_dtype: must be a torch.dtype, not {type(transfer_dtype).__name__}")
    flat, mapping = _flatten(state_dict)
    entries = {_path(key, path): _cast(value, transfer_dtype) for path, value in flat.items()}
    await run(store._put_all, entries)
    await store.put(_path(key, _MAPPING), mapping)


async def get_state_dict(
    store: LocalClient,
    key: str,
    user_state_dict: dict[str, Any] | None = None,
    strict: bool = True,
    direct_rdma: bool = False,
) -> dict[str, Any]:
    """Reads a state dict; as `penstock.compat.torchstore.get_state_dict`."""
    _check_key(key)
    if user_state_dict is None and direct_rdma:
        raise InvalidArgumentError(
            "user_state_dict: is needed with direct_rdma, to read into", code="INVALID_ARGUMENT"
        )
    try:
        mapping = await store.get(_path(key, _MAPPING))
    except NotFoundError as error:
        raise RuntimeError(
            f"key: there is no whole state dict {key!r} in the store; put_state_dict of it must have ended"
        ) from error
    targets, paths = ({}, mapping) if user_state_dict is None else _flatten(user_state_dict)
    if direct_rdma:
        tensors = {_path(key, path): t for path, t in targets.items() if isinstance(t, torch.Tensor)}
        if tensors:
            await store.get_batch(tensors)
        return user_state_dict or {}
    if strict and paths != mapping:
        raise StateDictMismatchError(
            f"user_state_dict: {_difference(paths, mapping)}; allowed is one with the paths that are stored, "
            "or strict=False",
            code="INVALID_ARGUMENT",
        )
    if not mapping:
        return {}
    wanted = {_path(key, path): _tensor_or_none(path, targets.get(path)) for path in mapping}
    results = await store.get_batch(wanted)
    return _unflatten({path: results[_path(key, path)] for path in mapping}, mapping)


def _flatten(nested: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The leaves by their paths with dots, and the paths as tuples by those with dots."""
    from torch.distributed.checkpoint._nested_dict import flatten_state_dict

    return flatten_state_dict(nested)


def _unflatten(flat: dict[str, Any], mapping: dict[str, Any]) -> dict[str, Any]:
    from torch.distributed.checkpoint._nested_dict import unflatten_state_dict

    return unflatten_state_dict(flat, mapping)


def _check_key(key: str) -> None:
    if not isinstance(key, str):
        raise TypeError(f"key: must be a str, not {type(key).__name__}")


def _path(key: str, path: str) -> str:
    return f"{key}/{path}"


def _cast(value: Any, dtype: torch.dtype | None) -> Any:
    if dtype is None or not isinstance(value, torch.Tensor) or not value.is_floating_point():
        return value
    return value.detach().to(dtype)


def _tensor_or_none(path: str, target: Any) -> torch.Tensor | None:
    if target is None or isinstance(target, torch.Tensor):
        return target
    logger.debug("%s is no tensor: it is returned, not changed in place", path)
    return None


def _difference(paths: dict[str, Any], mapping: dict[str, Any]) -> str:
    missing = sorted(mapping.keys() - paths.keys())
    more = sorted(paths.keys() - mapping.keys())
    if not missing and not more:
        return "has the same paths with keys of other types"
    return f"lacks {missing[:5]} ({len(missing)} in all) and has {more[:5]} ({len(more)}) besides"
