"""Pins live exactly as long as what shows the tensor."""

import gc
import threading
import weakref

import numpy as np
import pytest

import penstock


def test_view_pins_until_it_is_collected(store, held):
    store.put("x", np.zeros(4))
    view = store.get("x")
    assert held()["pins"] == 1
    del view
    assert held()["pins"] == 0


def test_release_and_context_manager(store, held):
    store.put("x", np.zeros(4))
    view = store.get("x")
    assert not view.released
    view.release()
    view.release()
    assert view.released and held()["pins"] == 0
    with store.get("x") as view:
        assert held()["pins"] == 1
    assert view.released and repr(view) == "TensorView(released)"


def test_a_released_view_refuses_everything(store):
    store.put("x", np.zeros(4))
    view = store.get("x")
    view.release()
    uses = [lambda: view.numpy(), lambda: view.torch(), lambda: view.bytes(), lambda: view[0],
            lambda: view.name, lambda: view.shape, lambda: view.ptr, lambda: len(view),
            lambda: view.__dlpack__(), lambda: view.__array_interface__, lambda: view.info,
            lambda: view.__enter__(), lambda: store.put("y", view)]
    for use in uses:
        with pytest.raises(penstock.InvalidArgumentError, match="released"):
            use()


def test_array_outlives_view_release_delete_and_store(node, held, store):
    x = np.arange(100_000, dtype=np.int64)
    with node.connect() as other:
        other.put("x", x)
        view = other.get("x")
        array = view.numpy()
        view.release()
        del view
        other.delete("x")
    gc.collect()
    store.put("y", x + 1)  # would take the memory if it were free
    assert np.array_equal(array, x)


def test_parts_share_one_pin(store, held):
    store.put("x", np.arange(12).reshape(3, 4))
    view = store.get("x")
    row = view[1]
    element = row[2]
    assert held()["pins"] == 1
    view.release()
    del row
    assert element.numpy() == 6 and held()["pins"] == 1
    del element
    assert held()["pins"] == 0


def test_arrays_keep_a_share(store, held):
    store.put("x", np.arange(4))
    view = store.get("x")
    arrays = [view.numpy(), view[1:].numpy(), np.asarray(view), np.from_dlpack(view)]
    view.release()
    while arrays:
        assert held()["pins"] == 1
        arrays.pop()
    assert held()["pins"] == 0


def test_old_versions_stay_as_they_were(store):
    views = []
    for i in range(20):
        store.put("x", np.full(50_000, i))
        views.append(store.get("x"))
    store.delete("x")
    for i, view in enumerate(views):
        assert view.version == views[0].version + i
        assert (view.numpy() == i).all()


def test_ten_thousand_views(store, held):
    store.put("x", np.arange(8))
    views = [store.get("x") for _ in range(10_000)]
    assert held()["pins"] == 10_000
    assert all(view.numpy()[7] == 7 for view in views)
    views.clear()
    assert held()["pins"] == 0


def test_cycles_are_no_leak(store, held):
    store.put("x", np.arange(8))

    class Node:
        pass

    node = Node()
    node.self, node.array = node, store.get("x").numpy()
    gone = weakref.ref(node)
    del node
    assert held()["pins"] == 0 and gone() is None


def test_a_view_cannot_be_pickled(store):
    import pickle

    store.put("x", np.arange(3))
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(store.get("x"))
    assert pickle.loads(pickle.dumps(store.get("x").numpy())).tolist() == [0, 1, 2]


def test_a_closed_store(node):
    store = node.connect()
    store.put("closed/x", np.arange(3))
    view = store.get("closed/x")
    draft = store.create("closed/y", 3, "u8")
    store.close()
    store.close()
    assert store.closed and repr(store) == "Store(closed)"
    assert view.numpy().tolist() == [0, 1, 2]
    draft.numpy()[:] = 1
    assert draft.publish().name == "closed/y"
    for use in (lambda: store.get("closed/x"), lambda: store.put("x", 1), lambda: store.list(),
                lambda: store.address, lambda: store.get("closed/x", wait=1)):
        with pytest.raises(penstock.InvalidArgumentError, match="closed"):
            use()
    with node.connect() as other:
        other.delete_prefix("closed/")


def test_threads_read_and_write_at_once(store):
    store.put("hot", np.zeros(1000, np.int64))
    stop = threading.Event()
    wrong = []

    def read():
        while not stop.is_set():
            array = store.get("hot").numpy()
            if array[0] != array[-1]:
                wrong.append(array.copy())

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for i in range(150):
        store.put("hot", np.full(1000, i))
    stop.set()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_close_while_other_threads_use_it(node):
    store = node.connect()
    store.put("race", np.arange(10))
    ended = []

    def read():
        try:
            while True:
                store.get("race").numpy()
                store.exists("race")
        except penstock.InvalidArgumentError:
            ended.append(True)

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    store.close()
    for thread in threads:
        thread.join()
    assert len(ended) == 3
    with node.connect() as other:
        other.delete("race")
