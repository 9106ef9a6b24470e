"""The names of ``safetensors.numpy``, over the store: NumPy arrays in, read-only NumPy arrays out."""

from __future__ import annotations

from typing import Any

from penstock import safetensors as _all
from penstock.safetensors._save import save, save_file
from penstock.safetensors._source import Path

__all__ = ["load", "load_file", "save", "save_file"]


def load_file(filename: Path, *, backend: str = "mmap", **options: Any) -> dict[str, Any]:
    """As penstock.safetensors.load_file with framework="np"; options as there."""
    return _all.load_file(filename, backend=backend, framework="np", **options)


def load(data: bytes) -> dict[str, Any]:
    """As penstock.safetensors.load with framework="np"."""
    return _all.load(data, framework="np")
