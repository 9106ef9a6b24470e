"""Pieces of KV caches in a store, for inference engines: whatever the store does, the engine goes on.

    cache = KVCache("lmcache", model="meta-llama/Llama-3-8B", layout={"dtype": "bf16", "chunk": 256})
    cache.put([(key, array), ...])          # -> [True, ...]
    cache.longest_prefix(keys)              # leading keys that are there
    cache.read_into(keys, arrays)           # -> [True, ...]; bytes go straight into the caller's arrays

One prefix holds what one model left behind in one layout: `root/MODEL/FINGERPRINT/KEY`, so engines with unlike layouts never read
each other's bytes. Pieces are of class cache (``keep=False``): the store evicts the coldest when it needs room. A key that is put again
is replaced; who reads the older bytes keeps them.

Errors: wrong arguments raise when the cache is made. After that a store that is away, full, or slow is a miss and one log line
(logger ``penstock.kv_cache``), until it answers again; nothing raises. A store that is away is asked once a second, not in each call.
Threads: any. Forked children connect by themselves, as a Store does.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from penstock._core import TensorInfo, TensorView
from penstock.errors import (
    DeadlineError,
    Error,
    InvalidArgumentError,
    NotFoundError,
    UnavailableError,
)

if TYPE_CHECKING:
    from penstock.store import Store

__all__ = ["KVCache", "escape", "fingerprint", "unescape"]

_T = TypeVar("_T")
_LOG = logging.getLogger(__name__)

RETRY_SECONDS = 1.0  # a store that is away is asked this often
_NAME_BYTES = 512  # the longest name of a tensor
_PLAIN = re.compile(r"[^A-Za-z0-9_.@~=,:+-]")
_DIGEST = "%%"  # begins the names of keys that are too long; no escaped key has it


def escape(key: str) -> str:
    """`key` as one part of a tensor's name, no two keys alike: what is not plain becomes %XX, as in URLs."""
    if key in ("", ".", ".."):
        return key.replace(".", "%2E") or "%"
    return _PLAIN.sub(_percent, key)


def unescape(part: str) -> str | None:
    """The key of an escaped part; None if it had been too long and only its digest is there."""
    if part.startswith(_DIGEST):
        return None
    if part == "%":
        return ""
    raw = re.sub(rb"%([0-9A-F]{2})", lambda match: bytes.fromhex(match[1].decode()), part.encode())
    return raw.decode("utf-8", "surrogatepass")


def fingerprint(facts: Mapping[str, Any]) -> str:
    """16 hexadecimal digits that stand for `facts`: values that JSON knows, others by their str()."""
    text = json.dumps(facts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class KVCache:
    """The pieces under one prefix. Close it, or leave it to the end of the process."""

    def __init__(
        self,
        root: str,
        *,
        model: str | None = None,
        layout: Mapping[str, Any] | None = None,
        address: str | None = None,
        timeout: float = 2.0,
        ttl: float | None = None,
        label: str | None = None,
    ) -> None:
        """root: first part of the names. model, layout: further parts, escaped and as a fingerprint.

        address, label: as in penstock.connect(). timeout: seconds that a call may take. ttl: seconds that a piece lives; None = until
        it is evicted. Does not connect: the first call does.
        """
        if not isinstance(root, str):
            raise TypeError(f"root: must be a str, not {type(root).__name__}")
        parts = [root]
        if model is not None:
            parts.append(escape(model))
        if layout is not None:
            parts.append(fingerprint(layout))
        self.prefix = "/".join(parts) + "/"
        self._room = _NAME_BYTES - len(self.prefix.encode())  # for the last part of a name
        _check(root, self.prefix, timeout)
        self._connection: dict[str, Any] = {"address": address, "timeout": timeout, "label": label}
        self._ttl = ttl
        self._store: Store | None = None
        self._closed = False
        self._lock = threading.Lock()
        self._silent_until = 0.0  # time.monotonic()
        self._complaints: set[str] = set()

    def name(self, key: str) -> str:
        """The tensor's name of a key."""
        part = escape(key)
        if len(part) > self._room:
            part = _DIGEST + hashlib.sha256(part.encode()).hexdigest()
        return self.prefix + part

    def put(self, items: Iterable[tuple[str, Any]], metadata: dict[str, str] | None = None) -> list[bool]:
        """Stores arrays, one call for all; whether each is there now."""
        named = [(self.name(key), array) for key, array in items]
        if not named:
            return []

        def call(store: Store) -> list[Any] | None:
            return store.put_many(named, errors="return", keep=False, ttl=self._ttl, metadata=metadata)

        results = self._ask("put", call, None)
        if results is None:
            return [False] * len(named)
        self._judge("put", results)
        return [not isinstance(r, Error) for r in results]

    def views(self, keys: Sequence[str]) -> list[TensorView | None]:
        """The pieces as they lie in the store, without a copy on this host; None for each that is missing."""
        names = [self.name(key) for key in keys]
        if not names:
            return []

        def call(store: Store) -> dict[str, Any] | None:
            return store.get_many(names, errors="return")

        found = self._ask("get", call, None)
        if found is None:
            return [None] * len(names)
        self._judge("get", list(found.values()))
        return [v if isinstance(v := found[name], TensorView) else None for name in names]

    def read_into(self, keys: Sequence[str], arrays: Sequence[Any]) -> list[bool]:
        """Copies pieces into arrays of the caller: writable, contiguous, of as many bytes. Whether each was there."""
        views = self.views(keys)
        read = [v is not None and self.copy(v, array) for v, array in zip(views, arrays, strict=True)]
        for view in views:
            if view is not None:
                view.release()
        return read

    def copy(self, view: TensorView, array: Any) -> bool:
        """The bytes of a view into a writable buffer of as many; a piece of another size is a miss.

        array: contiguous, or a NumPy array of u8 with any strides, which is filled in the order of its indices.
        """
        strided = isinstance(array, np.ndarray) and array.dtype == np.uint8
        target = array if strided else np.frombuffer(array, np.uint8)
        if target.nbytes != view.nbytes:
            self._complain("size", f"{view.name} has {view.nbytes} bytes and {target.nbytes} were asked for")
            return False
        np.copyto(target, view.numpy().reshape(-1).view(np.uint8).reshape(target.shape))
        return True

    def longest_prefix(self, keys: Sequence[str]) -> int:
        """How many of the keys, from the first on, are there without a gap. One call."""
        names = [self.name(key) for key in keys]
        return self._ask("lookup", lambda store: store.longest_prefix(names), 0) if names else 0

    def contains(self, keys: Sequence[str]) -> list[bool]:
        """Whether each key is there. One call, and one more for each key after the first gap that is not on this host."""
        names = [self.name(key) for key in keys]

        def call(store: Store) -> list[bool]:
            count = store.longest_prefix(names)
            return (
                [True] * count
                + [False] * (count < len(names))
                + [store.exists(n) for n in names[count + 1 :]]
            )

        return self._ask("lookup", call, [False] * len(names)) if names else []

    def delete(self, keys: Sequence[str]) -> list[bool]:
        """Deletes keys; whether there was one of each."""
        names = [self.name(key) for key in keys]
        deleted: list[bool] = self._ask("delete", lambda store: [store.delete(name) for name in names], [])
        return deleted or [False] * len(names)

    def clear(self) -> int:
        """Deletes all pieces under the prefix; how many."""
        return self._ask("delete", lambda store: store.delete_prefix(self.prefix), 0)

    def keys(self) -> list[str]:
        """All keys that are there, but those that were too long for a name."""
        infos: list[TensorInfo] = self._ask("list", lambda store: list(store.list(self.prefix)), [])
        found = (unescape(info.name[len(self.prefix) :]) for info in infos)
        return [key for key in found if key is not None]

    def answers(self) -> bool:
        """Whether the store is there now."""
        return self._ask("lookup", lambda store: store.longest_prefix([self.prefix + "%"]), -1) >= 0

    def close(self) -> None:
        """Ends the session. What is asked afterwards misses. Idempotent."""
        with self._lock:
            self._closed = True
            store, self._store = self._store, None
        if store is not None:
            store.close()

    def _ask(self, what: str, call: Callable[[Store], _T], miss: _T) -> _T:
        if self._closed or time.monotonic() < self._silent_until:
            return miss
        try:
            answer = call(self._connected())
        except Error as error:
            if not self._closed:
                self._judge(what, [error])
            return miss
        if "away" in self._complaints and not _is_away(
            answer.values() if isinstance(answer, dict) else answer
        ):
            self._complaints.discard("away")
            _LOG.info("%s: the store answers again", self.prefix)
        return answer

    def _connected(self) -> Store:
        from penstock.store import connect

        with self._lock:
            if self._closed:
                raise UnavailableError("the cache is closed", code="UNAVAILABLE")
            if self._store is None:
                self._store = connect(**self._connection)
            return self._store

    def _judge(self, what: str, results: Sequence[Any]) -> None:
        """Says once what went wrong, and once more after it went well. Where only some are away, another node is."""
        errors = [r for r in results if isinstance(r, Error) and not isinstance(r, NotFoundError)]
        if _is_away(results):
            self._silent_until = time.monotonic() + RETRY_SECONDS
            self._complain("away", f"the store is away, all is a miss until it answers again: {errors[0]}")
        elif errors:
            self._complain(what, f"{what} failed, which is a miss: {errors[0]}")
        else:
            self._complaints.discard(what)

    def _complain(self, what: str, text: str) -> None:
        if what not in self._complaints:
            self._complaints.add(what)
            _LOG.warning("%s: %s", self.prefix, text)


def _is_away(results: Any) -> bool:
    """Whether no result of a call came from the store."""
    if not isinstance(results, Iterable):
        return False
    found = list(results)
    return bool(found) and all(isinstance(r, (UnavailableError, DeadlineError)) for r in found)


def _percent(match: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in match[0].encode("utf-8", "surrogatepass"))


def _check(root: str, prefix: str, timeout: float) -> None:
    parts = root.split("/")
    if any(part in ("", ".", "..") for part in parts) or parts[0] == ".penstock" or not root.isprintable():
        raise InvalidArgumentError(
            f"root: {root!r} is no name; allowed are parts with '/' between them", code="INVALID_ARGUMENT"
        )
    if len(prefix.encode()) > _NAME_BYTES - len(_DIGEST) - 64:
        raise InvalidArgumentError(
            f"root: the prefix {prefix[:64]!r}... has {len(prefix.encode())} bytes; allowed are 446: "
            "take a shorter root or model",
            code="INVALID_ARGUMENT",
        )
    if not timeout > 0:
        raise InvalidArgumentError(f"timeout: is {timeout}; allowed is more than 0", code="INVALID_ARGUMENT")
