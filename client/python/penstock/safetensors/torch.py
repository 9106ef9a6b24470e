"""The names of ``safetensors.torch``, over the store; models with tied tensors included."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from penstock import safetensors as _all
from penstock.safetensors._save import save, save_file
from penstock.safetensors._source import Path

if TYPE_CHECKING:
    import torch

__all__ = ["load", "load_file", "load_model", "save", "save_file", "save_model"]


def load_file(
    filename: Path, device: Any = "cpu", *, backend: str = "mmap", **options: Any
) -> dict[str, torch.Tensor]:
    """As penstock.safetensors.load_file: torch tensors; options as there."""
    return _all.load_file(filename, device, backend=backend, framework="pt", **options)


def load(data: bytes) -> dict[str, torch.Tensor]:
    """As penstock.safetensors.load: torch tensors of their own memory."""
    return _all.load(data, framework="pt")


def save_model(
    model: torch.nn.Module,
    filename: Path,
    metadata: dict[str, str] | None = None,
    force_contiguous: bool = True,
) -> None:
    """Writes a model's state_dict; of tensors that share memory the one that holds all of it, once.

    metadata: as in save_file; it gets an entry for each name that was left out: the name that stands for
    it. force_contiguous: False = ValueError for tensors in another order. Raises RuntimeError if among
    tensors that share memory none holds all of it, and as save_file.
    """
    tensors = model.state_dict()
    notes = dict(metadata) if metadata is not None else None
    for kept, dropped in _shared_names(tensors).items():
        notes = {} if notes is None else notes
        for name in dropped:
            notes.setdefault(name, kept)
            del tensors[name]
    if force_contiguous:
        tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(tensors, filename, notes)


def load_model(
    model: torch.nn.Module,
    filename: Path,
    strict: bool = True,
    device: Any = "cpu",
    *,
    backend: str = "mmap",
    **options: Any,
) -> tuple[set[str], list[str]]:
    """Loads what save_model wrote into a model; its parameters are copied into, in place.

    Returns the names that are missing and those that were not expected. strict: RuntimeError if there are
    any. Other arguments and errors as load_file.
    """
    tensors = load_file(filename, device, backend=backend, **options)
    shared = _shared_names(model.state_dict(), preferred=set(tensors))
    found = model.load_state_dict(tensors, strict=False)
    missing, unexpected = set(found.missing_keys), list(found.unexpected_keys)
    for dropped in shared.values():
        for name in dropped:
            if name in missing:
                missing.remove(name)
            else:
                unexpected.append(name)
    if strict and (missing or unexpected):
        raise RuntimeError(
            f"load_model: {os.fsdecode(filename)} does not fit {type(model).__name__}: missing are {sorted(missing)}, "
            f"not expected {sorted(unexpected)}"
        )
    return missing, unexpected


def _shared_names(
    tensors: dict[str, torch.Tensor], preferred: set[str] | None = None
) -> dict[str, list[str]]:
    """Of tensors over one memory: the name that is kept -> the others. Kept is the first that covers it."""
    groups: dict[tuple[str, int], list[str]] = {}
    for name, tensor in tensors.items():
        if tensor.device.type != "meta" and tensor.untyped_storage().nbytes():
            key = (str(tensor.device), tensor.untyped_storage().data_ptr())
            groups.setdefault(key, []).append(name)
    shared: dict[str, list[str]] = {}
    for names in groups.values():
        for overlapping in _overlapping(tensors, names):
            whole = sorted(name for name in overlapping if _is_whole(tensors[name]))
            if not whole:
                raise RuntimeError(
                    f"tensors: {sorted(overlapping)} share memory, and none holds all of it: save them apart"
                )
            kept = next((name for name in whole if preferred and name in preferred), whole[0])
            shared[kept] = sorted(name for name in overlapping if name != kept)
    return shared


def _overlapping(tensors: dict[str, torch.Tensor], names: list[str]) -> list[list[str]]:
    """Groups of two and more whose bytes touch."""
    spans = sorted((tensors[n].data_ptr(), tensors[n].data_ptr() + _span(tensors[n]), n) for n in names)
    groups: list[list[str]] = []
    reach = -1
    for begin, end, name in spans:
        if begin < reach:
            groups[-1].append(name)
        else:
            groups.append([name])
        reach = max(reach, end)
    return [group for group in groups if len(group) > 1]


def _span(tensor: torch.Tensor) -> int:
    """Bytes from the first element to the end of the last one."""
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride()))
    return (last + 1) * tensor.element_size() if tensor.numel() else 0


def _is_whole(tensor: torch.Tensor) -> bool:
    storage = tensor.untyped_storage()
    return tensor.data_ptr() == storage.data_ptr() and tensor.nbytes == storage.nbytes()
