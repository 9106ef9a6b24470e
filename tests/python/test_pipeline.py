"""penstock.Pipeline: stages of several technologies over the same memory."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

import penstock
from penstock import Pipeline, Stage

SOURCE = r"""
#include <stdint.h>
#include <string.h>
struct tensor { void *data; int64_t nbytes; const char *dtype; int32_t rank; const int64_t *shape; };
int negate(const struct tensor *in, struct tensor *out) {
  if (strcmp(in->dtype, "f32") != 0 || in->rank != 2 || in->shape[0] * in->shape[1] * 4 != in->nbytes) return 7;
  for (int64_t i = 0; i < in->nbytes / 4; ++i) ((float *)out->data)[i] = -((const float *)in->data)[i];
  return 0;
}
int fail(const struct tensor *in, struct tensor *out) { return 42; }
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    folder = tmp_path_factory.mktemp("stage")
    (folder / "stage.c").write_text(SOURCE)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", folder / "stage.so", folder / "stage.c"], check=True)
    return folder / "stage.so"


@pytest.fixture
def pipeline(node):
    made = []

    def make(stages, buffers=None, **options):
        made.append(Pipeline(stages, buffers, address=node.address, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


def add_one(source, target):
    np.add(source, 1, out=target)


X = np.arange(12, dtype=np.float32).reshape(3, 4)
LIKE_X = ((3, 4), "f32")


def test_stages_of_several_technologies_share_their_memory(store, pipeline, library):
    torch = pytest.importorskip("torch")
    p = pipeline(
        [
            Stage("add", "numpy", add_one, input="in", output="work"),
            Stage("double", "torch", lambda a, out: torch.mul(a, 2, out=out), input="work", output="work2"),
            Stage("negate", "c", f"{library}:negate", input="work2", output="out"),
        ],
        {"in": X, "work": LIKE_X, "work2": LIKE_X, "out": LIKE_X},
    )
    report = p.run()
    assert np.array_equal(p["out"], -2 * (X + 1))
    assert report.zero_copy and [s.copied_bytes for s in report.stages] == [0, 0, 0]
    assert [(s.name, s.technology) for s in report.stages] == [
        ("add", "numpy"),
        ("double", "torch"),
        ("negate", "c"),
    ]
    first, second, third = report.stages
    assert first.output_address == second.input_address == p["work"].ctypes.data
    assert second.output_address == third.input_address
    assert "add (numpy)" in str(report) and "zero-copy OK" in str(report)
    p["in"][...] = 0
    p.run()
    assert (p["out"] == -2).all()


def test_a_copy_is_reported(store, pipeline):
    torch = pytest.importorskip("torch")
    p = pipeline(
        [
            Stage("new", "numpy", lambda a, out: a + 1, output="work"),
            Stage("same", "numpy", lambda a, out: np.add(a, 1, out=out), input="work", output="work2"),
            Stage("clone", "torch", lambda a, out: a.clone(), input="work2", output="out"),
        ],
        {"in": X, "work": LIKE_X, "work2": LIKE_X, "out": LIKE_X},
    )
    report = p.run()
    assert np.array_equal(p["out"], X + 2)
    assert [s.copied for s in report.stages] == [True, False, True] and not report.zero_copy
    assert report.stages[0].copied_bytes == X.nbytes and "returned new memory" in str(report.stages[0])
    assert torch is not None


def test_what_is_returned_of_the_output_itself_is_no_copy_unless_its_order_is_another(store, pipeline):
    p = pipeline(
        [
            Stage("flat", "numpy", lambda a, out: np.add(a.ravel(), 1, out=out.ravel())),
            Stage("turned", "numpy", lambda a, out: np.add(a, 1, out=out)[::-1]),
        ],
        {"in": X, "out": LIKE_X},
    )
    report = p.run()
    assert [s.copied for s in report.stages] == [False, True]
    assert np.array_equal(p["out"], (X + 1)[::-1])


def test_a_stage_in_place(store, pipeline):
    p = pipeline([Stage("add", "numpy", add_one, input="x", output="x")], {"x": X})
    assert p.run().zero_copy
    assert np.array_equal(p["x"], X + 1)


def test_stages_in_other_processes(store, node, pipeline):
    p = pipeline([Stage("add", "numpy", add_one, output="work")], {"in": X, "work": LIKE_X, "out": LIKE_X})
    p.run()
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            """
import numpy as np
from penstock import Pipeline, Stage
with Pipeline([Stage("negate", "numpy", lambda a, out: np.negative(a, out=out), input="work")]) as p:
    print(p.run().zero_copy)
""",
        ],
        env=os.environ | {"PENSTOCK_ADDRESS": node.address},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == "True\n", done.stderr
    assert np.array_equal(p["out"], -(X + 1))


def test_a_stage_waits_for_who_holds_its_buffers(store, node, pipeline):
    p = pipeline([Stage("add", "numpy", add_one)], {"in": X, "out": LIKE_X}, timeout=0.02)
    with penstock.tensor_ipc.attach_shared_tensor("out", writable=True, address=node.address) as out:
        with out.reading(), pytest.raises(penstock.DeadlineError):
            p.run()
        assert p.run().zero_copy


def test_what_a_stage_raises_ends_the_run(store, pipeline, library):
    def fail(source, target):
        raise ZeroDivisionError

    ran = []
    p = pipeline(
        [Stage("fail", "numpy", fail), Stage("later", "numpy", lambda a, out: ran.append(1))],
        {"in": X, "out": LIKE_X},
    )
    for _ in range(2):  # nothing is held afterwards
        with pytest.raises(ZeroDivisionError):
            p.run()
    assert ran == []
    c = pipeline([Stage("c", "c", f"{library}:fail")])
    with pytest.raises(penstock.Error, match="returned 42"):
        c.run()


def test_c_functions_by_address_and_by_ctypes(store, pipeline, library):
    function = ctypes.CDLL(str(library)).negate
    address = ctypes.cast(function, ctypes.c_void_p).value
    p = pipeline(
        [Stage("a", "c", function), Stage("b", "c", address, input="out", output="in")],
        {"in": X, "out": LIKE_X},
    )
    assert p.run().zero_copy
    assert np.array_equal(p["in"], X) and np.array_equal(p["out"], -X)


@pytest.mark.parametrize(
    ("stage", "match"),
    [
        (Stage("s", "cobol", add_one), "^technology: is 'cobol'"),
        (Stage("s", "c", "no colon"), "^fn: is 'no colon'"),
        (Stage("s", "c", "/nowhere.so:f"), "^fn: .*nowhere"),
        (Stage("s", "numpy", add_one, device="cuda"), "^device"),
        (Stage("s", "torch", add_one, device="cuda:99"), "^device|^technology"),
    ],
)
def test_stages_that_cannot_run_are_refused_before_anything_is_made(store, pipeline, stage, match, eventually):
    with pytest.raises(penstock.InvalidArgumentError, match=match):
        pipeline([stage], {"in": X, "out": LIKE_X})
    eventually(lambda: store.stats()["regions"] == 0, "nothing is left")


def test_wrong_types_and_missing_buffers(store, pipeline, eventually):
    for stage in (Stage("s", "numpy", 7), Stage("s", "c", 1.5), "resize"):
        with pytest.raises(TypeError, match="^fn|^stages"):
            pipeline([stage], {"in": X, "out": LIKE_X})
    with pytest.raises(penstock.NotFoundError):
        pipeline([Stage("s", "numpy", add_one)], {"in": X})
    eventually(lambda: store.stats()["regions"] == 0, "nothing is left")
    p = pipeline([Stage("s", "numpy", lambda a, out: a[:1])], {"in": X, "out": LIKE_X})
    with pytest.raises(penstock.InvalidArgumentError, match="^output: has shape"):
        p.run()
    with pytest.raises(penstock.InvalidArgumentError, match="^buffer"):
        p["nothing"]


def test_onnxruntime_reads_and_fills_the_buffers_themselves(store, pipeline, tmp_path):
    ort = pytest.importorskip("onnxruntime")
    (tmp_path / "add.onnx").write_bytes(_onnx_model("Add", "x", "x"))
    session = ort.InferenceSession(_onnx_model("Neg", "x"), providers=["CPUExecutionProvider"])
    p = pipeline(
        [
            Stage("double", "onnxruntime", str(tmp_path / "add.onnx"), input="in", output="work"),
            Stage("negate", "onnxruntime", session, input="work", output="out"),
        ],
        {"in": X, "work": LIKE_X, "out": LIKE_X},
    )
    report = p.run()
    assert report.zero_copy and [stage.copied_bytes for stage in report.stages] == [0, 0]
    assert report.stages[0].output_address == report.stages[1].input_address == p["work"].ctypes.data
    assert np.array_equal(p["work"], 2 * X) and np.array_equal(p["out"], -2 * X)
    p["in"][...] = 7
    p.run()
    assert (p["out"] == -14).all()


def test_models_that_do_not_fit_are_refused(store, pipeline):
    ort = pytest.importorskip("onnxruntime")
    session = ort.InferenceSession(_onnx_model("Add", "x", "y"), providers=["CPUExecutionProvider"])
    with pytest.raises(penstock.InvalidArgumentError, match="^fn: .* has 2 inputs and 1 outputs"):
        pipeline([Stage("s", "onnxruntime", session)], {"in": X, "out": LIKE_X})
    with pytest.raises(penstock.InvalidArgumentError, match="^fn: .*nowhere.onnx"):
        pipeline([Stage("s", "onnxruntime", "nowhere.onnx")], {"in": X, "out": LIKE_X})


def test_onnxruntime_that_is_not_installed(store, pipeline, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(penstock.InvalidArgumentError, match="^technology: onnxruntime .*pip install onnxruntime"):
        pipeline([Stage("s", "onnxruntime", "model.onnx")], {"in": X, "out": LIKE_X})


def _field(number: int, value: int | str | bytes) -> bytes:
    """A field of a protobuf message; all lengths and numbers here are below 128."""
    if isinstance(value, int):
        return bytes([number << 3, value])
    data = value.encode() if isinstance(value, str) else value
    return bytes([number << 3 | 2, len(data)]) + data


def _onnx_model(operator: str, *inputs: str) -> bytes:
    """z = operator(inputs) over f32 matrices: a ModelProto (onnx/onnx.proto) of IR version 8, opset 13."""
    shape = _field(1, _field(2, "rows")) + _field(1, _field(2, "columns"))

    def matrix(name: str) -> bytes:
        return _field(1, name) + _field(2, _field(1, _field(1, 1) + _field(2, shape)))

    node = b"".join(_field(1, name) for name in inputs) + _field(2, "z") + _field(4, operator)
    graph = _field(1, node) + _field(2, "g") + b"".join(_field(11, matrix(name)) for name in dict.fromkeys(inputs)) + _field(12, matrix("z"))
    return _field(1, 8) + _field(7, graph) + _field(8, _field(2, 13))
