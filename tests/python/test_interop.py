"""penstock.interop: the same memory, or a refusal that says why."""

from __future__ import annotations

import ctypes
import gc
import threading
import weakref

import ml_dtypes
import numpy as np
import pytest

import penstock
from penstock import interop

torch = pytest.importorskip("torch")
pa = pytest.importorskip("pyarrow")

NUMBERS = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float16", "float32", "float64")
ML_DTYPES = ("bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz")


KEPT = np.zeros(3)


def refused(match: str):
    return pytest.raises(penstock.InvalidArgumentError, match=match)


# --- ptr ---


def test_ptr_is_the_address_of_the_first_element(store):
    x = np.arange(10, dtype=np.int32)
    t = torch.from_numpy(x)
    assert interop.ptr(x) == interop.ptr(t) == x.ctypes.data
    assert interop.ptr(x[3:]) == interop.ptr(t[3:]) == x.ctypes.data + 12
    assert interop.ptr(memoryview(x)) == x.ctypes.data
    column = pa.array([1, 2, 3], pa.int16())
    assert interop.ptr(column.slice(1)) == column.buffers()[1].address + 2
    store.put("x", x)
    view = store.get("x")
    assert interop.ptr(view) == interop.ptr(view.numpy()) == view.ptr == interop.ptr(interop.wrap_for_zero_copy(view))


@pytest.mark.parametrize("what", [None, 3, "text", [1, 2]])
def test_what_has_no_address(what):
    with pytest.raises(TypeError, match="array: .*shows no address"):
        interop.ptr(what)


# --- DLPack ---


@pytest.mark.parametrize("make", [np.array, torch.tensor, lambda x: pa.array(x, pa.int64())])
def test_a_capsule_goes_to_one_consumer(make):
    x = make([1, 2, 3])
    capsule = interop.to_dlpack(x)
    assert type(capsule).__name__ == "PyCapsule"
    y = interop.from_dlpack(capsule)
    assert y.tolist() == [1, 2, 3] and interop.ptr(y) == interop.ptr(x)
    with refused("capsule: was taken already"):
        interop.from_dlpack(capsule)


def test_torch_takes_the_capsules():
    x = np.arange(6.0).reshape(2, 3)
    t = torch.from_dlpack(interop.to_dlpack(x))
    assert t.data_ptr() == x.ctypes.data and t.shape == (2, 3)


def test_objects_are_taken_as_well(store):
    t = torch.arange(6.0, requires_grad=True)
    y = interop.from_dlpack(t)
    assert interop.ptr(y) == t.data_ptr()
    store.put("x", np.arange(6))
    view = store.get("x")
    y = interop.from_dlpack(view)
    assert interop.ptr(y) == view.ptr and not y.flags.writeable


def test_read_only_stays_read_only(store):
    x = np.arange(4)
    x.flags.writeable = False
    assert not interop.from_dlpack(interop.to_dlpack(x)).flags.writeable
    store.put("x", x)
    view = store.get("x")
    y = interop.from_dlpack(interop.to_dlpack(view))
    assert interop.ptr(y) == view.ptr and not y.flags.writeable


def test_a_capsule_keeps_the_memory_until_its_consumer_is_gone():
    t = torch.arange(5)
    gone = weakref.ref(t)
    y = interop.from_dlpack(interop.to_dlpack(t))
    del t
    gc.collect()
    assert y.tolist() == [0, 1, 2, 3, 4]
    del gone


def test_what_dlpack_has_not():
    with pytest.raises(TypeError, match="array: builtins.list has no __dlpack__"):
        interop.to_dlpack([1])
    with pytest.raises(TypeError, match="capsule_or_object: builtins.bytes has no __dlpack__"):
        interop.from_dlpack(b"abc")
    with refused("array: has no DLPack form"):
        interop.to_dlpack(np.array(["a"]))
    with refused("capsule_or_object: NumPy cannot show it"):
        interop.from_dlpack(torch.zeros(3, dtype=torch.bfloat16))
    import datetime

    with refused("capsule: is of 'datetime.datetime_CAPI'"):
        interop.from_dlpack(datetime.datetime_CAPI)


# --- NumPy and torch ---


@pytest.mark.parametrize("dtype", [*NUMBERS, "bool", "complex64", "complex128"])
def test_numpy_and_torch_show_each_other(dtype):
    x = np.zeros((3, 4), dtype)
    t = interop.numpy_to_torch_zero_copy(x)
    assert str(t.dtype) == f"torch.{dtype}" and t.data_ptr() == x.ctypes.data and t.shape == x.shape
    t[1, 2] = 1
    assert x[1, 2] == 1
    y = interop.torch_to_numpy_zero_copy(t)
    assert y.dtype == x.dtype and interop.ptr(y) == x.ctypes.data
    y[0, 0] = 1
    assert bool(t[0, 0])


@pytest.mark.parametrize("dtype", ML_DTYPES)
def test_short_floats_keep_their_kind(dtype):
    x = np.arange(6, dtype=np.float32).astype(getattr(ml_dtypes, dtype)).reshape(2, 3)
    t = interop.numpy_to_torch_zero_copy(x)
    assert str(t.dtype) == f"torch.{dtype}" and t.data_ptr() == x.ctypes.data
    assert torch.equal(t.float(), torch.from_numpy(x.astype(np.float32)))
    y = interop.torch_to_numpy_zero_copy(t)
    assert y.dtype == x.dtype and interop.ptr(y) == x.ctypes.data and np.array_equal(y, x)


@pytest.mark.parametrize("index", [np.s_[::2], np.s_[:, 1], np.s_[1:, ::2], np.s_[0, 0], np.s_[:0]])
def test_strided_arrays_stay_strided(index):
    x = np.arange(24.0).reshape(4, 6)[index]
    x = np.asarray(x) if isinstance(x, np.ndarray) else np.arange(24.0)[:1].reshape(())
    t = interop.numpy_to_torch_zero_copy(x)
    assert torch.equal(t, torch.tensor(x)) and (not x.size or t.data_ptr() == x.ctypes.data)


def test_arrays_that_torch_cannot_show(store):
    x = np.arange(6, dtype=np.float32)
    with refused("array: has negative strides"):
        interop.numpy_to_torch_zero_copy(x[::-1])
    with refused("array: has the byte order of >f4"):
        interop.numpy_to_torch_zero_copy(x.astype(">f4"))
    with refused("array: has dtype <U1"):
        interop.numpy_to_torch_zero_copy(np.array(["a"]))
    with refused("no multiples"):
        interop.numpy_to_torch_zero_copy(np.zeros(3, [("a", "i1"), ("b", "<f4")])["b"])
    store.put("x", x)
    with refused(r"array: is read-only.*view\.torch\(\)"):
        interop.numpy_to_torch_zero_copy(store.get("x").numpy())


def test_tensors_that_numpy_cannot_show():
    t = torch.arange(6.0).reshape(2, 3)
    with refused(r"tensor: is not contiguous: shape \(3, 2\)"):
        interop.torch_to_numpy_zero_copy(t.T)
    with refused("tensor: lies on device meta"):
        interop.torch_to_numpy_zero_copy(torch.zeros(3, device="meta"))
    with refused("tensor: has layout torch.sparse_coo"):
        interop.torch_to_numpy_zero_copy(t.to_sparse())
    with refused("tensor: is a conjugated"):
        interop.torch_to_numpy_zero_copy(torch.zeros(3, dtype=torch.complex64).conj())
    with pytest.raises(TypeError, match="tensor: numpy.ndarray is no tensor"):
        interop.torch_to_numpy_zero_copy(np.zeros(3))


def test_a_gradient_is_not_followed():
    t = torch.arange(3.0, requires_grad=True)
    y = interop.torch_to_numpy_zero_copy(t)
    assert interop.ptr(y) == t.data_ptr()


# --- Arrow ---


@pytest.mark.parametrize("dtype", [*NUMBERS, "datetime64[ns]", "timedelta64[us]"])
def test_numpy_and_arrow_show_each_other(dtype):
    x = np.arange(7).astype(dtype)
    a = interop.numpy_to_arrow_zero_copy(x)
    assert len(a) == 7 and a.null_count == 0 and a.buffers()[1].address == x.ctypes.data
    assert a.type == pa.from_numpy_dtype(x.dtype)
    y = interop.arrow_to_numpy_zero_copy(a)
    assert interop.ptr(y) == x.ctypes.data and y.dtype == x.dtype and not y.flags.writeable
    assert np.array_equal(interop.arrow_to_numpy_zero_copy(a.slice(2, 3)), x[2:5])


def test_arrow_keeps_the_memory():
    x = np.arange(1000)
    gone = weakref.ref(x)
    a = interop.numpy_to_arrow_zero_copy(x)
    y = interop.arrow_to_numpy_zero_copy(a)
    del x, a
    gc.collect()
    assert gone() is not None and y.sum() == 499500
    del y
    gc.collect()
    assert gone() is None


def test_arrays_that_arrow_cannot_show():
    with refused("array: has 2 dimensions"):
        interop.numpy_to_arrow_zero_copy(np.zeros((2, 2)))
    with refused("array: is not contiguous"):
        interop.numpy_to_arrow_zero_copy(np.zeros(8)[::2])
    for x in (np.zeros(3, bool), np.zeros(3, ">i4"), np.zeros(3, complex), np.array(["a"])):
        with refused("array: has dtype"):
            interop.numpy_to_arrow_zero_copy(x)
    with refused("array: has dtype datetime64"):
        interop.numpy_to_arrow_zero_copy(np.zeros(3, "datetime64[M]"))


def test_arrow_arrays_that_numpy_cannot_show():
    with refused("array: has 1 nulls"):
        interop.arrow_to_numpy_zero_copy(pa.array([1, None]))
    with refused("array: has 2 chunks.*combine_chunks"):
        interop.arrow_to_numpy_zero_copy(pa.chunked_array([[1], [2]]))
    with refused("array: has 0 chunks"):
        interop.arrow_to_numpy_zero_copy(pa.chunked_array([], pa.int8()))
    for a in (pa.array(["a"]), pa.array([True]), pa.array([[1], [2, 3]]), pa.array([{"a": 1}])):
        with refused("array: of type .* has another layout"):
            interop.arrow_to_numpy_zero_copy(a)
    with pytest.raises(TypeError, match="array: builtins.list is no array of Arrow"):
        interop.arrow_to_numpy_zero_copy([1, 2])


def test_rows_of_tensors_keep_their_shape():
    x = np.arange(24.0).reshape(4, 2, 3)
    rows = pa.FixedShapeTensorArray.from_numpy_ndarray(x)
    y = interop.arrow_to_numpy_zero_copy(rows)
    assert np.array_equal(y, x) and interop.ptr(y) == rows.storage.values.buffers()[1].address


def test_columns_of_tables():
    table = pa.table({"a": pa.array([1, 2], pa.int32()), "b": pa.chunked_array([[1.0], [2.0]]), "c": [None, 1]})
    y = interop.table_to_numpy_zero_copy(table, "a")
    assert y.tolist() == [1, 2] and interop.ptr(y) == table.column("a").chunk(0).buffers()[1].address
    assert interop.ptr(interop.table_to_numpy_zero_copy(table, 0)) == interop.ptr(y)
    batch = pa.record_batch({"a": pa.array([5, 6])})
    assert interop.table_to_numpy_zero_copy(batch, "a").tolist() == [5, 6]
    with refused("array: has 2 chunks"):
        interop.table_to_numpy_zero_copy(table, "b")
    with refused("array: has 1 nulls"):
        interop.table_to_numpy_zero_copy(table, -1)
    with refused(r"column: 'd' is there 0 times; allowed are one of \['a', 'b', 'c'\]"):
        interop.table_to_numpy_zero_copy(table, "d")
    with refused("column: 3 of 3; allowed are 0 to 2"):
        interop.table_to_numpy_zero_copy(table, 3)
    twice = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"])
    with refused("column: 'a' is there 2 times"):
        interop.table_to_numpy_zero_copy(twice, "a")


# --- ZeroCopyArray ---


@pytest.mark.parametrize("make", [np.array, lambda x: torch.tensor(x, dtype=torch.float64), lambda x: pa.array(x, pa.float64()), lambda x: memoryview(np.array(x)),
                                  lambda x: interop.ZeroCopyArray(np.array(x))])
def test_one_array_in_every_form(make):
    given = make([1.0, 2.0, 3.0])
    array = interop.wrap_for_zero_copy(given)
    assert array.ptr == interop.ptr(given) and array.shape == (3,) and array.dtype == np.float64 and array.nbytes == 24 and len(array) == 3
    assert interop.ptr(array.to_numpy()) == interop.ptr(array.to_arrow()) == array.ptr
    assert interop.ptr(interop.from_dlpack(array.to_dlpack())) == interop.ptr(np.from_dlpack(array)) == interop.ptr(np.asarray(array)) == array.ptr
    if array.to_numpy().flags.writeable:
        assert array.to_torch().data_ptr() == array.ptr
    else:
        with refused("read-only"):
            array.to_torch()
    assert f"{array.ptr:#x}" in repr(array) and "float64" in repr(array)


def test_a_view_of_a_store_in_every_form(store, held):
    store.put("x", np.arange(5.0))
    array = interop.wrap_for_zero_copy(store.get("x"))
    assert array.to_arrow().to_pylist() == array.to_torch().tolist() == [0, 1, 2, 3, 4]
    assert array.ptr == interop.ptr(array.to_arrow())
    gc.collect()
    assert held()["pins"] == 1
    del array
    gc.collect()
    assert held()["pins"] == 0


def test_what_cannot_be_wrapped():
    with pytest.raises(TypeError, match="array: builtins.int shows no memory"):
        interop.ZeroCopyArray(3)
    with refused("tensor: is not contiguous"):
        interop.ZeroCopyArray(torch.zeros(2, 3).T)
    with refused("array: has 2 dimensions"):
        interop.ZeroCopyArray(np.zeros((2, 2))).to_arrow()


# --- check ---


def test_a_plain_array_is_compatible():
    x = np.zeros((2, 3), np.float32)
    found = interop.check_zero_copy_compatibility(x, "weights")
    assert found["compatible"] is True and found["issues"] == []
    assert {key: found[key] for key in ("name", "device", "dtype", "shape", "strides", "nbytes", "ptr")} == {
        "name": "weights", "device": "cpu", "dtype": "float32", "shape": (2, 3), "strides": (12, 4), "nbytes": 24, "ptr": x.ctypes.data}


def unaligned() -> np.ndarray:
    return np.zeros(17, np.uint8)[1:].view(np.float64)


def at_an_address() -> np.ndarray:
    return np.frombuffer((ctypes.c_double * 3).from_address(KEPT.ctypes.data))


def behind_a_pointer() -> np.ndarray:
    return np.ctypeslib.as_array(ctypes.cast(KEPT.ctypes.data, ctypes.POINTER(ctypes.c_double)), (3,))


@pytest.mark.parametrize("make", [lambda: np.frombuffer((ctypes.c_double * 3)()), lambda: np.zeros(4)[1:], lambda: np.frombuffer(b"abc", np.uint8),
                                  lambda: torch.zeros(3).numpy()])
def test_memory_that_somebody_keeps(make):
    assert interop.check_zero_copy_compatibility(make())["compatible"]


@pytest.mark.parametrize("make, about", [
    (at_an_address, "ownership"), (behind_a_pointer, "ownership"),
    (lambda: np.zeros((4, 4))[:, ::2], "contiguity"), (lambda: np.zeros((4, 4)).T, "contiguity"), (lambda: np.zeros(4)[::-1], "strides"),
    (lambda: np.zeros(3, ">f4"), "byte order"), (lambda: np.array(["a"]), "dtype"), (lambda: np.array([None]), "dtype"),
    (lambda: np.zeros(3, "datetime64[ns]"), "dtype"), (unaligned, "alignment"), (lambda: torch.zeros(3, device="meta"), "device"),
    (lambda: torch.zeros(2, 3).T, "contiguity"), (lambda: torch.zeros(3).to_sparse(), "strides"), (lambda: [1, 2], "dtype"),
    (lambda: pa.array([1, None]), "dtype"), (lambda: pa.chunked_array([[1], [2]]), "contiguity"),
])
def test_every_issue_is_named(make, about):
    found = interop.check_zero_copy_compatibility(make(), "mine")
    assert not found["compatible"] and about in [issue.split(":")[0] for issue in found["issues"]], found


def test_notes_are_no_issues(store):
    store.put("x", np.zeros(100))
    found = interop.check_zero_copy_compatibility(store.get("x"))
    assert found["compatible"] and found["notes"] == []
    x = np.zeros(200, np.uint8)
    x.flags.writeable = False
    found = interop.check_zero_copy_compatibility(x[(1 - x.ctypes.data) % 64:])
    assert found["compatible"] and [note.split(":")[0] for note in found["notes"]] == ["alignment", "ownership"]


# --- all of it ---


def test_threads():
    def work() -> None:
        for _ in range(200):
            x = np.arange(64.0)
            assert interop.torch_to_numpy_zero_copy(interop.numpy_to_torch_zero_copy(x)).sum() == 2016
            assert interop.from_dlpack(interop.to_dlpack(x)).sum() == 2016

    failed: list[BaseException] = []

    def guarded() -> None:
        try:
            work()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=guarded) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed


def test_importing_it_imports_no_framework():
    import subprocess
    import sys

    program = "import sys, penstock.interop; sys.exit(bool({'torch', 'pyarrow', 'jax', 'cupy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
