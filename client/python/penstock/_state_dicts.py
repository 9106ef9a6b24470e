"""State dicts out of snapshots: by view, in place, resharded, onto another dtype.

``Store.get_state_dict`` is the face. A StateDictLoader is one call: first everything is looked up and checked, then read, and only then
is anything of the caller's changed. Any thread.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Callable, Mapping

import numpy as np

from penstock import _shards, _tree
from penstock._core import dtype_name, numpy_dtype
from penstock._shards import Numbers, Shard, Sharded
from penstock.errors import DataLossError, InvalidArgumentError, NotFoundError, PartialError
from penstock.snapshot import SnapshotInfo

if TYPE_CHECKING:
    from penstock._core import TensorView
    from penstock.store import Store

_KINDS = ("numpy", "torch", "view")


@dataclass(frozen=True)
class Contents:
    info: SnapshotInfo
    trees: dict[str, Any]
    tensors: dict[str, Sharded]


_CACHED = 8  # contents of snapshots that a Store remembers; they never change


class SnapshotReader:
    """What a Store knows of snapshots that it has read. Any thread."""

    def __init__(self) -> None:
        self._cache: OrderedDict[str, Contents] = OrderedDict()

    def contents(self, store: Store, prefix: str, number: int | None) -> Contents:
        info = SnapshotInfo(*store._find_snapshot(prefix, number))
        cached = self._cache.get(info.id)
        if cached is not None:
            return cached
        info_tuple, document, listed = store._read_snapshot(prefix, number)
        tensors = {key: Sharded(key, dtype, shape, tuple(Shard(*shard) for shard in shards)) for key, dtype, shape, shards in listed}
        contents = Contents(
            SnapshotInfo(*info_tuple),
            _tree.load(document) if document else {},
            tensors,
        )
        self._cache[contents.info.id] = contents
        while len(self._cache) > _CACHED:
            self._cache.popitem(last=False)
        return contents


def number_argument(number: int | str | None) -> int | None:
    """ "latest" and None: the latest."""
    if number is None or number == "latest":
        return None
    if isinstance(number, bool) or not isinstance(number, int):
        raise TypeError(f"number: must be an integer above 0 or 'latest', not {number!r}")
    return number


class StateDictLoader:
    """One get_state_dict: the snapshot is fixed at its beginning."""

    def __init__(self, store: Store, contents: Contents, framework: str | None, dtype: Any) -> None:
        if framework is not None and framework not in _KINDS:
            raise InvalidArgumentError(f"framework: is {framework!r}; allowed are None, 'numpy', 'torch' and 'view'", code="INVALID_ARGUMENT")
        self._store, self._contents, self._framework, self._dtype = store, contents, framework, dtype
        self._views: dict[str, TensorView] = {}

    def load(self, name: str | None) -> Any:
        """By view: one call for what is not here, none for what is."""
        tree = self._named_tree(name)
        names: list[str] = []
        self._visit(tree, names)
        self._views = self._get_many(names)
        return _tree.build(tree, self._tensor)

    def load_into(self, name: str | None, into: Any, strict: bool) -> Any:
        """In place. What of `into` is no tensor is given back as it was stored."""
        tree = self._named_tree(name)
        flattener = _tree.Flattener()
        wanted = flattener.flatten(into, name or "")
        pairs: list[tuple[_tree.Leaf, Sharded]] = []
        leaves = {leaf.key: leaf for leaf in flattener.leaves}
        loader = _Into(self._contents.tensors, leaves, pairs, strict)
        result = loader.walk(tree, wanted, into, "")
        loader.check()
        for leaf, tensor in pairs:
            self._fill(leaf, tensor)
        for container, key, value in loader.values:
            container[key] = value
        return result

    def _named_tree(self, name: str | None) -> Any:
        trees = {key: tree for key, tree in self._contents.trees.items() if not key.startswith(".")}  # the others are not for users
        if not trees:  # put without a state dict: a flat one
            return {"d": [[key, {"t": key, "as": "numpy"}] for key in self._contents.tensors]}
        if name is None:
            return trees[""] if list(trees) == [""] else {"d": [[key, tree] for key, tree in trees.items()]}
        if name not in trees:
            raise NotFoundError(f"name: the snapshot has no state dict {name!r}; it has {sorted(trees)}", code="NOT_FOUND", hint="")
        return trees[name]

    def _sharded(self, key: str) -> Sharded:
        tensor = self._contents.tensors.get(key)
        if tensor is None:
            raise DataLossError(f"the snapshot's document names a tensor {key!r} that it does not have", code="DATA_LOSS")
        return tensor

    def _visit(self, node: Any, names: list[str]) -> None:
        if not isinstance(node, dict):
            return
        if "t" in node:
            tensor = self._sharded(node["t"])
            if tensor.whole:
                names.append(tensor.shards[0].name)
            return
        ((tag, value),) = node.items()
        if tag in ("d", "o"):
            for _, item in value:
                self._visit(item, names)
        elif tag in "luqsz":
            for item in value:
                self._visit(item, names)

    def _get_many(self, names: list[str]) -> dict[str, TensorView]:
        try:
            return self._store.get_many(names)  # type: ignore[return-value]
        except PartialError as error:
            raise next(result for result in error.results.values() if isinstance(result, Exception)) from None

    def _tensor(self, key: str, kind: str) -> Any:
        tensor = self._sharded(key)
        framework = self._framework or ("numpy" if kind == "numpy" else "torch")
        view = self._views.get(tensor.shards[0].name) if tensor.whole else None
        if framework == "view" and view is not None:
            return view
        if framework == "torch":
            return self._torch(tensor, view)
        array = view.numpy() if view is not None else self._assemble(tensor)
        return array if self._dtype is None or array.dtype.kind not in "fV" else array.astype(numpy_dtype(self._dtype))

    def _torch(self, tensor: Sharded, view: TensorView | None) -> Any:
        import torch

        if view is not None:
            made = view.torch()
        else:
            made = torch.empty(tensor.shape, dtype=torch_dtype(tensor.dtype))
            from penstock._torch_arrays import array_over

            _shards.read_box(self._store, tensor, (0,) * len(tensor.shape), tensor.shape, array_over(made))
        return made.to(torch_dtype(self._dtype)) if self._dtype is not None and made.is_floating_point() else made

    def _assemble(self, tensor: Sharded) -> np.ndarray[Any, Any]:
        array = np.empty(tensor.shape, dtype=numpy_dtype(tensor.dtype))
        _shards.read_box(self._store, tensor, (0,) * len(tensor.shape), tensor.shape, array)
        return array

    def _fill(self, leaf: _tree.Leaf, tensor: Sharded) -> None:
        if leaf.kind == "numpy":
            self._fill_array(leaf, tensor)
            return
        from penstock._torch_arrays import LocalBox, entry, local_shard

        if leaf.kind == "dtensor":
            shard = local_shard(leaf.tensor, entry(leaf.path))
            target, boxes = shard.tensor, shard.boxes
        else:
            target = leaf.tensor
            boxes = (LocalBox(tuple(slice(0, n) for n in tensor.shape), (0,) * len(tensor.shape), tensor.shape),)
        for box in boxes:
            part = target.detach()[box.local] if box.local else target.detach()
            read_into_torch(self._store, tensor, box.offset, box.extent, part)

    def _fill_array(self, leaf: _tree.Leaf, tensor: Sharded) -> None:
        array = leaf.tensor
        if array.dtype == numpy_dtype(tensor.dtype):
            _shards.read_box(self._store, tensor, (0,) * array.ndim, tensor.shape, array)
        else:
            np.copyto(array, self._assemble(tensor), casting="same_kind")


class _Into:
    """Matches what is stored with what is to be filled, before anything is."""

    def __init__(self, tensors: dict[str, Sharded], leaves: dict[str, _tree.Leaf], pairs: list[tuple[_tree.Leaf, Sharded]], strict: bool) -> None:
        self._tensors, self._leaves, self._pairs, self._strict = tensors, leaves, pairs, strict
        self.values: list[tuple[Any, Any, Any]] = []  # container, key and value of what is no tensor: set when all is checked
        self._missing: list[str] = []
        self._unexpected: list[str] = []
        self._wrong: list[str] = []

    def walk(self, stored: Any, wanted: Any, into: Any, path: str) -> Any:
        """The values of the result; tensors of `into` are noted to be filled."""
        where = path or "(the whole)"
        if isinstance(wanted, dict) and "t" in wanted:
            self._match(stored, self._leaves[wanted["t"]], where)
            return into
        if isinstance(stored, dict) and "t" in stored:
            self._wrong.append(f"{where}: a tensor is stored, but into has a {type(into).__name__}")
            return into
        if isinstance(into, Mapping):
            return self._walk_dict(stored, wanted, into, path)
        if isinstance(into, (list, tuple)) and type(into) in (list, tuple):
            return self._walk_list(stored, wanted, into, path)
        return _tree.build(stored, _tree.no_tensor)

    def _walk_dict(self, stored: Any, wanted: Any, into: Any, path: str) -> Any:
        if not isinstance(stored, dict) or not ({"d", "o"} & stored.keys()):
            self._wrong.append(f"{path or '(the whole)'}: into has a dict, but none is stored")
            return into
        ((_, pairs),) = stored.items()
        nodes = {_tree.build_plain(key): node for key, node in pairs}
        ((_, wanted_pairs),) = wanted.items()
        wanted_nodes = {_tree.build_plain(key): node for key, node in wanted_pairs}
        self._unexpected += [_tree.join(path, key) for key in nodes if key not in wanted_nodes]
        for key, node in wanted_nodes.items():
            at = _tree.join(path, key)
            if key not in nodes:
                self._missing.append(at)
                continue
            value = self.walk(nodes[key], node, into[key], at)
            if value is not into[key]:
                self.values.append((into, key, value))
        return into

    def _walk_list(self, stored: Any, wanted: Any, into: Any, path: str) -> Any:
        items = next((stored[tag] for tag in "lu" if isinstance(stored, dict) and tag in stored), None)
        if items is None or len(items) != len(into):
            self._wrong.append(f"{path}: into has {len(into)} entries, stored are {'none' if items is None else len(items)}")
            return into
        ((_, wanted_items),) = wanted.items()
        values = [self.walk(a, b, c, _tree.join(path, i)) for i, (a, b, c) in enumerate(zip(items, wanted_items, into))]
        if isinstance(into, tuple):
            return tuple(values)
        self.values += [(into, i, value) for i, value in enumerate(values) if value is not into[i]]
        return into

    def _match(self, stored: Any, leaf: _tree.Leaf, where: str) -> None:
        if not isinstance(stored, dict) or "t" not in stored:
            self._wrong.append(f"{where}: into has a tensor, but what is stored is none")
            return
        tensor = self._tensors[stored["t"]]
        shape = tuple(leaf.tensor.shape)
        if shape != tensor.shape:
            self._wrong.append(f"{where}: stored with shape {tensor.shape}, into has {shape}")
            return
        if leaf.kind == "numpy" and not (isinstance(leaf.tensor, np.ndarray) and leaf.tensor.flags.writeable):
            self._wrong.append(f"{where}: into has a read-only array")
            return
        if all(leaf is not other for other, _ in self._pairs):
            self._pairs.append((leaf, tensor))

    def check(self) -> None:
        """Raises before anything is filled."""
        problems = list(self._wrong)
        if self._strict and self._missing:
            problems.append(f"not stored: {_some(self._missing)}")
        if self._strict and self._unexpected:
            problems.append(f"stored, but not in into: {_some(self._unexpected)}")
        if problems:
            hint = "strict=False passes over names that only one side has" if not self._wrong else ""
            raise InvalidArgumentError("into: " + "; ".join(problems[:10]), code="INVALID_ARGUMENT", hint=hint)


def _some(names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:8])
    return shown if len(names) <= 8 else f"{shown} and {len(names) - 8} more"


_TORCH_NAMES = {
    "i8": "int8", "i16": "int16", "i32": "int32", "i64": "int64", "u8": "uint8", "u16": "uint16", "u32": "uint32", "u64": "uint64",
    "f16": "float16", "bf16": "bfloat16", "f32": "float32", "f64": "float64", "c64": "complex64", "c128": "complex128",
    "f8_e4m3fn": "float8_e4m3fn", "f8_e5m2": "float8_e5m2", "f8_e4m3fnuz": "float8_e4m3fnuz", "f8_e5m2fnuz": "float8_e5m2fnuz",
    "f8_e8m0fnu": "float8_e8m0fnu", "f4_e2m1x2": "float4_e2m1fn_x2",
}  # fmt: skip


def read_into_torch(store: Store, tensor: Sharded, offset: Numbers, extent: Numbers, target: Any) -> None:
    """Reads a box of the tensor into a torch tensor of the shape `extent`; torch converts to another dtype or device."""
    from penstock._torch_arrays import array_over

    if target.device.type == "cpu" and target.dtype == torch_dtype(tensor.dtype):
        _shards.read_box(store, tensor, offset, extent, array_over(target))
        return
    for piece in _shards.pieces(tensor, offset, extent):
        with store.get(piece.shard.name, box=_shards.box_argument(piece)) as view:
            target[piece.target].copy_(view.torch())


def torch_dtype(dtype: Any) -> Any:
    """torch's dtype of the store's name for it, or of what else names one."""
    import torch

    if isinstance(dtype, torch.dtype):
        return dtype
    name = dtype_name(dtype)
    return getattr(torch, _TORCH_NAMES.get(name, name))


def get_state_dict(
    store: Store, reader: SnapshotReader, prefix: str, number: int | None, load: Callable[[Contents], Any]
) -> Any:
    """Reads once more if the snapshot was removed meanwhile and a later one is asked for."""
    deadline = time.monotonic() + 60
    while True:
        contents = reader.contents(store, prefix, number)
        try:
            return load(contents)
        except NotFoundError:
            if time.monotonic() > deadline or SnapshotInfo(*store._find_snapshot(prefix, number)).id == contents.info.id:
                raise
