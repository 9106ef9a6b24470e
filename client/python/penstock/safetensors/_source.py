"""A safetensors file whose tensors live in a store: imported by the first process, mapped by all."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from penstock import _core
from penstock._progress import Progress
from penstock.errors import Error, InvalidArgumentError, NotFoundError, StoreFullError

if TYPE_CHECKING:
    from penstock._core import TensorView
    from penstock.store import Store

__all__ = ["FileSource", "Path", "SafetensorError", "open_file", "parse_bytes"]

Path: TypeAlias = str | bytes | os.PathLike[str] | os.PathLike[bytes]

_IDENTITY = "file.identity"  # metadata of each tensor: which file it came from
_FILE_METADATA = "safetensors."  # prefix of the file's own metadata, as `penstock export` reads it
_METADATA_BYTES = 12 << 10  # of the file's own metadata kept beside a tensor; the store takes 16 KiB
_BATCH_BYTES = 4 << 20
_BATCH_TENSORS = 256
_THREADS = 4
_TRIES = 8  # against evictions and other processes that replace what was found


class SafetensorError(InvalidArgumentError):
    """A file is no sound safetensors file, lacks a tensor, or was asked for in a way that it cannot."""


class Entry(NamedTuple):
    """One tensor of a file."""

    position: int  # in the file
    name: str
    dtype: str  # as the file has it: "F32"
    shape: list[int]  # as the file has it: F4 counts single values
    nbytes: int
    file: int  # which one of a directory's


def _unsound(error: InvalidArgumentError) -> SafetensorError:
    return SafetensorError(str(error), code="INVALID_ARGUMENT", hint=error.hint)


def parse_bytes(data: bytes) -> _core.TensorFile:
    """The tensors of a file's bytes. Raises SafetensorError."""
    if not isinstance(data, bytes):
        raise TypeError(f"data: must be bytes, not {type(data).__name__}")
    try:
        return _core.TensorFile.parse(data)
    except InvalidArgumentError as error:
        raise _unsound(error) from None


def open_file(filename: Path) -> _core.TensorFile:
    """A file, or a directory of them, mapped. Raises OSError, SafetensorError."""
    path = os.path.abspath(os.fsdecode(filename))  # whatever the working directory is later
    os.stat(path)  # FileNotFoundError and the like as Python users know them
    try:
        return _core.TensorFile(path)
    except NotFoundError as error:  # a directory without such files
        raise FileNotFoundError(str(error.args[0])) from None
    except InvalidArgumentError as error:
        raise _unsound(error) from None


def _usual_prefix(path: str, identities: list[str]) -> str:
    stem = os.path.basename(os.path.realpath(path)).removesuffix(".safetensors")
    readable = re.sub(r"[^\w.-]", "_", stem, flags=re.ASCII)[:64] or "file"
    digest = hashlib.sha256("\n".join(identities).encode()).hexdigest()
    return f"safetensors/{readable}-{digest[:16]}"


class FileSource:
    """The tensors of one file as views of a store.

    Each tensor is stored under ``prefix/name`` and marked, as `penstock import` does it, with the identity of
    its file: path, size, time of change, inode. One that is marked otherwise (the file was changed, another
    file had the prefix) is replaced, never shown. Import is single-flight among the processes of the host.
    Any thread.
    """

    def __init__(
        self, filename: Path, store: Store, prefix: str | None, keep: bool, ttl: float | None
    ) -> None:
        self._file = open_file(filename)
        self._identities = self._file.identities()
        self._store = store
        self._keep = keep
        self._ttl = ttl
        if prefix is not None and not isinstance(prefix, str):
            raise TypeError(f"prefix: must be str or None, not {type(prefix).__name__}")
        path = os.fsdecode(filename)
        chosen = _usual_prefix(path, self._identities) if prefix is None else prefix.strip("/")
        self.prefix = chosen + "/" if chosen else ""
        self._marker = f"{chosen}.safetensors"
        self._path = os.fsencode(path).decode(errors="replace")  # for people
        self.metadata = self._file.metadata()
        self.entries = {e[0]: Entry(i, *e) for i, e in enumerate(self._file.entries())}

    def view(self, name: str) -> TensorView:
        """One tensor; imports it if the store lacks it. KeyError for names that the file lacks."""
        entry = self.entries[name]
        full = self.prefix + name

        def put() -> None:
            self._put([entry])
            self._check_unchanged([entry])

        for _ in range(_TRIES):
            try:
                view = self._store.get_or_create(full, put)
            except NotFoundError:  # evicted at once
                continue
            if self._is_mine(view, entry):
                return view
            self._drop(view)
        raise self._evicted([entry])

    def views(self, progress: bool | None) -> dict[str, TensorView]:
        """All tensors, in the order of the file; imports what the store lacks."""
        found: dict[str, TensorView] = {}
        for _ in range(_TRIES):
            missing = self._find(found)
            if not missing:
                return {name: found[name] for name in self.entries}
            self._import_once(found, progress)
        raise self._evicted(missing)

    def _import_once(self, found: dict[str, TensorView], progress: bool | None) -> None:
        """Imports what is missing, unless another process does: then waits for its end."""

        def import_missing() -> None:
            self._import(self._find(found), found, progress)
            self._store.put(self._marker, b"", keep=self._keep, ttl=self._ttl)

        try:
            marker = self._store.get_or_create(self._marker, import_missing)
        except NotFoundError:
            return
        if self._find(found):  # it is of an earlier import
            self._drop(marker)

    def _find(self, found: dict[str, TensorView]) -> list[Entry]:
        """Adds what the store has of this file to `found`; returns what it lacks."""
        names = [name for name in self.entries if name not in found]
        views = self._store.get_many([self.prefix + name for name in names], errors="return")
        for name in names:
            view = views[self.prefix + name]
            if isinstance(view, NotFoundError):
                continue
            if isinstance(view, Error):
                raise view
            if self._is_mine(view, self.entries[name]):
                found[name] = view
        return [entry for name, entry in self.entries.items() if name not in found]

    def _import(self, missing: list[Entry], found: dict[str, TensorView], progress: bool | None) -> None:
        total = sum(entry.nbytes for entry in missing)
        what = os.path.basename(self._path.rstrip("/"))
        with Progress(what, total, progress) as bar, ThreadPoolExecutor(_THREADS) as threads:
            for done in threads.map(self._put, _batches(missing)):
                names = [self.prefix + entry.name for entry in done]
                views = self._store.get_many(names, errors="return")
                for entry, name in zip(done, names):
                    view = views[name]
                    if not isinstance(view, Error) and self._is_mine(view, entry):
                        found[entry.name] = view  # pinned, so that it is not evicted by what follows
                bar.advance(sum(entry.nbytes for entry in done))
        self._check_unchanged(missing)

    def _check_unchanged(self, imported: list[Entry]) -> None:
        """Takes what was imported back if the file is no longer what was opened."""
        if self._file.unchanged():
            return
        for entry in imported:
            self._store.delete(self.prefix + entry.name)
        raise SafetensorError(f"{self._path}: was changed while it was read; load it again")

    def _put(self, entries: list[Entry]) -> list[Entry]:
        mark = {_IDENTITY: self._identities[entries[0].file]}
        kept = self._kept_metadata() if entries[0].position == 0 else {}
        if kept:
            self._put_marked(entries[:1], mark | kept)
        self._put_marked(entries[1:] if kept else entries, mark)
        return entries

    def _put_marked(self, entries: list[Entry], metadata: dict[str, str]) -> None:
        names = [self.prefix + entry.name for entry in entries]
        indices = [entry.position for entry in entries]
        results = self._file.put(
            self._store, indices, names, keep=self._keep, ttl=self._ttl, metadata=metadata
        )
        for result in results:
            if isinstance(result, Error):
                raise result

    def _kept_metadata(self) -> dict[str, str]:
        """The file's own metadata, kept with its first tensor so that an export gives it back."""
        kept = {_FILE_METADATA + key: value for key, value in (self.metadata or {}).items()}
        size = sum(len(key.encode()) + len(value.encode()) for key, value in kept.items())
        return kept if size <= _METADATA_BYTES else {}

    def _is_mine(self, view: TensorView, entry: Entry) -> bool:
        return view.metadata.get(_IDENTITY) == self._identities[entry.file]

    def _drop(self, view: TensorView) -> None:
        self._store.delete(view.name, version=view.version)

    def _evicted(self, entries: Iterable[Entry]) -> StoreFullError:
        total = sum(entry.nbytes for entry in entries)
        return StoreFullError(
            f"{self._path}: {total} bytes of it were evicted as fast as they were imported",
            code="RESOURCE_EXHAUSTED",
        )


def _batches(entries: list[Entry]) -> Iterator[list[Entry]]:
    """Neighbours in one file, so that it is read from front to back."""
    batch: list[Entry] = []
    size = 0
    for entry in entries:
        full = size + entry.nbytes > _BATCH_BYTES or len(batch) == _BATCH_TENSORS
        if batch and (full or entry.file != batch[0].file):
            yield batch
            batch, size = [], 0
        batch.append(entry)
        size += entry.nbytes
    if batch:
        yield batch
