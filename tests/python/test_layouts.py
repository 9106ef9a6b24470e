"""Resharding between any two layouts: all pairs of placements on meshes of four ranks (threads: torch's MultiThreadedTestCase)."""

from __future__ import annotations

from typing import Any, Iterator

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.placement_types import _StridedShard
from torch.testing._internal.common_distributed import MultiThreadedTestCase

import penstock

SHAPES = [(8, 6), (7, 5), (3, 9), (1, 2), (0, 4), (5,)]
LAYOUTS: list[tuple[tuple[int, ...], list[Any]]] = [
    ((4,), [Shard(0)]),
    ((4,), [Shard(-1)]),
    ((4,), [Replicate()]),
    ((2, 2), [Shard(0), Shard(0)]),
    ((2, 2), [Shard(0), Shard(1)]),
    ((2, 2), [Replicate(), Shard(0)]),
    ((2, 2), [_StridedShard(0, split_factor=2), Shard(0)]),
]


def whole(shape: tuple[int, ...]) -> torch.Tensor:
    return torch.arange(1.0, 1 + torch.Size(shape).numel()).reshape(shape)


def fits(shape: tuple[int, ...], placements: list[Any]) -> bool:
    return all(not hasattr(p, "dim") or p.dim < len(shape) for p in placements)


def distribute(shape: tuple[int, ...], layout: tuple[tuple[int, ...], list[Any]]) -> Any:
    mesh_shape, placements = layout
    return distribute_tensor(whole(shape), init_device_mesh("cpu", mesh_shape), placements, src_data_rank=None)


class Layouts(MultiThreadedTestCase):
    @property
    def world_size(self) -> int:
        return 4

    def setUp(self) -> None:
        super().setUp()
        self._spawn_threads()

    def test_every_layout_is_read_as_every_other(self) -> None:
        store = penstock.connect(ADDRESS)
        rank = dist.get_rank()
        for number, layout in enumerate(LAYOUTS, start=1):
            state = {str(shape): distribute(shape, layout) for shape in SHAPES if fits(shape, layout[1])}
            with store.snapshot("layouts", number=number, process_group=dist.group.WORLD) as snap:
                snap.put_state_dict(state)
            for other in LAYOUTS:
                shapes = [shape for shape in SHAPES if str(shape) in state and fits(shape, other[1])]
                wanted = {str(shape): distribute(shape, other) for shape in shapes}
                into = {name: tensor.clone().zero_() for name, tensor in wanted.items()}
                store.get_state_dict("layouts", number, into=into, strict=False)
                for name, tensor in wanted.items():
                    assert torch.equal(into[name]._local_tensor, tensor._local_tensor), (layout, other, name, rank)
        store.close()

    def test_a_partial_tensor_is_refused(self) -> None:
        store = penstock.connect(ADDRESS)
        tensor = DTensor.from_local(torch.ones(4, 4), init_device_mesh("cpu", (4,)), [Partial()])
        try:
            with store.snapshot("layouts", number=100, process_group=dist.group.WORLD) as snap:
                snap.put_state_dict({"t": tensor})
        except penstock.InvalidArgumentError as error:
            assert "Partial placement" in str(error)
        else:
            raise AssertionError("it was stored")
        store.close()


ADDRESS = ""


@pytest.fixture(autouse=True)
def the_node(node: penstock.LocalNode) -> Iterator[None]:
    global ADDRESS
    ADDRESS = node.address
    yield
    with node.connect() as store:
        assert 100 not in store.snapshots("layouts")
        for number in store.snapshots("layouts"):
            assert all(torch.equal(tensor, whole(eval(name))) for name, tensor in store.get_state_dict("layouts", number).items())
            store.remove_snapshot("layouts", number)
        assert list(store.list(".penstock/snapshot/")) == []
