"""Snapshots: sets of tensors under one prefix, published at once; state dicts in and out of them.

    with store.snapshot("ckpt/llama", keep_last=3) as snap:
        snap.put_state_dict(model.state_dict())
    sd = store.get_state_dict("ckpt/llama")                            # the latest, by view: no copy on this host
    store.get_state_dict("ckpt/llama", into=model.state_dict())        # or in place

Nobody sees anything of a snapshot before its block has ended well; what its writer leaves behind when it dies is deleted. The
format is told in proto/snapshot.proto (where things lie) and penstock/_tree.py (how a state dict is written, without pickle).
"""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Callable, Iterable, Mapping

import numpy as np

from penstock import _shards, _tree
from penstock._core import dtype_name, numpy_dtype
from penstock._shards import Numbers, Shard, Sharded
from penstock.errors import DataLossError, Error, InvalidArgumentError, NotFoundError, PartialError

if TYPE_CHECKING:
    from penstock._core import SnapshotWriter, TensorView
    from penstock._torch_arrays import LocalShard
    from penstock.store import Store

__all__ = ["Snapshot", "SnapshotInfo"]

_KINDS = ("numpy", "torch", "view")


@dataclass(frozen=True)
class SnapshotInfo:
    """One snapshot: what ``store.list_snapshots`` gives.

    created: seconds since 1970. nbytes: of all its tensors. pinned: ``keep_last`` passes over it.
    """

    number: int
    id: str = field(repr=False)
    created: float
    nbytes: int
    tensors: int
    pinned: bool
    metadata: dict[str, str]


class Snapshot:
    """A snapshot that is being written: made by ``store.snapshot()``, a context manager.

    It is published when the block ends well, and forgotten when it ends by an exception. ``number`` is known afterwards (before, if it
    was given). One thread at a time; in a forked child it cannot be used.
    """

    def __init__(self, store: Store, prefix: str, options: dict[str, Any], group: Any) -> None:
        self._store, self._prefix, self._options, self._group = store, prefix, options, group
        self._writer: SnapshotWriter | None = None
        self._flattener = _tree.Flattener()
        self._trees: dict[str, Any] = {}
        self._done = False
        self.info: SnapshotInfo | None = None
        self._rank, self._ranks = 0, 1
        if options["ranks"] is not None:
            self._open(options["rank"], options["ranks"])
        else:  # opened with the first put: DTensors tell whether there are others
            store._list_snapshots(prefix)  # a prefix that cannot be one is told now

    @property
    def number(self) -> int | None:
        """Its number; None before it is published, unless it was given."""
        return self.info.number if self.info is not None else self._options["number"]

    def put(self, key: str, tensor: Any) -> None:
        """One tensor, under a key of its own. tensor: whatever ``store.put`` takes."""
        self.put_many({key: tensor})

    def put_many(self, tensors: Mapping[str, Any]) -> None:
        """Several tensors in one pass, each under its key."""
        leaves = [_tree.Leaf(key, _tree.tensor_kind(tensor) or "numpy", tensor, key) for key, tensor in tensors.items()]
        self._put(leaves)

    def put_shard(self, key: str, local: Any, *, global_shape: Iterable[int], offset: Iterable[int]) -> None:
        """This rank's shard of a tensor: ``local`` at ``offset`` of a whole of ``global_shape``.

        The shards of all ranks must make the whole, without overlaps (the same shard of several ranks counts once), or the snapshot
        is not published: InvalidArgumentError.
        """
        self._writing().put_many([(key, local, tuple(offset), tuple(global_shape))])

    def put_state_dict(self, state_dict: Any, name: str = "") -> None:
        """A state dict: dicts, lists and tuples of tensors, numbers, texts and bytes, in any depth.

        Tensors that are the same memory are stored once and tied again when loaded. Strided tensors are gathered in the same single
        copy; those on a device are copied to the host first. DTensors: each rank stores its shard; all ranks of the mesh must do the same,
        and what is no DTensor is rank 0's. name: of one of several state dicts of a snapshot (``"optimizer"``); also begins its keys.
        TypeError for entries that have no form without pickle; then nothing was stored.
        """
        if name in self._trees:
            raise InvalidArgumentError(f"name: a state dict {name!r} is in this snapshot already; give another name", code="INVALID_ARGUMENT")
        before = len(self._flattener.leaves)
        tree = self._flattener.flatten(state_dict, name)
        leaves = self._flattener.leaves[before:]
        for leaf in leaves:
            _check(leaf)
        if self._writer is None:
            self._open_together(leaves)
        self._put(leaves)
        self._trees[name] = tree

    def commit(self) -> SnapshotInfo:
        """Publishes it; what the end of the ``with`` block does. Of several ranks: when all have come here."""
        writer = self._writing()
        if self._trees:
            writer.set_document(_tree.dump(self._trees))
        self._done = True
        self.info = SnapshotInfo(*writer.commit())
        return self.info

    def abort(self) -> None:
        """Forgets it; nothing of it stays. Idempotent."""
        self._done = True
        if self._writer is not None:
            self._writer.abort()

    def __enter__(self) -> Snapshot:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None) -> None:
        if self._done:
            return
        if kind is None:
            self.commit()
        else:
            self.abort()

    def __repr__(self) -> str:
        state = "published" if self.info is not None else "given up" if self._done else "being written"
        number = "" if self.number is None else f", number={self.number}"
        return f"Snapshot({self._prefix!r}{number}, {state})"

    def _writing(self) -> SnapshotWriter:
        if self._writer is None:
            self._open_together(())
        assert self._writer is not None
        return self._writer

    def _open(self, rank: int, ranks: int, id: str | None = None) -> None:
        options = self._options
        self._rank, self._ranks = rank, ranks
        self._writer = self._store._open_snapshot(
            self._prefix, options["number"], options["keep_last"], options["metadata"], rank, ranks, options["timeout"], id
        )

    def _open_together(self, leaves: Iterable[_tree.Leaf]) -> None:
        """All ranks of the process group, if there is one and a DTensor, or the group was given; else alone."""
        shared = self._group is not None or any(leaf.kind == "dtensor" and leaf.tensor.device_mesh.size() > 1 for leaf in leaves)
        if not shared:
            self._open(0, 1)
            return
        import torch.distributed as dist

        rank, ranks = dist.get_rank(self._group), dist.get_world_size(self._group)
        told: list[Any] = [None, None, None]  # number, id, error
        if rank == 0:
            told[0] = self._options["number"] = self._options["number"] or self._store.latest(self._prefix, default=0) + 1
            try:
                self._open(rank, ranks)
                told[1] = self._writer.id if self._writer is not None else None
            except Error as error:
                told[2] = error
        dist.broadcast_object_list(told, src=0 if self._group is None else dist.get_global_rank(self._group, 0), group=self._group)
        if told[2] is not None:
            raise told[2]
        if rank > 0:
            self._options["number"] = told[0]
            self._open(rank, ranks, told[1])

    def _put(self, leaves: Iterable[_tree.Leaf]) -> None:
        writer = self._writing()
        items: list[tuple[Any, ...]] = []
        for leaf in leaves:
            items += self._items(leaf)
        if items:
            writer.put_many(items)

    def _items(self, leaf: _tree.Leaf) -> list[tuple[Any, ...]]:
        if leaf.kind == "dtensor":
            from penstock._torch_arrays import for_put, local_shard

            shard = local_shard(leaf.tensor, leaf.path)
            if self._ranks == 1 and leaf.tensor.device_mesh.size() > 1:
                raise InvalidArgumentError(
                    f"state_dict: entry {leaf.path!r} is a DTensor over {leaf.tensor.device_mesh.size()} ranks, but this snapshot is "
                    "one rank's; call store.snapshot on all ranks, with process_group= or the DTensors in the first put_state_dict",
                    code="INVALID_ARGUMENT",
                )
            if not shard.first_owner:
                return []
            tensor = for_put(shard.tensor, leaf.path)
            return _shard_items(leaf.key, tensor, shard)
        if self._rank > 0:
            return []
        if leaf.kind == "torch":
            from penstock._torch_arrays import for_put

            return [(leaf.key, for_put(leaf.tensor, leaf.path))]
        return [(leaf.key, leaf.tensor)]


def _check(leaf: _tree.Leaf) -> None:
    """What put would refuse, told before any rank waits for another."""
    if leaf.kind == "dtensor":
        from penstock._torch_arrays import local_shard

        local_shard(leaf.tensor, leaf.path)
    if leaf.kind == "torch":
        from penstock._torch_arrays import check_tensor

        check_tensor(leaf.tensor, leaf.path)


def _shard_items(key: str, tensor: Any, shard: LocalShard) -> list[tuple[Any, ...]]:
    if 0 in shard.shape:
        return [(key, tensor.reshape(shard.shape))]
    return [(key, tensor[box.local] if box.local else tensor, box.offset, shard.shape) for box in shard.boxes if 0 not in box.extent]


# --- reading ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Contents:
    info: SnapshotInfo
    trees: dict[str, Any]
    tensors: dict[str, Sharded]


_CACHED = 8  # contents of snapshots that a Store remembers; they never change


class SnapshotReader:
    """What a Store knows of snapshots that it has read. Any thread."""

    def __init__(self) -> None:
        self._cache: OrderedDict[str, _Contents] = OrderedDict()

    def contents(self, store: Store, prefix: str, number: int | None) -> _Contents:
        info = SnapshotInfo(*store._find_snapshot(prefix, number))
        cached = self._cache.get(info.id)
        if cached is not None:
            return cached
        info_tuple, document, listed = store._read_snapshot(prefix, number)
        tensors = {key: Sharded(key, dtype, shape, tuple(Shard(*shard) for shard in shards)) for key, dtype, shape, shards in listed}
        contents = _Contents(
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

    def __init__(self, store: Store, contents: _Contents, framework: str | None, dtype: Any) -> None:
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
        from penstock._torch_arrays import LocalBox, local_shard

        if leaf.kind == "dtensor":
            shard = local_shard(leaf.tensor, leaf.path)
            target, boxes = shard.tensor, shard.boxes
        else:
            target = leaf.tensor
            boxes = (LocalBox(tuple(slice(0, n) for n in tensor.shape), (0,) * len(tensor.shape), tensor.shape),)
        for box in boxes:
            self._fill_torch(target.detach()[box.local] if box.local else target.detach(), tensor, box.offset, box.extent)

    def _fill_torch(self, target: Any, tensor: Sharded, offset: Numbers, extent: Numbers) -> None:
        import torch
        from penstock._torch_arrays import array_over

        stored = torch_dtype(tensor.dtype)
        if target.device.type == "cpu" and target.dtype == stored:
            _shards.read_box(self._store, tensor, offset, extent, array_over(target))
            return
        for piece in _shards.pieces(tensor, offset, extent):  # another dtype or device: torch copies
            with self._store.get(piece.shard.name, box=_shards.box_argument(piece)) as view:
                target[piece.target].copy_(view.torch())

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


def torch_dtype(dtype: Any) -> Any:
    """torch's dtype of the store's name for it, or of what else names one."""
    import torch

    if isinstance(dtype, torch.dtype):
        return dtype
    name = dtype_name(dtype)
    return getattr(torch, _TORCH_NAMES.get(name, name))


def get_state_dict(
    store: Store, reader: SnapshotReader, prefix: str, number: int | None, load: Callable[[_Contents], Any]
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
