"""What TorchStore's transports have that programs use: slices of tensors, and the names of the transports."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

__all__ = ["TensorSlice", "TransportType", "is_dtensor", "is_fully_local"]


class TransportType(Enum):
    """Names that strategies take. Penstock finds the way of the bytes: `Store.transports()` tells."""

    Unset = auto()
    MonarchRPC = auto()
    MonarchRDMA = auto()
    TorchComms = auto()
    TorchCommsRDMA = TorchComms
    Gloo = auto()
    SharedMemory = auto()


@dataclass(frozen=True)
class TensorSlice:
    """A box of a tensor: `local_shape` elements from `offsets` on, of a tensor of `global_shape`.

    `coordinates` and `mesh_shape` tell where in a device mesh it belongs; nothing depends on them here.
    """

    offsets: tuple[int, ...]
    coordinates: tuple[int, ...] | None
    global_shape: tuple[int, ...]
    local_shape: tuple[int, ...]
    mesh_shape: tuple[int, ...]

    def __post_init__(self) -> None:
        for field in ("offsets", "coordinates", "global_shape", "local_shape", "mesh_shape"):
            value = getattr(self, field)
            object.__setattr__(self, field, None if value is None else tuple(value))

    @classmethod
    def from_dtensor(cls, dtensor: Any) -> TensorSlice:
        """The part of a DTensor that lies in this process."""
        from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

        mesh = dtensor.device_mesh
        shape, offsets = compute_local_shape_and_global_offset(dtensor.shape, mesh, dtensor.placements)
        return cls(offsets, mesh.get_coordinate(), tuple(dtensor.shape), shape, tuple(mesh.shape))


def is_dtensor(value: Any) -> bool:
    """Whether it is a DTensor, without importing them: that takes a second."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(value, module.DTensor)


def is_fully_local(dtensor: Any) -> bool:
    """Whether this process has the whole of a DTensor: one device, or a replica on each."""
    return dtensor.device_mesh.size() == 1 or all(p.is_replicate() for p in dtensor.placements)
