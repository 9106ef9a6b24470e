"""A part of a tensor, as offset and extent per dimension."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Box"]


@dataclass(frozen=True)
class Box:
    """The elements ``offset[i] <= index[i] < offset[i] + extent[i]`` of every dimension ``i``.

    One number per dimension of the tensor. ``box.slices()`` is the same as a NumPy index.
    """

    offset: tuple[int, ...]
    extent: tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "offset", tuple(self.offset))
        object.__setattr__(self, "extent", tuple(self.extent))
        if len(self.offset) != len(self.extent):
            raise ValueError(
                f"box: offset has {len(self.offset)} numbers, extent {len(self.extent)}; "
                "both need one per dimension"
            )

    def slices(self) -> tuple[slice, ...]:
        """The same part as a tuple of slices."""
        return tuple(slice(o, o + e) for o, e in zip(self.offset, self.extent))
