"""Registered memory and tensors of penstock.compat.mooncake."""

from __future__ import annotations

import ctypes
import gc
import mmap

import numpy as np
import pytest

from penstock.compat.mooncake import ErrorCode, MooncakeDistributedStore, ReplicateConfig

NOT_FOUND, INVALID = ErrorCode.OBJECT_NOT_FOUND, ErrorCode.INVALID_PARAMS


@pytest.fixture
def client(node, store, monkeypatch):
    monkeypatch.setenv("PENSTOCK_ADDRESS", node.address)
    client = MooncakeDistributedStore()
    assert client.setup("localhost", "P2PHANDSHAKE", 0, 0, "tcp", "", "localhost:50051") == 0
    yield client
    assert client.close() == 0
    gc.collect()


@pytest.fixture
def buffer(client):
    """4 KiB of registered memory."""
    array = np.zeros(4096, np.uint8)
    assert client.register_buffer(array.ctypes.data, array.nbytes) == 0
    return array


def test_the_zero_copy_workflow_of_the_documentation(client):
    original_data = np.random.default_rng(0).random((1000, 1000), np.float32)
    buffer_ptr = original_data.ctypes.data
    size = original_data.nbytes
    assert client.register_buffer(buffer_ptr, size) == 0
    assert client.put_from("large_tensor", buffer_ptr, size) == 0
    retrieved_data = np.empty((1000, 1000), dtype=np.float32)
    recv_buffer_ptr = retrieved_data.ctypes.data
    recv_size = retrieved_data.nbytes
    assert client.register_buffer(recv_buffer_ptr, recv_size) == 0
    bytes_read = client.get_into("large_tensor", recv_buffer_ptr, recv_size)
    assert bytes_read == recv_size
    assert np.array_equal(original_data, retrieved_data)
    assert client.unregister_buffer(buffer_ptr) == 0
    assert client.unregister_buffer(recv_buffer_ptr) == 0


def test_multi_buffers_of_the_documentation(client):
    torch = pytest.importorskip("torch")
    tensor = torch.randint(0, 100, (10, 6, 1024), dtype=torch.int8)
    data_ptr = tensor.data_ptr()
    client.register_buffer(data_ptr, 10 * 6 * 1024)
    target_tensor = torch.zeros(10, 6, 1024, dtype=torch.int8)
    target_data_ptr = target_tensor.data_ptr()
    client.register_buffer(target_data_ptr, 10 * 6 * 1024)
    all_local_addrs, all_remote_addrs, all_sizes, keys = [], [], [], []
    for block_i in range(10):
        local_addrs, remote_addrs, sizes = [], [], []
        for _ in range(6):
            local_addrs.append(data_ptr)
            remote_addrs.append(target_data_ptr)
            sizes.append(1024)
            data_ptr += 1024
            target_data_ptr += 1024
        all_local_addrs.append(local_addrs)
        all_remote_addrs.append(remote_addrs)
        all_sizes.append(sizes)
        keys.append(f"kv_0_{block_i}")
    config = ReplicateConfig()
    config.prefer_alloc_in_same_node = True
    assert client.batch_put_from_multi_buffers(keys, all_local_addrs, all_sizes, config) == [0] * 10
    assert client.batch_get_into_multi_buffers(keys, all_remote_addrs, all_sizes, True) == [6 * 1024] * 10
    assert torch.equal(tensor, target_tensor)
    assert client.unregister_buffer(tensor.data_ptr()) == 0 == client.unregister_buffer(target_tensor.data_ptr())


def test_ranges_of_the_documentation(client):
    source = bytes(range(40))
    client.put_batch(["key1", "key2"], [source, source[::-1]])
    buffer0, buffer1 = (ctypes.c_ubyte * 32)(), (ctypes.c_ubyte * 32)()
    ptr0, ptr1 = ctypes.addressof(buffer0), ctypes.addressof(buffer1)
    client.register_buffer(ptr0, 32)
    client.register_buffer(ptr1, 32)
    results = client.get_into_ranges(
        [ptr0, ptr1],
        [["key1", "key2"], ["key2", "key1"]],
        [[[0, 20], [8]], [[4], [16]]],
        [[[1, 30], [2]], [[0], [10]]],
        [[[4, 3], [5]], [[6], [4]]],
    )
    assert results == [[[4, 3], [5]], [[6], [4]]]
    reverse = source[::-1]
    assert bytes(buffer0) == bytes(source[1:5]) + bytes(4) + reverse[2:7] + bytes(7) + source[30:33] + bytes(9)
    assert bytes(buffer1) == bytes(4) + reverse[:6] + bytes(6) + source[10:14] + bytes(12)


def test_ranges_fail_one_by_one(client, buffer):
    ptr = buffer.ctypes.data
    client.put("k", b"0123456789")
    results = client.get_into_ranges([ptr], [["k", "nope"]], [[[0, 0, 4090, -1, 4], [0]]],
                                     [[[0, 8, 0, 0, -1], [0]]], [[[2, 3, 10, 1, 1], [1]]])
    assert results == [[[2, INVALID, INVALID, INVALID, INVALID], [NOT_FOUND]]]
    assert bytes(buffer[:4]) == b"01\0\0" and not buffer[4:].any()
    assert client.get_into_ranges([ptr], [["k"]], [[[0, 1]]], [[[0]]], [[[1]]]) == [[[INVALID]]]
    assert client.get_into_ranges([ptr], [["k", "k"]], [[[0]]], [[[0]]], [[[1]]]) == [[[INVALID], [INVALID]]]
    assert client.get_into_ranges([ptr], [], [], [], []) == []
    assert client.get_into_ranges([ptr + 1], [["k"]], [[[4090]]], [[[0]]], [[[5]]]) == [[[5]]]
    assert client.get_into_ranges([ptr + 1], [["k"]], [[[4090]]], [[[0]]], [[[6]]]) == [[[INVALID]]]


def test_bytes_land_where_the_address_says_and_nowhere_else(client, buffer):
    client.put("k", b"abc")
    assert client.get_into("k", buffer.ctypes.data + 10, 100) == 3
    assert bytes(buffer[9:14]) == b"\0abc\0"
    assert client.put_from("part", buffer.ctypes.data + 11, 2) == 0 and client.get("part") == b"bc"


def test_batches_of_addresses(client, buffer):
    ptr = buffer.ctypes.data
    buffer[:6] = np.frombuffer(b"abcdef", np.uint8)
    assert client.batch_put_from(["a", "b", "bad"], [ptr, ptr + 1, ptr + 4000], [1, 5, 97]) == [0, 0, INVALID]
    assert client.get_batch(["a", "b", "bad"]) == [b"a", b"bcdef", b""]
    ptrs, sizes = [ptr + 100, ptr + 200, ptr + 300, ptr + 400], [1, 4, 5, 5]
    assert client.batch_get_into(["a", "b", "nope", "b"], ptrs, sizes) == [1, INVALID, NOT_FOUND, 5]
    assert bytes(buffer[100:101]) == b"a" and not buffer[200:205].any() and bytes(buffer[400:405]) == b"bcdef"
    assert client.batch_put_from(["a"], [ptr, ptr], [1, 1]) == [INVALID]
    assert client.batch_get_into(["a", "b"], [ptr], [1]) == [INVALID, INVALID]
    assert client.batch_put_from([], [], []) == [] == client.batch_get_into([], [], [])


def test_upserts_and_metadata_from_addresses(client, buffer):
    ptr = buffer.ctypes.data
    buffer[:6] = np.frombuffer(b"abcdef", np.uint8)
    assert client.put_from("k", ptr, 1) == 0 == client.put_from("k", ptr, 2)
    assert client.get("k") == b"a"
    assert client.upsert_from("k", ptr, 3) == 0 and client.get("k") == b"abc"
    assert client.batch_upsert_from(["k"], [ptr + 3], [3]) == [0] and client.get("k") == b"def"
    assert client.put_from_with_metadata("m", ptr, ptr + 3, 2, 3) == 0 and client.get("m") == b"defab"
    assert client.put_from("none", ptr, 0) == 0 == client.put_from_with_metadata("none", ptr, ptr, 0, 3)
    assert client.is_exist("none") == 0


def test_pieces_are_filled_one_after_the_other(client, buffer):
    ptr = buffer.ctypes.data
    client.put("k", b"abcdefg")
    assert client.batch_get_into_multi_buffers(["k", "k", "nope"], [[ptr, ptr + 10, ptr + 20], [ptr + 30], [ptr]],
                                               [[3, 0, 9], [6], [1]]) == [7, INVALID, NOT_FOUND]
    assert bytes(buffer[:3]) == b"abc" and bytes(buffer[20:27]) == b"defg\0\0\0" and not buffer[30:].any()
    assert client.batch_put_from_multi_buffers(["a", "b"], [[ptr], [ptr, ptr]], [[3], [3]]) == [0, INVALID]
    assert client.batch_put_from_multi_buffers(["c"], [[5]], [[3]]) == [INVALID]
    assert client.batch_get_into_multi_buffers(["k"], [], []) == [INVALID]
    assert client.get_batch(["a", "b", "c"]) == [b"abc", b"", b""]


def test_addresses_must_lie_in_one_registered_buffer(client, caplog):
    array = np.zeros(300, np.uint8)
    ptr = array.ctypes.data
    client.put("k", b"abc")
    assert client.get_into("k", ptr, 3) == INVALID
    assert client.register_buffer(ptr + 100, 100) == 0
    for start, size in ((99, 3), (198, 3), (100, 101), (0, 300), (200, 1)):
        assert client.get_into("k", ptr + start, size) == INVALID
        assert client.put_from("n", ptr + start, size) == INVALID
    assert client.get_into("k", ptr + 197, 3) == 3
    assert client.get_into("k", ptr + 100, -1) == INVALID
    assert "register_buffer" in caplog.text
    assert client.unregister_buffer(ptr + 101) == INVALID
    assert client.unregister_buffer(ptr + 100) == 0
    assert client.unregister_buffer(ptr + 100) == INVALID
    assert client.get_into("k", ptr + 197, 3) == INVALID
    assert bytes(array[197:200]) == b"abc" and not array[:197].any()


def test_buffers_do_not_overlap(client):
    array = np.zeros(300, np.uint8)
    ptr = array.ctypes.data
    assert client.register_buffer(ptr + 100, 100) == 0
    for start, size in ((100, 100), (150, 10), (50, 51), (199, 1), (0, 300)):
        assert client.register_buffer(ptr + start, size) == INVALID
    assert client.register_buffer(ptr, 100) == 0 == client.register_buffer(ptr + 200, 100)
    client.put("k", bytes(101))
    assert client.get_into("k", ptr, 101) == INVALID  # two buffers side by side are not one


def test_memory_that_cannot_be_written_is_refused(client):
    pages = mmap.mmap(-1, 3 * mmap.PAGESIZE)
    ptr = np.frombuffer(pages, np.uint8).ctypes.data
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.mprotect(ctypes.c_void_p(ptr + mmap.PAGESIZE), mmap.PAGESIZE, mmap.PROT_READ) == 0
    assert client.register_buffer(ptr, 3 * mmap.PAGESIZE) == INVALID
    assert client.register_buffer(ptr, mmap.PAGESIZE) == 0
    for address, size in ((0, 10), (4096, 10), (1 << 46, 10), (ptr + 2 * mmap.PAGESIZE, 0),
                          (ptr + 2 * mmap.PAGESIZE, -5), (ptr + 2 * mmap.PAGESIZE, 1 << 46)):
        assert client.register_buffer(address, size) == INVALID


def test_tensors_come_back(client):
    torch = pytest.importorskip("torch")
    tensors = [torch.randn(3, 4), torch.arange(5), torch.randn(4, 2).t(), torch.tensor(True), torch.empty(0, 2),
               torch.randn(2, 3).to(torch.bfloat16), torch.randn(2, 3).to(torch.float8_e4m3fn)]
    keys = [f"t{i}" for i in range(len(tensors))]
    assert client.put_tensor(keys[0], tensors[0]) == 0
    assert client.batch_put_tensor(keys, tensors) == [0] * len(keys)
    for tensor, got in zip(tensors, client.batch_get_tensor(keys)):
        assert got.dtype == tensor.dtype and got.shape == tensor.shape
        assert torch.equal(got.float(), tensor.float())
    assert client.batch_get_tensor(["t0", "nope"])[1] is None is client.get_tensor("nope")
    assert client.get_size("t0") == 48 and client.get("t0") == tensors[0].numpy().tobytes()
    assert bytes(client.get_buffer("t5")) == client.get("t5")  # whatever the dtype


def test_a_tensor_that_was_got_is_the_callers_own(client):
    torch = pytest.importorskip("torch")
    client.put_tensor("t", torch.zeros(300_000))
    client.get_tensor("t").add_(1)
    assert client.get_tensor("t").sum() == 0


def test_tensors_and_bytes_are_told_apart(client, store):
    torch = pytest.importorskip("torch")
    client.put("bytes", b"abcd")
    client.put_tensor("tensor", torch.frombuffer(bytearray(b"abcd"), dtype=torch.uint8))
    store.put("mooncake/default/native", np.arange(3))
    assert client.get_tensor("bytes") is None
    assert client.get_tensor("tensor").tolist() == [97, 98, 99, 100] and client.get("tensor") == b"abcd"
    assert client.get_tensor("native").tolist() == [0, 1, 2]


def test_tensors_into_addresses(client, buffer):
    torch = pytest.importorskip("torch")
    client.put_tensor("t", torch.arange(6, dtype=torch.float32).reshape(2, 3))
    assert client.get_into("t", buffer.ctypes.data, 4096) == 24
    assert buffer[:24].view(np.float32).tolist() == [0, 1, 2, 3, 4, 5]


def test_puts_of_tensors_stay_and_upserts_replace(client):
    torch = pytest.importorskip("torch")
    ones, twos = torch.ones(2), torch.full((3,), 2)
    assert client.pub_tensor("t", ones, ReplicateConfig()) == 0 == client.put_tensor("t", twos)
    assert client.get_tensor("t").tolist() == [1, 1]
    assert client.upsert_tensor("t", twos) == 0 and client.get_tensor("t").tolist() == [2, 2, 2]
    assert client.upsert_pub_tensor("t", ones) == 0 and client.get_tensor("t").tolist() == [1, 1]
    assert client.batch_upsert_tensor(["t"], [twos]) == [0] and client.get_tensor("t").tolist() == [2, 2, 2]


def test_parts_of_tensors_for_tensor_parallelism(client):
    torch = pytest.importorskip("torch")
    tensor = torch.arange(12).reshape(2, 6)
    assert client.put_tensor_with_tp("t", tensor, tp_rank=1, tp_size=3, split_dim=1) == 0
    for rank in range(3):
        part = client.get_tensor_with_tp("t", tp_rank=rank, tp_size=3, split_dim=1)
        assert torch.equal(part, tensor[:, 2 * rank : 2 * rank + 2])
    assert client.is_exist("t_tp_2") == 1 and client.is_exist("t") == 0
    assert client.put_tensor_with_tp("whole", tensor) == 0
    assert torch.equal(client.get_tensor_with_tp("whole"), tensor)
    assert client.batch_put_tensor_with_tp(["a", "b"], [tensor, tensor], tp_size=2) == [0, 0]
    assert torch.equal(client.batch_get_tensor_with_tp(["a", "none"], 1, 2)[0], tensor[1:])
    assert client.pub_tensor_with_tp("c", tensor, ReplicateConfig(), 0, 2) == 0
    for size, dim in ((5, 0), (2, 7)):  # fewer rows than parts; no such dimension
        assert client.put_tensor_with_tp("bad", tensor, 0, size, dim) == INVALID
    assert client.put_tensor_with_tp("bad", b"bytes", 0, 2) == INVALID
    assert client.remove_by_regex("^bad") == 0


def test_what_is_no_tensor(client):
    torch = pytest.importorskip("torch")
    assert client.put_tensor("t", b"bytes") == INVALID == client.put_tensor("t", torch.ones(2, 2).to_sparse())
    assert client.batch_put_tensor(["a", "b"], [torch.ones(1), [1.0]]) == [0, INVALID]
    assert client.batch_put_tensor(["a", "b"], [torch.ones(1)]) == [INVALID, INVALID]
    assert client.is_exist("t") == 0 and client.is_exist("a") == 1


@pytest.mark.filterwarnings("ignore:ComplexHalf")
def test_each_of_a_batch_has_its_own_code(client):
    torch = pytest.importorskip("torch")
    large = torch.empty(1 << 30, dtype=torch.uint8)  # more than the store has
    unknown = torch.zeros(2, dtype=torch.complex32)
    keys, tensors = ["a", "b", "c", "d", "e"], [torch.ones(1), large, torch.ones(1), unknown, torch.ones(1)]
    pinned = ReplicateConfig(with_hard_pin=True)  # nothing goes in vain for the large one
    assert client.batch_pub_tensor(keys, tensors, pinned) == [0, ErrorCode.NO_AVAILABLE_HANDLE, 0, INVALID, 0]
    assert client.batch_is_exist(keys) == [1, 0, 1, 0, 1]
