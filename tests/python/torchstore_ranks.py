"""What the ranks of test_compat_sharded.py do: run by torchrun with $PENSTOCK_ADDRESS."""

from __future__ import annotations

import asyncio
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

import penstock
import penstock.compat.torchstore as ts

SHAPE = (14, 9)  # uneven over four


def whole(seed: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed)).to(dtype)


async def every_layout_is_read_in_every_other(line: DeviceMesh, square: DeviceMesh) -> None:
    layouts: list[tuple[DeviceMesh, Any]] = [
        (line, [Shard(0)]), (line, [Shard(1)]), (square, [Shard(0), Shard(1)]), (square, [Replicate(), Shard(0)]),
        (square, [Shard(1), Replicate()]), (square, [Shard(0), Shard(0)]), (line, [Replicate()]),
    ]
    for number, (mesh, placements) in enumerate(layouts):
        for dtype in (torch.float32, torch.bfloat16):
            key, value = f"{number}/{dtype}", whole(number, dtype)
            await ts.put(key, distribute_tensor(value, mesh, placements))
            dist.barrier()
            assert torch.equal(await ts.get(key), value)
            for other, wanted in layouts:
                into = distribute_tensor(torch.zeros(SHAPE, dtype=dtype), other, wanted)
                await ts.get(key, into)
                assert torch.equal(into.to_local(), distribute_tensor(value, other, wanted).to_local()), (placements, wanted)
    part = await ts.get("0/torch.float32", tensor_slice_spec=ts.TensorSlice((3, 2), None, SHAPE, (5, 4), ()))
    assert torch.equal(part, whole(0)[3:8, 2:6])


async def the_same_key_in_rounds(line: DeviceMesh) -> None:
    for step in range(5):
        await ts.put("round", distribute_tensor(whole(step), line, [Shard(0)]))
        dist.barrier()
        assert torch.equal(await ts.get("round"), whole(step))
        dist.barrier()


async def part_of_it_is_not_there(line: DeviceMesh) -> None:
    value = distribute_tensor(whole(1), line, [Shard(0)])
    if dist.get_rank() > 0:
        await ts.put("late", value)
    dist.barrier()
    assert not await ts.exists("late")
    try:
        await ts.get("late")
    except KeyError:
        pass
    else:
        raise AssertionError("a part was seen")
    if dist.get_rank() == 1:
        try:
            await ts.put("late", value)
        except penstock.ConflictError as error:
            assert "[0:4, 0:9] of 'torchstore/torchstore/late' is missing" in str(error), error
        else:
            raise AssertionError("a round was mixed with another")
    dist.barrier()
    if dist.get_rank() == 0:
        await ts.put("late", value)
    dist.barrier()
    assert torch.equal(await ts.get("late"), whole(1))


async def state_dicts(line: DeviceMesh) -> None:
    for step in range(3):
        state = {"layer": {"w": distribute_tensor(whole(step), line, [Shard(0)]), "b": torch.full((3,), float(step))}, "step": step,
                 "none": distribute_tensor(torch.zeros(0, 4), line, [Shard(0)])}
        await ts.put_state_dict(state, "model")
        dist.barrier()
        got = await ts.get_state_dict("model")
        assert torch.equal(got["layer"]["w"], whole(step)) and got["layer"]["b"][0] == step and got["step"] == step
        assert got["none"].shape == (0, 4)
        dist.barrier()
    half = {"layer": {"w": distribute_tensor(torch.zeros(SHAPE, dtype=torch.bfloat16), line, [Shard(1)])}}
    await ts.put_state_dict({"w": distribute_tensor(whole(9), line, [Shard(0)])}, "half", transfer_dtype=torch.bfloat16)
    into = await ts.get_state_dict("half", {"w": half["layer"]["w"]})
    assert torch.equal(into["w"].full_tensor(), whole(9, torch.bfloat16))


async def main() -> None:
    await ts.initialize_spmd()
    line, square = init_device_mesh("cpu", (4,)), init_device_mesh("cpu", (2, 2))
    await every_layout_is_read_in_every_other(line, square)
    await the_same_key_in_rounds(line)
    await part_of_it_is_not_there(line)
    await state_dicts(line)
    dist.barrier()


if __name__ == "__main__":
    dist.init_process_group("gloo")
    asyncio.run(main())
    dist.destroy_process_group()
