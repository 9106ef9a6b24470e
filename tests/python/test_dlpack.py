"""The DLPack rules of the array API (2025.12), as producer and as consumer."""

import gc

import numpy as np
import pytest

import penstock

LEGACY, VERSIONED = "dltensor", "dltensor_versioned"


def capsule_name(capsule) -> str:
    return repr(capsule).split('"')[1]


@pytest.fixture
def view(store):
    store.put("x", np.arange(12, dtype=np.float32).reshape(3, 4))
    with store.get("x") as view:
        yield view


def test_version_follows_max_version(view):
    assert capsule_name(view.__dlpack__()) == LEGACY
    assert capsule_name(view.__dlpack__(max_version=None)) == LEGACY
    assert capsule_name(view.__dlpack__(max_version=(0, 8))) == LEGACY
    assert capsule_name(view.__dlpack__(max_version=(1, 0))) == VERSIONED
    assert capsule_name(view.__dlpack__(max_version=(2, 0))) == VERSIONED


def test_device(view):
    assert view.__dlpack_device__() == (1, 0)
    assert view.__dlpack__(dl_device=(1, 0)) is not None
    assert view.__dlpack__(dl_device=None) is not None
    with pytest.raises(BufferError, match="dl_device"):
        view.__dlpack__(dl_device=(2, 0))


def test_stream_must_be_none(view):
    assert view.__dlpack__(stream=None) is not None
    with pytest.raises(BufferError, match="stream"):
        view.__dlpack__(stream=1)


def test_arguments_are_checked(view):
    with pytest.raises(TypeError):
        view.__dlpack__(None)
    with pytest.raises(TypeError):
        view.__dlpack__(unknown=1)
    with pytest.raises(TypeError, match="max_version"):
        view.__dlpack__(max_version=1)


def test_numpy_takes_it_read_only_without_a_copy(view):
    x = np.from_dlpack(view)
    assert x.ctypes.data == view.ptr and not x.flags.writeable
    assert np.array_equal(x, view.numpy())
    assert not np.from_dlpack(view, copy=False).flags.writeable


def test_copy_is_writable_and_separate(view):
    x = np.from_dlpack(view, copy=True)
    assert x.ctypes.data != view.ptr and x.flags.writeable
    x[:] = -1
    assert view.numpy()[0, 0] == 0


def test_strided_views_keep_their_strides(view):
    x = np.from_dlpack(view[::2, ::-1])
    assert np.array_equal(x, view.numpy()[::2, ::-1])


def test_zero_size_and_rank_zero(store):
    for array in (np.zeros((0, 3)), np.zeros(()), np.zeros((2, 0))):
        store.put("x", array)
        assert np.from_dlpack(store.get("x")).shape == array.shape


def test_an_unused_capsule_gives_its_pin_back(store, held):
    store.put("x", np.zeros(4))
    capsules = [store.get("x").__dlpack__(max_version=v) for v in (None, (1, 0))]
    assert held()["pins"] == 2
    del capsules
    assert held()["pins"] == 0


def test_consumers_keep_the_pin(store, held):
    store.put("x", np.arange(4))
    view = store.get("x")
    x = np.from_dlpack(view)
    view.release()
    del view
    store.delete("x")
    assert held()["pins"] == 1
    assert x.tolist() == [0, 1, 2, 3]
    del x
    assert held()["pins"] == 0


def test_deleter_runs_in_any_thread(store, held):
    import threading

    store.put("x", np.arange(4))
    box = [np.from_dlpack(store.get("x"))]
    thread = threading.Thread(target=box.clear)
    thread.start()
    thread.join()
    assert held()["pins"] == 0


class Producer:
    """Wraps an array as a library of another age would."""

    def __init__(self, array, versioned, device=(1, 0)):
        self.array, self.versioned, self.device, self.calls = array, versioned, device, []

    def __dlpack_device__(self):
        return self.device

    def __dlpack__(self, **kwargs):
        self.calls.append(kwargs)
        if not self.versioned and kwargs:
            raise TypeError("unexpected keyword argument")
        return self.array.__dlpack__(**kwargs)


@pytest.mark.parametrize("versioned", [True, False])
def test_producers_of_both_ages(store, versioned):
    producer = Producer(np.arange(6, dtype=np.int16).reshape(2, 3), versioned)
    store.put("x", producer)
    assert np.array_equal(store.get("x").numpy(), producer.array)
    assert producer.calls[0]["max_version"][0] == 1


def test_producer_on_another_device(store):
    with pytest.raises(penstock.InvalidArgumentError, match="device type 2"):
        store.put("x", Producer(np.zeros(3), True, device=(2, 0)))


def test_producer_that_gives_no_capsule(store):
    class Wrong(Producer):
        def __dlpack__(self, **kwargs):
            return "capsule"

    with pytest.raises(TypeError, match="no DLPack capsule"):
        store.put("x", Wrong(np.zeros(3), True))


def test_a_used_capsule_frees_its_source(store):
    import weakref

    x = np.arange(6)
    alive = weakref.ref(x)
    store.put("x", Producer(x, True))
    del x
    gc.collect()
    assert alive() is None


def test_out_through_dlpack_is_checked_for_read_only(store):
    store.put("x", np.arange(3))
    with pytest.raises(penstock.InvalidArgumentError, match="out: .*not writable"):
        store.get("x", out=store.get("x"))
