"""A state dict as a list of tensors and a text that says how they make a whole.

The text is JSON: nothing in it is code, and nothing that is loaded runs any (no pickle). A node of the tree is a
JSON scalar that stands for itself, or an object with one of these keys::

    {"t": key, "as": "torch" | "numpy" | "dtensor"}   a tensor; the same key twice: one tensor, tied
    {"d": [[key, node], ...]}  dict; "o" for an OrderedDict      {"l": [node, ...]}  list; "u" tuple; "z" torch.Size; "s" set; "q" frozenset
    {"f": "nan" | "inf" | "-inf"}   {"c": [re, im]}   {"b": base64}   {"torch": "bfloat16"}  torch.dtype   {"device": "cuda:0"}

Any thread; no state. Errors: TypeError that names the entry, for what has no such form.
"""

from __future__ import annotations

import base64
import json
import math
import sys
from collections import OrderedDict
from typing import Any, Callable, Mapping

import numpy as np

from penstock.errors import DataLossError

VERSION = 1


class Leaf:
    """A tensor of a state dict: where it is, and under which key it is stored."""

    __slots__ = ("key", "kind", "path", "tensor")

    def __init__(self, key: str, kind: str, tensor: Any, path: str) -> None:
        self.key, self.kind, self.tensor, self.path = key, kind, tensor, path


def tensor_kind(value: Any) -> str | None:
    """ "torch", "dtensor", "numpy", or None for what is no tensor."""
    if isinstance(value, (np.ndarray, np.generic)):
        return "numpy"
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        return "dtensor" if hasattr(value, "device_mesh") and hasattr(value, "placements") else "torch"
    if hasattr(value, "__dlpack__") and hasattr(value, "shape"):
        return "numpy"  # JAX, CuPy: given back as NumPy
    return None


class Flattener:
    """Walks one state dict or several; gives every tensor a key of its own, tied ones the same."""

    def __init__(self) -> None:
        self.leaves: list[Leaf] = []
        self._keys: set[str] = set()
        self._tied: dict[tuple[Any, ...], Leaf] = {}

    def flatten(self, value: Any, name: str = "") -> Any:
        """The tree of `value`. name: what its keys begin with. After a TypeError all is as it was before."""
        before = len(self.leaves), set(self._keys), dict(self._tied)
        try:
            return self._node(value, name)
        except BaseException:
            del self.leaves[before[0] :]
            self._keys, self._tied = before[1], before[2]
            raise

    def _node(self, value: Any, path: str) -> Any:
        kind = tensor_kind(value)
        if kind is not None:
            return {"t": self._leaf(value, kind, path).key, "as": kind}
        if value is None or isinstance(value, (bool, str)) or type(value) is int:
            return value
        if isinstance(value, Mapping):
            kind_of_dict = "o" if isinstance(value, OrderedDict) else "d"
            return {kind_of_dict: [[self._scalar(key, path), self._node(item, join(path, key))] for key, item in value.items()]}
        tag = _sequence_tag(value)
        if tag is None:
            return self._scalar(value, path)
        items = sorted(value, key=repr) if tag in "sq" else value
        return {tag: [self._node(item, join(path, i)) for i, item in enumerate(items)]}

    def _scalar(self, value: Any, path: str) -> Any:
        if value is None or isinstance(value, (bool, str)) or type(value) is int:
            return value
        if isinstance(value, float):
            return float(value) if math.isfinite(value) else {"f": repr(float(value))}
        if isinstance(value, complex):
            return {"c": [self._scalar(value.real, path), self._scalar(value.imag, path)]}
        if isinstance(value, (bytes, bytearray)):
            return {"b": base64.b64encode(value).decode()}
        if isinstance(value, tuple):
            return {"u": [self._scalar(item, path) for item in value]}
        torch = sys.modules.get("torch")
        if torch is not None and isinstance(value, torch.dtype):
            return {"torch": str(value).removeprefix("torch.")}
        if torch is not None and isinstance(value, torch.device):
            return {"device": str(value)}
        raise TypeError(
            f"state_dict: entry {path or '(the whole)'!r} is a {type(value).__module__}.{type(value).__qualname__}, which has no form "
            "without pickle; allowed are tensors, dict, list, tuple, set, str, bytes, numbers, bool, None, torch.dtype and torch.device"
        )

    def _leaf(self, value: Any, kind: str, path: str) -> Leaf:
        tied = identity(value, kind)
        if tied is not None and tied in self._tied:
            return self._tied[tied]
        key, number = path or "value", 1
        while key in self._keys:
            number += 1
            key = f"{path}#{number}"
        self._keys.add(key)
        leaf = Leaf(key, kind, value, path)
        self.leaves.append(leaf)
        if tied is not None:
            self._tied[tied] = leaf
        return leaf


def _sequence_tag(value: Any) -> str | None:
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Size):
        return "z"
    for tag, kind in (("l", list), ("u", tuple), ("s", set), ("q", frozenset)):
        if isinstance(value, kind):
            return tag
    return None


def join(path: str, key: Any) -> str:
    return f"{path}.{key}" if path else str(key)


def identity(value: Any, kind: str) -> tuple[Any, ...] | None:
    """Equal for tensors that are the same memory, seen in the same way: these are tied."""
    if kind == "dtensor":
        value = value._local_tensor
    if kind != "numpy":
        if value.numel() == 0 or value.device.type == "meta":
            return None
        return (str(value.device), value.data_ptr(), value.dtype, tuple(value.shape), tuple(value.stride()))
    if not isinstance(value, np.ndarray) or value.size == 0:
        return None
    return ("numpy", value.__array_interface__["data"][0], value.dtype.str, value.shape, value.strides)


def build(node: Any, tensor: Callable[[str, str], Any]) -> Any:
    """The state dict that a tree tells of. tensor(key, kind): the tensor; called once a key and kind."""
    made: dict[tuple[str, str], Any] = {}

    def of(key: str, kind: str) -> Any:
        if (key, kind) not in made:
            made[key, kind] = tensor(key, kind)
        return made[key, kind]

    return _build(node, of)


def _build(node: Any, tensor: Callable[[str, str], Any]) -> Any:
    if not isinstance(node, dict):
        return node
    if "t" in node:
        return tensor(node["t"], node["as"])
    ((tag, value),) = node.items()
    if tag in ("d", "o"):
        pairs = [(_build(key, tensor), _build(item, tensor)) for key, item in value]
        return OrderedDict(pairs) if tag == "o" else dict(pairs)
    if tag in _SEQUENCES:
        return _SEQUENCES[tag]([_build(item, tensor) for item in value])
    return _SCALARS[tag](value)


def _torch_size(items: list[Any]) -> Any:
    import torch

    return torch.Size(items)


def _torch_dtype(name: str) -> Any:
    import torch

    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise DataLossError(f"the state dict names torch.{name}, which this torch does not have", code="DATA_LOSS")
    return dtype


def _torch_device(name: str) -> Any:
    import torch

    return torch.device(name)


def _complex(parts: list[Any]) -> complex:
    return complex(build_plain(parts[0]), build_plain(parts[1]))


def build_plain(node: Any) -> Any:
    """Of a node without tensors: a dict's key, a number."""
    return _build(node, no_tensor)


def no_tensor(key: str, kind: str) -> Any:
    raise DataLossError(f"the state dict has the tensor {key!r} where a number belongs", code="DATA_LOSS")


_SEQUENCES: dict[str, Callable[[list[Any]], Any]] = {"l": list, "u": tuple, "s": set, "q": frozenset, "z": _torch_size}
_SCALARS: dict[str, Callable[[Any], Any]] = {
    "f": float,
    "c": _complex,
    "b": base64.b64decode,
    "torch": _torch_dtype,
    "device": _torch_device,
}


def dump(trees: dict[str, Any]) -> str:
    """The text of the trees of a snapshot, by the names that they were put under."""
    return json.dumps({"penstock": VERSION, "trees": trees}, separators=(",", ":"), allow_nan=False)


def load(text: str) -> dict[str, Any]:
    """The trees of a text. DataLossError: it is none, or of a later version."""
    try:
        document = json.loads(text)
        version, trees = document["penstock"], document["trees"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataLossError(f"the snapshot's document cannot be read: {error}", code="DATA_LOSS") from None
    if version != VERSION or not isinstance(trees, dict):
        raise DataLossError(f"the snapshot's document is of version {version}; this client reads {VERSION}", code="DATA_LOSS")
    return trees
