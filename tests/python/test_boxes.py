"""view[...] and get(box=) against NumPy's own indexing."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import penstock

SETTINGS = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
shapes = st.lists(st.integers(0, 6), max_size=5).map(tuple)


@st.composite
def cases(draw):
    """A shape and an index that NumPy takes as a basic one."""
    shape = draw(shapes)
    items = []
    for extent in shape:
        kinds = ["slice", "int"] if extent > 0 else ["slice"]
        if draw(st.sampled_from(kinds)) == "int":
            items.append(draw(st.integers(-extent, extent - 1)))
        else:
            bound = st.none() | st.integers(-8, 8)
            step = st.none() | st.integers(-3, 3).filter(bool)
            items.append(slice(draw(bound), draw(bound), draw(step)))
    begin = draw(st.integers(0, len(items)))
    end = draw(st.integers(begin, len(items)))
    if end == len(items) and draw(st.booleans()):
        return shape, tuple(items[:begin])  # missing dimensions are whole
    return shape, (*items[:begin], *draw(st.just([...] if end > begin else []) | st.just([...])), *items[end:])


@SETTINGS
@given(case=cases())
def test_views_are_indexed_as_numpy_does(store, case):
    shape, index = case
    x = np.arange(int(np.prod(shape)), dtype=np.int32).reshape(shape)
    store.put("x", x)
    with store.get("x") as view:
        part = view[index]
        assert part.shape == x[index].shape
        assert np.array_equal(part.numpy(), x[index])
        assert part.bytes() == x[index].tobytes()
        if x.size and x[index].size:
            assert np.shares_memory(part.numpy(), view.numpy())
        assert np.array_equal(store.get("x", index).numpy(), x[index])


@SETTINGS
@given(shape=shapes, data=st.data())
def test_parts_of_parts(store, shape, data):
    x = np.arange(int(np.prod(shape)), dtype=np.int64).reshape(shape)
    store.put("x", x)
    view = store.get("x")
    for _ in range(3):
        index = tuple(
            slice(data.draw(st.none() | st.integers(-4, 4)), None, data.draw(st.sampled_from([1, 2, -1])))
            for _ in view.shape
        )
        view, x = view[index], x[index]
    assert np.array_equal(view.numpy(), x)


@SETTINGS
@given(shape=shapes, data=st.data())
def test_boxes(store, shape, data):
    x = np.arange(int(np.prod(shape)), dtype=np.int32).reshape(shape)
    store.put("x", x)
    offset = tuple(data.draw(st.integers(0, n)) for n in shape)
    extent = tuple(data.draw(st.integers(0, n - o)) for n, o in zip(shape, offset))
    box = penstock.Box(offset, extent)
    assert np.array_equal(store.get("x", box=box).numpy(), x[box.slices()])
    out = np.zeros(extent, np.int32)
    store.get("x", box=box, out=out)
    assert np.array_equal(out, x[box.slices()])


@SETTINGS
@given(shape=shapes, data=st.data())
def test_strided_input_of_any_kind(store, shape, data):
    base = np.arange(int(np.prod([2 * n for n in shape])), dtype=np.int16).reshape([2 * n for n in shape])
    x = base[tuple(slice(None, None, data.draw(st.sampled_from([2, -2]))) for _ in shape)]
    x = x.transpose(data.draw(st.permutations(range(len(shape)))))
    store.put("x", x)
    assert np.array_equal(store.get("x").numpy(), x)


def test_wrong_indices(store):
    store.put("x", np.zeros((3, 4)))
    view = store.get("x")
    with pytest.raises(IndexError, match="index 3 is out of bounds for dimension 0 with size 3"):
        view[3]
    with pytest.raises(IndexError, match="too many indices"):
        view[0, 0, 0]
    with pytest.raises(IndexError, match="one ellipsis"):
        view[..., ...]
    with pytest.raises(ValueError, match="zero"):
        view[::0]
    for wrong in ([0, 1], np.array([True]), "x", 1.5, None, True):
        with pytest.raises(TypeError, match="index"):
            view[wrong]
    with pytest.raises(penstock.InvalidArgumentError, match="box"):
        view[penstock.Box((0, 0), (4, 4))]
    with pytest.raises(penstock.InvalidArgumentError, match="box.offset: has 1 numbers"):
        store.get("x", box=penstock.Box((0,), (1,)))
    with pytest.raises(penstock.InvalidArgumentError):
        view[penstock.Box((-1, 0), (1, 1))]
    with pytest.raises(ValueError, match="box"):
        penstock.Box((0,), (1, 1))


def test_len(store):
    store.put("x", np.zeros((3, 4)))
    assert len(store.get("x")) == 3 and len(store.get("x")[:, 1]) == 3
    with pytest.raises(TypeError, match="len"):
        len(store.get("x")[0, 0])
