"""The buffer protocol: memoryview(view), np.frombuffer, struct formats."""

import io

import numpy as np
import pytest

FORMATS = [("?", "bool"), ("b", "i1"), ("B", "u1"), ("h", "i2"), ("H", "u2"), ("i", "i4"),
           ("I", "u4"), ("q", "i8"), ("Q", "u8"), ("e", "f2"), ("f", "f4"), ("d", "f8"),
           ("Zf", "c8"), ("Zd", "c16")]


@pytest.mark.parametrize(("code", "dtype"), FORMATS)
def test_formats(store, code, dtype):
    x = np.ones((2, 3), dtype)
    store.put("x", x)
    memory = memoryview(store.get("x"))
    assert (memory.format, memory.itemsize, memory.shape, memory.strides) == (
        code, x.itemsize, x.shape, x.strides)
    assert memory.readonly and memory.c_contiguous
    assert bytes(memory.tobytes()) == x.tobytes()


def test_values(store):
    store.put("x", np.arange(6, dtype=np.int32).reshape(2, 3))
    assert memoryview(store.get("x")).tolist() == [[0, 1, 2], [3, 4, 5]]
    assert memoryview(store.get("x")[:, ::2]).tolist() == [[0, 2], [3, 5]]
    assert memoryview(store.get("x")[::-1, 1]).tolist() == [4, 1]


def test_no_format_for_bf16(store):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    store.put("x", np.ones(3, ml_dtypes.bfloat16))
    view = store.get("x")
    with pytest.raises(BufferError, match="no format for elements of bf16"):
        memoryview(view)
    plain = io.BytesIO()
    plain.write(view)  # asks for bytes alone
    assert plain.getvalue() == view.bytes() == b"\x80\x3f" * 3


def test_contiguous_memory_only_where_it_is(store):
    store.put("x", np.arange(12, dtype=np.uint8).reshape(3, 4))
    view = store.get("x")
    assert bytes(view) == bytes(range(12)) and b"".join([view]) == bytes(range(12))
    strided = view[:, ::2]
    with pytest.raises(BufferError, match="contiguous"):
        np.frombuffer(strided, np.uint8)
    assert memoryview(strided).tobytes() == strided.bytes() == bytes([0, 2, 4, 6, 8, 10])


def test_never_writable(store):
    store.put("x", np.zeros(4, np.uint8))
    view = store.get("x")
    with pytest.raises(TypeError):
        memoryview(view)[0] = 1
    with pytest.raises((BufferError, TypeError)):
        io.BytesIO(b"abcd").readinto(view)


def test_memoryview_outlives_the_view(store, held):
    store.put("x", np.arange(4, dtype=np.uint8))
    view = store.get("x")
    memory = memoryview(view)
    view.release()
    store.delete("x")
    assert memory.tolist() == [0, 1, 2, 3] and held()["pins"] == 1
    memory.release()
    assert held()["pins"] == 0
    with pytest.raises(ValueError, match="released"):
        memoryview(view)


def test_array_interface(store):
    store.put("x", np.arange(6, dtype=np.int32).reshape(2, 3))
    view = store.get("x")
    interface = view.__array_interface__
    assert interface["typestr"] == "<i4" and interface["shape"] == (2, 3)
    assert interface["data"] == (view.ptr, True) and interface["version"] == 3
    assert interface["strides"] == (12, 4)


def test_asarray(store):
    store.put("x", np.arange(6, dtype=np.int32))
    view = store.get("x")
    assert np.asarray(view).ctypes.data == view.ptr
    assert np.asarray(view, np.float64).dtype == np.float64
    assert np.array(view).flags.writeable
    assert view.__array__(np.int32).ctypes.data == view.ptr
    assert view.__array__(copy=True).ctypes.data != view.ptr
    with pytest.raises(ValueError, match="copy"):
        view.__array__(np.float64, copy=False)
