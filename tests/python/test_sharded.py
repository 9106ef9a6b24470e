"""Sharded tensors of real ranks (torchrun, gloo): put with one layout, read with another, by state dict and by DCP."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Iterator

import pytest
import torch

import penstock

RANKS = Path(__file__).with_name("sharded_ranks.py")


@pytest.fixture(autouse=True)
def no_snapshots_left(store: penstock.Store) -> Iterator[None]:
    yield
    for number in store.snapshots("sharded"):
        store.remove_snapshot("sharded", number)


def torchrun(node: penstock.LocalNode, ranks: int, action: str) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks), str(RANKS), action, node.address]
    done = subprocess.run(command, capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stderr[-6000:]


def test_a_state_dict_of_dtensors_is_resharded_on_read(store: penstock.Store, node: penstock.LocalNode) -> None:
    torchrun(node, 4, "put")
    (info,) = store.snapshot_infos("sharded")
    bytes_of_one = 2 * (1000 * 257 + 16 * 12) * 4 + (16 * 12 + 3 * 4 + 1000 * 257) * 0 + (3 * 4) * 4 + 7 * 5 * 2
    assert info.nbytes == bytes_of_one, "what is replicated is stored once"
    loaded = store.get_state_dict("sharded")
    assert loaded["step"] == 5 and torch.equal(loaded["sharded"]["long"], loaded["whole"]) and loaded["sharded"]["none"].shape == (0, 4)
    torchrun(node, 2, "get")
    torchrun(node, 8, "get")


@pytest.mark.parametrize(("kind", "ranks"), [("THREAD", 4), ("PROCESS", 2)])
def test_ranks_stage_into_the_store_and_go_on(store: penstock.Store, node: penstock.LocalNode, kind: str, ranks: int) -> None:
    torchrun(node, ranks, kind)
    assert store.snapshots("sharded") == [1]
    (info,) = store.snapshot_infos("sharded")
    _, _, listed = store._read_snapshot("sharded", 1)
    shards = {key: {shard[0].split("/")[2] for shard in shards} for key, _, _, shards in listed}
    assert len(shards["tensors.long"]) == ranks and info.id not in shards["tensors.long"], "each rank's shard lies where it was staged"
    assert len(shards["everywhere.plain"]) == 1
    torchrun(node, 2, "load")
    loaded = store.get_state_dict("sharded")
    generator = torch.Generator().manual_seed(sum(map(ord, "long")))
    assert torch.equal(loaded["everywhere.plain"], torch.randn(1000, 257, generator=generator))
    del loaded
    store.remove_snapshot("sharded", 1)
    assert list(store.list(".penstock/")) == []


def test_a_checkpoint_of_four_ranks_is_loaded_by_two(store: penstock.Store, node: penstock.LocalNode) -> None:
    torchrun(node, 4, "save")
    assert store.snapshots("sharded") == [3]
    torchrun(node, 2, "load")
