"""Each wrong argument gets an error that names the field and what is allowed; nothing changes."""

import pickle

import numpy as np
import pytest

import penstock

CLASSES = {
    penstock.NotFoundError: KeyError,
    penstock.InvalidArgumentError: ValueError,
    penstock.AlreadyExistsError: FileExistsError,
    penstock.StoreFullError: MemoryError,
    penstock.UnavailableError: ConnectionError,
    penstock.DeadlineError: TimeoutError,
    penstock.PermissionDeniedError: PermissionError,
    penstock.DataLossError: OSError,
    penstock.ConflictError: RuntimeError,
    penstock.TransportError: OSError,
}


@pytest.mark.parametrize("kind", CLASSES)
def test_each_error_is_also_a_builtin(kind):
    error = kind("what happened", code="CODE", name="x")
    assert isinstance(error, penstock.Error) and isinstance(error, CLASSES[kind])
    assert str(error).startswith("what happened") and error.name == "x" and error.code == "CODE"
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.name, again.code) == (kind, str(error), "x", "CODE")


def test_not_found(store):
    with pytest.raises(penstock.NotFoundError) as caught:
        store.get("missing")
    error = caught.value
    assert error.name == "missing" and error.code == "NOT_FOUND" and "wait" in error.hint
    assert "missing" in str(error)
    for use in (lambda: store.stat("missing"), lambda: store.get("missing", version=3)):
        with pytest.raises(KeyError):
            use()
    assert not store.exists("missing")


NAMES = ["", "/a", "a/", "a//b", ".", "a/../b", "a\nb", "a\x00b", "\x7f", "a" * 513, "ü" * 257,
         ".penstock/x"]


@pytest.mark.parametrize("name", NAMES, ids=lambda name: repr(name[:12]))
def test_wrong_names(store, name):
    for use in (lambda: store.put(name, np.zeros(3)), lambda: store.create(name, 3, "u8")):
        with pytest.raises(penstock.InvalidArgumentError, match="name"):
            use()
    with pytest.raises(penstock.Error):
        store.get(name)


def test_lone_surrogates_are_no_name(store):
    for use in (lambda: store.put("\ud800", 1), lambda: store.get("\ud800")):
        with pytest.raises(penstock.InvalidArgumentError, match="name: .*Unicode"):
            use()


@pytest.mark.parametrize("name", [None, 3, b"x", ["x"]])
def test_names_of_wrong_type(store, name):
    for use in (lambda: store.get(name), lambda: store.put(name, 1), lambda: store.stat(name),
                lambda: store.exists(name), lambda: store.delete(name), lambda: store.wait(name),
                lambda: store.get_many([name]), lambda: store.put_many([(name, 1)])):
        with pytest.raises(TypeError, match="name"):
            use()
    with pytest.raises(TypeError, match="names: must be a list"):
        store.get_many("abc")


@pytest.mark.parametrize("tensor", [None, "text", {}, {1}, object(), int, np.ndarray],
                         ids=lambda t: type(t).__name__)
def test_what_is_no_array(store, tensor):
    with pytest.raises((TypeError, penstock.InvalidArgumentError), match="^tensor: "):
        store.put("x", tensor)
    assert not store.exists("x")


@pytest.mark.parametrize(
    ("option", "value", "kind"),
    [
        ("ttl", -1, ValueError), ("ttl", float("nan"), ValueError), ("ttl", "5s", TypeError),
        ("version", 0, ValueError), ("version", -3, ValueError), ("version", 1.5, TypeError),
        ("version", 1 << 64, ValueError), ("if_version", -1, ValueError),
        ("if_version", "1", TypeError), ("replicas", 0, ValueError), ("replicas", "2", TypeError),
        ("keep", 1, TypeError), ("if_absent", None, TypeError), ("metadata", [1], TypeError),
        ("metadata", {"a": 1}, TypeError), ("metadata", {1: "a"}, TypeError),
        ("metadata", {"": "a"}, ValueError), ("metadata", {"a": "b" * 20_000}, ValueError),
    ],
)
def test_wrong_options(store, option, value, kind):
    for use in (lambda **o: store.put("x", 1, **o), lambda **o: store.put_many({"x": 1}, **o),
                lambda **o: store.create("x", 1, "u8", **o)):
        with pytest.raises((kind, penstock.PartialError), match=option):
            use(**{option: value})
    assert not store.exists("x")


@pytest.mark.parametrize("shape", [(-1,), (1,) * 17, (1 << 40, 1 << 40), (1 << 63,)])
def test_wrong_shapes(store, shape):
    with pytest.raises((penstock.InvalidArgumentError, OverflowError)):
        store.create("x", shape, "u8")


@pytest.mark.parametrize("shape", ["ab", 1.5, None, ("a",)])
def test_shapes_of_wrong_type(store, shape):
    with pytest.raises(TypeError):
        store.create("x", shape, "u8")


class OnlyArray:
    def __array__(self, dtype=None, copy=None):
        return np.zeros((2, 3), np.float32)


def test_wrong_out(store):
    store.put("x", np.zeros((2, 3), np.float32))
    wrong = [
        (np.zeros((3, 2), np.float32), "shape|\\(3, 2\\)"),
        (np.zeros((2, 3), np.float64), "f64"),
        ([[0.0] * 3] * 2, "not writable"),
        (((0.0,) * 3,) * 2, "not writable"),
        (OnlyArray(), "not writable"),
        (bytes(24), "not writable"),
    ]
    for out, message in wrong:
        with pytest.raises(penstock.InvalidArgumentError, match=f"out: .*({message})"):
            store.get("x", out=out)
    read_only = np.zeros((2, 3), np.float32)
    read_only.flags.writeable = False
    with pytest.raises(penstock.InvalidArgumentError, match="not writable"):
        store.get("x", out=read_only)
    with pytest.raises(TypeError, match="out"):
        store.get("x", out=object())


def test_wrong_calls(store):
    store.put("x", 1)
    for use in (lambda: store.get(), lambda: store.get("x", None, None),
                lambda: store.get("x", unknown=1), lambda: store.get("x", box=None, name="y")):
        with pytest.raises(TypeError):
            use()
    with pytest.raises(penstock.InvalidArgumentError, match="wait"):
        store.get("x", wait=-1)
    with pytest.raises(TypeError, match="make"):
        store.get_or_create("y", 5)
    assert store.get(name="x").numpy() == 1


def test_a_rank_of_17_is_too_much(store):
    with pytest.raises(penstock.InvalidArgumentError, match="tensor: has 17 dimensions"):
        store.put("x", np.zeros((1,) * 17))


def test_nobody_there(tmp_path):
    with pytest.raises(penstock.UnavailableError) as caught:
        penstock.connect(str(tmp_path / "none"), timeout=0.2)
    assert isinstance(caught.value, ConnectionError) and caught.value.hint
    with pytest.raises(TypeError, match="address"):
        penstock.connect(7)
    with pytest.raises(penstock.InvalidArgumentError, match="timeout"):
        penstock.connect(str(tmp_path), timeout=-1)


def test_a_full_store(node, store, held):
    block = np.zeros(32 << 20, np.uint8)
    with pytest.raises(penstock.StoreFullError) as caught:
        for i in range(100):
            store.put(f"full/{i}", block)
    assert isinstance(caught.value, MemoryError) and caught.value.name
    assert store.delete_prefix("full/") >= 5
    store.put("fits/again", block)
