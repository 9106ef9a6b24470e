"""Stages of different technologies over shared memory, without copies between them.

    buffers = {"in": frame, "work": ((224, 224, 3), "f32"), "out": ((1, 1000), "f32")}
    with penstock.Pipeline([
        Stage("resize", "numpy", resize, input="in", output="work"),
        Stage("classify", "onnxruntime", "model.onnx", input="work", output="out"),
    ], buffers) as pipeline:
        print(pipeline.run())          # a line for each stage: how long, and whether anything was copied
        pipeline["out"]                # a numpy.ndarray over the buffer

A buffer is a writable shared tensor (``penstock.tensor_ipc``), found by its name: stages may run in
other processes, each with a Pipeline over the same names. While a stage runs it holds its input for
reading and its output for writing, so that each sees whole values.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np

from penstock._core import dtype_name, numpy_dtype
from penstock.errors import Error, InvalidArgumentError
from penstock.tensor_ipc import SharedTensor, attach_shared_tensor, create_shared_tensor

__all__ = ["Pipeline", "PipelineReport", "Stage", "StageReport", "StageTensor"]

_Array = np.ndarray[Any, np.dtype[Any]]
_FUNCTION: type = ctypes.CFUNCTYPE(ctypes.c_int).__mro__[1]  # of every ctypes function


class StageTensor(ctypes.Structure):
    """What a stage of technology "c" is given, twice: ``int stage(const tensor *in, tensor *out)``.

    struct tensor { void *data; int64_t nbytes; const char *dtype; int32_t rank; const int64_t *shape; };
    C order without gaps; dtype by Penstock's name. The function returns 0 when all went well.
    """

    _fields_ = [
        ("data", ctypes.c_void_p),
        ("nbytes", ctypes.c_int64),
        ("dtype", ctypes.c_char_p),
        ("rank", ctypes.c_int32),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
    ]


@dataclass(frozen=True)
class Stage:
    """One step of a pipeline.

    technology and fn:
      "numpy"        a function of (input, output), numpy.ndarrays over the buffers
      "torch"        the same with torch.Tensors; device="cuda" copies there and back, which is reported
      "onnxruntime"  the path of a model with one input and one output, or an InferenceSession
      "c"            a ctypes function, an address of one, or "library.so:symbol"; see StageTensor
    A function writes into `output`. What it returns instead is copied there, unless it is that memory.
    input, output: names of buffers; the same name for a stage that works in place.
    """

    name: str
    technology: str
    fn: Any
    input: str = "in"
    output: str = "out"
    device: str = "cpu"


class StageReport(NamedTuple):
    """What a stage did. `copies`: why, for each copy of its input or output; told by their addresses."""

    name: str
    technology: str
    seconds: float
    input_address: int
    output_address: int
    copied_bytes: int
    copies: tuple[str, ...]

    @property
    def copied(self) -> bool:
        """Whether anything was copied on the way in or out."""
        return bool(self.copies)

    def __str__(self) -> str:
        what = (
            "zero-copy OK"
            if not self.copies
            else f"copied {self.copied_bytes} bytes: {'; '.join(self.copies)}"
        )
        return f"{self.name} ({self.technology}): {1e3 * self.seconds:.3f} ms, {what}"


@dataclass(frozen=True)
class PipelineReport:
    """One run of all stages, in order."""

    stages: list[StageReport] = field(default_factory=list)

    @property
    def zero_copy(self) -> bool:
        """Whether no stage copied anything."""
        return not any(stage.copied for stage in self.stages)

    @property
    def seconds(self) -> float:
        """What the stages took together."""
        return sum(stage.seconds for stage in self.stages)

    def __str__(self) -> str:
        return "\n".join(str(stage) for stage in self.stages)


class _Copies:
    """Counts what one stage copies."""

    def __init__(self) -> None:
        self.nbytes = 0
        self.why: list[str] = []

    def add(self, nbytes: int, why: str) -> None:
        self.nbytes += nbytes
        self.why.append(why)

    def take_result(self, result: Any, output: _Array) -> None:
        """What a function returned, in the output."""
        if result is None:
            return
        values = np.asarray(result)
        if values.nbytes == 0 or _same_memory(values, output):
            return
        if values.shape != output.shape:
            raise InvalidArgumentError(
                f"output: has shape {output.shape}, but the stage returned {values.shape}"
            )
        np.copyto(output, values, casting="same_kind")
        self.add(output.nbytes, "its function returned new memory instead of writing into output")


def _same_memory(values: _Array, output: _Array) -> bool:
    """All of the output, in its order; in another shape, perhaps."""
    return (
        values.ctypes.data == output.ctypes.data
        and values.nbytes == output.nbytes
        and values.dtype == output.dtype
        and values.flags.c_contiguous
    )


# input, output, copies -> nothing
_Runner = Callable[[_Array, _Array, _Copies], None]


class Pipeline:
    """Runs stages in order, over buffers that processes of this host share. A context manager."""

    def __init__(
        self,
        stages: Iterable[Stage],
        buffers: Mapping[str, Any] | None = None,
        *,
        address: str | None = None,
        timeout: float | None = None,
    ) -> None:
        """buffers: those to be made, by name: an array, whose values they get, or (shape, dtype); zeros
        then. The others must be there, made by a Pipeline of another process or by
        ``create_shared_tensor(..., writable=True)``. address: as ``penstock.connect``. timeout: seconds
        that a stage waits for its buffers (None = for ever). Raises InvalidArgumentError when a stage
        cannot run here, before anything is made.
        """
        self.stages = list(stages)
        for stage in self.stages:
            if not isinstance(stage, Stage):
                raise TypeError(f"stages: must be Stage objects, not {type(stage).__name__}")
        self._timeout = timeout
        self._runners = [_runner(stage) for stage in self.stages]
        self._buffers: dict[str, SharedTensor] = {}
        try:
            for name, what in (buffers or {}).items():
                self._buffers[name] = create_shared_tensor(
                    name, _first(name, what), writable=True, address=address
                )
            for stage in self.stages:
                for name in (stage.input, stage.output):
                    if name not in self._buffers:
                        self._buffers[name] = attach_shared_tensor(name, writable=True, address=address)
        except BaseException:
            self.close()
            raise

    def __getitem__(self, name: str) -> _Array:
        """A buffer as a writable numpy.ndarray."""
        if name not in self._buffers:
            raise InvalidArgumentError(
                f"buffer: {name!r} is none of this pipeline's: {sorted(self._buffers)}"
            )
        return self._buffers[name].array

    def run(self) -> PipelineReport:
        """Runs every stage once. Raises what a stage raises; later stages do not run then."""
        return PipelineReport([self._run(*one) for one in zip(self.stages, self._runners)])

    def close(self) -> None:
        """Ends the use of the buffers; they go with the last process that has them open. Idempotent."""
        for buffer in self._buffers.values():
            buffer.close()

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _run(self, stage: Stage, runner: _Runner) -> StageReport:
        source, target = self._buffers[stage.input], self._buffers[stage.output]
        copies = _Copies()
        with target.writing(self._timeout):
            if source is target:
                return self._timed(stage, runner, target.array, target.array, copies)
            with source.reading(self._timeout):
                return self._timed(stage, runner, source.array, target.array, copies)

    @staticmethod
    def _timed(stage: Stage, runner: _Runner, source: _Array, target: _Array, copies: _Copies) -> StageReport:
        start = time.perf_counter()
        runner(source, target, copies)
        seconds = time.perf_counter() - start
        return StageReport(
            stage.name,
            stage.technology,
            seconds,
            source.ctypes.data,
            target.ctypes.data,
            copies.nbytes,
            tuple(copies.why),
        )


def _first(name: str, what: Any) -> _Array:
    """The first values of a buffer."""
    if isinstance(what, tuple):
        if len(what) != 2:
            raise InvalidArgumentError(f"buffers: {name!r} must be an array or (shape, dtype)")
        return np.zeros(what[0], numpy_dtype(what[1]))
    return np.asarray(what)


def _runner(stage: Stage) -> _Runner:
    make = {"numpy": _numpy, "torch": _torch, "onnxruntime": _onnxruntime, "c": _c}.get(stage.technology)
    if make is None:
        raise InvalidArgumentError(
            f"technology: is {stage.technology!r} in stage {stage.name!r}; allowed are numpy, torch, onnxruntime, c"
        )
    if stage.device != "cpu" and stage.technology != "torch":
        raise InvalidArgumentError(
            f"device: is {stage.device!r} in stage {stage.name!r}; {stage.technology} runs on cpu"
        )
    return make(stage)


def _callable(stage: Stage) -> Callable[..., Any]:
    if not callable(stage.fn):
        raise TypeError(f"fn: of stage {stage.name!r} must be callable, not {type(stage.fn).__name__}")
    function: Callable[..., Any] = stage.fn
    return function


def _framework(name: str, stage: Stage) -> Any:
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InvalidArgumentError(
            f"technology: {name} of stage {stage.name!r} cannot be imported ({error}); pip install {name}"
        ) from error


def _numpy(stage: Stage) -> _Runner:
    function = _callable(stage)

    def run(source: _Array, target: _Array, copies: _Copies) -> None:
        copies.take_result(function(source, target), target)

    return run


def _torch(stage: Stage) -> _Runner:
    torch = _framework("torch", stage)
    function = _callable(stage)
    if stage.device != "cpu" and not torch.cuda.is_available():
        raise InvalidArgumentError(
            f"device: is {stage.device!r} in stage {stage.name!r}; torch has no such device here"
        )

    def run(source: _Array, target: _Array, copies: _Copies) -> None:
        given, wanted = torch.from_numpy(source), torch.from_numpy(target)
        if stage.device == "cpu":
            result = function(given, wanted)
            copies.take_result(None if result is None else result.detach().numpy(), target)
            return
        given, there = given.to(stage.device), torch.empty_like(wanted, device=stage.device)
        copies.add(source.nbytes, f"its input went to {stage.device}")
        result = function(given, there)
        wanted.copy_(there if result is None else result)  # waits for the device
        copies.add(target.nbytes, f"its output came from {stage.device}")

    return run


def _onnxruntime(stage: Stage) -> _Runner:
    if isinstance(stage.fn, str):
        ort = _framework("onnxruntime", stage)
        try:
            session = ort.InferenceSession(stage.fn, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's own have no base class in common
            raise InvalidArgumentError(f"fn: of stage {stage.name!r}: {error}") from error
    else:
        session = stage.fn
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1 or len(outputs) != 1:
        raise InvalidArgumentError(
            f"fn: the model of stage {stage.name!r} has {len(inputs)} inputs and {len(outputs)} outputs; allowed is 1 each"
        )

    def run(source: _Array, target: _Array, copies: _Copies) -> None:
        binding = session.io_binding()
        binding.bind_input(inputs[0].name, "cpu", 0, source.dtype.type, source.shape, source.ctypes.data)
        binding.bind_output(outputs[0].name, "cpu", 0, target.dtype.type, target.shape, target.ctypes.data)
        session.run_with_iobinding(binding)
        made = binding.get_outputs()[0]
        if made.data_ptr() != target.ctypes.data:  # it did not fit what was bound
            copies.take_result(made.numpy(), target)

    return run


def _c(stage: Stage) -> _Runner:
    function = _c_function(stage)

    def run(source: _Array, target: _Array, copies: _Copies) -> None:
        result = function(ctypes.byref(_tensor(source)), ctypes.byref(_tensor(target)))
        if result != 0:
            raise Error(f"stage {stage.name!r}: its C function returned {result}", code="INTERNAL")

    return run


def _c_function(stage: Stage) -> Callable[..., int]:
    kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(StageTensor), ctypes.POINTER(StageTensor))
    if isinstance(stage.fn, str):
        library, colon, symbol = stage.fn.rpartition(":")
        if not colon:
            raise InvalidArgumentError(
                f"fn: is {stage.fn!r} in stage {stage.name!r}; allowed is 'library.so:symbol'"
            )
        try:
            loaded = ctypes.CDLL(library)
            return kind((symbol, loaded))
        except (OSError, AttributeError) as error:
            raise InvalidArgumentError(f"fn: of stage {stage.name!r}: {error}") from error
    if isinstance(stage.fn, int) and not isinstance(stage.fn, bool):
        return kind(stage.fn)
    function: Any = stage.fn
    if not isinstance(stage.fn, _FUNCTION):
        raise TypeError(
            f"fn: of stage {stage.name!r} must be a ctypes function, an address or a str, not {type(stage.fn).__name__}"
        )
    return kind(ctypes.cast(function, ctypes.c_void_p).value or 0)


def _tensor(array: _Array) -> StageTensor:
    shape = (ctypes.c_int64 * max(array.ndim, 1))(*array.shape)
    return StageTensor(array.ctypes.data, array.nbytes, dtype_name(array.dtype).encode(), array.ndim, shape)
