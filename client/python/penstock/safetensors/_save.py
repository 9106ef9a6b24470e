"""Writing: tensors of any framework, or views of a store, into safetensors files."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

from penstock import _core
from penstock._core import TensorView
from penstock._progress import Progress
from penstock.errors import InvalidArgumentError, NotFoundError
from penstock.safetensors._frameworks import contiguous_array
from penstock.safetensors._source import Path, SafetensorError

__all__ = ["save", "save_file", "save_sharded"]

_UNITS: dict[str, int] = {"": 1} | {
    f"{letter}{ending}": base ** (power + 1)
    for power, letter in enumerate("KMGT")
    for ending, base in (("B", 1000), ("iB", 1024))
}
_INDEX = "model.safetensors.index.json"
_SHARD = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors")


def save(tensors: Mapping[str, Any], metadata: Mapping[str, str] | None = None) -> bytes:
    """The bytes of a safetensors file of these tensors; arguments and errors as save_file()."""
    with _as_file_errors():
        return _core.safetensors_bytes(_ready(tensors), _text(metadata))


def save_file(
    tensors: Mapping[str, Any],
    filename: Path,
    metadata: Mapping[str, str] | None = None,
    *,
    progress: bool | None = None,
) -> None:
    """Writes a safetensors file, byte for byte as the safetensors package does; it appears whole or not at all.

    tensors: by name: torch tensors (of any device; dense and contiguous, no two over one memory), NumPy
    arrays (of any order), TensorViews. Do not change them meanwhile. metadata: text by text, in the order of
    its keys. progress: None = a bar if standard error is a terminal and it takes more than a second.
    Raises ValueError for what is no tensor, sparse or not contiguous; RuntimeError for torch tensors that
    share memory; SafetensorError for what the format cannot hold (complex128); OSError.
    """
    ready = _ready(tensors)
    with _as_file_errors():
        _write(ready, filename, _text(metadata), progress)


def save_sharded(
    tensors: Mapping[str, Any],
    directory: Path,
    *,
    max_shard_size: int | str = "5GB",
    metadata: Mapping[str, str] | None = None,
    progress: bool | None = None,
) -> None:
    """Writes a directory as Hugging Face's are: model-00001-of-0000N.safetensors and an index, or one file.

    max_shard_size: bytes, or a text as "5GB" or "512MiB"; a larger tensor has a file of its own. The tensors
    are taken in their order. Shards of an earlier save that the new one has not are deleted, after the index
    was replaced. Other arguments and errors as save_file().
    """
    limit = _size(max_shard_size)
    shards = _split(_ready(tensors), limit)
    directory = os.fsdecode(directory)
    os.makedirs(directory, exist_ok=True)
    names = ["model.safetensors"]
    if len(shards) > 1:
        names = [f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
    with _as_file_errors():
        for name, shard in zip(names, shards):
            _write(shard, os.path.join(directory, name), _text(metadata), progress)
    index = os.path.join(directory, _INDEX)
    if len(shards) > 1:
        _write_index(index, names, shards)
    else:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(index)
    for old in os.listdir(directory):
        if _SHARD.fullmatch(old) and old not in names:
            os.unlink(os.path.join(directory, old))


_Pairs = list[tuple[str, Any]]


def _write(tensors: _Pairs, filename: Path, metadata: dict[str, str] | None, progress: bool | None) -> None:
    path = os.fsdecode(filename)
    with Progress(os.path.basename(path), sum(_nbytes(t) for _, t in tensors), progress) as bar:
        _core.write_safetensors(path, tensors, metadata, bar.advance)


def _write_index(path: str, names: list[str], shards: list[_Pairs]) -> None:
    total = sum(_nbytes(tensor) for shard in shards for _, tensor in shard)
    places = {name: file for file, shard in zip(names, shards) for name, _ in shard}
    index = {"metadata": {"total_size": total}, "weight_map": places}
    text = json.dumps(index, indent=2, sort_keys=True) + "\n"
    with tempfile.NamedTemporaryFile("w", dir=os.path.dirname(path), delete=False) as file:
        try:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
            os.chmod(file.name, 0o666 & ~_umask())
            os.rename(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _split(tensors: _Pairs, limit: int) -> list[_Pairs]:
    """In their order; what is larger than the limit stands alone."""
    shards: list[_Pairs] = []
    current: _Pairs = []
    size = 0
    for name, tensor in tensors:
        nbytes = _nbytes(tensor)
        if nbytes > limit:
            shards.append([(name, tensor)])
            continue
        if current and size + nbytes > limit:
            shards.append(current)
            current, size = [], 0
        current.append((name, tensor))
        size += nbytes
    if current or not shards:
        shards.append(current)
    return shards


def _size(size: int | str) -> int:
    if isinstance(size, bool) or not isinstance(size, (int, str)):
        raise TypeError(f"max_shard_size: must be int or str, not {type(size).__name__}")
    match = re.fullmatch(r"(\d+) *([A-Za-z]*)", str(size))
    unit = match[2].upper().replace("IB", "iB") if match else ""
    if match is None or unit not in _UNITS or int(match[1]) == 0:
        raise InvalidArgumentError(
            f"max_shard_size: is {size!r}; allowed are bytes above 0, or a text as '5GB' or '512MiB'",
            code="INVALID_ARGUMENT",
        )
    return int(match[1]) * _UNITS[unit]


def _nbytes(tensor: Any) -> int:
    nbytes: int = tensor.nbytes
    return nbytes


def _text(metadata: Mapping[str, str] | None) -> dict[str, str] | None:
    if metadata is not None and not isinstance(metadata, Mapping):
        raise TypeError(f"metadata: must be a dict of str to str, not {type(metadata).__name__}")
    return None if metadata is None else dict(metadata)


@contextlib.contextmanager
def _as_file_errors() -> Iterator[None]:
    try:
        yield
    except NotFoundError as error:  # of a directory, not of a tensor
        raise FileNotFoundError(str(error.args[0])) from None
    except InvalidArgumentError as error:
        raise SafetensorError(str(error), code="INVALID_ARGUMENT", hint=error.hint) from None


def _ready(tensors: Mapping[str, Any]) -> _Pairs:
    """Each tensor in CPU memory, contiguous."""
    if not isinstance(tensors, Mapping):
        raise ValueError(f"tensors: must be a dict of name to tensor, not {type(tensors).__name__}")
    ready: _Pairs = []
    torches: dict[str, Any] = {}
    for name, tensor in tensors.items():
        if not isinstance(name, str):
            raise TypeError(f"name: must be str, not {type(name).__name__}")
        if _is_torch(tensor):
            _check_layout(name, tensor)
            torches[name] = tensor
            ready.append((name, tensor.detach().cpu()))
        else:
            ready.append((name, _plain(name, tensor)))
    _check_sharing(torches)
    return ready


def _plain(name: str, tensor: Any) -> Any:
    if isinstance(tensor, TensorView):
        return tensor
    if not hasattr(tensor, "dtype") or not hasattr(tensor, "nbytes"):
        raise ValueError(
            f"tensors: {name!r} is {type(tensor).__name__}; allowed are torch tensors, NumPy arrays and views"
        )
    return contiguous_array(tensor)


def _is_torch(tensor: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(tensor, torch.Tensor)


def _check_layout(name: str, tensor: Any) -> None:
    if str(tensor.layout) != "torch.strided":
        raise ValueError(f"tensors: {name!r} has layout {tensor.layout}; use tensor.to_dense()")
    if tensor.device.type == "meta":
        raise ValueError(f"tensors: {name!r} lies on device meta: it has no bytes")
    if not tensor.is_contiguous():
        raise ValueError(
            f"tensors: {name!r} is not contiguous; use tensor.contiguous(), or save the whole tensor alone if this "
            "is a part of another one"
        )


def _check_sharing(tensors: dict[str, Any]) -> None:
    """Overlapping tensors would be written twice and be two when they are loaded."""
    spans = sorted(
        (str(t.device), t.data_ptr(), t.data_ptr() + t.nbytes, name)
        for name, t in tensors.items()
        if t.nbytes
    )
    for (device, _, end, first), (other, begin, _, second) in zip(spans, spans[1:]):
        if device == other and begin < end:
            raise RuntimeError(
                f"tensors: {first!r} and {second!r} share memory: they would be written twice, and be two tensors "
                "when they are loaded; save one of them, or use save_model()"
            )
