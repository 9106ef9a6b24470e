"""The drop-in modules where the bytes lie on another node."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from penstock.compat.mooncake import MooncakeDistributedStore

SIZE = 3_000_000


@pytest.fixture
def far(stores, nodes, monkeypatch):
    """A client of the first node; programs run at the second."""
    monkeypatch.setenv("PENSTOCK_ADDRESS", str(nodes[1].socket_dir))
    yield stores[0]
    stores[0].delete_prefix("")


@pytest.fixture
def client(far):
    client = MooncakeDistributedStore()
    assert client.setup("localhost", "P2PHANDSHAKE") == 0
    yield client
    assert client.close() == 0


def copies(stores) -> int:
    return int(stores[1].stats()["tensors"])


def test_get_into_brings_bytes_straight_to_the_address(far, client, stores):
    value = np.random.default_rng(0).integers(0, 256, SIZE, np.uint8)
    far.put("mooncake/default/k", value)
    buffer = np.zeros(SIZE + 10, np.uint8)
    ptr = buffer.ctypes.data
    assert client.register_buffer(ptr, buffer.nbytes) == 0
    assert client.get_into("k", ptr, 5) == -600 and not buffer.any()
    assert client.get_into("k", ptr, SIZE + 10) == SIZE
    assert (buffer[:SIZE] == value).all() and not buffer[SIZE:].any()
    assert copies(stores) == 0  # this host's node has none


def test_other_gets_copy_once_to_this_host(far, client, stores):
    far.put("mooncake/default/a", np.arange(10.0))
    far.put("mooncake/default/b", np.arange(5, dtype=np.uint8))
    buffer = np.zeros(100, np.uint8)
    ptr = buffer.ctypes.data
    assert client.register_buffer(ptr, 100) == 0
    assert client.get_into("a", ptr, 100) == 80 and buffer[:80].view(np.float64).tolist() == list(range(10))
    assert client.batch_get_into(["b", "nope"], [ptr, ptr], [5, 5]) == [5, -704]
    assert client.get("b") == bytes(range(5))
    assert copies(stores) == 2


def test_in_place_gets_and_slices_of_torchstore(far, stores):
    torch = pytest.importorskip("torch")
    import penstock.compat.torchstore as ts
    from penstock.compat.torchstore import api, connection

    async def program():
        whole = torch.arange(1000 * 100, dtype=torch.float32).reshape(1000, 100)
        far.put("torchstore/torchstore/t", whole)
        target = torch.zeros(1000, 100)
        assert await ts.get("t", target) is target and torch.equal(target, whole)
        spec = ts.TensorSlice((10, 20), None, (1000, 100), (50, 30), ())
        assert torch.equal(await ts.get("t", None, spec), whole[10:60, 20:50])
        assert torch.equal(await ts.get("t", torch.zeros(50, 30), spec), whole[10:60, 20:50])
        assert copies(stores) == 0
        assert torch.equal((await ts.get_batch(["t"]))["t"], whole)
        await ts.delete("t")
        assert not far.exists("torchstore/torchstore/t")

    try:
        asyncio.run(program())
    finally:
        api._clients.clear()
        connection.close()
