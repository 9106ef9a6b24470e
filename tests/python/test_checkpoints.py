"""torch.distributed.checkpoint over the store, in one process: save, load, async_save, partial loads, strict errors."""

from __future__ import annotations

import pickle
import warnings
from typing import Any, Iterator

import pytest
import torch
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.state_dict_saver import AsyncCheckpointerType

import penstock
from penstock.torch import StorageReader, StorageWriter

PREFIX = "ckpt/dcp"
pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")


@pytest.fixture(autouse=True)
def no_snapshots_left(store: penstock.Store) -> Iterator[None]:
    yield
    for prefix in store._snapshot_prefixes(""):
        for number in store.snapshots(prefix):
            store.remove_snapshot(prefix, number)


def model_and_optimizer(seed: int) -> dict[str, Any]:
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.LayerNorm(16))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(torch.randn(4, 8)).sum().backward()
    optimizer.step()
    return {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": seed, "half": torch.randn(3, 5, dtype=torch.bfloat16)}


def test_a_saved_state_is_loaded_in_place(store: penstock.Store) -> None:
    saved, loaded = model_and_optimizer(1), model_and_optimizer(2)
    writer = StorageWriter(store, PREFIX)
    dcp.save(saved, storage_writer=writer)
    assert writer.info is not None and writer.info.number == 1
    pointer = loaded["model"]["0.weight"].data_ptr()
    dcp.load(loaded, storage_reader=StorageReader(store, PREFIX))
    assert loaded["model"]["0.weight"].data_ptr() == pointer
    assert all(torch.equal(loaded["model"][key], saved["model"][key]) for key in saved["model"])
    assert torch.equal(loaded["half"], saved["half"]) and loaded["step"] == 1
    assert torch.equal(loaded["optimizer"]["state"][0]["exp_avg"], saved["optimizer"]["state"][0]["exp_avg"])
    assert loaded["optimizer"]["param_groups"][0]["lr"] == 0.1


def test_the_next_save_is_the_next_snapshot(store: penstock.Store) -> None:
    writer = StorageWriter(store, PREFIX, keep_last=2)
    for value in range(3):
        dcp.save({"w": torch.full((2,), float(value))}, storage_writer=writer)
    assert store.snapshots(PREFIX) == [2, 3]
    state = {"w": torch.zeros(2)}
    dcp.load(state, storage_reader=StorageReader(store, PREFIX))
    assert state["w"][0] == 2
    dcp.load(state, storage_reader=StorageReader(store, PREFIX), checkpoint_id="2")
    assert state["w"][0] == 1


def test_checkpoint_id_is_a_number_or_a_prefix_below(store: penstock.Store) -> None:
    writer = StorageWriter(store, PREFIX)
    dcp.save({"w": torch.ones(2)}, storage_writer=writer, checkpoint_id="70")
    dcp.save({"w": torch.ones(3)}, storage_writer=writer, checkpoint_id="best")
    assert store.snapshots(PREFIX) == [70] and store.snapshots(PREFIX + "/best") == [1]
    with pytest.raises(dcp.CheckpointException, match="snapshot 70 of .* exists"):
        dcp.save({"w": torch.ones(2)}, storage_writer=writer, checkpoint_id="70")


def test_get_state_dict_reads_a_checkpoint_too(store: penstock.Store) -> None:
    dcp.save({"model": {"w": torch.arange(4.0)}, "b": torch.ones(1)}, storage_writer=StorageWriter(store, PREFIX))
    loaded = store.get_state_dict(PREFIX)
    assert torch.equal(loaded["model"]["w"], torch.arange(4.0)) and loaded["b"].item() == 1


@pytest.mark.parametrize("kind", [AsyncCheckpointerType.THREAD, AsyncCheckpointerType.PROCESS])
def test_async_save_publishes_what_was_there_when_it_was_called(store: penstock.Store, kind: AsyncCheckpointerType) -> None:
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        state = {"w": torch.ones(1000)}
        future = dcp.async_save(state, storage_writer=StorageWriter(store, PREFIX), async_checkpointer_type=kind)
        future = getattr(future, "upload_completion", future)
        state["w"].zero_()
        future.result(60)
        loaded = {"w": torch.zeros(1000)}
        dcp.load(loaded, storage_reader=StorageReader(store, PREFIX))
        assert loaded["w"].sum() == 1000
    finally:
        torch.distributed.destroy_process_group()


def test_a_part_of_a_checkpoint_can_be_loaded(store: penstock.Store) -> None:
    dcp.save({"a": torch.ones(2), "b": torch.ones(2)}, storage_writer=StorageWriter(store, PREFIX))
    state = {"b": torch.zeros(2)}
    dcp.load(state, storage_reader=StorageReader(store, PREFIX))
    assert state["b"].sum() == 2
    state = {"b": torch.zeros(2), "new": torch.zeros(2)}
    planner = dcp.DefaultLoadPlanner(allow_partial_load=True)
    dcp.load(state, storage_reader=StorageReader(store, PREFIX), planner=planner)
    assert state["b"].sum() == 2 and state["new"].sum() == 0
    with pytest.raises(dcp.CheckpointException, match="new"):
        dcp.load(state, storage_reader=StorageReader(store, PREFIX))


def test_what_is_not_there_is_told(store: penstock.Store) -> None:
    with pytest.raises(dcp.CheckpointException, match="has no snapshot"):
        dcp.load({"w": torch.ones(1)}, storage_reader=StorageReader(store, PREFIX))
    store.put_state_dict(PREFIX, {"w": torch.ones(1)})
    with pytest.raises(dcp.CheckpointException, match="is no distributed checkpoint; store.get_state_dict reads it"):
        dcp.load({"w": torch.ones(1)}, storage_reader=StorageReader(store, PREFIX))
    dcp.save({"w": torch.ones(3)}, storage_writer=StorageWriter(store, PREFIX))
    with pytest.raises((dcp.CheckpointException, ValueError), match="[Ss]ize|shape"):
        dcp.load({"w": torch.ones(4)}, storage_reader=StorageReader(store, PREFIX))


def test_a_save_that_fails_leaves_nothing(store: penstock.Store) -> None:
    class Failing(StorageWriter):
        def finish(self, metadata: Any, results: Any) -> None:
            raise RuntimeError("disk on fire")

    writer = Failing(store, PREFIX)
    with pytest.raises(dcp.CheckpointException, match="disk on fire"):
        dcp.save({"w": torch.ones(3)}, storage_writer=writer)
    writer.reset()
    assert store.snapshots(PREFIX) == [] and list(store.list(".penstock/snapshot/")) == []


def test_the_writer_connects_by_itself_in_another_process(store: penstock.Store) -> None:
    writer = pickle.loads(pickle.dumps(StorageWriter(store, PREFIX, keep_last=5)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.save({"w": torch.ones(3)}, storage_writer=writer)
    assert store.snapshots(PREFIX) == [1]
    writer._store.close()


def test_nothing_of_a_checkpoint_needs_pickle_to_find_the_tensors(store: penstock.Store) -> None:
    dcp.save({"w": torch.ones(3), "groups": [{"lr": 0.5}]}, storage_writer=StorageWriter(store, PREFIX))
    _, document, tensors = store._read_snapshot(PREFIX, None)
    assert '".dcp"' in document and {key for key, *_ in tensors} >= {"w"}
