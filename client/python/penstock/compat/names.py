"""Keys of other stores as names of tensors, one to one, and back.

A key may be any text; a name is a path without empty or dotted parts and control characters, of at most 512
bytes. What a name cannot hold is written as %XX, byte by byte, and so is `%`; nearly all keys stay as they
are. A key that gets too long keeps its beginning, followed by `%~` and the SHA-256 of the whole, and travels
in the tensor's metadata, so that keys can be listed.

Threading: any thread. Errors: TypeError of what is no str, InvalidArgumentError of keys above 8 KiB.
"""

from __future__ import annotations

import hashlib
import re
from urllib.parse import unquote_to_bytes

from penstock._core import TensorInfo
from penstock.errors import InvalidArgumentError

__all__ = ["Namespace", "escape", "unescape"]

_NAME_BYTES = 512  # proto/names.h
_KEY_BYTES = 8192  # half of what metadata may hold
_NAMESPACE_BYTES = 128
_EMPTY = "%"  # an escape has two digits, so nothing else looks like this,
_HASH_MARK = "%~"  # or like this
_HASH_BYTES = len(_HASH_MARK) + 64
_KEY = "compat.key"  # metadata of a tensor whose name is shortened: the key

# Control characters (C0, DEL, C1), what UTF-8 cannot hold, and the escape itself.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff%]")


def escape(key: str) -> str:
    """The path of a key, of any length; different keys have different paths."""
    return _join(key.split("/")) or _EMPTY


def unescape(path: str) -> str:
    """The key that `escape` made this path of."""
    if path == _EMPTY:
        return ""
    return unquote_to_bytes(path).decode("utf-8", "surrogatepass")


class Namespace:
    """The names under ``part/part/``, which hold the keys of one store of others."""

    def __init__(self, *parts: str) -> None:
        for part in parts:
            if not isinstance(part, str):
                raise TypeError(f"name of the store: must be a str, not {type(part).__name__}")
        self.prefix = "".join(escape(part).replace("/", "%2F") + "/" for part in parts)
        if len(self.prefix.encode()) > _NAMESPACE_BYTES:
            raise InvalidArgumentError(
                f"name of the store: {self.prefix!r} has more than {_NAMESPACE_BYTES} bytes; shorten it",
                code="INVALID_ARGUMENT",
            )
        self._path_bytes = _NAME_BYTES - len(self.prefix.encode())

    def name(self, key: str) -> str:
        """The tensor's name."""
        path = self._path(key)
        if len(path.encode()) <= self._path_bytes:
            return self.prefix + path
        digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
        return self.prefix + self._shorten(path) + _HASH_MARK + digest

    def metadata(self, key: str) -> dict[str, str]:
        """What must be among the tensor's metadata: nothing, or the key that the name is too short for."""
        if len(self._path(key).encode()) <= self._path_bytes:
            return {}
        return {_KEY: escape(key)}  # metadata is UTF-8, too

    def key(self, info: TensorInfo) -> str:
        """The key of a tensor."""
        path = info.name[len(self.prefix) :]
        return unescape(info.metadata[_KEY] if _HASH_MARK in path else path)

    def beginning(self, key_start: str) -> str:
        """How the names of all keys begin that begin with `key_start`; those of some others, too."""
        parts = key_start.split("/")
        if parts[-1] in ("", ".", ".."):  # how it is written depends on what follows
            parts.pop()
        return self.prefix + self._shorten(_join(parts))

    def _path(self, key: str) -> str:
        if not isinstance(key, str):
            raise TypeError(f"key: must be a str, not {type(key).__name__}")
        path = escape(key)
        if len(path.encode()) > _KEY_BYTES:
            raise InvalidArgumentError(
                f"key: {key[:40]!r}... has {len(path.encode())} bytes when escaped; at most {_KEY_BYTES} are "
                "allowed",
                code="INVALID_ARGUMENT",
            )
        return path

    def _shorten(self, path: str) -> str:
        return path.encode()[: self._path_bytes - _HASH_BYTES].decode("utf-8", "ignore")


def _join(parts: list[str]) -> str:
    """The parts with slashes between them, which are escaped where they would have nothing at one side."""
    path = "".join(
        ("/" if before and part else "%2F") + _escape_part(part) for before, part in zip(["", *parts], parts)
    )
    return path.removeprefix("%2F")  # there is none before the first part


def _escape_part(part: str) -> str:
    if part in (".", ".."):
        return "%2E" * len(part)
    return _UNSAFE.sub(_percent, part)


def _percent(character: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in character[0].encode("utf-8", "surrogatepass"))
