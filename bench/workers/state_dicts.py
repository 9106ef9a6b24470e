"""Measures state dicts and checkpoints from Python: python -m workers.state_dicts ADDRESS."""

from __future__ import annotations

import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from time import perf_counter_ns
from typing import Any

import numpy as np
import torch
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.checkpoint.state_dict_saver import AsyncCheckpointerType

import penstock
from penstock import _shards
from penstock.torch import StorageReader, StorageWriter
from workers.answer import each_ns, once_ns, serve

MIB = 1 << 20
MODEL_BYTES = 1 << 30
CHECKPOINT_BYTES = 512 * MIB
ROWS, COLUMNS = 8192, 8192  # of 4 bytes: 256 MiB, by 8 ranks


class StateDicts:
    """1,000 tensors that are got, a model of 1 GiB that is put."""

    def __init__(self, store: penstock.Store) -> None:
        self._store = store
        store.put_state_dict("bench/thousand", {f"layer.{i}.weight": torch.full((128, 128), float(i)) for i in range(1000)})
        self._model = {f"layer.{i}": torch.full((16 * MIB,), float(i)) for i in range(MODEL_BYTES // (64 * MIB))}
        self._source = np.ones(64 * MIB, np.uint8)
        self._target = np.ones(64 * MIB, np.uint8)

    def get(self, framework: str) -> float:
        return each_ns(lambda: self._store.get_state_dict("bench/thousand", framework=framework), 0.3, 1)

    def put(self) -> float:
        """Bytes a second."""
        spent = once_ns(lambda: self._store.put_state_dict("bench/model", self._model, keep_last=1))
        return MODEL_BYTES / spent * 1e9

    def copy(self) -> float:
        """Bytes a second of a copy into memory that is there, of as many bytes."""
        spent = once_ns(lambda: [np.copyto(self._target, self._source) for _ in range(MODEL_BYTES // len(self._source))])
        return MODEL_BYTES / spent * 1e9


class Checkpoints:
    """torch.distributed.checkpoint of 64 tensors, in the store and in files on tmpfs."""

    def __init__(self, store: penstock.Store) -> None:
        warnings.simplefilter("ignore")
        self._folder = tempfile.mkdtemp(dir="/dev/shm")
        count = 64
        self.state = self._state = {f"w{i}": torch.full((CHECKPOINT_BYTES // count // 4,), float(i)) for i in range(count)}
        self._loaded = {name: torch.zeros_like(tensor) for name, tensor in self._state.items()}
        self._writer = StorageWriter(store, "bench/checkpoint", keep_last=1)
        self._reader = StorageReader(store, "bench/checkpoint")
        self.save_here()
        self.save_files()

    def close(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def save_here(self) -> float:
        return once_ns(lambda: dcp.save(self._state, storage_writer=self._writer))

    def save_files(self) -> float:
        return once_ns(lambda: dcp.save(self._state, storage_writer=dcp.FileSystemWriter(self._folder)))

    def load_here(self) -> float:
        return self._load(lambda: self._reader)

    def load_files(self) -> float:
        return self._load(lambda: dcp.FileSystemReader(self._folder))

    def _load(self, reader: Callable[[], dcp.StorageReader]) -> float:
        spent = once_ns(lambda: dcp.load(self._loaded, storage_reader=reader()))
        if any(tensor[0] != self._state[name][0] for name, tensor in self._loaded.items()):
            raise RuntimeError("loaded something else than was saved")
        return spent


class AsyncSaves:
    """The same 64 tensors by dcp.async_save: what training waits for, and how long it is until the checkpoint is there."""

    def __init__(self, store: penstock.Store, checkpoints: Checkpoints) -> None:
        torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
        self._state = checkpoints.state
        self._writer = StorageWriter(store, "bench/async", keep_last=1)
        self._folder = tempfile.mkdtemp(dir="/dev/shm")

    def close(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
        torch.distributed.destroy_process_group()

    def here(self, until: str, kind: AsyncCheckpointerType) -> float:
        return self._save(until, kind, storage_writer=self._writer)

    def files(self, until: str, kind: AsyncCheckpointerType) -> float:
        """With the stager that async_save makes for writers that are none themselves."""
        stager = DefaultStager(StagingOptions(False, False, False, False))
        spent = self._save(until, kind, storage_writer=dcp.FileSystemWriter(self._folder), async_stager=stager)
        stager.close()
        return spent

    def _save(self, until: str, kind: AsyncCheckpointerType, **options: Any) -> float:
        start = perf_counter_ns()
        future = dcp.async_save(self._state, async_checkpointer_type=kind, **options)
        blocked = perf_counter_ns() - start
        future.result()
        return blocked if until == "blocked" else perf_counter_ns() - start


class Resharding:
    """A tensor that 8 ranks have put, read by 4."""

    def __init__(self, store: penstock.Store) -> None:
        self._store = store
        whole = np.arange(ROWS * COLUMNS, dtype=np.float32).reshape(ROWS, COLUMNS)
        rows = ROWS // 8
        with store.snapshot("bench/sharded") as snap:
            for rank in range(8):
                snap.put_shard("w", whole[rank * rows : (rank + 1) * rows], global_shape=whole.shape, offset=(rank * rows, 0))
        self._tensor = store._snapshot_reader.contents(store, "bench/sharded", None).tensors["w"]
        self._whole = whole
        self._out = {
            "rows": [np.zeros((ROWS // 4, COLUMNS), np.float32) for _ in range(4)],
            "columns": [np.zeros((ROWS, COLUMNS // 4), np.float32) for _ in range(4)],
        }
        store.put("bench/contiguous", whole)

    def contiguous(self) -> float:
        return once_ns(lambda: [self._store.get("bench/contiguous", box=np.s_[r * 2048 : (r + 1) * 2048], out=out) for r, out in enumerate(self._out["rows"])])

    def read(self, kind: str) -> float:
        start = perf_counter_ns()
        for rank, out in enumerate(self._out[kind]):
            offset = (rank * ROWS // 4, 0) if kind == "rows" else (0, rank * COLUMNS // 4)
            _shards.read_box(self._store, self._tensor, offset, out.shape, out)
        spent = perf_counter_ns() - start
        if out[0, 0] != self._whole[offset] or out[-1, -1] != self._whole[-1, -1]:
            raise RuntimeError("read something else than was put")
        return spent


def main() -> None:
    store = penstock.connect(sys.argv[1], timeout=60)
    dicts, checkpoints, resharding = StateDicts(store), Checkpoints(store), Resharding(store)
    saves = AsyncSaves(store, checkpoints)
    try:
        serve({
            f"{until} {kind.name} {where}": partial(save, until, kind)
            for until in ("blocked", "all")
            for kind in AsyncCheckpointerType
            for where, save in (("here", saves.here), ("files", saves.files))
        } | {
            "state dict by view": lambda: dicts.get("view"),
            "state dict as torch": lambda: dicts.get("torch"),
            "put_state_dict": dicts.put,
            "copy": dicts.copy,
            "save": checkpoints.save_here,
            "save files": checkpoints.save_files,
            "load": checkpoints.load_here,
            "load files": checkpoints.load_files,
            "contiguous": resharding.contiguous,
            "reshard rows": lambda: resharding.read("rows"),
            "reshard columns": lambda: resharding.read("columns"),
        })
    finally:
        saves.close()
        checkpoints.close()


if __name__ == "__main__":
    main()
