"""penstock.compat.torchstore: programs as they are written for TorchStore."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import penstock.compat.torchstore as ts  # noqa: E402
from penstock.compat.torchstore import api, connection  # noqa: E402


@pytest.fixture(autouse=True)
def address(node, store, monkeypatch):
    """The node of the tests, given to programs in the way they are given one; `store` checks what is left."""
    monkeypatch.setenv("PENSTOCK_ADDRESS", node.address)
    monkeypatch.delenv("PENSTOCK_ALLOW_PICKLE", raising=False)
    yield
    asyncio.run(ts.shutdown())
    api._clients.clear()
    connection.close()


def run(coroutine):
    return asyncio.run(coroutine)


def test_the_readme_of_torchstore_runs_in_two_processes(node):
    program = """
import asyncio, os, torch
import penstock.compat.torchstore as ts

WORLD_SIZE = 2

class ExampleActor:
    def __init__(self, rank, world_size=WORLD_SIZE):
        self.rank = rank
        self.world_size = world_size

    async def store_tensor(self):
        t = torch.tensor([self.rank])
        await ts.put(f"{self.rank}_tensor", t)

    async def print_tensor(self):
        other_rank = (self.rank + 1) % self.world_size
        t = await ts.get(f"{other_rank}_tensor")
        print(f"Rank=[{self.rank}] Fetched {t} from {other_rank=}")

async def main():
    await ts.initialize()
    actor = ExampleActor(int(os.environ["RANK"]))
    await actor.store_tensor()
    print("stored", flush=True)
    input()
    await actor.print_tensor()

asyncio.run(main())
"""
    ranks = [
        subprocess.Popen([sys.executable, "-c", program], env={**os.environ, "RANK": str(rank)}, text=True,
                         stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for rank in range(2)
    ]
    for rank in ranks:
        assert rank.stdout.readline() == "stored\n"
    for number, rank in enumerate(ranks):
        out, _ = rank.communicate("go\n", timeout=60)
        other = (number + 1) % 2
        assert out == f"Rank=[{number}] Fetched tensor([{other}]) from other_rank={other}\n"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e4m3fn, torch.bool,
                                   torch.int64, torch.complex64])
@pytest.mark.parametrize("shape", [(), (0, 3), (5,), (3, 4), (300, 1000), (3000, 2000)])
def test_a_tensor_comes_back_as_it_was(dtype, shape):
    tensor = torch.arange(int(np.prod(shape)), dtype=torch.float32).reshape(shape).to(dtype)
    run(ts.put("t", tensor))
    got = run(ts.get("t"))
    assert got.dtype == dtype and got.shape == tensor.shape
    assert torch.equal(got.flatten().view(torch.uint8), tensor.flatten().view(torch.uint8))


def test_strided_tensors_and_parameters_are_put_by_value():
    tensor = torch.arange(12.0).reshape(3, 4).t()
    parameter = torch.nn.Parameter(tensor.clone())
    run(ts.put_batch({"t": tensor, "p": parameter}))
    got = run(ts.get_batch(["t", "p"]))
    assert list(got) == ["t", "p"]
    assert torch.equal(got["t"], tensor) and torch.equal(got["p"], parameter.detach())
    assert got["t"].is_contiguous()


def test_what_was_got_is_the_callers_own():
    run(ts.put("t", torch.zeros(300_000)))
    first = run(ts.get("t"))
    first.add_(1)
    second = run(ts.get("t"))
    assert second.sum() == 0 and first.data_ptr() != second.data_ptr()


def test_put_replaces():
    run(ts.put("k", torch.ones(3)))
    run(ts.put("k", {"an": "object"}))
    assert run(ts.get("k")) == {"an": "object"}


def test_natively_put_tensors_are_seen_and_the_other_way_round(store):
    store.put("torchstore/torchstore/native", np.arange(3))
    assert torch.equal(run(ts.get("native")), torch.arange(3))
    run(ts.put("ours", torch.arange(4)))
    assert store.get("torchstore/torchstore/ours").numpy().tolist() == [0, 1, 2, 3]


def test_in_place_gets_write_the_bytes_where_the_tensor_lies():
    run(ts.put("t", torch.arange(6.0).reshape(2, 3)))
    target = torch.zeros(2, 3, requires_grad=True)
    address, version = target.data_ptr(), target._version
    assert run(ts.get("t", target)) is target
    assert target.data_ptr() == address and target[1, 2] == 5
    assert target._version > version  # autograd knows
    by_name = run(ts.get("t", inplace_tensor=torch.zeros(2, 3)))
    assert torch.equal(by_name, target.detach())
    version = by_name._version
    assert run(ts.get_batch({"t": by_name}))["t"] is by_name and by_name._version > version


def test_in_place_gets_into_strided_tensors_and_other_dtypes():
    run(ts.put("t", torch.arange(6.0).reshape(2, 3)))
    strided = run(ts.get("t", torch.zeros(3, 2).t()))
    half = run(ts.get("t", torch.zeros(2, 3, dtype=torch.bfloat16)))
    double = run(ts.get_batch({"t": torch.zeros(3, 2, dtype=torch.float64).t()}))["t"]
    several = run(ts.get_batch({"t": torch.zeros(3, 2).t()}))["t"]
    for got in (strided, half, double, several):
        assert got.tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize("target", [torch.zeros(3), torch.zeros(1, 3), torch.zeros(3, 2)])
def test_in_place_gets_of_another_shape_are_refused_and_write_nothing(target):
    run(ts.put("t", torch.ones(2, 3)))
    for call in (ts.get("t", target), ts.get_batch({"t": target})):
        with pytest.raises(ValueError, match="^inplace_tensor: has shape"):
            run(call)
    assert target.sum() == 0


def test_a_slice_is_read_alone_and_into_a_tensor():
    whole = torch.arange(1000 * 100).reshape(1000, 100)
    run(ts.put("t", whole))
    spec = ts.TensorSlice(offsets=(10, 20), coordinates=(), global_shape=(1000, 100), local_shape=(50, 30),
                          mesh_shape=())
    got = run(ts.get("t", tensor_slice_spec=spec))
    assert torch.equal(got, whole[10:60, 20:50]) and got.is_contiguous()
    buffer = torch.zeros(50, 30, dtype=torch.int64)
    assert run(ts.get("t", inplace_tensor=buffer, tensor_slice_spec=spec)) is buffer
    assert torch.equal(buffer, got)
    with pytest.raises(ValueError, match="^inplace_tensor: has shape"):
        run(ts.get("t", torch.zeros(50, 31, dtype=torch.int64), spec))
    outside = ts.TensorSlice((999, 0), None, (1000, 100), (2, 100), ())
    with pytest.raises(ValueError, match="box"):
        run(ts.get("t", None, outside))
    with pytest.raises(TypeError, match="^tensor_slice_spec"):
        run(ts.get("t", None, (slice(0, 1),)))


def test_slices_of_small_tensors():
    whole = torch.arange(14 * 9.0).reshape(14, 9)
    run(ts.put("t", whole))
    spec = ts.TensorSlice((3, 2), None, (14, 9), (5, 4), ())
    assert torch.equal(run(ts.get("t", tensor_slice_spec=spec)), whole[3:8, 2:6])
    assert torch.equal(run(ts.get("t", torch.zeros(5, 4, dtype=torch.float64), spec)), whole[3:8, 2:6].double())


def test_missing_keys():
    run(ts.put_batch({"a": torch.ones(2), "b": torch.ones(2)}))
    target = torch.zeros(2)
    for call in (ts.get("nope"), ts.get("nope", target), ts.get_batch(["a", "nope"]), ts.delete("nope"),
                 ts.get_batch({"a": target, "nope": None})):
        with pytest.raises(KeyError, match="nope"):
            run(call)
    with pytest.raises(ValueError):
        run(ts.get_batch({"a": target, "b": torch.zeros(3)}))
    assert target.tolist() == [0, 0]  # all or nothing
    run(ts.delete_batch(["nope", "a", "a"]))
    assert not run(ts.exists("a"))


@pytest.mark.parametrize("call, error", [
    (lambda: ts.put_batch({}), ValueError),
    (lambda: ts.put_batch([("a", 1)]), TypeError),
    (lambda: ts.get_batch([]), ValueError),
    (lambda: ts.get_batch(["a", "a"]), ValueError),
    (lambda: ts.get_batch("a"), TypeError),
    (lambda: ts.get("a", [1.0]), TypeError),
    (lambda: ts.put(1, torch.ones(1)), TypeError),
    (lambda: ts.get(None), TypeError),
    (lambda: ts.keys(1), TypeError),
    (lambda: ts.put_state_dict({}, None), TypeError),
    (lambda: ts.put_state_dict([], "v"), TypeError),
    (lambda: ts.get_state_dict(1), TypeError),
    (lambda: ts.get("a", store_name=1), TypeError),
    (lambda: ts.delete_batch("a"), TypeError),
    (lambda: ts.put("meta", torch.ones(2, device="meta")), ValueError),
    (lambda: ts.put("sparse", torch.ones(2, 2).to_sparse()), ValueError),
    (lambda: ts.initialize(num_storage_volumes=2), RuntimeError),
    (lambda: ts.initialize(strategy="host"), TypeError),
    (lambda: ts.initialize(relay_meshes=[]), ValueError),
    (lambda: ts.client(role="publisher"), ValueError),
])
def test_wrong_arguments_are_refused(call, error):
    run(ts.put("a", torch.ones(1)))
    with pytest.raises(error):
        run(call())
    assert run(ts.keys()) == ["a"]


def test_keys_have_parts_that_end_with_dots():
    names = ["", ".x", "v0.x", "v0.y", "v0.x.z", "v1.x", "v01.x", "v0/model.w"]
    run(ts.put_batch({name: torch.tensor(len(name)) for name in names}))
    assert run(ts.keys()) == sorted(names)
    assert run(ts.keys("v0")) == ["v0.x", "v0.x.z", "v0.y"]
    assert run(ts.keys("v0.x")) == ["v0.x", "v0.x.z"]
    assert run(ts.keys("v0/model")) == ["v0/model.w"]
    assert run(ts.keys("")) == ["", ".x"]
    assert run(ts.keys("nope")) == []
    assert run(ts.get("")).item() == 0


def test_stores_of_other_names_are_apart_and_shutdown_empties_one():
    async def program():
        await ts.initialize(store_name="one/1")
        await ts.initialize(store_name="two")
        await ts.put("k", torch.ones(1), store_name="one/1")
        assert not await ts.exists("k", "two")
        await ts.put("k", torch.zeros(1), "two")
        await ts.shutdown("two")
        assert await ts.keys(store_name="one/1") == ["k"]
        await ts.shutdown("one/1")
        assert not await ts.exists("k", "one/1")
    run(program())


def test_the_client_is_the_same_each_time_and_has_the_calls():
    async def program():
        client = await ts.client()
        assert client is await ts.client()
        await client.put("a", torch.ones(2))
        assert await client.exists("a") and await client.keys() == ["a"]
        ts.reset_client()
        assert client is not await ts.client()
        await client.delete("a")
    run(program())


def test_many_at_once_in_one_loop():
    async def program():
        await asyncio.gather(*(ts.put(f"k{i}", torch.full((1000,), i)) for i in range(50)))
        got = await asyncio.gather(*(ts.get(f"k{i}") for i in range(50)))
        assert [int(t[0]) for t in got] == list(range(50))
    run(program())


def test_the_original_initialises_with_strategies_and_spmd():
    strategy = ts.LocalRankStrategy(default_transport_type=ts.TransportType.MonarchRDMA)
    run(ts.initialize(num_storage_volumes=4, strategy=strategy))
    run(ts.spmd.initialize(ts.HostStrategy(), transport="tcp"))
    with pytest.raises(TypeError, match="^default_transport_type"):
        ts.HostStrategy("MonarchRDMA")
    ts.init_logging()


def test_without_a_store_initialize_starts_one_for_this_program_and_its_children(tmp_path):
    program = """
import asyncio, os, subprocess, sys, torch
import penstock.compat.torchstore as ts
async def main():
    await ts.initialize()
    await ts.put("k", torch.arange(3))
    child = "import asyncio; import penstock.compat.torchstore as ts; print(asyncio.run(ts.get('k')))"
    subprocess.run([sys.executable, "-c", child], check=True)
    await ts.shutdown()
    print("PENSTOCK_ADDRESS" in os.environ)
asyncio.run(main())
"""
    nowhere = {key: value for key, value in os.environ.items() if key != "PENSTOCK_ADDRESS"}
    nowhere["XDG_RUNTIME_DIR"] = str(tmp_path)
    if os.path.exists("/run/penstock/fd.sock"):
        pytest.skip("somebody serves in the default socket directory of this machine")
    done = subprocess.run([sys.executable, "-c", program], env=nowhere, capture_output=True, text=True, timeout=60)
    assert done.stdout == "tensor([0, 1, 2])\nFalse\n", done.stderr
    assert "started one for this program" in done.stderr


def test_an_address_where_nobody_serves_is_an_error_not_a_new_store(monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        patch.setenv("PENSTOCK_ADDRESS", str(tmp_path))
        with pytest.raises(ConnectionError):
            run(ts.initialize())
    assert connection._node is None
