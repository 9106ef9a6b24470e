"""A safetensors file as NumPy sees it, read with nothing of ours: the yardstick of the quickstart's readers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

# What NumPy has a type for; the others are compared as bytes.
NUMPY_TYPES = {
    "BOOL": "?", "I8": "i1", "I16": "<i2", "I32": "<i4", "I64": "<i8", "U8": "u1", "U16": "<u2", "U32": "<u4",
    "U64": "<u8", "F16": "<f2", "F32": "<f4", "F64": "<f8", "C64": "<c8",
}


@dataclass(frozen=True)
class Entry:
    name: str
    dtype: str
    shape: tuple[int, ...]
    bytes: np.ndarray  # u8, in the mapped file

    def array(self) -> np.ndarray:
        return self.bytes.view(NUMPY_TYPES[self.dtype]).reshape(self.shape)


def read(path: Path) -> dict[str, Entry]:
    """The tensors by name. mode="c": pages of the file, copied only if somebody wrote to them."""
    raw = np.memmap(path, np.uint8, mode="c").view(np.ndarray)
    length = int.from_bytes(raw[:8].tobytes(), "little")
    header = json.loads(raw[8 : 8 + length].tobytes())
    data = raw[8 + length :]
    entries = {}
    for name, entry in header.items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            entries[name] = Entry(name, entry["dtype"], tuple(entry["shape"]), data[begin:end])
    return entries
