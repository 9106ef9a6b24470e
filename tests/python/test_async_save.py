"""dcp.async_save into the store: one copy while training waits, named and published in the background, by a thread or another process."""

from __future__ import annotations

import base64
import copy
import gc
import pickle
import threading
from multiprocessing.reduction import ForkingPickler
from typing import Any, Callable, Iterator

import pytest
import torch
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.state_dict_saver import AsyncCheckpointerType

import penstock
from penstock import _staging
from penstock.torch import StorageReader, StorageWriter

PREFIX = "ckpt/async"
KINDS = [AsyncCheckpointerType.THREAD, AsyncCheckpointerType.PROCESS]
pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")


@pytest.fixture(autouse=True)
def nothing_left(store: penstock.Store) -> Iterator[None]:
    yield
    gc.collect()
    for number in store.snapshots(PREFIX):
        store.remove_snapshot(PREFIX, number)
    assert internal(store) == []


@pytest.fixture
def group() -> Iterator[None]:
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def internal(store: penstock.Store) -> list[str]:
    return [info.name for info in store.list(".penstock/")]


def training_state(seed: int) -> dict[str, Any]:
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(512, 1024), torch.nn.LayerNorm(1024), torch.nn.Linear(1024, 512))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1 * seed)
    model(torch.randn(4, 512)).sum().backward()
    optimizer.step()
    return {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "half": torch.randn(3, 5, dtype=torch.bfloat16),
        "strided": torch.arange(600_000.0).reshape(600, 1000).T,
        "empty": torch.zeros(0, 7),
        "step": seed,
        "lists": [torch.full((2,), float(seed)), {"history": [1, 2, seed]}],
    }


def tensors_of(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (dict, list)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from tensors_of(item)


def save(store: penstock.Store, state: dict[str, Any], kind: AsyncCheckpointerType = KINDS[0], **options: Any) -> Any:
    return dcp.async_save(state, storage_writer=StorageWriter(store, PREFIX), async_checkpointer_type=kind, **options)


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_there_when_it_was_called_is_saved(store: penstock.Store, group: None, kind: AsyncCheckpointerType) -> None:
    state, wanted = training_state(1), training_state(1)
    future = save(store, state, kind)
    for tensor in tensors_of(state):
        tensor.detach().fill_(-7)
    state["lists"][1]["history"].append(4)
    state["optimizer"]["param_groups"][0]["lr"] = 9.0
    future.result(120)
    loaded = training_state(2)
    dcp.load(loaded, storage_reader=StorageReader(store, PREFIX))
    for got, expected in zip(tensors_of(loaded), tensors_of(wanted), strict=True):
        assert torch.equal(got, expected)
    assert loaded["step"] == 1 and loaded["lists"][1]["history"] == [1, 2, 1]
    assert loaded["optimizer"]["param_groups"][0]["lr"] == 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_the_background_puts_no_tensor_a_second_time(store: penstock.Store, group: None, kind: AsyncCheckpointerType) -> None:
    state = {"a": torch.arange(500_000.0), "small": torch.ones(3), "step": torch.tensor(4.0)}
    save(store, state, kind).result(120)
    _, _, listed = store._read_snapshot(PREFIX, 1)
    (info,) = store.snapshot_infos(PREFIX)
    stages = {shard[0].split("/")[2] for key, _, _, shards in listed for shard in shards}
    assert len(stages) == 1 and info.id not in stages and {key for key, *_ in listed} == {"a", "small", "step"}
    assert info.nbytes == 4 * 500_004
    assert not any(name.startswith(f".penstock/snapshot/{info.id}/t/0/") for name in internal(store))


def test_a_staged_state_dict_is_pickled_without_its_bytes(store: penstock.Store, run_python: Callable[..., Any]) -> None:
    tied = torch.arange(2_000_000.0)
    staged = StorageWriter(store, PREFIX).stage({"w": tied, "again": tied.detach(), "n": [torch.ones(2)], "step": 3})
    assert staged["w"] is staged["again"] and staged["w"].data_ptr() != tied.data_ptr()
    payload = bytes(ForkingPickler.dumps(staged))
    assert len(payload) < 4096
    done = run_python(
        "import base64, pickle, torch\n"
        "sd = pickle.loads(base64.b64decode(sys.argv[1]))\n"
        "from penstock import _staging\n"
        "assert torch.equal(sd['w'], torch.arange(2_000_000.0)) and sd['again'] is sd['w'] and sd['step'] == 3\n"
        "assert _staging.find(sd['w']) and _staging.find(sd['w'].view_as(sd['w'])) and _staging.find(sd['n'][0])\n"
        "print([i.name for i in store.list('')])\n",
        base64.b64encode(payload).decode(),
    )
    assert done.stdout == "[]\n", done.stderr


def test_tied_tensors_are_stored_once(store: penstock.Store, group: None) -> None:
    weight = torch.arange(400_000.0)
    save(store, {"a": weight, "b": weight.detach()}).result(60)
    (info,) = store.snapshot_infos(PREFIX)
    assert info.nbytes == weight.nbytes
    loaded = store.get_state_dict(PREFIX)
    assert torch.equal(loaded["a"], weight) and torch.equal(loaded["b"], weight)


def test_nobody_sees_what_is_staged_and_it_goes_with_the_staged_state_dict(store: penstock.Store, held: Callable[[], dict[str, int]]) -> None:
    staged = StorageWriter(store, PREFIX).stage({"a": torch.ones(400_000), "b": torch.ones(3)})
    assert list(store.list()) == [] and store.snapshots(PREFIX) == [] and len(internal(store)) == 3
    gc.disable()
    try:
        part = staged["a"]
        del staged
        assert len(internal(store)) == 3, "one tensor is left"
        del part
        assert internal(store) == [] and held() == {"pins": 0, "drafts": 0}
    finally:
        gc.enable()


def test_it_goes_with_the_process(store: penstock.Store, spawn: Callable[[str], Any], eventually: Callable[..., Any]) -> None:
    process = spawn(
        "import torch; from penstock.torch import StorageWriter\n"
        "staged = StorageWriter(store, 'ckpt/async').stage({'w': torch.ones(1_000_000), 'v': torch.ones(2)})\n"
        "print('staged', flush=True); sys.stdin.read()"
    )
    assert process.stdout.readline() == "staged\n"
    assert len(internal(store)) == 3
    process.kill()
    eventually(lambda: internal(store) == [], "what was staged is gone")


def test_what_was_dropped_meanwhile_cannot_be_published(store: penstock.Store, node: penstock.LocalNode) -> None:
    staged = StorageWriter(store, PREFIX).stage({"w": torch.ones(400_000)})
    payload = bytes(ForkingPickler.dumps(staged))
    there = pickle.loads(payload)  # as another process has it
    del staged
    gc.collect()
    with pytest.raises(dcp.CheckpointException, match="is gone: the process that had put it has ended"):
        dcp.save(there, storage_writer=StorageWriter(store, PREFIX))
    assert store.snapshots(PREFIX) == []
    del there


@pytest.mark.parametrize("kind", KINDS)
def test_a_save_that_fails_leaves_nothing(store: penstock.Store, group: None, kind: AsyncCheckpointerType, eventually: Callable[..., Any]) -> None:
    save(store, {"w": torch.ones(400_000)}, kind, checkpoint_id="7").result(120)
    before = internal(store)
    future = save(store, {"w": torch.zeros(400_000)}, kind, checkpoint_id="7")
    with pytest.raises(BaseException, match="snapshot 7 of .* exists"):
        future.result(120)
    del future
    eventually(lambda: gc.collect() is not None and internal(store) == before, "what was staged is gone")
    assert store.get_state_dict(PREFIX)["w"].sum() == 400_000


def test_a_store_that_is_full_says_so_at_once_and_keeps_nothing(store: penstock.Store, group: None) -> None:
    with pytest.raises(penstock.StoreFullError):
        save(store, {"small": torch.ones(100), "w": torch.ones(200 << 20)})
    gc.collect()
    assert internal(store) == []


def test_entries_that_cannot_be_copied_are_refused_and_nothing_stays(store: penstock.Store, group: None) -> None:
    with pytest.raises(TypeError, match="lock"):
        save(store, {"w": torch.ones(400_000), "lock": threading.Lock()})
    gc.collect()
    assert internal(store) == []
    with pytest.raises(penstock.InvalidArgumentError, match="m.w is on the meta device"):
        save(store, {"m": {"w": torch.ones(3, device="meta")}})


@pytest.mark.parametrize("how", ["new", "in place", "part"])
def test_what_a_planner_makes_of_a_tensor_is_stored(store: penstock.Store, group: None, how: str) -> None:
    class Planner(dcp.DefaultSavePlanner):
        def transform_object(self, write_item: Any, object: Any) -> Any:
            if how == "part":
                return object.detach().flip(0)
            return object.mul(2) if how == "new" else object.mul_(2)

    state = {"w": torch.arange(400_000.0), "v": torch.arange(5.0)}
    save(store, state, planner=Planner()).result(60)
    loaded = store.get_state_dict(PREFIX)
    for key, tensor in state.items():
        assert torch.equal(loaded[key], tensor.flip(0) if how == "part" else tensor * 2)


def test_a_stage_belongs_to_one_snapshot(store: penstock.Store) -> None:
    writer = StorageWriter(store, PREFIX, keep_last=1)
    staged = writer.stage({"w": torch.arange(400_000.0)})
    elsewhere = pickle.loads(bytes(ForkingPickler.dumps(staged)))
    dcp.save(staged, storage_writer=writer)
    with pytest.raises(dcp.CheckpointException, match="belongs to another snapshot; stage it again"):
        dcp.save(elsewhere, storage_writer=StorageWriter(store, PREFIX))
    assert store.get_state_dict(PREFIX)["w"][-1] == 399_999 and store.snapshots(PREFIX) == [1]
    dcp.save(staged, storage_writer=writer)  # a copy of its own; the first snapshot goes
    assert store.get_state_dict(PREFIX)["w"][-1] == 399_999 and store.snapshots(PREFIX) == [2]


def test_removing_a_snapshot_removes_what_was_staged_for_it(store: penstock.Store, group: None) -> None:
    writer = StorageWriter(store, PREFIX, keep_last=2)
    for value in range(4):
        dcp.async_save({"w": torch.full((400_000,), float(value)), "v": torch.full((2,), float(value))}, storage_writer=writer).result(60)
    gc.collect()
    assert store.snapshots(PREFIX) == [3, 4] and store.stats()["tensor_bytes"] < 2 * 4 * 400_002 + 20_000
    assert store.get_state_dict(PREFIX, 3)["w"][0] == 2
    view = store.get_state_dict(PREFIX, 4)["w"]
    for number in (3, 4):
        store.remove_snapshot(PREFIX, number)
    assert internal(store) == [] and view[0] == 3


def test_another_stager_can_be_given(store: penstock.Store, group: None) -> None:
    from torch.distributed.checkpoint.staging import BlockingAsyncStager

    save(store, {"w": torch.arange(400_000.0)}, async_stager=BlockingAsyncStager()).result(60)
    (info,) = store.snapshot_infos(PREFIX)
    _, _, ((_, _, _, shards),) = store._read_snapshot(PREFIX, 1)
    assert f"/{info.id}/" in shards[0][0]


def test_only_whole_unchanged_staged_tensors_are_recognised(store: penstock.Store) -> None:
    staged = StorageWriter(store, PREFIX).stage({"w": torch.arange(400_000.0).reshape(2, -1), "p": torch.nn.Parameter(torch.ones(4))})
    w = staged["w"]
    assert _staging.find(w) is not None and _staging.find(w.view_as(w)) is not None and _staging.find(staged["p"]) is not None
    for other in (w[0], w.reshape(-1), w.T, w.view(torch.int32), w.clone(), copy.deepcopy(w), torch.empty(0), "w"):
        assert _staging.find(other) is None
    w[0, 0] = 5
    assert _staging.find(w) is None
    del staged, w, other
