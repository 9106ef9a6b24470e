"""penstock.safetensors against the safetensors package: the same bytes, names, parts and refusals."""

import json

import numpy as np
import pytest
import safetensors
import safetensors.numpy
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import penstock
import penstock.safetensors as ours
import penstock.safetensors.numpy as ours_numpy
import penstock.safetensors.torch as ours_torch

DTYPES = (
    "bool uint8 int8 int16 uint16 int32 uint32 int64 uint64 float16 bfloat16 float32 float64 complex64 "
    "float8_e4m3fn float8_e5m2 float8_e4m3fnuz float8_e5m2fnuz float8_e8m0fnu float4_e2m1fn_x2"
).split()


def of_every_dtype() -> dict[str, torch.Tensor]:
    tensors = {}
    for i, name in enumerate(DTYPES):
        bits = torch.arange(16 * (i + 1), dtype=torch.uint8).reshape(i + 1, 16)
        tensors[f"{i % 7}.{name}"] = bits % 2 == 0 if name == "bool" else bits.view(getattr(torch, name))
    return tensors | {"scalar": torch.tensor(2.5), "empty": torch.zeros(0, 3), "big": torch.randn(300, 400)}


def bits(tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def assert_equal(got, want) -> None:
    assert sorted(got) == sorted(want)
    for name, tensor in want.items():
        assert (got[name].dtype, got[name].shape) == (tensor.dtype, tensor.shape), name
        assert bits(got[name]) == bits(tensor), name


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file(of_every_dtype(), path, {"format": "pt"})
    return path


@pytest.mark.parametrize("metadata", [None, {}, {"format": "pt"}, {"ü\n": '"\\\x01\x7f'}])
def test_it_writes_the_bytes_of_the_package(tmp_path, metadata):
    tensors = of_every_dtype()
    want = safetensors.torch.save(tensors, metadata)
    assert ours.save(tensors, metadata) == want
    ours.save_file(tensors, tmp_path / "x", metadata)
    assert (tmp_path / "x").read_bytes() == want


def test_several_keys_of_metadata_are_sorted():
    two = ours.save({}, {"b": "2", "a": "1"})
    assert two[8:].startswith(
        b'{"__metadata__":{"a":"1","b":"2"}'
    )  # the package's own order changes from run to run
    assert ours.save({}) == safetensors.torch.save({})


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        st.text("abc.01é", min_size=1, max_size=6),
        st.tuples(
            st.sampled_from(["u1", "i1", "<f2", "<i2", "<f4", "<i8", "<c8", "?"]),
            st.lists(st.integers(0, 4), max_size=3),
        ),
        max_size=8,
    ).filter(lambda names: not {".", ".."} & set(names))
)
def test_any_arrays_make_the_bytes_of_the_package(kinds):
    arrays = {
        name: np.arange(int(np.prod(shape))).astype(dtype).reshape(shape)
        for name, (dtype, shape) in kinds.items()
    }
    data = ours_numpy.save(arrays)
    assert data == safetensors.numpy.save(arrays)
    for name, array in ours_numpy.load(data).items():
        assert array.dtype == arrays[name].dtype and array.flags.writeable
        np.testing.assert_array_equal(array, arrays[name])


def test_each_reads_what_the_other_wrote(store, file, tmp_path):
    tensors = safetensors.torch.load_file(file)
    assert_equal(ours.load_file(file, store=store), tensors)
    assert_equal(ours.load(file.read_bytes()), tensors)
    ours.save_file(tensors, tmp_path / "mine.safetensors", {"k": "v"})
    assert_equal(safetensors.torch.load_file(tmp_path / "mine.safetensors"), tensors)
    with safetensors.safe_open(tmp_path / "mine.safetensors", "pt") as f:
        assert f.metadata() == {"k": "v"}


def test_it_writes_views_of_a_store_and_arrays_of_any_order(store, tmp_path):
    store.put("w", torch.arange(6, dtype=torch.bfloat16))
    wide = np.arange(12, dtype=">i4").reshape(3, 4).T
    ours.save_file({"w": store.get("w"), "t": wide}, tmp_path / "x.safetensors")
    got = safetensors.torch.load_file(tmp_path / "x.safetensors")
    assert got["w"].tolist() == [0, 1, 2, 3, 4, 5] and got["t"].tolist() == wide.tolist()


def test_numpy_arrays_show_the_store(store, file):
    arrays = ours_numpy.load_file(file, store=store)
    with pytest.raises(ValueError, match="read-only"):
        arrays["big"][0] = 1
    names = {info.name.rpartition("/")[2]: info.name for info in store.list("safetensors/model-")}
    view = store.get(names["big"])
    assert view.ptr == arrays["big"].ctypes.data and view.is_zero_copy
    assert str(arrays["3.bfloat16"].dtype) == "bfloat16"


def test_changes_of_torch_tensors_never_reach_the_store(store, file):
    want = safetensors.torch.load_file(file)["big"]
    changed = ours.load_file(file, store=store)["big"]
    changed.zero_()
    np.testing.assert_array_equal(ours_numpy.load_file(file, store=store)["big"], want.numpy())
    del changed
    assert torch.equal(ours.load_file(file, store=store)["big"], want)


def test_a_reader_tells_what_the_package_tells(store, file):
    with ours.safe_open(file, "pt", store=store) as mine, safetensors.safe_open(file, "pt") as theirs:
        assert mine.keys() == theirs.keys() and mine.offset_keys() == theirs.offset_keys()
        assert mine.metadata() == theirs.metadata() == {"format": "pt"}
        assert list(mine.get_tensors()) == list(theirs.get_tensors())
        for name in theirs.keys():
            a, b = mine.get_slice(name), theirs.get_slice(name)
            assert (a.get_shape(), a.get_dtype()) == (b.get_shape(), b.get_dtype())
            assert bits(mine.get_tensor(name)) == bits(theirs.get_tensor(name))
        part = mine.get_slice("big")
    assert part[0].shape == (400,)
    with pytest.raises(ours.SafetensorError, match="closed"):
        mine.get_tensor("big")
    with pytest.raises(ours.SafetensorError, match="closed"):
        mine.keys()


@pytest.mark.parametrize("framework", ["pt", "np"])
@pytest.mark.parametrize(
    "index",
    [
        0,
        -1,
        slice(1, 7),
        slice(None, None, 3),
        slice(0, 9999),
        slice(2, 1),
        ...,
        None,
        (),
        (..., 3),
        [0, 2],
        (slice(None), [1, 0]),
        (3, slice(-5, None)),
        (slice(10, 20), slice(0, 400, 7)),
        300,
        (0, 0, 0),
        1.5,
    ],
)
def test_parts_are_those_of_the_package(store, file, framework, index):
    mine = ours.safe_open(file, framework, store=store).get_slice("big")
    theirs = safetensors.safe_open(file, framework).get_slice("big")
    if framework == "np":  # there the package knows fewer indices than NumPy
        theirs = safetensors.safe_open(file, framework).get_tensor("big")
    try:
        want = theirs[index]
    except Exception as error:
        with pytest.raises(type(error)):
            mine[index]
    else:
        assert mine[index].shape == want.shape and bool((mine[index] == want).all())


def test_only_what_is_asked_for_is_imported(store, file):
    before = store.stats()["puts"]
    with ours.safe_open(file, "np", store=store) as f:
        assert f.keys() and list(store.list()) == []
        f.get_slice("big")[:2]
        f.get_tensor("big")
    assert store.stats()["puts"] == before + 1
    assert [info.name.rpartition("/")[2] for info in store.list()] == ["big"]


def test_what_it_is_asked_for_wrongly(store, file, tmp_path):
    cases = [
        lambda: ours.safe_open(file, "xx", store=store),
        lambda: ours.safe_open(file, "pt", "nowhere", store=store),
        lambda: ours.safe_open(file, "np", "cuda", store=store),
        lambda: ours.safe_open(file, "pt", backend="x", store=store),
        lambda: ours.safe_open(file, "pt", store=store).get_tensor("missing"),
        lambda: ours.safe_open(file, "pt", store=store).get_slice("missing"),
    ]
    for case in cases:
        with pytest.raises(ours.SafetensorError) as raised:
            case()
        assert isinstance(raised.value, penstock.InvalidArgumentError)
    (tmp_path / "empty").mkdir()
    for missing in (tmp_path / "none.safetensors", tmp_path / "empty"):
        with pytest.raises(FileNotFoundError):
            ours.load_file(missing, store=store)
    with pytest.raises(TypeError):
        ours.load_file(5, store=store)
    with pytest.raises(TypeError, match="prefix"):
        ours.load_file(file, store=store, prefix=5)
    assert list(store.list()) == []


def test_what_cannot_be_saved(tmp_path):
    x = torch.arange(12.0).reshape(3, 4)
    cases = [
        ([x], ValueError, "dict"),
        ({"a": [1]}, ValueError, "'a'"),
        ({"a": x.t()}, ValueError, "contiguous"),
        ({"a": x.to_sparse()}, ValueError, "to_dense"),
        ({"a": x.to("meta")}, ValueError, "meta"),
        ({"a": x, "b": x}, RuntimeError, "'a' and 'b' share"),
        ({"a": x, "b": x[1:]}, RuntimeError, "share"),
        ({1: x}, TypeError, "name"),
        ({"a": torch.zeros(2, dtype=torch.complex128)}, ours.SafetensorError, "c128"),
        ({"__metadata__": x}, ours.SafetensorError, "__metadata__"),
        ({"": x}, ours.SafetensorError, "name"),
    ]
    for tensors, kind, message in cases:
        for save in (lambda t: ours.save(t), lambda t: ours.save_file(t, tmp_path / "x")):
            with pytest.raises(kind, match=message):
                save(tensors)
    with pytest.raises(TypeError, match="metadata"):
        ours.save({"a": x}, {"k": 1})
    with pytest.raises(TypeError, match="metadata"):
        ours.save({"a": x}, "k")
    with pytest.raises(FileNotFoundError):
        ours.save_file({"a": x}, tmp_path / "none" / "x")
    assert list(tmp_path.iterdir()) == []
    assert ours.save({"a": x[:1], "b": x[1:]}) == ours.save({"a": x[:1].clone(), "b": x[1:].clone()})


def header(text: str | bytes, body: bytes = b"", length: int | None = None) -> bytes:
    data = text.encode() if isinstance(text, str) else text
    return (len(data) if length is None else length).to_bytes(8, "little") + data + body


def entry(dtype="U8", shape=(4,), offsets=(0, 4), **more) -> str:
    return json.dumps({"dtype": dtype, "shape": shape, "data_offsets": offsets} | more)


HOSTILE = {
    "nothing": b"",
    "half a length": b"\x10\0\0",
    "a huge length": header("{}", length=2**63),
    "a length past the end": header("{}", length=50),
    "no object": header("[]"),
    "no JSON": header('{"a":'),
    "no UTF-8": header(b'{"\xff":' + entry().encode() + b"}", b"1234"),
    "nested": header('{"a":' * 5000 + "1" + "}" * 5000),
    "an unknown dtype": header(f'{{"a":{entry("X9")}}}', b"1234"),
    "a negative dimension": header(f'{{"a":{entry(shape=(-4,))}}}', b"1234"),
    "dimensions that overflow": header(f'{{"a":{entry(shape=(2**40, 2**40))}}}', b"1234"),
    "offsets turned round": header(f'{{"a":{entry(offsets=(4, 0))}}}', b"1234"),
    "offsets past the end": header(f'{{"a":{entry(shape=(9,), offsets=(0, 9))}}}', b"1234"),
    "a size of another shape": header(f'{{"a":{entry(shape=(3,))}}}', b"1234"),
    "an overlap": header(f'{{"a":{entry()},"b":{entry(offsets=(2, 6))}}}', b"123456"),
    "a hole": header(f'{{"a":{entry(offsets=(2, 6))}}}', b"123456"),
    "bytes that nobody has": header(f'{{"a":{entry()}}}', b"123456"),
    "a missing field": header('{"a":{"dtype":"U8","shape":[4]}}', b"1234"),
    "metadata that is no text": header('{"__metadata__":{"a":1}}'),
    "half a byte": header(f'{{"a":{entry("F4", (3,), (0, 1))}}}', b"1"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_unsound_files_are_refused(store, tmp_path, what):
    path = tmp_path / "bad.safetensors"
    path.write_bytes(HOSTILE[what])
    with pytest.raises(safetensors.SafetensorError):  # the package does, too
        safetensors.torch.load_file(path)
    with pytest.raises(ours.SafetensorError, match="safetensors") as raised:
        ours.load_file(path, store=store)
    assert str(path) in str(raised.value)
    with pytest.raises(ours.SafetensorError):
        ours.load(HOSTILE[what])
    assert list(store.list()) == []


def test_a_name_that_comes_twice_is_refused():  # the package takes the last one
    with pytest.raises(ours.SafetensorError, match="twice"):
        ours.load(header(f'{{"a":{entry()},"a":{entry()}}}', b"1234"))
    with pytest.raises(TypeError, match="bytes"):
        ours.load("text")


class Tied(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(7, 5)
        self.head = torch.nn.Linear(5, 7, bias=False)
        self.head.weight = self.embed.weight
        self.other = torch.nn.Linear(5, 5)


def test_models_with_tied_tensors(store, tmp_path):
    model = Tied()
    ours_torch.save_model(model, tmp_path / "mine.safetensors")
    safetensors.torch.save_model(model, str(tmp_path / "theirs.safetensors"))
    assert (tmp_path / "mine.safetensors").read_bytes() == (tmp_path / "theirs.safetensors").read_bytes()
    fresh = Tied()
    assert ours_torch.load_model(fresh, tmp_path / "mine.safetensors", store=store) == (set(), [])
    assert torch.equal(fresh.head.weight, model.embed.weight) and fresh.head.weight is fresh.embed.weight
    assert torch.equal(fresh.other.bias, model.other.bias)
    with pytest.raises(RuntimeError, match="missing are.*bias"):
        ours_torch.load_model(torch.nn.Linear(5, 7), tmp_path / "mine.safetensors", store=store)
