"""State dicts of torch, and storage for torch.distributed.checkpoint, in a Penstock store.

    from torch.distributed import checkpoint as dcp
    writer = penstock.torch.StorageWriter(store, "ckpt/llama", keep_last=3)
    dcp.save(state_dict, storage_writer=writer)                              # the next snapshot of ckpt/llama
    dcp.load(state_dict, storage_reader=penstock.torch.StorageReader(store, "ckpt/llama"))    # the latest
    future = dcp.async_save(state_dict, storage_writer=writer)               # one copy, into the store; the rest in the background

A checkpoint is a snapshot: published whole when every rank has put its shards, by the coordinator, or not at all; each rank reads the
bytes of its own shards alone, whatever the layout that was saved. ``store.get_state_dict`` reads such checkpoints, too.
``dcp.async_save`` stages straight into the store (StorageWriter.stage), for THREAD and PROCESS checkpointers.
Protocol: torch.distributed.checkpoint.storage of torch 2.5 to 2.13. Tensors are never pickled. What DCP itself pickles (entries that are no
tensors, BYTE_IO) is stored as bytes and read by DCP's planner.
"""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING, Any, Iterator

import numpy as np
import torch
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import (
    LoadItemType,
    LoadPlan,
    LoadPlanner,
    ReadItem,
    SavePlan,
    SavePlanner,
    WriteItem,
    WriteItemType,
)
from torch.distributed.checkpoint.staging import AsyncStager
from torch.distributed.checkpoint.storage import StorageReader as _Reader
from torch.distributed.checkpoint.storage import StorageWriter as _Writer
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from penstock import _staging, _tree
from penstock._state_dicts import read_into_torch, torch_dtype
from penstock._torch_arrays import entry, for_put
from penstock.errors import DataLossError, InvalidArgumentError
from penstock.snapshot import SnapshotInfo

if TYPE_CHECKING:
    from penstock._core import SnapshotWriter
    from penstock._shards import Sharded
    from penstock.store import Store

__all__ = ["StorageReader", "StorageWriter", "get_state_dict", "put_state_dict"]

_METADATA = ".dcp"  # the tree of a snapshot's document that says it is a distributed checkpoint


def put_state_dict(store: Store, prefix: str, state_dict: Any, **options: Any) -> SnapshotInfo:
    """``store.put_state_dict``: the next snapshot of `prefix`; of DTensors, each rank its shards."""
    return store.put_state_dict(prefix, state_dict, **options)


def get_state_dict(store: Store, prefix: str, **options: Any) -> Any:
    """``store.get_state_dict`` with torch tensors, whatever was put."""
    return store.get_state_dict(prefix, framework="torch", **options)


def _place(prefix: str, checkpoint_id: str | os.PathLike[str] | None) -> tuple[str, int | None]:
    """Where a checkpoint lies: None is the next or latest snapshot of the prefix, a number that one, any other text a prefix below."""
    if checkpoint_id is None:
        return prefix, None
    text = os.fspath(checkpoint_id)
    if text.isdigit() and int(text) > 0:
        return prefix, int(text)
    return f"{prefix}/{text.strip('/')}", None


class StorageWriter(_Writer, AsyncStager):
    """Writes distributed checkpoints as snapshots of `prefix`, for ``dcp.save`` and ``dcp.async_save``.

    ``checkpoint_id=`` of dcp.save: a number is the snapshot's, another text a prefix below. keep_last, metadata: as ``store.snapshot``.
    timeout: seconds that the coordinator waits for the other ranks. With PROCESS checkpointers it is pickled, and connects by itself.
    It is an AsyncStager, so ``dcp.async_save`` uses its stage() unless another ``async_stager=`` is given.
    """

    _synchronize_after_execute = False  # stage() has copied everything when it returns

    def __init__(
        self, store: Store, prefix: str, *, keep_last: int | None = None, metadata: dict[str, str] | None = None, timeout: float = 600.0
    ) -> None:
        super().__init__()
        self._store, self._prefix = store, prefix
        self._keep_last, self._metadata, self._timeout = keep_last, metadata, timeout
        self._writer: SnapshotWriter | None = None
        self._staged: list[_staging.Staged] = []  # that the snapshot being written has named
        self.info: SnapshotInfo | None = None
        self.reset()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_writer": None, "_staged": []}

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """The next save goes to this checkpoint; what an earlier one that failed has put is forgotten."""
        if self._writer is not None:
            self._writer.abort()
        self._writer, self._staged = None, []
        self.checkpoint_id = checkpoint_id
        self._place = _place(self._prefix, checkpoint_id)

    def stage(self, state_dict: dict[str, Any]) -> dict[str, Any]:
        """A copy of the state dict, for ``dcp.async_save``: each tensor is copied once, into the store, while training waits.

        Until a snapshot is published of them, the tensors are nobody's: they are deleted when the staged state dict is dropped (a save that
        fails, tensors that another rank stores, too) or this process dies. Tied tensors are copied once. The staged tensors may be read by
        a planner; what it changes is stored by a second copy. In a PROCESS checkpointer they are mapped, not copied; torch keeps
        them there until its next save. The first saves also wait for memory that is made ready; with keep_last the later ones use it again. A
        process without a node on its host stages in its own memory. Raises what ``store.put`` raises.
        """
        return _staging.stage(self._store, state_dict)

    def synchronize_staging(self) -> None:
        """Nothing is left to wait for."""

    def close(self) -> None:
        """A stager keeps nothing between saves."""

    def storage_meta(self) -> StorageMeta | None:
        """What DCP notes of where the checkpoint lies."""
        return StorageMeta(checkpoint_id=self.checkpoint_id)

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """Refuses ``use_collectives=False`` with several ranks."""
        if kwargs.get("use_collectives", True) is False and torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
            raise InvalidArgumentError(
                "use_collectives: False lets every rank end for itself, but a snapshot is published once, by the coordinator; leave it out",
                code="INVALID_ARGUMENT",
            )

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        """As the planner made it."""
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """On the coordinator: opens the snapshot, and tells the ranks which it is."""
        prefix, number = self._place
        if number is None:
            number = self._store.latest(prefix, default=0) + 1
        writer = self._writer = self._open(prefix, number, 0, len(plans), None)
        for rank, plan in enumerate(plans):
            object.__setattr__(plan, "storage_data", (prefix, number, rank, len(plans), writer.id))
        return plans

    def _open(self, prefix: str, number: int, rank: int, ranks: int, id: str | None) -> SnapshotWriter:
        return self._store._open_snapshot(prefix, number, self._keep_last, self._metadata, rank, ranks, self._timeout, id)

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Names what of this rank is staged and puts the rest; the coordinator's items stay its own until finish(), the others vote."""
        prefix, number, rank, ranks, id = plan.storage_data
        writer = self._writer if self._writer is not None and rank == 0 else self._open(prefix, number, rank, ranks, id)
        self._writer = writer
        items = [(item, planner.resolve_data(item)) for item in plan.items]
        found = [_staging.find(data) for _, data in items]
        writer.put_many([_put_item(item, data, staged) for (item, data), staged in zip(items, found)])
        self._staged = [staged for staged in found if staged is not None]
        if rank > 0:
            writer.vote()
            self._end()
        done: Future[list[WriteResult]] = Future()
        done.set_result([WriteResult(index=item.index, size_in_bytes=_size(data), storage_data=None) for item, data in items])
        return done

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """On the coordinator: publishes the snapshot."""
        assert self._writer is not None, "finish() without write_data() on the coordinator"
        self._writer.set_document(_tree.dump({"": _whole_tree(metadata), _METADATA: _encode(metadata)}))
        self.info = SnapshotInfo(*self._writer.commit())
        self._end()

    def _end(self) -> None:
        self._writer = None
        for staged in self._staged:
            staged.taken = True
        for owner in {id(staged.owner): staged.owner for staged in self._staged}.values():
            if owner is not None:
                owner.drop()  # what other ranks store
        self._staged = []

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        """Any text that is not empty."""
        return bool(os.fspath(checkpoint_id))


class StorageReader(_Reader):
    """Reads distributed checkpoints of `prefix` for ``dcp.load``: the latest, or ``checkpoint_id=`` as StorageWriter has it."""

    def __init__(self, store: Store, prefix: str) -> None:
        super().__init__()
        self._store, self._prefix = store, prefix
        self._tensors: dict[str, Sharded] = {}
        self.reset()

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """The next load is of this checkpoint."""
        self.checkpoint_id = checkpoint_id
        self._place = _place(self._prefix, checkpoint_id)

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """Raises NotFoundError if there is no such snapshot, DataLossError if it is no distributed checkpoint."""
        contents = self._store._snapshot_reader.contents(self._store, *self._place)
        if _METADATA not in contents.trees:
            raise DataLossError(
                f"snapshot {contents.info.number} of {self._place[0]!r} is no distributed checkpoint; store.get_state_dict reads it",
                code="DATA_LOSS",
            )
        metadata = _decode(contents.trees[_METADATA], contents.tensors)
        metadata.storage_meta = StorageMeta(checkpoint_id=self.checkpoint_id)
        metadata.storage_data = contents.info.number
        return metadata

    def set_up_storage_reader(self, metadata: Metadata, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """The same snapshot on every rank, whatever is the latest meanwhile."""
        self._tensors = self._store._snapshot_reader.contents(self._store, self._place[0], metadata.storage_data).tensors

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        """As the planner made it."""
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        """As the planner made them."""
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Reads the items of this rank straight into the tensors of the planner."""
        for item in plan.items:
            stored = self._tensors[item.storage_index.fqn]
            if item.type == LoadItemType.BYTE_IO:
                with self._store.get(stored.shards[0].name) as view:
                    planner.load_bytes(item, io.BytesIO(view.bytes()))
            else:
                self._read(stored, item, planner)
        done: Future[None] = Future()
        done.set_result(None)
        return done

    def _read(self, stored: Sharded, item: ReadItem, planner: LoadPlanner) -> None:
        target = planner.resolve_tensor(item).detach()
        chunk = tuple(item.storage_index.offset or (0,) * len(stored.shape))
        offset = tuple(a + b for a, b in zip(chunk, item.storage_offsets))
        extent = tuple(item.lengths)
        if tuple(target.shape) != extent:
            raise InvalidArgumentError(
                f"{item.storage_index.fqn}: the planner gives a tensor of shape {tuple(target.shape)} for a part of {extent}", code="INVALID_ARGUMENT"
            )
        read_into_torch(self._store, stored, offset, extent, target)
        planner.commit_tensor(item, target)

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        """Any text that is not empty."""
        return bool(os.fspath(checkpoint_id))


def _put_item(item: WriteItem, data: Any, staged: _staging.Staged | None) -> tuple[Any, ...]:
    fqn = item.index.fqn
    if item.type == WriteItemType.BYTE_IO:
        return fqn, np.frombuffer(data.getbuffer(), dtype=np.uint8)
    tensor = for_put(data, entry(fqn))
    assert item.tensor_data is not None
    named = () if staged is None else (staged.stage, staged.number)
    if item.type == WriteItemType.TENSOR:
        return (fqn, tensor, None, None, *named) if named else (fqn, tensor)
    return fqn, tensor, tuple(item.tensor_data.chunk.offsets), tuple(item.tensor_data.size), *named


def _size(data: Any) -> int:
    return int(data.nbytes) if isinstance(data, torch.Tensor) else len(data.getbuffer())


def _whole_tree(metadata: Metadata) -> Any:
    """For store.get_state_dict: the nested dict, if the planner tells the paths of the entries; else a flat one."""
    paths = metadata.planner_data if isinstance(metadata.planner_data, dict) else {}
    nodes = {
        fqn: {"t": fqn, "as": "torch" if isinstance(kind, TensorStorageMetadata) else "numpy"} for fqn, kind in metadata.state_dict_metadata.items()
    }
    root: dict[Any, Any] = {}
    for fqn in nodes:
        path = paths.get(fqn)
        if not isinstance(path, tuple) or any(not isinstance(step, str) for step in path):
            return {"d": list(map(list, nodes.items()))}
        at = root
        for step in path[:-1]:
            at = at.setdefault(step, {})
        at[path[-1]] = fqn
    return _nested(root, nodes)


def _nested(value: Any, nodes: dict[str, Any]) -> Any:
    if isinstance(value, str):
        return nodes[value]
    return {"d": [[key, _nested(item, nodes)] for key, item in value.items()]}


def _encode(metadata: Metadata) -> Any:
    """What the reader's planner needs, and the manifest does not tell: kinds, planner_data, version."""
    kinds = {fqn: "bytes" if isinstance(kind, BytesStorageMetadata) else kind.properties.requires_grad for fqn, kind in metadata.state_dict_metadata.items()}
    planner = _tree.Flattener().flatten(metadata.planner_data)
    return {"d": [["kinds", _tree.Flattener().flatten(kinds)], ["planner_data", planner], ["version", getattr(metadata, "version", None)]]}


def _decode(tree: Any, tensors: dict[str, Sharded]) -> Metadata:
    told = _tree.build(tree, _tree.no_tensor)
    kinds: dict[str, Any] = {}
    for fqn, kind in told["kinds"].items():
        if kind == "bytes":
            kinds[fqn] = BytesStorageMetadata()
            continue
        tensor = tensors[fqn]
        properties = TensorProperties(dtype=torch_dtype(tensor.dtype), requires_grad=bool(kind))
        kinds[fqn] = TensorStorageMetadata(properties, torch.Size(tensor.shape), list(_chunks(tensor)))
    metadata = Metadata(state_dict_metadata=kinds, planner_data=told["planner_data"])
    if told["version"] is not None:
        metadata.version = told["version"]
    return metadata


def _chunks(tensor: Sharded) -> Iterator[ChunkStorageMetadata]:
    for shard in tensor.shards:
        yield ChunkStorageMetadata(offsets=torch.Size(shard.offset), sizes=torch.Size(shard.extent))
    if not tensor.shards:  # of no elements
        yield ChunkStorageMetadata(offsets=torch.Size((0,) * len(tensor.shape)), sizes=torch.Size(tensor.shape))
