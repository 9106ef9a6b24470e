"""penstock.tensor_ipc: arrays by name between processes."""

from __future__ import annotations

import gc
import os
import subprocess
import sys

import numpy as np
import pytest

import penstock
from penstock import tensor_ipc


@pytest.fixture
def create(node):
    return lambda name, array, **options: tensor_ipc.create_shared_tensor(
        name, array, address=node.address, **options
    )


@pytest.fixture
def attach(node):
    return lambda name, *args, **options: tensor_ipc.attach_shared_tensor(
        name, *args, address=node.address, **options
    )


def python(node, code: str, check: bool = True) -> str:
    """Runs `code` in a process of its own, whose default store is the test's."""
    done = subprocess.run(
        [sys.executable, "-c", "import os, penstock, numpy as np\nfrom penstock import tensor_ipc\n" + code],
        env=os.environ | {"PENSTOCK_ADDRESS": node.address},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert not check or done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_another_process_attaches_without_a_copy(store, node, create):
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    with create("w", x) as shared:
        assert (shared.name, shared.dtype, shared.shape, shared.writable) == ("w", "f32", (3, 4), False)
        x += 1
        assert shared.array[0, 0] == 0, "it is a copy of what was given"
        with pytest.raises(ValueError, match="read-only"):
            shared.array[0, 0] = 1
        said = python(
            node,
            """
shared = tensor_ipc.attach_shared_tensor("w", shape=(3, 4), dtype=np.float32)
print(float(shared.array.sum()), np.asarray(shared).flags.writeable, shared.array.ctypes.data == shared.array.ctypes.data)
""",
        )
        assert said == "66.0 False True"
    assert not store.exists("w")


def test_shape_and_dtype_are_checked_if_they_are_given(store, create, attach):
    with create("w", np.zeros((3, 4), np.float32)):
        attach("w").close()
        attach("w", (3, 4), "float32").close()
        with pytest.raises(penstock.InvalidArgumentError, match=r"^shape: is \(4, 3\).*\(3, 4\)"):
            attach("w", (4, 3))
        with pytest.raises(penstock.InvalidArgumentError, match="^dtype: is f64.*f32"):
            attach("w", dtype=np.float64)
    with create("v", np.zeros(5, np.int8)) as shared:
        attach("v", 5).close()
        assert shared.shape == (5,)
    with pytest.raises(penstock.NotFoundError):
        attach("w")


@pytest.mark.parametrize("writable", [False, True])
def test_the_second_creator_gets_an_error(store, create, attach, writable):
    with create("w", np.ones(4), writable=writable):
        with pytest.raises(penstock.AlreadyExistsError):
            create("w", np.zeros(9), writable=writable)
        with attach("w", writable=writable) as shared:
            assert shared.array.tolist() == [1.0] * 4, "it was not touched"


def test_arrays_stay_good_after_close(store, create, attach):
    shared = create("w", np.ones(100_000))
    with attach("w") as other:
        array = other.array
    mine = shared.array
    shared.close()
    shared.close()
    assert shared.closed and array.sum() == 100_000 and mine.sum() == 100_000
    with pytest.raises(penstock.UnavailableError):
        shared.array
    del array, mine


def test_it_goes_with_its_creator(store, node, create):
    shared = create("w", np.ones(4))
    del shared
    gc.collect()
    assert not store.exists("w")
    python(node, "shared = tensor_ipc.create_shared_tensor('w', np.ones(4))\n")
    assert not store.exists("w"), "the end of a program takes it"
    python(
        node,
        "shared = tensor_ipc.create_shared_tensor('w', np.ones(4), writable=True)\nos.kill(os.getpid(), 9)\n",
        check=False,
    )
    with pytest.raises(penstock.NotFoundError):
        store.region("w", timeout=0.0)


def test_a_new_tensor_of_the_name_is_not_taken_with_an_old_one(store, create):
    shared = create("w", np.ones(4))
    store.put("w", np.zeros(4))
    shared.close()
    assert store.exists("w")


def test_the_end_of_a_forked_child_takes_nothing(store, create):
    shared = create("w", np.ones(4))
    pid = os.fork()
    if pid == 0:
        shared.close()
        os._exit(0)
    os.waitpid(pid, 0)
    assert store.exists("w")
    shared.close()


def test_a_writable_one_is_changed_by_both_sides(store, node, create, attach):
    with create("w", np.zeros((2, 3), np.int32), writable=True) as shared:
        assert shared.writable and shared.array.flags.writeable
        python(
            node,
            """
with tensor_ipc.attach_shared_tensor("w", (2, 3), "i32", writable=True) as shared:
    with shared.writing(timeout=10):
        shared.array[1, 2] = 7
""",
        )
        with shared.reading(timeout=10) as hold:
            assert shared.array[1, 2] == 7 and not hold.abandoned
        with pytest.raises(penstock.InvalidArgumentError, match="^shape"):
            attach("w", 6, writable=True)
    with pytest.raises(penstock.NotFoundError):
        attach("w", writable=True)


@pytest.mark.parametrize(
    "array", [np.zeros((0, 3)), np.array(5, np.uint8), np.zeros(70_000, np.complex64)[::7]]
)
@pytest.mark.parametrize("writable", [False, True])
def test_empty_scalar_and_strided(store, create, attach, array, writable):
    with (
        create("w", array, writable=writable),
        attach("w", array.shape, array.dtype, writable=writable) as shared,
    ):
        assert shared.array.shape == array.shape and np.array_equal(shared.array, array)


def test_a_read_only_one_has_no_lock_and_a_region_is_no_tensor(store, create, attach):
    with create("w", np.ones(4)) as shared, pytest.raises(penstock.InvalidArgumentError, match="read-only"):
        shared.writing()
    with store.region("r", 10000) as region:
        region.numpy()[:3] = 65
        with pytest.raises(penstock.InvalidArgumentError, match="no shared tensor"):
            attach("r", writable=True)
