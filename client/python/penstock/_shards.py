"""Reads boxes of sharded tensors: each byte once, straight to where it belongs.

A tensor of a snapshot lies in one or more *shards*, boxes of it; who reads wants a box again, of any other layout. Any thread;
no state. Errors: those of ``store.get``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Iterator

import numpy as np

from penstock.box import Box

if TYPE_CHECKING:
    from penstock.store import Store

Numbers = tuple[int, ...]


@dataclass(frozen=True)
class Shard:
    name: str  # of the tensor that holds it
    offset: Numbers
    extent: Numbers


@dataclass(frozen=True)
class Sharded:
    """A tensor, and where its shards lie; none if it is empty."""

    key: str
    dtype: str
    shape: Numbers
    shards: tuple[Shard, ...]

    @property
    def whole(self) -> bool:
        """Whether one tensor of the store is all of it."""
        return len(self.shards) == 1 and self.shards[0].extent == self.shape


@dataclass(frozen=True)
class Piece:
    """What a box that is read has in common with a shard."""

    shard: Shard
    source: Box  # in the shard
    target: tuple[slice, ...]  # in the box
    complete: bool  # all of the box


def pieces(tensor: Sharded, offset: Numbers, extent: Numbers) -> Iterator[Piece]:
    """The pieces that make the box; together all of it, none twice."""
    if 0 in extent:
        return
    for shard in tensor.shards:
        low = tuple(map(max, shard.offset, offset))
        high = tuple(min(a + n, b + m) for a, n, b, m in zip(shard.offset, shard.extent, offset, extent))
        if any(a >= b for a, b in zip(low, high)):
            continue
        size = tuple(b - a for a, b in zip(low, high))
        source = Box(tuple(a - b for a, b in zip(low, shard.offset)), size)
        target = tuple(slice(a - b, a - b + n) for a, b, n in zip(low, offset, size))
        yield Piece(shard, source, target, size == tuple(extent))


def raw(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The same memory as integers, where NumPy copies of the dtype (bf16, fp8) are slow or unknown."""
    if array.dtype.kind in "biufc":
        return array
    return array.view(f"u{array.dtype.itemsize}")


def read_box(store: Store, tensor: Sharded, offset: Numbers, extent: Numbers, out: np.ndarray[Any, Any]) -> None:
    """Reads a box of the tensor into `out`, of the shape `extent` and the tensor's dtype, or an integer of its size."""
    for piece in pieces(tensor, offset, extent):
        target = out[piece.target] if out.ndim else out
        if target.flags.c_contiguous and target.dtype.name == plain_numpy_name(tensor.dtype):
            store.get(piece.shard.name, box=box_argument(piece), out=target)
            continue
        with store.get(piece.shard.name, box=box_argument(piece)) as view:
            np.copyto(raw(target), raw(view.numpy()).view(raw(target).dtype))


def box_argument(piece: Piece) -> Box | None:
    """What ``store.get`` takes as box for a piece."""
    whole = not any(piece.source.offset) and tuple(piece.source.extent) == piece.shard.extent
    return None if whole else piece.source


_PLAIN = {"bool": "bool", "f16": "float16", "f32": "float32", "f64": "float64", "c64": "complex64", "c128": "complex128"} | {
    f"{short}{bits}": f"{long}{bits}" for short, long in (("i", "int"), ("u", "uint")) for bits in (8, 16, 32, 64)
}


def plain_numpy_name(dtype: str) -> str | None:
    """NumPy's own name of the store's dtype; None for those that NumPy lacks."""
    return _PLAIN.get(dtype)
