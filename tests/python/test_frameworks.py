"""Exchange with JAX and Arrow, where they are installed."""

import numpy as np
import pytest

import penstock


def test_jax_shares_aligned_memory(store, held):
    pytest.importorskip("jax")
    x = np.arange(1 << 16, dtype=np.float32).reshape(256, 256)
    store.put("x", x)
    view = store.get("x")
    array = view.jax()
    assert array.unsafe_buffer_pointer() == view.ptr
    view.release()
    store.delete("x")
    assert np.array_equal(np.asarray(array), x)


def test_jax_reads_every_dtype_that_it_has(store):
    jnp = pytest.importorskip("jax.numpy")
    for dtype in ("int32", "uint8", "bool", "float16", "bfloat16", "float8_e4m3fn", "complex64"):
        x = jnp.arange(6).reshape(2, 3).astype(dtype)
        store.put("x", x)
        assert (store.get("x").jax() == x).all() and store.get("x").jax().dtype == x.dtype


def test_arrow_shares_memory(store, held):
    pa = pytest.importorskip("pyarrow")
    store.put("x", np.arange(10, dtype=np.int32))
    view = store.get("x")
    array = view.arrow()
    assert array.type == pa.int32() and array.to_pylist() == list(range(10))
    assert array.buffers()[1].address == view.ptr
    assert pa.array(view).equals(array)
    view.release()
    store.delete("x")
    assert array.to_pylist() == list(range(10)) and held()["pins"] == 1


def test_arrow_rows_are_tensors(store):
    pa = pytest.importorskip("pyarrow")
    x = np.arange(24, dtype=np.float32).reshape(4, 2, 3)
    store.put("x", x)
    array = store.get("x").arrow()
    assert array.type == pa.fixed_shape_tensor(pa.float32(), (2, 3))
    assert np.array_equal(array.to_numpy_ndarray(), x)


def test_what_arrow_cannot_have(store):
    pytest.importorskip("pyarrow")
    store.put("x", np.arange(12).reshape(3, 4))
    for view in (store.get("x")[:, ::2], store.get("x")[0, 0]):
        with pytest.raises(penstock.InvalidArgumentError, match="arrow: "):
            view.arrow()
    store.put("x", np.zeros(3, np.complex64))
    with pytest.raises(penstock.InvalidArgumentError, match="arrow: .*c64"):
        store.get("x").arrow()
