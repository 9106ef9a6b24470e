"""What the ranks of test_sharded.py do: run by torchrun, as `sharded_ranks.py ACTION ADDRESS`.

The whole of every tensor is known to every rank (seeded), so each checks the bytes of its own shards.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.state_dict_saver import AsyncCheckpointerType
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

import penstock
from penstock.torch import StorageReader, StorageWriter

PREFIX = "sharded"
SHAPES = {"even": (16, 12), "uneven": (7, 5), "few": (3, 4), "none": (0, 4), "long": (1000, 257)}


def whole(name: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(map(ord, name)))
    return torch.randn(SHAPES[name], generator=generator).to(torch.bfloat16 if name == "uneven" else torch.float32)


def sharded(mesh: DeviceMesh, placements: Any, fill: bool = True) -> dict[str, Any]:
    made = {name: distribute_tensor(whole(name), mesh, placements) for name in SHAPES}
    if not fill:
        for tensor in made.values():
            tensor._local_tensor.zero_()
    return made


def check(state: dict[str, Any], mesh: DeviceMesh, placements: Any) -> None:
    for name, wanted in sharded(mesh, placements).items():
        assert torch.equal(state[name]._local_tensor, wanted._local_tensor), (name, dist.get_rank())


def model(seed: int) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    net = torch.nn.Sequential(torch.nn.Linear(10, 7), torch.nn.Linear(7, 3))
    fully_shard(net)
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)
    net(torch.ones(2, 10)).sum().backward()
    optimizer.step()
    return net, optimizer


def put(store: penstock.Store) -> None:
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    state: dict[str, Any] = {"sharded": sharded(mesh, [Shard(0)]), "whole": whole("long"), "step": 5}
    state["replicated"] = distribute_tensor(whole("even"), mesh, [Replicate()])
    with store.snapshot(PREFIX) as snap:
        snap.put_state_dict(state)
    assert snap.number == 1


def get(store: penstock.Store) -> None:
    ranks = dist.get_world_size()
    mesh = init_device_mesh("cpu", (ranks,)) if ranks < 4 else init_device_mesh("cpu", (ranks // 2, 2))
    for placements in [[Shard(1)], [Replicate()]] if ranks < 4 else [[Shard(0), Shard(1)], [Shard(1), Shard(1)], [Replicate(), Shard(0)]]:
        into: dict[str, Any] = {"sharded": sharded(mesh, placements, fill=False), "whole": torch.zeros(SHAPES["long"]), "step": 0, "replicated": torch.zeros(16, 12)}
        store.get_state_dict(PREFIX, into=into)
        check(into["sharded"], mesh, placements)
        assert torch.equal(into["whole"], whole("long")) and torch.equal(into["replicated"], whole("even")) and into["step"] == 5


def save(store: penstock.Store) -> None:
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    net, optimizer = model(1)
    state = {"tensors": sharded(mesh, [Shard(0)]), "model": net.state_dict(), "optimizer": optimizer.state_dict(), "step": 5}
    dcp.save(state, storage_writer=StorageWriter(store, PREFIX), checkpoint_id="3")


def async_save(store: penstock.Store, kind: AsyncCheckpointerType) -> None:
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    net, optimizer = model(1)
    state = {"tensors": sharded(mesh, [Shard(0)]), "model": net.state_dict(), "optimizer": optimizer.state_dict(), "step": 5}
    state["everywhere"] = {"plain": whole("long"), "replicated": distribute_tensor(whole("even"), mesh, [Replicate()])}
    future = dcp.async_save(state, storage_writer=StorageWriter(store, PREFIX), async_checkpointer_type=kind)
    with torch.no_grad():
        for tensor in [*state["tensors"].values(), *net.parameters()]:
            tensor._local_tensor.fill_(-7)  # the next step of the training
    future.result(100)
    del future
    dist.barrier()
    (info,) = store.snapshot_infos(PREFIX)
    end = time.monotonic() + 20  # the thread that has set the future's result lets go of the staged state dict after it
    while store.stats()["tensor_bytes"] > info.nbytes + 100_000:
        assert time.monotonic() < end, f"what is left of others than the snapshot: {[i.name for i in store.list('.penstock/snapshot/')]}"
        time.sleep(0.01)


def load(store: penstock.Store) -> None:
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    net, optimizer = model(2)
    state = {"tensors": sharded(mesh, [Shard(1)], fill=False), "model": net.state_dict(), "optimizer": optimizer.state_dict(), "step": 0}
    dcp.load(state, storage_reader=StorageReader(store, PREFIX))
    check(state["tensors"], mesh, [Shard(1)])
    wanted, _ = model(1)
    for name, tensor in wanted.state_dict().items():
        loaded = state["model"][name]
        assert isinstance(loaded, DTensor) and torch.equal(loaded.full_tensor(), tensor.full_tensor()), name
    assert state["step"] == 5


def main() -> None:
    action, address = sys.argv[1:]
    dist.init_process_group("gloo")
    with penstock.connect(address) as store:
        if action in AsyncCheckpointerType.__members__:
            async_save(store, AsyncCheckpointerType[action])
        else:
            {"put": put, "get": get, "save": save, "load": load}[action](store)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":  # a PROCESS checkpointer imports this file again
    main()
