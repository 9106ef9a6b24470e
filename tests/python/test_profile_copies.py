"""What profile_copies sees, and what it does not take for a copy."""

from __future__ import annotations

import builtins
import subprocess
import sys
import threading
import tracemalloc

import numpy as np
import pytest

import penstock
from penstock import interop
from penstock.profile_copies import main

torch = pytest.importorskip("torch")
pa = pytest.importorskip("pyarrow")

N = 8192  # of float32: 32 KiB


def profiled(work):
    with interop.profile_copies() as profile:
        work()
    return profile


def x() -> np.ndarray:
    return np.zeros((64, N // 64), np.float32)


COPIES = {
    "numpy.array": lambda a: np.array(a), "numpy.asarray": lambda a: np.asarray(a, np.float64), "numpy.ascontiguousarray": lambda a: np.ascontiguousarray(a.T),
    "numpy.copy": lambda a: np.copy(a), "numpy.concatenate": lambda a: np.concatenate([a, a]), "numpy.stack": lambda a: np.stack([a]),
    "numpy.ndarray.copy": lambda a: a.copy(), "numpy.ndarray.flatten": lambda a: a.flatten(), "numpy.ndarray.tobytes": lambda a: a.tobytes(),
    "numpy.ndarray.astype": lambda a: a.astype(np.float16), "numpy.ndarray.reshape": lambda a: a.T.reshape(-1), "numpy.ndarray.ravel": lambda a: a.T.ravel(),
    "torch.tensor": lambda a: torch.tensor(a), "torch.Tensor.clone": lambda a: torch.from_numpy(a).clone(), "torch.Tensor.contiguous": lambda a: torch.from_numpy(a).T.contiguous(),
    "torch.Tensor.to": lambda a: torch.from_numpy(a).to(torch.float64), "torch.Tensor.half": lambda a: torch.from_numpy(a).half(),
    "torch.cat": lambda a: torch.cat([torch.from_numpy(a)]), "pyarrow.array": lambda a: pa.array(a[:, ::2].copy()[:, 0]),
}
KEEPS = {
    "numpy.asarray": lambda a: np.asarray(a), "numpy.ascontiguousarray": lambda a: np.ascontiguousarray(a), "numpy.array": lambda a: np.array(a, copy=False),
    "numpy.reshape": lambda a: np.reshape(a, -1), "numpy.ndarray.reshape": lambda a: a.reshape(-1), "numpy.ndarray.ravel": lambda a: a.ravel(),
    "numpy.ndarray.astype": lambda a: a.astype(np.float32, copy=False), "torch.from_numpy": lambda a: torch.from_numpy(a),
    "torch.as_tensor": lambda a: torch.as_tensor(a), "torch.Tensor.contiguous": lambda a: torch.from_numpy(a).contiguous(),
    "torch.Tensor.to": lambda a: torch.from_numpy(a).to(torch.float32), "torch.Tensor.numpy": lambda a: torch.from_numpy(a).numpy(),
}


@pytest.mark.parametrize("operation", COPIES)
def test_a_copy_is_named(operation):
    a = x()
    profile = profiled(lambda: COPIES[operation](a))
    (copy,) = [copy for copy in profile.copies if copy.operation == operation]
    assert copy.nbytes >= 64 and copy.why and copy.where.split(":")[0].endswith("test_profile_copies.py")
    assert not profile.zero_copy and f"{operation} copied {copy.nbytes} bytes: {copy.why}" in str(profile)
    if operation in ("numpy.array", "numpy.copy", "numpy.ndarray.copy", "torch.tensor", "torch.Tensor.clone"):
        assert copy.nbytes == a.nbytes


@pytest.mark.parametrize("operation", KEEPS)
def test_shared_memory_is_no_copy(operation):
    a = x()
    profile = profiled(lambda: KEEPS[operation](a))
    assert profile.zero_copy and profile.nbytes == 0 and str(profile) == "zero-copy OK"
    assert operation in [one for one, _ in profile.shared]
    assert f"{operation} copied nothing" in profile.report(verbose=True)


def test_making_an_array_is_no_copy():
    assert profiled(lambda: (np.zeros(N), np.array(3), np.asarray(1.5), torch.zeros(N), torch.tensor(2), pa.array([1, 2]), np.ones(3) + 1)).zero_copy


def test_interop_copies_nothing():
    def work() -> None:
        a = np.arange(N, dtype=np.float32)
        assert interop.torch_to_numpy_zero_copy(interop.numpy_to_torch_zero_copy(a)).sum() == a.sum()
        assert len(interop.arrow_to_numpy_zero_copy(interop.numpy_to_arrow_zero_copy(a))) == N
        interop.from_dlpack(interop.to_dlpack(a))
        interop.wrap_for_zero_copy(a).to_torch()

    profile = profiled(work)
    assert profile.zero_copy, str(profile)


def test_the_store_tells_what_it_copies(store):
    a = np.arange(N, dtype=np.float32)
    with interop.profile_copies() as profile:
        store.put("x", a)
    assert [(copy.operation, copy.nbytes) for copy in profile.copies] == [("Store.put", a.nbytes)]
    with interop.profile_copies() as profile:
        with store.create("y", shape=(N,), dtype="f32") as draft:
            draft.numpy()[...] = 1
        view = store.get("x")
        assert view.numpy()[3] == 3 and view.torch()[3] == 3 and np.asarray(view)[3] == 3
    assert profile.zero_copy, str(profile)
    out = np.zeros(N, np.float32)
    with interop.profile_copies() as profile:
        store.get("x", out=out)
    assert [(copy.operation, copy.nbytes) for copy in profile.copies] == [("Store.get", a.nbytes)]


def test_calls_of_one_place_are_one_line():
    a = x()

    def work() -> None:
        for _ in range(5):
            a.copy()

    lines = str(profiled(work)).splitlines()
    assert len(lines) == 2 and f"copied {5 * a.nbytes} bytes in 5 calls" in lines[0] and lines[1] == f"5 copies of {5 * a.nbytes} bytes"


def test_threads_are_seen():
    a = x()

    def work() -> None:
        thread = threading.Thread(target=lambda: (a.copy(), np.array(a)))
        thread.start()
        thread.join()

    assert sorted(copy.operation for copy in profiled(work).copies) == ["numpy.array", "numpy.ndarray.copy"]


def test_everything_is_as_before_when_it_ends():
    def now():
        return (np.array, np.reshape, torch.tensor, torch.Tensor.clone, pa.array, penstock.Store.put, penstock.Store.get, builtins.__import__,
                sys.getprofile(), threading.getprofile(), tracemalloc.is_tracing())

    before = now()
    with pytest.raises(ZeroDivisionError):
        with interop.profile_copies() as outer, interop.profile_copies() as inner:
            np.array(x())
            1 / 0
    assert now() == before and "put" not in vars(torch.Tensor) and "clone" not in vars(torch.Tensor)
    assert outer.copies == inner.copies and len(outer.copies) == 1
    np.array(x())
    assert len(outer.copies) == 1


def test_a_script(tmp_path, capsys):
    script = tmp_path / "script.py"
    script.write_text("import sys, numpy as np\nimport beside\nassert sys.argv[1:] == ['--a', '3'] and __name__ == '__main__'\nbeside.work(np.zeros(9))\n")
    (tmp_path / "beside.py").write_text("def work(a):\n    return a.copy()\n")
    program = [sys.executable, "-m", "penstock.profile_copies", str(script), "--a", "3"]
    ran = subprocess.run(program, capture_output=True, text=True)
    assert ran.returncode == 1, ran.stderr
    assert "beside.py:2: numpy.ndarray.copy copied 72 bytes: its result is new memory" in ran.stdout and ran.stdout.endswith("1 copies of 72 bytes\n")
    script.write_text("import torch, numpy\ntorch.from_numpy(numpy.zeros(9))\n")
    ran = subprocess.run([*program[:3], "--verbose", str(script)], capture_output=True, text=True)
    assert ran.returncode == 0 and ran.stdout.endswith("script.py:2: torch.from_numpy copied nothing\nzero-copy OK\n"), (ran.stdout, ran.stderr)


def test_a_script_that_is_not_there(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main([str(tmp_path / "none.py")])
    assert ended.value.code == 2 and "script: no file" in capsys.readouterr().err
