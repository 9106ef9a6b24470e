"""What goes in comes out, by every call that reads and writes."""

import array

import numpy as np
import pytest

import penstock


def test_array_comes_back_equal_and_without_a_copy(store):
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    info = store.put("a/b", x)
    view = store.get("a/b")
    assert (info.name, info.version, info.dtype, info.shape, info.nbytes) == (
        "a/b", 1, "f32", (3, 4), 48)
    assert np.array_equal(view.numpy(), x)
    assert view.is_zero_copy and view.path == "map" and view.device == "cpu"
    assert view.numpy().ctypes.data == view.ptr


@pytest.mark.parametrize("nbytes", [0, 1, 63, 64, 4096, 32768, 1 << 20, (1 << 20) + 1, 5_000_001])
def test_sizes_around_every_border(store, nbytes):
    x = np.random.default_rng(nbytes).integers(0, 256, nbytes, dtype=np.uint8)
    store.put("x", x)
    assert np.array_equal(store.get("x").numpy(), x)


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1,), (2, 3, 4), (1,) * 16])
def test_shapes(store, shape):
    x = np.ones(shape, np.int16)
    store.put("x", x)
    view = store.get("x")
    assert view.shape == shape and view.numpy().shape == shape
    assert view.ndim == len(shape) and view.size == x.size and view.nbytes == x.nbytes
    assert view.strides == x.strides or x.size <= 1
    assert np.array_equal(view.numpy(), x)


@pytest.mark.parametrize(
    "make",
    [
        lambda x: x[::2, ::3],
        lambda x: x.T,
        lambda x: x[::-1],
        lambda x: np.broadcast_to(x[:1], x.shape),
        lambda x: np.asfortranarray(x),
    ],
    ids=["steps", "transposed", "reversed", "broadcast", "fortran"],
)
def test_strided_arrays_are_gathered(store, make):
    x = make(np.arange(600 * 700, dtype=np.int32).reshape(600, 700))
    store.put("x", x)
    assert np.array_equal(store.get("x").numpy(), x)


@pytest.mark.parametrize(
    ("given", "dtype"),
    [(1.5, "f64"), (7, "i64"), (True, "bool"), ([[1, 2], [3, 4]], "i64"), ((1.0, 2.0), "f64"),
     (np.float32(3), "f32"), (2 + 1j, "c128")],
)
def test_scalars_and_lists_are_arrays(store, given, dtype):
    assert store.put("x", given).dtype == dtype
    assert np.array_equal(store.get("x").numpy(), np.asarray(given))


def test_buffers(store):
    for given in (b"abc", bytearray(b"abc"), memoryview(b"abc")):
        assert store.put("x", given).dtype == "u8"
        assert store.get("x").bytes() == b"abc"
    store.put("x", array.array("d", [1.0, 2.0]))
    assert store.get("x").numpy().tolist() == [1.0, 2.0]


def test_a_view_can_be_put_under_another_name(store):
    store.put("x", np.arange(10))
    store.put("y", store.get("x")[::2])
    assert store.get("y").numpy().tolist() == [0, 2, 4, 6, 8]


def test_array_interface_and_array(store):
    class Interface:
        def __init__(self, array):
            self.array = array
            self.__array_interface__ = array.__array_interface__

    class Method:
        def __array__(self, dtype=None, copy=None):
            return np.arange(4)

    store.put("x", Interface(np.arange(3)))
    assert store.get("x").numpy().tolist() == [0, 1, 2]
    store.put("x", Method())
    assert store.get("x").numpy().tolist() == [0, 1, 2, 3]


def test_names_in_every_script(store):
    for name in ("x", "a/b/c", "größe/模型/🙂", "with space", "a" * 512):
        store.put(name, np.arange(2))
        assert store.get(name).name == name
        assert store.exists(name) and name in store
        assert store.stat(name).name == name


def test_info_tells_everything(store):
    store.put("x", np.zeros((2, 3), np.float16), metadata={"a": "1", "größe": "ß"}, ttl=100)
    info = store.stat("x")
    assert info.metadata == {"a": "1", "größe": "ß"} == store.get("x").metadata
    assert 90 < info.ttl <= 100 and info.keep and info.replicas == 1
    assert info.nodes and info.immutable in ("kernel", "writer")
    assert abs(info.created - __import__("time").time()) < 60
    assert "name='x'" in repr(info) and "shape=(2, 3)" in repr(info)
    assert store.get("x").info.shape == (2, 3)


def test_get_into_out(store):
    x = np.arange(24, dtype=np.int32).reshape(4, 6)
    store.put("x", x)
    out = np.zeros_like(x)
    assert store.get("x", out=out) is out
    assert np.array_equal(out, x)
    strided = np.zeros((4, 12), np.int32)[:, ::2]
    store.get("x", out=strided)
    assert np.array_equal(strided, x)
    part = np.zeros((2, 3), np.int32)
    store.get("x", (slice(1, 3), slice(0, 3)), out=part)
    assert np.array_equal(part, x[1:3, 0:3])
    raw = bytearray(2)
    store.put("b", b"hi")
    store.get("b", out=raw)
    assert raw == b"hi"


def test_get_into_a_torch_tensor(store):
    torch = pytest.importorskip("torch")
    x = np.arange(24, dtype=np.int32).reshape(4, 6)
    store.put("x", x)
    tensor = torch.zeros(4, 6, dtype=torch.int32)
    assert store.get("x", out=tensor) is tensor and np.array_equal(tensor.numpy(), x)


def test_device(store):
    store.put("x", np.arange(3))
    assert store.get("x", device="cpu").device == "cpu"
    with pytest.raises(penstock.InvalidArgumentError, match='device: is "cuda:0"'):
        store.get("x", device="cuda:0")


def test_many_at_once(store):
    tensors = {f"many/{i}": np.full(i % 7, i, np.int32) for i in range(300)}
    infos = store.put_many(tensors)
    assert [info.name for info in infos] == list(tensors)
    views = store.get_many(tensors)
    assert list(views) == list(tensors)
    assert all(np.array_equal(views[name].numpy(), x) for name, x in tensors.items())
    assert store.put_many([]) == [] and store.get_many([]) == {}
    assert store.longest_prefix([*list(tensors)[:40], "gap", "many/50"]) == 40
    assert store.longest_prefix([]) == 0


def test_put_many_mixes_small_and_large(store):
    tensors = {"s": np.arange(5), "l": np.ones(3 << 20, np.uint8), "t": np.arange(6)}
    store.put_many(tensors, metadata={"k": "v"}, keep=False)
    for name, x in tensors.items():
        view = store.get(name)
        assert np.array_equal(view.numpy(), x)
        assert view.metadata == {"k": "v"} and not view.info.keep


def test_partial_results(store):
    store.put("there", 1)
    with pytest.raises(penstock.PartialError) as caught:
        store.get_many(["there", "missing"])
    assert caught.value.results["there"].numpy() == 1
    assert isinstance(caught.value.results["missing"], penstock.NotFoundError)
    del caught
    results = store.get_many(["missing", "there"], errors="return")
    assert results["missing"].name == "missing"

    with pytest.raises(penstock.PartialError) as caught:
        store.put_many({"there": 1, "new": 2}, if_absent=True)
    kinds = [type(result) for result in caught.value.results]
    assert kinds == [penstock.AlreadyExistsError, penstock.TensorInfo]
    assert [type(e) for e in caught.value.errors] == [penstock.AlreadyExistsError]
    results = store.put_many({"there": 1, "new2": 2}, if_absent=True, errors="return")
    assert isinstance(results[0], penstock.AlreadyExistsError) and results[1].name == "new2"
    with pytest.raises(ValueError, match="errors"):
        store.get_many([], errors="ignore")


def test_delete(store):
    store.put("p/a", 1)
    store.put("p/b", 2)
    store.put("q", 3)
    assert store.delete("p/a") and not store.delete("p/a")
    assert not store.exists("p/a")
    store.put("p/c", 3)
    assert store.delete_prefix("p/") == 2
    assert [info.name for info in store.list()] == ["q"]


def test_list_goes_through_pages_in_order(store):
    names = sorted(f"l/{i:05}" for i in range(2500))
    store.put_many({name: 0 for name in names})
    store.put("m", 0)
    assert [info.name for info in store.list("l/")] == names
    assert [info.name for info in store.list("l/", limit=1500)] == names[:1500]
    assert [info.name for info in store.list("l/", limit=3, after=names[9])] == names[10:13]
    assert list(store.list("l/", limit=0)) == []
    assert list(store.list("nothing/")) == []


def test_get_or_create_makes_once(store):
    calls = []

    def make():
        calls.append(1)
        return np.arange(4)

    first = store.get_or_create("made", make)
    second = store.get_or_create("made", make)
    assert calls == [1]
    assert first.numpy().tolist() == second.numpy().tolist() == [0, 1, 2, 3]
    assert store.get_or_create("self", lambda: store.put("self", 5) and None).numpy() == 5

    with pytest.raises(ZeroDivisionError):
        store.get_or_create("fails", lambda: 1 // 0)
    assert store.get_or_create("fails", lambda: 6).numpy() == 6


def test_stats_and_transports(store):
    before = store.stats()
    store.put("x", np.zeros(1000, np.uint8))
    after = store.stats()
    assert after["tensors"] == before["tensors"] + 1
    assert after["tensor_bytes"] == before["tensor_bytes"] + 1000
    (transport,) = store.transports()
    assert transport["path"] == "map" and transport["address"] == store.address


def test_a_put_that_could_never_fit_evicts_nothing(store: penstock.Store) -> None:
    store.put("cache", np.arange(3), keep=False)
    with pytest.raises(penstock.StoreFullError):
        store.create("big", shape=(1 << 30,), dtype="u8")
    assert store.get("cache").numpy().tolist() == [0, 1, 2]
