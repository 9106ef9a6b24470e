"""The reader: tensors of a file one by one, mapped from the store."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import TYPE_CHECKING, Any

from penstock.safetensors._frameworks import Framework, framework_of
from penstock.safetensors._source import Entry, FileSource, Path, SafetensorError

if TYPE_CHECKING:
    from penstock._core import TensorView
    from penstock.store import Store

__all__ = ["SafeSlice", "default_store", "safe_open"]

_lock = threading.Lock()
_default: Store | None = None


def default_store() -> Store:
    """The store of $PENSTOCK_ADDRESS, or of this host: connected to once a process."""
    global _default
    from penstock.store import connect

    with _lock:
        if _default is None or _default.closed:
            _default = connect(label="penstock.safetensors")
        return _default


class SafeSlice:
    """One tensor of an open file, to be indexed: ``slice[:, :8]`` is a tensor of the framework.

    Keeps the tensor's pin while it lives, also after the file was closed.
    """

    def __init__(self, entry: Entry, view: TensorView, framework: Framework) -> None:
        self._entry = entry
        self._view = view
        self._framework = framework

    def get_shape(self) -> list[int]:
        """Elements per dimension, as the file has them."""
        return list(self._entry.shape)

    def get_dtype(self) -> str:
        """The dtype by the format's name, as "F32" or "BF16"."""
        return self._entry.dtype

    def __getitem__(self, index: Any) -> Any:
        """The part, by the framework's own rules of indexing. No copy where those make none."""
        return self._framework.of_view(self._view)[index]


class safe_open:
    """Opens a safetensors file, or a directory of them, as ``safetensors.safe_open`` does.

    Its tensors live in a store: the first process of the host that asks for one imports it, all others
    map it and read nothing. A context manager.

    filename: path. framework: "pt", "torch", "pytorch", "np" or "numpy". device: of torch tensors; "cpu"
    maps, others copy. backend: "mmap" or "pread"; both do the same here.
    store: None = the one of $PENSTOCK_ADDRESS, or of this host. prefix: where the tensors go; None = a
    name made of the file's path, size, time of change and inode, so that each state of a file has its
    own. keep: False lets the store evict them, and they are imported again when they are asked for.
    ttl: seconds until the store drops them; None = never. Both are of what this call imports, not of what it
    finds.
    Raises OSError; SafetensorError for an unsound file, an unknown framework, device or backend;
    UnavailableError without a node; StoreFullError.
    """

    def __init__(
        self,
        filename: Path,
        framework: str,
        device: Any = "cpu",
        *,
        backend: str = "mmap",
        store: Store | None = None,
        prefix: str | None = None,
        keep: bool = False,
        ttl: float | None = None,
    ) -> None:
        self._framework = framework_of(framework, device, backend)
        used = default_store() if store is None else store
        self._source: FileSource | None = FileSource(filename, used, prefix, keep, ttl)

    def keys(self) -> list[str]:
        """Names of the tensors, sorted."""
        return sorted(self._open().entries)

    def offset_keys(self) -> list[str]:
        """Names of the tensors, in the order of the file."""
        return list(self._open().entries)

    def metadata(self) -> dict[str, str] | None:
        """The file's ``__metadata__``; None if it has none."""
        return self._open().metadata

    def get_tensor(self, name: str) -> Any:
        """One tensor. Raises SafetensorError if the file lacks it.

        torch: from 32 KiB up over copy-on-write memory of the store, smaller ones copied. NumPy: a
        read-only array over the store's memory.
        """
        return self._framework.of_view(self._view(name)[1])

    def get_tensors(self, progress: bool | None = False) -> dict[str, Any]:
        """All tensors by name, in the order of the file. progress: as in load_file()."""
        views = self._open().views(progress)
        return {name: self._framework.of_view(view) for name, view in views.items()}

    def get_slice(self, name: str) -> SafeSlice:
        """One tensor, to be indexed. Raises SafetensorError if the file lacks it."""
        return SafeSlice(*self._view(name), self._framework)

    def __enter__(self) -> safe_open:
        self._open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._source = None

    def _open(self) -> FileSource:
        if self._source is None:
            raise SafetensorError("File is closed")
        return self._source

    def _view(self, name: str) -> tuple[Entry, TensorView]:
        source = self._open()
        if name not in source.entries:
            raise SafetensorError(f"File does not contain tensor {name}")
        return source.entries[name], source.view(name)
