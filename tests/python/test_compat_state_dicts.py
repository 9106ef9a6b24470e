"""State dicts, objects and DTensors of penstock.compat.torchstore."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections import OrderedDict

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch.distributed.checkpoint._nested_dict import flatten_state_dict, unflatten_state_dict  # noqa: E402

import penstock.compat.torchstore as ts  # noqa: E402
from penstock.compat.torchstore import api, connection  # noqa: E402


@pytest.fixture(autouse=True)
def address(node, store, monkeypatch):
    monkeypatch.setenv("PENSTOCK_ADDRESS", node.address)
    monkeypatch.delenv("PENSTOCK_ALLOW_PICKLE", raising=False)
    yield
    asyncio.run(ts.shutdown())
    api._clients.clear()
    connection.close()


def run(coroutine):
    return asyncio.run(coroutine)


def trained():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 4, bias=False))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(2):
        optimizer.zero_grad()
        model(torch.randn(8, 4)).sum().backward()
        optimizer.step()
    return model, optimizer


def assert_same(a, b):
    assert type(a) is type(b) or isinstance(a, torch.Tensor)
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert list(a) == list(b)
        for key in a:
            assert_same(a[key], b[key])
    else:
        assert a == b


def test_a_model_and_its_optimizer_come_back():
    model, optimizer = trained()
    state_dict = {"model": dict(model.state_dict()), "optimizer": optimizer.state_dict(), "step": 2}
    run(ts.put_state_dict(state_dict, "v0"))
    got = run(ts.get_state_dict("v0"))
    assert_same(unflatten_state_dict(*flatten_state_dict(state_dict)), got)  # torch itself makes "0" of 0
    assert got["optimizer"]["param_groups"][0]["betas"] == (0.9, 0.999)
    model.load_state_dict(got["model"])
    assert run(ts.exists("v0/MAPPING")) and run(ts.exists("v0/model.0.weight"))


def test_into_the_parameters_of_a_model():
    model, _ = trained()
    run(ts.put_state_dict(model.state_dict(), "v0"))
    other = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 4, bias=False))
    addresses = [p.data_ptr() for p in other.parameters()]
    got = run(ts.get_state_dict("v0", other.state_dict()))
    assert [p.data_ptr() for p in other.parameters()] == addresses
    for ours, theirs in zip(other.parameters(), model.parameters()):
        assert torch.equal(ours, theirs)
    assert got["0.weight"].data_ptr() == addresses[0]


def test_tied_tensors_stay_tied_where_they_are_read_into():
    class Tied(torch.nn.Module):
        def __init__(self, fill):
            super().__init__()
            self.embed = torch.nn.Embedding(5, 3)
            self.head = torch.nn.Linear(3, 5, bias=False)
            self.head.weight = self.embed.weight
            torch.nn.init.constant_(self.head.weight, fill)

    run(ts.put_state_dict(Tied(7.0).state_dict(), "tied"))
    model = Tied(0.0)
    run(ts.get_state_dict("tied", model.state_dict()))
    assert model.embed.weight is model.head.weight and model.head.weight.eq(7).all()
    got = run(ts.get_state_dict("tied"))
    assert torch.equal(got["embed.weight"], got["head.weight"])


def test_strict_wants_the_same_paths():
    run(ts.put_state_dict({"a": torch.ones(2), "b": {"c": torch.ones(3)}}, "v0"))
    other = {"a": torch.zeros(2), "b": {"d": torch.zeros(3)}}
    for error in (AssertionError, ValueError):
        with pytest.raises(error, match=r"lacks \['b.c'\].*has \['b.d'\]"):
            run(ts.get_state_dict("v0", other))
    assert other["a"].sum() == 0
    got = run(ts.get_state_dict("v0", other, strict=False))
    assert got["a"] is other["a"] and other["a"].sum() == 2
    assert torch.equal(got["b"]["c"], torch.ones(3)) and other["b"]["d"].sum() == 0


def test_a_state_dict_that_is_not_whole_is_not_there():
    with pytest.raises(RuntimeError, match="'v1'"):
        run(ts.get_state_dict("v1"))
    run(ts.put("v1/a", torch.ones(2)))  # a writer that died
    with pytest.raises(RuntimeError):
        run(ts.get_state_dict("v1"))


def test_empty_nested_and_non_tensor_state_dicts():
    run(ts.put_state_dict({}, "empty"))
    assert run(ts.get_state_dict("empty")) == {}
    state_dict = {"a": {"b": [torch.ones(1), torch.zeros(1)]}, "n": None, "t": (1, 2), "l": [1, [2]]}
    run(ts.put_state_dict(state_dict, "nested"))
    assert_same(state_dict, run(ts.get_state_dict("nested")))


def test_transfer_dtype_casts_floating_point_only():
    state_dict = {"w": torch.full((3,), 1.5), "i": torch.arange(3), "x": 1.5}
    run(ts.put_state_dict(state_dict, "v0", transfer_dtype=torch.bfloat16))
    got = run(ts.get_state_dict("v0"))
    assert (got["w"].dtype, got["i"].dtype, got["x"]) == (torch.bfloat16, torch.int64, 1.5)
    with pytest.raises(TypeError, match="^transfer_dtype"):
        run(ts.put_state_dict(state_dict, "v0", transfer_dtype="bf16"))


def test_direct_sync_refreshes_what_the_first_put_gave():
    weights = {"w": torch.ones(4), "b": torch.ones(2)}
    with pytest.raises(ValueError, match="^state_dict"):
        run(ts.put_state_dict(None, "sync", direct_rdma=True))
    run(ts.put_state_dict(weights, "sync", direct_rdma=True))
    weights["w"].mul_(3)
    run(ts.put_state_dict(None, "sync", direct_rdma=True))
    mine = {"w": torch.zeros(4)}
    assert run(ts.get_state_dict("sync", mine, direct_rdma=True)) is mine
    assert mine["w"].tolist() == [3, 3, 3, 3]
    with pytest.raises(ValueError, match="^user_state_dict"):
        run(ts.get_state_dict("sync", direct_rdma=True))


@pytest.mark.parametrize("value", [
    None, True, 0, -1, 1 << 80, 0.1, float("inf"), -0.0, "", "ü\ud800", b"", b"\0\xff", 1 + 2j, [], {}, (), set(),
    [1, [2, (3,)]], {"a": {"b": None}}, {1: "a", (2, "x"): "b", None: 0}, {"!tuple": [1]}, {"!": 1, "a": 2},
    {"x": ({1, 2}, frozenset({"a"}))}, OrderedDict(b=1, a=2), torch.Size([2, 3]), torch.bfloat16,
    [torch.device("cpu"), torch.device("cuda:1")],
])
def test_objects_of_plain_types_come_back_as_they_were(value):
    run(ts.put("o", value))
    got = run(ts.get("o"))
    assert got == value and type(got) is type(value) and repr(got) == repr(value)


def test_numpy_arrays_come_back_as_arrays_of_ones_own():
    array = np.arange(12, dtype=np.uint16).reshape(3, 4)
    run(ts.put("a", array))
    got = run(ts.get("a"))
    assert type(got) is np.ndarray and got.dtype == array.dtype and (got == array).all()
    got[0, 0] = 9
    assert run(ts.get("a"))[0, 0] == 0


class Thing:
    def __init__(self, value):
        self.value = value


def cyclic():
    value = []
    value.append(value)
    return value


@pytest.mark.parametrize("value", [Thing(1), {"a": [Thing(1)]}, {"t": torch.ones(2)}, np.float64(1), len, cyclic(),
                                   np.array([Thing(1)], dtype=object)])
def test_other_objects_are_refused(value):
    with pytest.raises(TypeError, match="^value of 'o': .*allow_pickle"):
        run(ts.put("o", value))
    assert not run(ts.exists("o"))


def test_other_objects_are_pickled_where_that_was_allowed():
    ts.allow_pickle()
    try:
        run(ts.put_batch({"o": Thing(5), "tensors": {"t": torch.ones(2)}}))
        assert run(ts.get("o")).value == 5
        assert run(ts.get("tensors"))["t"].sum() == 2
        ts.allow_pickle(False)
        with pytest.raises(TypeError, match="^key 'o': holds a pickle"):
            run(ts.get("o"))
    finally:
        ts.objects._pickle_allowed = None


def test_pickle_is_allowed_by_the_environment_in_a_program_that_nobody_changes():
    program = ("import asyncio, datetime; import penstock.compat.torchstore as ts\n"
               "asyncio.run(ts.put('o', datetime.date(2026, 1, 2))); print(asyncio.run(ts.get('o')))")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True,
                          env={**os.environ, "PENSTOCK_ALLOW_PICKLE": "1"}, timeout=60)
    assert done.stdout == "2026-01-02\n", done.stderr
    with pytest.raises(TypeError):
        run(ts.get("o"))


def test_objects_have_no_slices_and_go_into_no_tensor():
    run(ts.put("o", [1]))
    spec = ts.TensorSlice((0,), None, (1,), (1,), ())
    for call in (ts.get("o", torch.ones(1)), ts.get("o", None, spec), ts.get_batch({"o": torch.ones(1)})):
        with pytest.raises(ValueError, match="'o' holds an object"):
            run(call)


DTENSORS = """
import asyncio, os, sys
import torch, torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
import penstock.compat.torchstore as ts

rank = int(os.environ["RANK"])
dist.init_process_group("gloo", init_method=f"file://{sys.argv[1]}", rank=rank, world_size=2)
mesh = init_device_mesh("cpu", (2,))
whole = torch.arange(15.0).reshape(5, 3)

async def main():
    replicated = distribute_tensor(whole, mesh, [Replicate()])
    if rank == 0:
        await ts.put("whole", replicated)
        assert torch.equal(await ts.get("whole"), whole)
    dist.barrier()
    for placements in ([Shard(0)], [Shard(1)], [Replicate()]):
        target = distribute_tensor(torch.zeros(5, 3), mesh, placements)
        address = target.to_local().data_ptr()
        assert await ts.get("whole", target) is target
        assert target.to_local().data_ptr() == address
        assert torch.equal(target.full_tensor(), whole), placements
        again = distribute_tensor(torch.zeros(5, 3, dtype=torch.float64), mesh, placements)
        await ts.get_batch({"whole": again})
        assert torch.equal(again.full_tensor(), whole.double())
    parameter = torch.nn.Parameter(distribute_tensor(torch.zeros(5, 3), mesh, [Shard(0)]))
    await ts.get("whole", parameter)
    assert parameter.is_leaf and torch.equal(parameter.full_tensor(), whole)
    small = distribute_tensor(torch.zeros(1, 3), mesh, [Shard(0)])  # rank 1 has nothing of it
    await ts.put(f"one_{rank}", torch.ones(1, 3))
    await ts.get(f"one_{rank}", small)
    assert small.to_local().sum() == (3 if rank == 0 else 0)
    sharded = distribute_tensor(whole, mesh, [Shard(0)])
    flat = init_device_mesh("cpu", (1, 2))  # of two dimensions, the first of one device
    in_rows = distribute_tensor(whole, flat, [Replicate(), Shard(0)])
    spec = ts.TensorSlice((0, 0), None, (5, 3), (1, 3), ())
    for key, parts in (("rows", sharded), ("in_rows", in_rows)):
        await ts.put(key, parts)
        dist.barrier()
        assert torch.equal(await ts.get(key), whole)
    for call, text in ((ts.put("no", DTensor.from_local(whole[:2], flat, [Partial(), Shard(0)])), "Partial"),
                       (ts.get("whole", sharded, spec), "given with a DTensor"),
                       (ts.get("whole", DTensor.from_local(whole, mesh, [Partial()])), "placements"),
                       (ts.get("one_0", sharded), "DTensor of shape")):
        try:
            await call
        except ValueError as error:
            assert text in str(error), error
        else:
            raise AssertionError(text)
    dist.barrier()
    print("well")

asyncio.run(main())
dist.destroy_process_group()
"""


def test_dtensors_of_two_processes(tmp_path):
    ranks = [
        subprocess.Popen([sys.executable, "-c", DTENSORS, str(tmp_path / "rendezvous")], text=True,
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "RANK": str(rank)})
        for rank in range(2)
    ]
    for rank in ranks:
        out, errors = rank.communicate(timeout=120)
        assert out == "well\n", errors
