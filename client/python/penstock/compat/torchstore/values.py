"""Values of TorchStore as Penstock's tensors, and back: tensors, NumPy arrays, objects.

A tensor is stored as it is, so that every other client of the store sees it; arrays and objects are marked in
the metadata. What is got is memory of the caller's own, filled by one copy straight from the store's.

Threading: any thread; do not change a value while it is put.
Errors:    TypeError of what cannot be stored; InvalidArgumentError of what does not fit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from penstock._core import TensorView
from penstock._torch_arrays import for_put, local_shard
from penstock.compat.tensors import own_tensor
from penstock.compat.torchstore import objects
from penstock.compat.torchstore.transport import TensorSlice, is_dtensor, is_fully_local
from penstock.errors import InvalidArgumentError

__all__ = ["KIND", "decode", "encode", "is_object", "is_sharded", "local_part", "shards", "slice_of"]

KIND = "compat.kind"  # metadata: "ndarray", "json" or "pickle"; tensors have none


def encode(value: Any, field: str) -> tuple[Any, dict[str, str]]:
    """What to put, and its metadata; of DTensors, those that are not sharded."""
    if is_dtensor(value):
        value = _in_this_process(value)
    if isinstance(value, torch.Tensor):
        if value.device.type == "meta":
            raise InvalidArgumentError(
                f"{field}: is on device meta and has no bytes; allowed are tensors with memory",
                code="INVALID_ARGUMENT",
            )
        return value.detach().cpu(), {}
    if type(value) is np.ndarray and value.dtype.kind in "biufc":
        return value, {KIND: "ndarray"}
    data, kind = objects.dumps(value, field)
    return np.frombuffer(data, np.uint8), {KIND: kind}


def is_sharded(value: Any) -> bool:
    """Whether it is a DTensor of which this process has a part, which `shards` gives; others go through `encode`."""
    return is_dtensor(value) and not is_fully_local(value) and 0 not in value.shape


def shards(value: Any, field: str) -> list[tuple[torch.Tensor, tuple[int, ...]]]:
    """The boxes that this process is to put of a sharded DTensor, and their offsets in the whole.

    Of processes that have the same, one puts it; a layout with gaps (strided sharding) gives several boxes.
    """
    shard = local_shard(value, f"{field}:")
    if not shard.first_owner:
        return []
    local = for_put(shard.tensor, f"{field}:")
    return [(local[box.local], box.offset) for box in shard.boxes if 0 not in box.extent]


def is_object(metadata: dict[str, str]) -> bool:
    """Whether what has this metadata is no tensor."""
    return KIND in metadata


def decode(view: TensorView, field: str) -> Any:
    """The value again, of the caller's own."""
    kind = view.metadata.get(KIND)
    if kind is None:
        return own_tensor(view)
    if kind == "ndarray":
        return view.numpy().copy()
    return objects.loads(view.bytes(), kind, field)


def slice_of(target: Any, spec: TensorSlice | None) -> TensorSlice | None:
    """Which part is asked for; None = all of it."""
    if spec is not None and not isinstance(spec, TensorSlice):
        raise TypeError(f"tensor_slice_spec: must be a TensorSlice, not {type(spec).__name__}")
    if not is_dtensor(target):
        return spec
    if spec is not None:
        raise InvalidArgumentError(
            "tensor_slice_spec: was given with a DTensor, which tells its own part; allowed is one of them",
            code="INVALID_ARGUMENT",
        )
    if is_fully_local(target):
        return None
    if any(type(p).__name__ not in ("Shard", "Replicate") for p in target.placements):
        raise InvalidArgumentError(
            f"inplace_tensor: has placements {target.placements}; allowed are Shard and Replicate",
            code="INVALID_ARGUMENT",
        )
    return TensorSlice.from_dtensor(target)


def local_part(target: Any, shape: tuple[int, ...], part: TensorSlice | None) -> torch.Tensor:
    """The memory of this process in `target`, which is to take `part` of a tensor of `shape`.

    Refuses one of another shape than what is read: copying would repeat elements.
    """
    if not isinstance(target, torch.Tensor):
        raise TypeError(f"inplace_tensor: must be a tensor, not {type(target).__name__}")
    local: torch.Tensor = target
    if is_dtensor(target):
        local = _in_this_process(target)
        if tuple(target.shape) != shape:
            raise InvalidArgumentError(
                f"inplace_tensor: is a DTensor of shape {tuple(target.shape)}, but {shape} is stored",
                code="INVALID_ARGUMENT",
            )
    read = shape if part is None else part.local_shape
    if tuple(local.shape) != read:
        raise InvalidArgumentError(
            f"inplace_tensor: has shape {tuple(local.shape)}, but what is read has {read}",
            code="INVALID_ARGUMENT",
        )
    return local


def _in_this_process(dtensor: Any) -> torch.Tensor:
    """The memory itself; with autograd on, it would be the result of an operation."""
    with torch.no_grad():
        local: torch.Tensor = dtensor.to_local()
        return local
