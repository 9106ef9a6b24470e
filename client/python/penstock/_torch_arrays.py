"""torch tensors as arrays that the store reads and fills, DTensors included. Any thread; no state."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from penstock.errors import InvalidArgumentError

Numbers = tuple[int, ...]


def array_over(tensor: Any) -> np.ndarray[Any, Any]:
    """A NumPy array over the memory of a CPU tensor; of integers, where NumPy lacks the dtype."""
    import torch

    tensor = tensor.detach()
    try:
        return tensor.numpy()  # type: ignore[no-any-return]
    except TypeError:
        sizes = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
        return tensor.view(sizes[tensor.element_size()]).numpy()  # type: ignore[no-any-return]


def entry(path: str) -> str:
    """What errors about an entry of a state dict begin with."""
    return f"state_dict: entry {path!r}"


def check_tensor(tensor: Any, where: str) -> None:
    """InvalidArgumentError: it has no values that could be stored. where: what errors begin with."""
    if tensor.device.type == "meta":
        raise InvalidArgumentError(
            f"{where} is on the meta device and has no values; allowed are tensors with memory", code="INVALID_ARGUMENT"
        )
    if str(tensor.layout) != "torch.strided":
        raise InvalidArgumentError(
            f"{where} has layout {tensor.layout}; allowed are strided tensors: use tensor.to_dense()", code="INVALID_ARGUMENT"
        )


def for_put(tensor: Any, where: str) -> Any:
    """What put() takes for a tensor of a state dict; one that lies on a device is copied to the host."""
    check_tensor(tensor, where)
    tensor = tensor.detach()
    return tensor if tensor.device.type == "cpu" else tensor.cpu()


@dataclass(frozen=True)
class LocalBox:
    """A part of this rank's shard that is one box of the whole."""

    local: tuple[slice, ...]  # in the shard
    offset: Numbers  # in the whole
    extent: Numbers


@dataclass(frozen=True)
class LocalShard:
    """What this rank has of a DTensor."""

    tensor: Any  # local torch tensor
    shape: Numbers  # of the whole
    boxes: tuple[LocalBox, ...]
    first_owner: bool  # of the ranks that have the same (Replicate), the one that stores it


def local_shard(dtensor: Any, where: str) -> LocalShard:
    """Shard and _StridedShard, even or not, in any order; Replicate.

    The indices of each dimension are split as torch splits the tensor itself (placement._split_tensor on arange), so an interleaved
    layout (FSDP2 over tensor parallelism) gives as many boxes as it has runs. InvalidArgumentError: Partial, which has no values to store yet.
    """
    import torch
    from torch.distributed.tensor import Replicate

    mesh = dtensor.device_mesh
    coordinate = mesh.get_coordinate()
    local = dtensor._local_tensor
    if coordinate is None:
        return LocalShard(local, tuple(dtensor.shape), (), False)
    indices = [torch.arange(n) for n in dtensor.shape]
    first_owner = True
    for at, (placement, rank) in enumerate(zip(dtensor.placements, coordinate)):
        if placement.is_partial():
            raise InvalidArgumentError(
                f"{where} is a DTensor with a Partial placement; allowed are Shard and Replicate: redistribute it first",
                code="INVALID_ARGUMENT",
            )
        if isinstance(placement, Replicate):
            first_owner = first_owner and rank == 0
            continue
        dim = placement.dim % dtensor.ndim
        factor = getattr(placement, "split_factor", None)
        one = type(placement)(0) if factor is None else type(placement)(0, split_factor=factor)
        indices[dim] = one._split_tensor(indices[dim], mesh.size(at), with_padding=False)[0][rank]
    if tuple(len(one) for one in indices) != tuple(local.shape):
        raise InvalidArgumentError(
            f"{where}: its placements {dtensor.placements} do not explain the local shape {tuple(local.shape)}", code="INVALID_ARGUMENT"
        )
    boxes = tuple(
        LocalBox(tuple(slice(a, a + n) for a, _, n in runs), tuple(b for _, b, _ in runs), tuple(n for _, _, n in runs))
        for runs in product(*(_runs(one.numpy()) for one in indices))
    )
    return LocalShard(local, tuple(dtensor.shape), boxes, first_owner)


def _runs(indices: np.ndarray[Any, Any]) -> list[tuple[int, int, int]]:
    """(position, first index, length) of each run of growing indices."""
    if not len(indices):
        return []
    starts = [0, *(np.flatnonzero(np.diff(indices) != 1) + 1).tolist()]
    ends = [*starts[1:], len(indices)]
    return [(a, int(indices[a]), b - a) for a, b in zip(starts, ends)]
