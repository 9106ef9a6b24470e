"""Nobody changes a tensor: NumPy refuses, torch's writes stay private, stray writes are explained."""

import numpy as np
import pytest

import penstock

BIG = 64 * 1024  # elements; above the size from which torch maps instead of copying


def test_numpy_refuses(store):
    store.put("x", np.zeros(4))
    for array in (store.get("x").numpy(), np.asarray(store.get("x")), store.get("x")[1:].numpy()):
        with pytest.raises(ValueError, match="assignment destination is read-only"):
            array[0] = 1
        with pytest.raises(ValueError, match="WRITEABLE"):
            array.flags.writeable = True
        with pytest.raises(ValueError):
            array += 1


@pytest.mark.parametrize("count", [16, BIG], ids=["copied", "mapped"])
def test_torch_writes_stay_private(store, count):
    torch = pytest.importorskip("torch")
    x = np.arange(count, dtype=np.float32)
    store.put("x", x)
    view = store.get("x")
    tensor = view.torch()
    tensor.add_(1)
    assert tensor[3] == 4
    assert np.array_equal(view.numpy(), x)
    assert np.array_equal(store.get("x").numpy(), x)
    del tensor, view
    assert torch.equal(store.get("x").torch(), torch.from_numpy(x))  # what was written is forgotten


def test_torch_copies_nothing_when_it_is_large(store):
    pytest.importorskip("torch")
    store.put("x", np.zeros(BIG, np.float32))
    view = store.get("x")
    one, two = view.torch(), view.torch()
    one[0] = 5
    assert two[0] == 5  # the same private memory, as two tensors over one storage
    assert view[8:16].torch().data_ptr() == one.data_ptr() + 32


def test_torch_of_parts(store):
    torch = pytest.importorskip("torch")
    x = np.arange(256 * 256, dtype=np.float32).reshape(256, 256)
    store.put("x", x)
    view = store.get("x")
    for index in (np.s_[3], np.s_[:, 5], np.s_[::2, 1:7], np.s_[::-1], np.s_[0:0]):
        assert torch.equal(view[index].torch(), torch.from_numpy(x[index].copy()))


def test_torch_tensor_outlives_view(store, held):
    torch = pytest.importorskip("torch")
    x = np.arange(BIG, dtype=np.float32)
    store.put("x", x)
    tensor = store.get("x").torch()
    store.put("x", x + 1)
    assert torch.equal(tensor, torch.from_numpy(x))
    part = tensor[5:9]
    del tensor
    assert part.tolist() == [5, 6, 7, 8] and held()["pins"] == 1


def test_torch_needs_no_warning(store):
    import warnings

    pytest.importorskip("torch")
    store.put("x", np.zeros(BIG, np.float32))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        store.get("x").torch()


def test_torch_inputs_of_every_sort(store):
    torch = pytest.importorskip("torch")
    parameter = torch.nn.Parameter(torch.arange(4.0))
    store.put("x", parameter)
    assert torch.equal(store.get("x").torch(), parameter.detach())
    z = torch.tensor([1 + 2j, 3 - 1j])
    store.put("x", z.conj())
    assert torch.equal(store.get("x").torch(), z.conj().resolve_conj())
    store.put("x", torch.arange(12).reshape(3, 4).T)
    assert store.get("x").shape == (4, 3)
    store.put("x", torch.zeros(()))
    assert store.get("x").torch().shape == ()
    with pytest.raises(penstock.InvalidArgumentError, match="tensor: .*layout"):
        store.put("x", torch.zeros(3, 3).to_sparse())
    with pytest.raises(penstock.InvalidArgumentError, match="tensor: .*device meta"):
        store.put("x", torch.zeros(3, device="meta"))


WRITE = "import ctypes; view = store.get('x'); ctypes.memset(view.ptr, 1, 1)"


def test_a_stray_write_is_explained(store, run_python):
    store.put("x", np.zeros(BIG, np.uint8))
    done = run_python(f"penstock.enable_fault_messages(); penstock.enable_fault_messages()\n{WRITE}")
    assert done.returncode == -11
    assert "wrote to the memory of a tensor, which is read-only" in done.stderr
    assert "Segmentation fault" in done.stderr and "<string>" in done.stderr
    assert store.get("x").numpy().max() == 0


def test_other_faults_are_not_ours(run_python):
    done = run_python("penstock.enable_fault_messages(); import ctypes; ctypes.memset(8, 1, 1)")
    assert done.returncode == -11
    assert "penstock" not in done.stderr.split("Segmentation fault")[0]
    assert "Segmentation fault" in done.stderr


def test_without_the_messages_it_is_a_plain_fault(store, run_python):
    store.put("x", np.zeros(4, np.uint8))
    done = run_python(WRITE)
    assert done.returncode == -11 and "penstock:" not in done.stderr


def test_a_write_after_publish_faults(store, run_python):
    code = """
penstock.enable_fault_messages()
draft = store.create("late", 1 << 20, "u8")
array = draft.numpy()
array[:] = 7
draft.publish()
print(array[5], flush=True)
array[5] = 8
"""
    done = run_python(code)
    assert done.stdout.strip() == "7" and done.returncode == -11, done.stderr
    assert "until publish() only" in done.stderr
    assert store.get("late").numpy().min() == store.get("late").numpy().max() == 7
