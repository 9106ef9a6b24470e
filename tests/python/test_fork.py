"""Fork, exec, multiprocessing, DataLoader workers: views stay valid, children get sessions of their own."""

import multiprocessing
import os
import subprocess
import sys

import numpy as np
import pytest

import penstock


def in_child(call) -> None:
    """Runs `call` in a forked child; fails when it raises there."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            call()
            code = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_a_view_stays_valid_in_the_child(store):
    x = np.arange(1000)
    store.put("x", x)
    view = store.get("x")
    array = view.numpy()
    in_child(lambda: np.testing.assert_array_equal(array, x))
    in_child(lambda: np.testing.assert_array_equal(view[::2].numpy(), x[::2]))
    assert np.array_equal(array, x)


def test_the_child_keeps_what_the_parent_gave_up(store):
    x = np.arange(100_000)
    store.put("x", x)
    array = store.get("x").numpy()
    to_child, from_parent = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(from_parent)
        os.read(to_child, 1)  # until the parent has released, deleted and written over it
        os._exit(0 if np.array_equal(array, x) else 1)
    os.close(to_child)
    del array
    store.delete("x")
    for i in range(20):
        store.put(f"y/{i}", x + 1)
    os.close(from_parent)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@pytest.mark.parametrize("with_view", [False, True])
def test_the_child_has_a_session_of_its_own(store, with_view):
    store.put("x", np.arange(5))
    view = store.get("x") if with_view else None

    def child():
        assert store.get("x").numpy().tolist() == [0, 1, 2, 3, 4]
        store.put("from/child", np.arange(7))
        with store.create("draft/child", 4, "u8") as draft:
            draft.numpy()[:] = 3
        assert store.wait("x", timeout=10).name == "x"

    in_child(child)
    assert view is None or view.numpy().tolist() == [0, 1, 2, 3, 4]
    assert store.get("from/child").numpy().tolist() == list(range(7))
    assert store.get("draft/child").numpy().tolist() == [3] * 4


def test_child_and_parent_write_at_once(store):
    def write(who):
        for i in range(100):
            store.put(f"{who}/{i}", np.full(1000, i))

    pid = os.fork()
    if pid == 0:
        try:
            write("child")
            os._exit(0)
        finally:
            os._exit(1)
    write("parent")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    for who in ("parent", "child"):
        assert all((store.get(f"{who}/{i}").numpy() == i).all() for i in range(100))


def test_a_grandchild(store):
    store.put("x", np.arange(9))
    view = store.get("x")
    in_child(lambda: in_child(lambda: np.testing.assert_array_equal(view.numpy(), np.arange(9))))


def test_the_parents_drafts_are_not_the_childs(store):
    draft = store.create("x", 10, "u8")
    draft.numpy()[:] = 1

    def child():
        with pytest.raises(penstock.Error):
            draft.publish()

    in_child(child)
    draft.publish()
    assert (store.get("x").numpy() == 1).all()


def test_exec_leaves_nothing_behind(store, held):
    store.put("x", np.arange(5))
    view = store.get("x")
    done = subprocess.run([sys.executable, "-c", "print(1)"], capture_output=True, close_fds=False)
    assert done.stdout == b"1\n"
    assert view.numpy()[4] == 4


def read_by_name(job):
    store, name = job
    return store.get(name).numpy().sum()


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing(store, method):
    names = [f"job/{i}" for i in range(8)]
    store.put_many({name: np.full(1000, i) for i, name in enumerate(names)})
    context = multiprocessing.get_context(method)
    with context.Pool(2) as pool:
        sums = pool.map(read_by_name, [(store, name) for name in names])
    assert sums == [1000 * i for i in range(8)]


class Names:
    """A dataset whose items are the tensors of a store."""

    def __init__(self, store, names):
        self.store, self.names = store, names

    def __len__(self):
        return len(self.names)

    def __getitem__(self, index):
        return self.store.get(self.names[index]).torch()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_data_loader_workers(store, method):
    data = pytest.importorskip("torch.utils.data")
    names = [f"sample/{i:03}" for i in range(32)]
    store.put_many({name: np.full((3, 4), i, np.float32) for i, name in enumerate(names)})
    held_over_fork = store.get(names[0]).numpy()
    loader = data.DataLoader(
        Names(store, names),
        batch_size=8,
        num_workers=2 if method == "fork" else 1,  # each spawned one imports torch anew
        multiprocessing_context=method,
    )
    batches = list(loader)
    assert [tuple(batch.shape) for batch in batches] == [(8, 3, 4)] * 4
    assert [batch[0, 0, 0].item() for batch in batches] == [0, 8, 16, 24]
    assert held_over_fork[0, 0] == 0


def test_fork_while_other_threads_use_the_store(store):
    import threading

    store.put("x", np.arange(100))
    stop = threading.Event()

    def read():
        while not stop.is_set():
            store.get("x").numpy()
            store.put("y", np.arange(10))

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(5):
            in_child(lambda: store.get("x").numpy()[99] == 99 or os._exit(2))
    finally:
        stop.set()
        for thread in threads:
            thread.join()
