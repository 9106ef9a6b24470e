"""Objects of TorchStore as bytes: JSON that brings back what was put, or, if it was allowed, pickle.

TorchStore pickles whatever is no tensor. Who reads a pickle runs the code in it, and everybody who reaches a
store can write to it; so objects of plain types are stored as JSON, in which a tuple stays a tuple and the
key 0 stays an integer, and others are refused until `allow_pickle` was called, or $PENSTOCK_ALLOW_PICKLE is
1, where they are put and where they are got.

Threading: any thread. Errors: TypeError of objects that JSON cannot bring back, and of pickles that were not
allowed.
"""

from __future__ import annotations

import base64
import json
import os
import pickle
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch

__all__ = ["allow_pickle", "dumps", "loads"]

_pickle_allowed: bool | None = None

# What JSON lacks is an object with one key that begins so; dicts with such keys are written as pairs.
_TAG = "!"
_PLAIN = (type(None), bool, int, float, str)
_WRITERS: dict[type, Callable[[Any], Any]] = {
    tuple: lambda value: [_to_json(item) for item in value],
    set: lambda value: [_to_json(item) for item in value],
    frozenset: lambda value: [_to_json(item) for item in value],
    dict: lambda value: [[_to_json(key), _to_json(item)] for key, item in value.items()],
    OrderedDict: lambda value: [[_to_json(key), _to_json(item)] for key, item in value.items()],
    bytes: lambda value: base64.b64encode(value).decode(),
    complex: lambda value: [value.real, value.imag],
    torch.Size: list,
    torch.dtype: lambda value: str(value).removeprefix("torch."),
    torch.device: str,
}
_READERS: dict[str, Callable[[Any], Any]] = {
    "tuple": lambda items: tuple(_from_json(item) for item in items),
    "set": lambda items: {_from_json(item) for item in items},
    "frozenset": lambda items: frozenset(_from_json(item) for item in items),
    "dict": lambda items: {_from_json(key): _from_json(item) for key, item in items},
    "OrderedDict": lambda items: OrderedDict((_from_json(key), _from_json(item)) for key, item in items),
    "bytes": base64.b64decode,
    "complex": lambda parts: complex(*parts),
    "Size": torch.Size,
    "dtype": lambda name: _dtype(name),
    "device": torch.device,
}


def allow_pickle(allowed: bool = True) -> None:
    """Whether this process puts and gets pickled objects; else $PENSTOCK_ALLOW_PICKLE tells.

    Getting one runs code that whoever put it has chosen: allow it where all who reach the store are trusted.
    """
    global _pickle_allowed
    _pickle_allowed = allowed


def dumps(value: Any, field: str) -> tuple[bytes, str]:
    """The bytes of an object and their kind, "json" or "pickle". `field` begins a TypeError's message."""
    try:
        return json.dumps(_to_json(value), separators=(",", ":")).encode(), "json"
    except _NoPlainType as error:
        found = error.args[0]
    except RecursionError:
        found = "contains itself, or is nested too deeply"
    if _may_pickle():
        return pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL), "pickle"
    raise TypeError(
        f"{field}: {found}; allowed are tensors, NumPy arrays, and objects of None, bool, int, float, "
        "complex, str, bytes, list, tuple, dict, set and torch.Size, dtype and device: put tensors under "
        "keys of their own, or call allow_pickle() where it is put and got"
    )


def loads(data: bytes, kind: str, field: str) -> Any:
    """The object again."""
    if kind == "json":
        return _from_json(json.loads(data))
    if not _may_pickle():
        raise TypeError(
            f"{field}: holds a pickle, which would run code of whoever put it; allowed are objects of plain "
            "types: call allow_pickle() if all who reach the store are trusted"
        )
    return pickle.loads(data)


class _NoPlainType(Exception):
    """Has what was found."""


def _may_pickle() -> bool:
    if _pickle_allowed is not None:
        return _pickle_allowed
    return os.environ.get("PENSTOCK_ALLOW_PICKLE") == "1"


def _to_json(value: Any) -> Any:
    kind = type(value)  # subclasses would come back as something else
    if kind in _PLAIN:
        return value
    if kind is list:
        return [_to_json(item) for item in value]
    if kind is dict and all(type(key) is str and not key.startswith(_TAG) for key in value):
        return {key: _to_json(item) for key, item in value.items()}
    if kind in _WRITERS:
        return {_TAG + kind.__name__: _WRITERS[kind](value)}
    raise _NoPlainType(f"is or contains a {kind.__name__}")


def _from_json(value: Any) -> Any:
    if isinstance(value, list):
        return [_from_json(item) for item in value]
    if not isinstance(value, dict):
        return value
    for key in value:
        if key.startswith(_TAG):
            return _READERS[key[len(_TAG) :]](value[key])
    return {key: _from_json(item) for key, item in value.items()}


def _dtype(name: str) -> torch.dtype:
    dtype = getattr(torch, name)
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"dtype: {name!r} is none of torch")
    return dtype
