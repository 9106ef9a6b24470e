"""Every dtype, both ways, with NumPy, ml_dtypes and torch."""

import numpy as np
import pytest

import penstock
from penstock import _core

ml_dtypes = pytest.importorskip("ml_dtypes")
torch = pytest.importorskip("torch")

BUILTIN = {
    "bool": np.bool_, "i8": np.int8, "i16": np.int16, "i32": np.int32, "i64": np.int64,
    "u8": np.uint8, "u16": np.uint16, "u32": np.uint32, "u64": np.uint64, "f16": np.float16,
    "f32": np.float32, "f64": np.float64, "c64": np.complex64, "c128": np.complex128,
}
FOREIGN = {
    "bf16": "bfloat16", "f8_e4m3fn": "float8_e4m3fn", "f8_e5m2": "float8_e5m2",
    "f8_e4m3fnuz": "float8_e4m3fnuz", "f8_e5m2fnuz": "float8_e5m2fnuz",
    "f8_e8m0fnu": "float8_e8m0fnu",
}
NUMPY = {**BUILTIN, **{name: getattr(ml_dtypes, long) for name, long in FOREIGN.items()}}
TORCH = {
    **{name: getattr(torch, np.dtype(kind).name) for name, kind in BUILTIN.items()},
    **{name: getattr(torch, long) for name, long in FOREIGN.items()},
    "f4_e2m1x2": torch.float4_e2m1fn_x2,
}


def raw(nbytes: int) -> np.ndarray:
    return np.random.default_rng(7).integers(0, 256, nbytes, dtype=np.uint8)


def some(dtype: np.dtype, count: int = 24) -> np.ndarray:
    values = raw(count * dtype.itemsize)
    return (values & 1).astype(bool) if dtype == np.bool_ else values.view(dtype)


@pytest.mark.parametrize("name", NUMPY)
def test_numpy_both_ways(store, name):
    x = some(np.dtype(NUMPY[name])).reshape(4, 6)
    assert store.put("x", x).dtype == name
    view = store.get("x")
    y = view.numpy()
    assert (view.dtype, y.dtype, y.shape) == (name, x.dtype, x.shape)
    assert y.tobytes() == x.tobytes() == view.bytes()
    assert np.asarray(view).dtype == x.dtype and np.asarray(view).tobytes() == x.tobytes()
    store.put("x", x[::2, 1::2])
    assert store.get("x").numpy().tobytes() == x[::2, 1::2].tobytes()


@pytest.mark.parametrize("name", TORCH)
@pytest.mark.parametrize("count", [24, 64 * 1024], ids=["copied", "mapped"])
def test_torch_both_ways(store, name, count):
    item = torch.empty(0, dtype=TORCH[name]).element_size()
    values = raw(count * item)
    if name == "bool":
        values &= 1
    x = torch.from_numpy(values).view(TORCH[name]).reshape(-1, 4)
    assert store.put("x", x).dtype == name
    y = store.get("x").torch()
    assert (y.dtype, y.shape) == (x.dtype, x.shape)
    assert y.view(torch.uint8).numpy().tobytes() == values.tobytes()
    assert store.get("x").bytes() == values.tobytes()


@pytest.mark.parametrize("name", NUMPY)
def test_what_numpy_wrote_torch_reads(store, name):
    x = some(np.dtype(NUMPY[name]))
    store.put("x", x)
    y = store.get("x").torch()
    assert y.dtype == TORCH[name]
    assert y.view(torch.uint8).numpy().tobytes() == x.tobytes()


def test_f4_is_a_byte_of_two_values_in_numpy(store):
    store.put("x", torch.arange(6, dtype=torch.uint8).view(torch.float4_e2m1fn_x2))
    assert store.get("x").numpy().dtype == np.uint8


@pytest.mark.parametrize("name", ["f6_e2m3", "f6_e3m2"])
def test_f6_is_bytes_only(store, name):
    with store.create("x", shape=(8,), dtype=name) as draft:
        assert draft.nbytes == 6
        draft.memoryview()[:] = b"sextet"
    view = store.get("x")
    assert view.bytes() == b"sextet" and view.nbytes == 6
    for refused in (view.numpy, lambda: view[0]):
        with pytest.raises(TypeError, match="not whole bytes"):
            refused()
    with pytest.raises(BufferError, match="not whole bytes"):
        view.torch()


@pytest.mark.parametrize(
    ("given", "name"),
    [("f32", "f32"), ("float32", "f32"), (np.float32, "f32"), (np.dtype("<f4"), "f32"),
     (torch.bfloat16, "bf16"), ("torch.bfloat16", "bf16"), (ml_dtypes.float8_e5m2, "f8_e5m2"),
     (float, "f64"), (int, "i64"), (bool, "bool"), ("<u2", "u16"), (torch.float4_e2m1fn_x2, "f4_e2m1x2")],
)
def test_names_of_dtypes(given, name):
    assert _core.dtype_name(given) == name


@pytest.mark.parametrize("given", ["float33", "", np.dtype("O"), np.dtype("M8[s]"), "U5", None, 3])
def test_wrong_names_of_dtypes(given):
    with pytest.raises(penstock.InvalidArgumentError):
        _core.dtype_name(given)


@pytest.mark.parametrize(
    "array",
    [np.array([1], ">i4"), np.array(["text"]), np.array([object()]), np.array([b"bytes"]),
     np.zeros(2, [("a", "i4")]), np.array(["2020-01-01"], "M8[D]"), np.zeros(2, np.longdouble)],
    ids=["big-endian", "str", "object", "bytes", "record", "date", "longdouble"],
)
def test_arrays_that_are_no_tensors(store, array):
    with pytest.raises(penstock.InvalidArgumentError, match="^tensor: "):
        store.put("x", array)
    assert not store.exists("x")


def test_longlong_is_i64(store):
    assert store.put("x", np.zeros(2, np.longlong)).dtype == "i64"


def test_without_ml_dtypes_numpy_gets_integers(run_python):
    code = """
sys.modules["ml_dtypes"] = None
with store.create("int/bf16", 4, "bf16") as draft: draft.memoryview()[:] = b"abcdefgh"
with store.create("int/f8", 4, "f8_e5m2") as draft: draft.memoryview()[:] = b"abcd"
print(store.get("int/bf16").numpy().dtype, store.get("int/f8").numpy().dtype)
store.delete_prefix("int/")
"""
    done = run_python(code)
    assert done.stdout.split() == ["uint16", "uint8"], done.stderr
