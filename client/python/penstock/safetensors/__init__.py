"""Safetensors files whose tensors live in the store: the interface of the safetensors package.

    from penstock.safetensors import load_file, save_file, safe_open

    weights = load_file("model.safetensors")        # or a Hugging Face directory; torch tensors
    with safe_open("model.safetensors", framework="pt") as f:
        part = f.get_slice("wte")[:, :128]

The first process of the host imports a file, every other one maps what is there: N workers that load
one model hold its bytes once. A file that was changed is imported anew. ``penstock.safetensors.torch``
and ``penstock.safetensors.numpy`` have the names of ``safetensors.torch`` and ``safetensors.numpy``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from penstock.safetensors._frameworks import framework_of
from penstock.safetensors._open import SafeSlice, safe_open
from penstock.safetensors._save import save, save_file, save_sharded
from penstock.safetensors._source import Path, SafetensorError, parse_bytes

if TYPE_CHECKING:
    from penstock.store import Store

__all__ = [
    "SafeSlice",
    "SafetensorError",
    "load",
    "load_file",
    "safe_open",
    "save",
    "save_file",
    "save_sharded",
]


def load_file(
    filename: Path,
    device: Any = "cpu",
    *,
    backend: str = "mmap",
    framework: str = "pt",
    store: Store | None = None,
    prefix: str | None = None,
    keep: bool = False,
    ttl: float | None = None,
    progress: bool | None = None,
) -> dict[str, Any]:
    """All tensors of a file, or of a directory of files with or without an index, by name.

    torch tensors lie in copy-on-write memory, below 32 KiB they are copies: an in-place change stays in this
    process, where other torch tensors over the same bytes see it until all of them are gone; clone what you
    train and load twice. NumPy arrays are read-only. Both keep their bytes alive, whatever the store evicts.
    progress: a bar while bytes are imported: None = if standard error is a terminal, tqdm is installed and
    it takes more than a second; True = always; False = never. Other arguments and errors as safe_open.
    """
    with safe_open(
        filename,
        framework,
        device,
        backend=backend,
        store=store,
        prefix=prefix,
        keep=keep,
        ttl=ttl,
    ) as file:
        return file.get_tensors(progress)


def load(data: bytes, *, framework: str = "pt") -> dict[str, Any]:
    """All tensors of a file's bytes, by name: writable copies. No store is used.

    Raises SafetensorError for bytes that are no sound file.
    """
    chosen = framework_of(framework, "cpu", "mmap")
    file = parse_bytes(data)
    return {entry[0]: chosen.of_file(file, i) for i, entry in enumerate(file.entries())}
