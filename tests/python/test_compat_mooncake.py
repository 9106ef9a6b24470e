"""penstock.compat.mooncake: programs as they are written for Mooncake's store."""

from __future__ import annotations

import gc
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest

from penstock.compat.mooncake import ErrorCode, MooncakeDistributedStore, ReplicateConfig, SoftPinAction

SETUP = ("localhost", "http://localhost:8080/metadata", 512 << 20, 128 << 20, "tcp", "", "localhost:50051")
NOT_FOUND, INVALID = ErrorCode.OBJECT_NOT_FOUND, ErrorCode.INVALID_PARAMS


@pytest.fixture
def client(node, store, monkeypatch):
    """A client of the tests' node, set up as programs for Mooncake do; `store` checks what is left."""
    monkeypatch.setenv("PENSTOCK_ADDRESS", node.address)
    client = MooncakeDistributedStore()
    assert client.setup(*SETUP) == 0
    yield client
    assert client.close() == 0
    gc.collect()


def test_hello_world_of_the_documentation_runs(node):
    program = """
from penstock.compat.mooncake import MooncakeDistributedStore

# 1. Create store instance
store = MooncakeDistributedStore()

# 2. Setup with all required parameters
store.setup(
    "localhost",           # Your node's address
    "http://localhost:8080/metadata",    # HTTP metadata server
    512*1024*1024,          # 512MB segment size
    128*1024*1024,          # 128MB local buffer
    "tcp",                             # Use TCP (RDMA for high performance)
    "",                            # Leave empty; Mooncake auto-picks RDMA devices when needed
    "localhost:50051"        # Master service
)

# 3. Store data
store.put("hello_key", b"Hello, Mooncake Store!")

# 4. Retrieve data
data = store.get("hello_key")
print(data.decode())  # Output: Hello, Mooncake Store!

# 5. Clean up
store.close()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True,
                          env={**os.environ, "PENSTOCK_ADDRESS": node.address}, timeout=60)
    assert done.stdout == "Hello, Mooncake Store!\n", done.stderr
    with node.connect() as store:
        assert store.delete_prefix("mooncake/default/") == 1


def test_put_and_get_of_the_documentation(client):
    client.put("config", b'{"model": "llama-7b", "temperature": 0.7}')
    model_weights = np.random.default_rng(0).random((100, 100), np.float32)
    client.put("weights", model_weights.tobytes())
    assert json.loads(client.get("config").decode())["model"] == "llama-7b"
    weights = np.frombuffer(client.get("weights"), dtype=np.float32).reshape(100, 100)
    assert (weights == model_weights).all()
    assert bool(client.is_exist("config"))


def test_a_put_of_a_key_that_is_there_succeeds_and_changes_nothing(client):
    assert client.put("k", b"first") == 0
    assert client.put("k", b"second") == 0
    assert client.put_parts("k", b"thi", b"rd") == 0
    assert client.put_batch(["k", "n"], [b"fourth", b"new"]) == 0
    assert client.get_batch(["k", "n"]) == [b"first", b"new"]


def test_an_upsert_replaces(client):
    client.put("k", b"first")
    assert client.upsert("k", b"second") == 0 and client.get("k") == b"second"
    assert client.upsert_parts("k", b"th", b"", b"ird") == 0 and client.get("k") == b"third"
    assert client.upsert_batch(["k", "n"], [b"4", b"5"]) == 0 and client.get_batch(["k", "n"]) == [b"4", b"5"]


def test_what_is_missing(client):
    assert client.get("nope") == b"" and client.get_batch(["nope", "none"]) == [b"", b""]
    assert client.get_buffer("nope") is None
    assert client.get_size("nope") == NOT_FOUND == -704
    assert client.remove("nope") == NOT_FOUND
    assert client.is_exist("nope") == 0
    assert client.get_batch([]) == [] == client.batch_is_exist([])
    assert client.remove_all() == 0 == client.remove_by_regex(".*")


def test_nothing_is_stored_of_no_bytes_as_in_the_original(client):
    assert client.put("k", b"") == 0 == client.put_parts("k") == client.put_batch(["k"], [b""])
    assert client.is_exist("k") == 0


@pytest.mark.parametrize("value", [b"bytes", bytearray(b"array"), memoryview(b"view"), np.arange(6).reshape(2, 3)])
def test_values_are_whatever_has_bytes(client, value):
    assert client.put("k", value) == 0
    assert client.get("k") == bytes(memoryview(value).cast("B"))


@pytest.mark.parametrize("size", [1, 4096, (1 << 20) + 1, 5_000_000])
def test_objects_of_all_sizes(client, size):
    value = np.random.default_rng(size).integers(0, 256, size, np.uint8).tobytes()
    assert client.put("one", value) == 0
    assert client.put_parts("parts", value[: size // 3], value[size // 3 :]) == 0
    assert client.get("one") == value == client.get("parts")
    assert client.get_size("one") == size == client.get_size("parts")


def test_listing_and_removing(client):
    keys = [f"user_{i}" for i in range(3)] + ["x/user_3", "/user", "other"]
    assert client.put_batch(keys, [b"v"] * len(keys)) == 0
    assert client.batch_is_exist([*keys, "nope"]) == [1] * len(keys) + [0]
    assert client.remove_by_regex("^user_[01]$") == 2
    assert client.remove_by_regex("user_", True) == 2  # anywhere in the key
    assert client.remove_by_regex("(") == INVALID
    assert client.batch_remove(["/user", "nope"], True) == [0, NOT_FOUND]
    assert client.remove("other", force=True) == 0
    client.put("last", b"v")
    assert client.remove_all() == 1


def test_tenants_are_apart(client):
    other = MooncakeDistributedStore()
    assert other.setup(*SETUP, tenant_id="other") == 0
    other.put("k", b"theirs")
    client.put("k", b"ours")
    assert client.remove_all() == 1
    assert other.get("k") == b"theirs" and other.remove_all() == 1
    other.close()


def test_buffers_show_the_store_itself(client):
    value = np.arange(1000, dtype=np.int32)
    client.put("k", value)
    native = client._store.get("mooncake/default/k")
    buffer = client.get_buffer("k")
    assert buffer and len(buffer) == buffer.size() == 4000
    arr = np.array(buffer, copy=False)
    assert arr.ctypes.data == buffer.ptr()
    assert buffer.ptr() == native.ptr and bytes(buffer) == native.bytes()
    assert memoryview(buffer).readonly and arr.dtype == np.int8
    assert (np.frombuffer(buffer, np.int32) == value).all()
    assert str(buffer) == "<BufferHandle of 4000 bytes>"
    client.remove("k")
    del buffer, native
    assert (arr.view(np.int32) == value).all()  # it keeps the memory


def test_a_buffer_pins_as_long_as_it_or_an_array_of_it_lives(client, node):
    client.put_batch(["a", "b"], [b"12", b"345"])

    def pins():
        gc.collect()
        session = client._store.session_id
        return next(s["pins"] for s in client._store._ask("Sessions")["sessions"] if s["id"] == session)

    buffers = client.batch_get_buffer(["a", "nope", "b", "a"])
    assert [b and bytes(b) for b in buffers] == [b"12", None, b"345", b"12"]
    part = np.asarray(buffers[2])[1:]
    assert pins() > 0
    del buffers
    assert pins() == 1 and bytes(part) == b"45"
    del part
    assert pins() == 0


def test_two_processes(client, node):
    program = """
import sys
from penstock.compat.mooncake import MooncakeDistributedStore
store = MooncakeDistributedStore()
assert store.setup({"local_hostname": "h:1", "metadata_server": "P2PHANDSHAKE", "master_server_addr": sys.argv[1],
                    "protocol": "rdma", "global_segment_size": str(1 << 30)}) == 0
assert store.get("from_parent") == b"hello"
print(store.put("from_child", b"hi"), store.get_hostname())
"""
    client.put("from_parent", b"hello")
    nowhere = {key: value for key, value in os.environ.items() if key != "PENSTOCK_ADDRESS"}
    done = subprocess.run([sys.executable, "-c", program, node.address], capture_output=True, text=True,
                          env=nowhere, timeout=60)
    assert done.stdout == "0 h:1\n", done.stderr
    assert client.get("from_child") == b"hi"  # it outlives its client


def test_a_forked_child_goes_on_with_its_parents_client(client):
    client.put("k", b"v")
    child = os.fork()
    if child == 0:
        os._exit(0 if client.get("k") == b"v" and client.put("from_child", b"w") == 0 else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert client.get("from_child") == b"w"


def test_setup_says_why_it_failed(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("PENSTOCK_ADDRESS", str(tmp_path))
    client = MooncakeDistributedStore()
    assert client.setup(*SETUP) == ErrorCode.RPC_FAIL
    assert "setup: " in caplog.text and "penstockd" in caplog.text
    with pytest.raises(TypeError, match="^local_hostname"):
        client.setup(1, "P2PHANDSHAKE")
    assert client.setup(*SETUP, tenant_id="x" * 200) == INVALID


def test_without_setup_and_after_close(client, caplog):
    client.put("k", b"v")
    assert client.close() == 0 == client.close()
    for closed in (client, MooncakeDistributedStore()):
        assert closed.get("k") == b"" and closed.get_buffer("k") is None
        assert closed.put("k", b"v") == closed.put_batch(["k"], [b"v"]) == closed.is_exist("k") == INVALID
        assert closed.remove("k") == closed.get_size("k") == closed.health_check() == INVALID
        assert closed.get_into("k", 4096, 10) == closed.register_buffer(4096, 10) == INVALID
        assert "call setup() first" in caplog.text
    assert client.setup_dummy(256 << 20, 64 << 20, "localhost:50052") == 0
    assert client.health_check() == 0 and client.get("k") == b"v"


def test_configs_have_the_fields_and_nothing_else(client, store):
    config = ReplicateConfig()
    config.replica_num = 2  # there is one node: one copy, as the original does its best
    config.preferred_segment = client.get_hostname()
    config.prefer_alloc_in_same_node = True
    config.group_ids = ["a"]
    assert client.put("plain", b"1", config) == 0 == client.put_parts("parts", b"1", config=config)
    config.with_hard_pin = True
    assert client.put("hard", b"1", config) == 0
    assert client.put("soft", b"1", ReplicateConfig(soft_pin_action=SoftPinAction.ENABLE)) == 0
    keeps = {info.name.rsplit("/")[-1]: info.keep for info in store.list("mooncake/")}
    assert keeps == {"plain": False, "parts": False, "hard": True, "soft": True}
    assert client.put("none", b"1", ReplicateConfig(replica_num=0)) == INVALID
    with pytest.raises(AttributeError):
        config.replicas = 3
    with pytest.raises(TypeError, match="^config"):
        client.put("k", b"1", {"replica_num": 1})


def test_unpinned_objects_make_room_and_pinned_ones_fill_the_store(client):
    value = b"x" * (8 << 20)
    assert [client.put(f"cache{i}", value) for i in range(60)] == [0] * 60
    assert 0 < sum(client.batch_is_exist([f"cache{i}" for i in range(60)])) < 60
    pinned = ReplicateConfig(with_hard_pin=True)
    codes = [client.put(f"pinned{i}", value, pinned) for i in range(60)]
    assert set(codes) == {0, ErrorCode.NO_AVAILABLE_HANDLE}
    assert client.batch_is_exist([f"pinned{i}" for i in range(60)]) == [int(code == 0) for code in codes]


@pytest.mark.parametrize("key", ["/a", "a/../b", "tab\t", "", "x" * 600, "50%"])
def test_keys_that_are_no_names(client, key):
    assert client.put(key, b"v") == 0 and client.get(key) == b"v" and client.is_exist(key) == 1
    assert client.put_batch([key, "other"], [b"w", b"w"]) == 0 and client.get(key) == b"v"
    assert client.remove_by_regex(".*" if not key else f"^{re.escape(key)}$") >= 1
    assert client.is_exist(key) == 0


@pytest.mark.parametrize("call", [
    lambda c: c.put("k", "text"), lambda c: c.put("k", None), lambda c: c.put(1, b"v"), lambda c: c.get(b"k"),
    lambda c: c.put_batch("k", [b"v"]), lambda c: c.get_batch("k"), lambda c: c.batch_is_exist("k"),
    lambda c: c.put_parts("k", "text"), lambda c: c.register_buffer(None, 1), lambda c: c.get_into("k", 1.0, 1),
])
def test_wrong_types_are_type_errors(client, call):
    with pytest.raises(TypeError):
        call(client)


def test_wrong_values_are_codes_and_change_nothing(client, caplog):
    strided = np.arange(10)[::2]
    assert client.put("k", strided) == INVALID
    assert client.put_batch(["a", "b"], [b"v"]) == INVALID
    assert client.put("x" * 9000, b"v") == INVALID
    assert client.put_batch(["a", "x" * 9000], [b"v", b"v"]) == INVALID
    assert "one length" in caplog.text and "one piece" in caplog.text and "8192" in caplog.text
    assert client.remove_all() == 0
