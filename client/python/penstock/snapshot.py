"""Snapshots: sets of tensors under one prefix, published at once; state dicts in and out of them.

    with store.snapshot("ckpt/llama", keep_last=3) as snap:
        snap.put_state_dict(model.state_dict())
    sd = store.get_state_dict("ckpt/llama")                            # the latest, by view: no copy on this host
    store.get_state_dict("ckpt/llama", into=model.state_dict())        # or in place

Nobody sees anything of a snapshot before its block has ended well; what its writer leaves behind when it dies is deleted. The
format is told in proto/snapshot.proto (where things lie) and penstock/_tree.py (how a state dict is written, without pickle).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Iterable, Mapping

from penstock import _tree
from penstock.errors import Error, InvalidArgumentError

if TYPE_CHECKING:
    from penstock._core import SnapshotWriter
    from penstock._torch_arrays import LocalShard
    from penstock.store import Store

__all__ = ["Snapshot", "SnapshotInfo"]


@dataclass(frozen=True)
class SnapshotInfo:
    """One snapshot: what ``store.snapshot_infos`` gives.

    created: seconds since 1970. nbytes: of all its tensors. pinned: ``keep_last`` passes over it.
    """

    number: int
    id: str = field(repr=False)
    created: float
    nbytes: int
    tensors: int
    pinned: bool
    metadata: dict[str, str]

    def _repr_html_(self) -> str:
        """A table for notebooks."""
        from penstock._notebook import snapshot_info_html

        return snapshot_info_html(self)


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
        self._writing().put_many([(key, local, offset, global_shape)])

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
        number = "" if self.number is None else f", number={self.number}"
        return f"Snapshot({self._prefix!r}{number}, {self._state()})"

    def _repr_html_(self) -> str:
        """A table for notebooks."""
        from penstock._notebook import snapshot_html

        return snapshot_html(self, self._prefix, self._state())

    def _state(self) -> str:
        return "published" if self.info is not None else "given up" if self._done else "being written"

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
            from penstock._torch_arrays import entry, for_put, local_shard

            shard = local_shard(leaf.tensor, entry(leaf.path))
            if self._ranks == 1 and leaf.tensor.device_mesh.size() > 1:
                raise InvalidArgumentError(
                    f"state_dict: entry {leaf.path!r} is a DTensor over {leaf.tensor.device_mesh.size()} ranks, but this snapshot is "
                    "one rank's; call store.snapshot on all ranks, with process_group= or the DTensors in the first put_state_dict",
                    code="INVALID_ARGUMENT",
                )
            if not shard.first_owner:
                return []
            tensor = for_put(shard.tensor, entry(leaf.path))
            return _shard_items(leaf.key, tensor, shard)
        if self._rank > 0:
            return []
        if leaf.kind == "torch":
            from penstock._torch_arrays import entry, for_put

            return [(leaf.key, for_put(leaf.tensor, entry(leaf.path)))]
        return [(leaf.key, leaf.tensor)]


def _check(leaf: _tree.Leaf) -> None:
    """What put would refuse, told before any rank waits for another."""
    if leaf.kind == "dtensor":
        from penstock._torch_arrays import entry, local_shard

        local_shard(leaf.tensor, entry(leaf.path))
    if leaf.kind == "torch":
        from penstock._torch_arrays import check_tensor, entry

        check_tensor(leaf.tensor, entry(leaf.path))


def _shard_items(key: str, tensor: Any, shard: LocalShard) -> list[tuple[Any, ...]]:
    if 0 in shard.shape:
        return [(key, tensor.reshape(shard.shape))]
    return [(key, tensor[box.local] if box.local else tensor, box.offset, shard.shape) for box in shard.boxes if 0 not in box.extent]
