"""create(): filled in place, visible at once, gone without a trace when aborted."""

import threading

import numpy as np
import pytest

import penstock


def test_fill_and_publish(store):
    with store.create("obs", shape=(10, 4), dtype="u8") as draft:
        assert (draft.name, draft.shape, draft.dtype, draft.nbytes) == ("obs", (10, 4), "u8", 40)
        assert draft.state == "open" and not store.exists("obs")
        draft.numpy()[...] = 7
        assert not store.exists("obs")
    assert draft.state == "published" and "published" in repr(draft)
    assert (store.get("obs").numpy() == 7).all()


@pytest.mark.parametrize("nbytes", [0, 1, 4096, 1 << 20, 40 << 20])
def test_sizes(store, nbytes):
    with store.create("x", nbytes, "u8") as draft:
        draft.numpy()[:] = 9
    view = store.get("x")
    assert view.shape == (nbytes,) and (view.numpy() == 9).all()


def test_an_exception_aborts(store, held):
    with pytest.raises(RuntimeError, match="mine"):
        with store.create("x", 100, "f32") as draft:
            draft.numpy()[:] = 1
            raise RuntimeError("mine")
    assert draft.state == "aborted" and not store.exists("x")


def test_a_forgotten_draft_is_aborted(store, held, eventually):
    draft = store.create("x", 1 << 20, "u8")
    assert held()["drafts"] == 1
    del draft
    eventually(lambda: held()["drafts"] == 0, "the draft was aborted")
    assert not store.exists("x")


def test_explicit_publish_and_abort(store):
    draft = store.create("x", 3, "i32")
    draft.numpy()[:] = [1, 2, 3]
    info = draft.publish()
    assert info.name == "x" and info.shape == (3,)
    with pytest.raises(penstock.InvalidArgumentError, match="published before"):
        draft.publish()
    draft.abort()
    assert store.get("x").numpy().tolist() == [1, 2, 3]
    other = store.create("y", 3, "i32")
    other.abort()
    other.abort()
    for use in (other.numpy, other.publish, other.torch, other.memoryview):
        with pytest.raises(penstock.InvalidArgumentError, match="aborted before"):
            use()


def test_publish_inside_the_block(store):
    with store.create("x", 3, "i32") as draft:
        draft.numpy()[:] = 5
        draft.publish()
    with store.create("y", 3, "i32") as draft:
        draft.abort()
    assert store.exists("x") and not store.exists("y")


def test_memoryview_and_torch(store):
    with store.create("x", (2, 2), "i16") as draft:
        draft.memoryview()[:4] = b"\1\0\2\0"
        draft.numpy()[1] = 9
    assert store.get("x").numpy().tolist() == [[1, 2], [9, 9]]
    torch = pytest.importorskip("torch")
    with store.create("y", 4, torch.bfloat16) as draft:
        draft.torch().copy_(torch.arange(4))
    assert store.get("y").torch().tolist() == [0, 1, 2, 3]


def test_arrays_of_a_published_draft_stay_true(store):
    draft = store.create("x", 1 << 16, "u8")
    array = draft.numpy()
    array[:] = 3
    draft.publish()
    store.delete("x")
    for i in range(10):  # would take the block if it were free
        with store.create(f"y/{i}", 1 << 16, "u8") as other:
            other.numpy()[:] = 4
    assert (array == 3).all()


def test_arrays_of_an_aborted_draft_harm_nobody(store, held, eventually):
    draft = store.create("x", 1 << 16, "u8")
    array = draft.numpy()
    draft.abort()
    with store.create("y", 1 << 16, "u8") as other:
        other.numpy()[:] = 4
        array[:] = 5
    assert (store.get("y").numpy() == 4).all()
    del array
    eventually(lambda: held()["drafts"] == 0, "the aborted draft is gone")


def test_only_one_thread_publishes(store):
    draft = store.create("x", 1 << 20, "u8")
    draft.numpy()[:] = 1
    results = []

    def publish():
        try:
            results.append(draft.publish().name)
        except penstock.InvalidArgumentError:
            results.append(None)

    threads = [threading.Thread(target=publish) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results, key=str) == [None, None, None, "x"]


def test_conditions_hold_at_publish(store):
    one = store.create("x", 3, "u8", if_absent=True)
    two = store.create("x", 3, "u8", if_absent=True)
    one.numpy()[:] = 1
    one.publish()
    with pytest.raises((penstock.ConflictError, penstock.AlreadyExistsError)):
        two.publish()
    two.abort()
    assert store.get("x").numpy().tolist() == [1, 1, 1]


def test_options(store):
    version = store.put("x", 1).version + 9
    with store.create("x", 3, "u8", metadata={"a": "b"}, ttl=60, keep=False, version=version) as draft:
        draft.numpy()[:] = 1
    info = store.stat("x")
    assert (info.metadata, info.keep, info.version) == ({"a": "b"}, False, version)
    assert info.ttl <= 60
