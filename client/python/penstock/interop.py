"""Arrays of one framework shown as another's over the same memory: NumPy, torch, Arrow, DLPack.

Nothing here copies. What cannot be shown without a copy is refused with an `InvalidArgumentError` (a
`ValueError`) that names the reason and the call that would copy; what is no array at all, with a
`TypeError`. What is returned keeps the memory alive; what is written through one of them is seen by all.

    tensor = numpy_to_torch_zero_copy(array)
    column = table_to_numpy_zero_copy(table, "price")
    check_zero_copy_compatibility(array)["issues"]       # why not, without trying

Frameworks are imported when they are asked for. All functions may be called from any thread.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Any

import numpy as np

from penstock._core import TensorView
from penstock.errors import InvalidArgumentError
from penstock.profile_copies import profile_copies

__all__ = [
    "ZeroCopyArray",
    "arrow_to_numpy_zero_copy",
    "check_zero_copy_compatibility",
    "from_dlpack",
    "numpy_to_arrow_zero_copy",
    "numpy_to_torch_zero_copy",
    "profile_copies",
    "ptr",
    "table_to_numpy_zero_copy",
    "to_dlpack",
    "torch_to_numpy_zero_copy",
    "wrap_for_zero_copy",
]

_JAX_ALIGNMENT = 64  # bytes; JAX copies what is aligned to less
# By torch as by ml_dtypes; NumPy has none of them.
_ML_DTYPES = ("bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz")


def ptr(array: Any) -> int:
    """The address of the first element, in bytes. Two arrays with the same one show the same memory.

    `array`: NumPy, torch, Arrow, a `TensorView`, or what has a buffer, `__array_interface__` or `__cuda_array_interface__`.
    """
    if isinstance(array, (TensorView, ZeroCopyArray)):
        return array.ptr
    if _is(array, "torch", "Tensor"):
        return int(array.data_ptr())
    if _is(array, "pyarrow", "Array"):
        return ptr(arrow_to_numpy_zero_copy(array))
    for protocol in ("__array_interface__", "__cuda_array_interface__"):
        interface = getattr(array, protocol, None)
        if interface is not None and interface.get("data") is not None:
            return int(interface["data"][0])
    try:
        return int(np.frombuffer(array, np.uint8).ctypes.data)
    except (TypeError, ValueError, BufferError):
        raise _wrong_type(
            "array", array, "shows no address", "NumPy, torch and Arrow arrays, views and buffers"
        ) from None


def to_dlpack(array: Any) -> Any:
    """A DLPack capsule of `array`, for one consumer: whoever takes it owns it.

    Memory that must not be written is marked so, in a versioned capsule (DLPack 1.0), as it has no other way to say it.
    """
    if not hasattr(array, "__dlpack__"):
        raise _wrong_type(
            "array", array, "has no __dlpack__", "NumPy, torch, JAX and Arrow arrays, and views"
        )
    if _is(array, "torch", "Tensor"):
        array = array.detach()
    try:
        if (
            isinstance(array, TensorView)
            or _is(array, "pyarrow", "Array")
            or (isinstance(array, np.ndarray) and not array.flags.writeable)
        ):
            return array.__dlpack__(max_version=(1, 0))
        return array.__dlpack__()
    except (BufferError, TypeError, RuntimeError) as error:
        raise _refused("array", f"has no DLPack form: {error}", "plain dtypes of native byte order") from None


def from_dlpack(capsule_or_object: Any) -> np.ndarray[Any, np.dtype[Any]]:
    """A NumPy array over the memory of a DLPack capsule, which is used up, or of an object that has `__dlpack__`.

    CPU memory only. Read-only if the producer says so, and for capsules before DLPack 1.0, which cannot say.
    """
    source = capsule_or_object
    if type(source).__name__ == "PyCapsule":
        name = _capsule_name(source)
        if name not in ("dltensor", "dltensor_versioned"):
            used = name.startswith("used_")
            raise _refused(
                "capsule",
                "was taken already: each is for one consumer" if used else f"is of {name!r}",
                "capsules that nobody took yet" if used else "those of DLPack",
            )
        source = _Capsule(source)
    elif not hasattr(source, "__dlpack__"):
        raise _wrong_type(
            "capsule_or_object", source, "has no __dlpack__", "capsules of DLPack, and what has __dlpack__"
        )
    elif _is(source, "torch", "Tensor"):
        source = source.detach()
    try:
        return np.from_dlpack(source)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise _refused(
            "capsule_or_object",
            f"NumPy cannot show it: {error}",
            "CPU memory of NumPy's dtypes (torch.from_dlpack takes more)",
        ) from None


def numpy_to_torch_zero_copy(array: np.ndarray[Any, np.dtype[Any]]) -> Any:
    """A torch.Tensor over the memory of `array`, of the same shape and strides; ml_dtypes' bfloat16 and float8 become torch's.

    Read-only arrays are refused: torch would write into them. For tensors of a store there is `view.torch()`.
    """
    import torch

    array = _numpy("array", array)
    if any(stride < 0 for stride in array.strides):
        raise _refused("array", f"has negative strides {array.strides}", "others: array.copy() has none")
    if not array.dtype.isnative:
        raise _refused(
            "array",
            f"has the byte order of {array.dtype.str}",
            "native byte order: array.astype(array.dtype.newbyteorder('='))",
        )
    if not array.flags.writeable:
        raise _refused(
            "array",
            "is read-only, and torch has no read-only tensors",
            "writable arrays: array.copy(); for a view of a store, view.torch()",
        )
    if array.dtype.itemsize and any(stride % array.dtype.itemsize for stride in array.strides):
        raise _refused(
            "array",
            f"has strides {array.strides} that are no multiples of its items' {array.dtype.itemsize} bytes",
            "others: array.copy()",
        )
    if array.dtype.name in _ML_DTYPES:
        bits = array.view(np.uint16 if array.dtype.itemsize == 2 else np.uint8)
        return torch.from_numpy(bits).view(getattr(torch, array.dtype.name))
    try:
        return torch.from_numpy(array)
    except TypeError:
        raise _refused(
            "array", f"has dtype {array.dtype}, which torch does not have", "numbers and bool"
        ) from None


def torch_to_numpy_zero_copy(tensor: Any) -> np.ndarray[Any, np.dtype[Any]]:
    """A NumPy array over the memory of `tensor`, which must be on the CPU and contiguous. A gradient is not followed."""
    if not _is(tensor, "torch", "Tensor"):
        raise _wrong_type("tensor", tensor, "is no tensor", "torch tensors")
    if tensor.device.type != "cpu":
        raise _refused("tensor", f"lies on device {tensor.device}", "CPU tensors: tensor.cpu() copies")
    if str(tensor.layout) != "torch.strided" or tensor.is_quantized:
        raise _refused("tensor", f"has layout {tensor.layout}", "strided tensors: tensor.to_dense() copies")
    if not tensor.is_contiguous():
        raise _refused(
            "tensor",
            f"is not contiguous: shape {tuple(tensor.shape)}, strides {tensor.stride()}",
            "contiguous tensors: tensor.contiguous() copies",
        )
    if tensor.is_conj() or tensor.is_neg():
        raise _refused(
            "tensor",
            "is a conjugated or negated view",
            "plain tensors: tensor.resolve_conj().resolve_neg() copies",
        )
    tensor = tensor.detach()
    name = str(tensor.dtype).removeprefix("torch.")
    if name in _ML_DTYPES:
        import ml_dtypes
        import torch

        bits = tensor.view(torch.uint16 if tensor.element_size() == 2 else torch.uint8)
        return bits.numpy().view(getattr(ml_dtypes, name))  # type: ignore[no-any-return]
    try:
        return tensor.numpy()  # type: ignore[no-any-return]
    except TypeError as error:
        raise _refused("tensor", f"has dtype {name}: {error}", "those of NumPy and ml_dtypes") from None


def numpy_to_arrow_zero_copy(array: np.ndarray[Any, np.dtype[Any]]) -> Any:
    """A pyarrow.Array without nulls over the memory of `array`, which must be 1-d and contiguous. Arrow's arrays do not change:
    write into `array` no more."""
    import pyarrow as pa

    array = _numpy("array", array)
    if array.ndim != 1:
        raise _refused("array", f"has {array.ndim} dimensions", "1-d arrays: array.reshape(-1)")
    if not array.flags.c_contiguous:
        raise _refused(
            "array",
            f"is not contiguous: strides {array.strides}",
            "contiguous arrays: numpy.ascontiguousarray(array) copies",
        )
    if array.dtype.kind not in "iufmM" or not array.dtype.isnative:
        raise _refused(
            "array",
            f"has dtype {array.dtype.str}",
            "integers, floats, and times, in native byte order (Arrow packs bool in bits)",
        )
    try:
        kind = pa.from_numpy_dtype(array.dtype)
    except (pa.ArrowException, NotImplementedError) as error:
        raise _refused("array", f"has dtype {array.dtype}: {error}", "those of Arrow") from None
    return pa.Array.from_buffers(
        kind, array.size, [None, pa.foreign_buffer(array.ctypes.data, array.nbytes, base=array)]
    )


def arrow_to_numpy_zero_copy(array: Any) -> np.ndarray[Any, np.dtype[Any]]:
    """A read-only NumPy array over the memory of a pyarrow.Array, or ChunkedArray of one chunk, without nulls.

    Numbers and times are 1-d; a fixed_shape_tensor array has its rows' dimensions after the first.
    """
    import pyarrow as pa

    if isinstance(array, pa.ChunkedArray):
        if array.num_chunks != 1:
            raise _refused(
                "array", f"has {array.num_chunks} chunks", "arrays of one: array.combine_chunks() copies"
            )
        array = array.chunk(0)
    if not isinstance(array, pa.Array):
        raise _wrong_type("array", array, "is no array of Arrow", "pyarrow.Array and ChunkedArray")
    if array.null_count:
        raise _refused(
            "array",
            f"has {array.null_count} nulls, which NumPy has not",
            "null-free arrays: array.fill_null(...) or drop_null() copy",
        )
    try:
        if isinstance(array, pa.FixedShapeTensorArray):
            return array.to_numpy_ndarray()  # type: ignore[no-any-return]
        return array.to_numpy(zero_copy_only=True)  # type: ignore[no-any-return]
    except (pa.ArrowException, NotImplementedError):
        raise _refused(
            "array",
            f"of type {array.type} has another layout in NumPy",
            "numbers and times: array.to_numpy(zero_copy_only=False) copies",
        ) from None


def table_to_numpy_zero_copy(table: Any, column: str | int) -> np.ndarray[Any, np.dtype[Any]]:
    """Column `column` of a pyarrow.Table or RecordBatch, by name or number, as `arrow_to_numpy_zero_copy` shows it."""
    names = list(table.schema.names)
    if isinstance(column, str) and names.count(column) != 1:
        raise _refused("column", f"{column!r} is there {names.count(column)} times", f"one of {names}")
    if not isinstance(column, str) and not -len(names) <= column < len(names):
        raise _refused("column", f"{column} of {len(names)}", f"0 to {len(names) - 1}")
    return arrow_to_numpy_zero_copy(table.column(column))


class ZeroCopyArray:
    """One array, shown as any framework's over the same memory. Refuses what would be a copy, as the functions do.

    `array`: NumPy, torch, Arrow, a `TensorView`, or what has DLPack or a buffer; on the CPU.
    """

    def __init__(self, array: Any) -> None:
        self._given: Any = array._given if isinstance(array, ZeroCopyArray) else array
        self._array = _numpy("array", array)

    @property
    def ptr(self) -> int:
        """Address of the first element."""
        return int(self._array.__array_interface__["data"][0])

    @property
    def shape(self) -> tuple[int, ...]:
        """Elements per dimension."""
        shape: tuple[int, ...] = self._array.shape
        return shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """NumPy's type of the elements."""
        return self._array.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of the elements."""
        return self._array.nbytes

    def to_numpy(self) -> np.ndarray[Any, np.dtype[Any]]:
        """As a NumPy array."""
        return self._array

    def to_torch(self) -> Any:
        """As a torch CPU tensor. InvalidArgumentError for read-only arrays that are no view of a store."""
        if _is(self._given, "torch", "Tensor"):
            return self._given
        if isinstance(self._given, TensorView):
            return self._given.torch()  # pages of its own once they are written
        return numpy_to_torch_zero_copy(self._array)

    def to_arrow(self) -> Any:
        """As a pyarrow array. InvalidArgumentError for what is not 1-d and contiguous."""
        return numpy_to_arrow_zero_copy(self._array)

    def to_dlpack(self) -> Any:
        """As a DLPack capsule."""
        return to_dlpack(self._array)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, np.dtype[Any]]:
        return np.array(self._array, dtype=dtype, copy=copy)

    def __dlpack__(self, **options: Any) -> Any:
        return self._array.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._array.__dlpack_device__()

    def __len__(self) -> int:
        return len(self._array)

    def __repr__(self) -> str:
        return f"ZeroCopyArray(shape={self.shape}, dtype={self.dtype}, ptr={self.ptr:#x})"


def wrap_for_zero_copy(array: Any) -> ZeroCopyArray:
    """`ZeroCopyArray(array)`."""
    return ZeroCopyArray(array)


def check_zero_copy_compatibility(array: Any, name: str = "array") -> dict[str, Any]:
    """Whether every framework here can show `array` over its own memory, without trying and without an error.

    Returns `name`, `compatible`, `issues` (why not: each begins with what it is about: device, dtype, byte order, contiguity,
    strides, alignment or ownership), `notes` (what one framework copies, though others do not), and where they are known `device`,
    `dtype`, `shape`, `strides` (bytes), `nbytes`, `ptr`.
    """
    found: dict[str, Any] = {"name": name, "compatible": False, "issues": [], "notes": []}
    issues: list[str] = found["issues"]
    device = _device(array)
    found["device"] = device
    if not device.startswith("cpu"):
        issues.append(f"device: {name} lies on {device}; NumPy and Arrow show CPU memory only")
        return found
    try:
        shown = _numpy(name, array)
    except (InvalidArgumentError, TypeError) as error:
        issues.append(f"{_about(str(error))}: {error}")
        return found
    found.update(
        dtype=str(shown.dtype),
        shape=shown.shape,
        strides=shown.strides,
        nbytes=shown.nbytes,
        ptr=int(shown.__array_interface__["data"][0]),
    )
    if shown.dtype.kind not in "iufcb" and shown.dtype.name not in _ML_DTYPES:
        issues.append(f"dtype: {shown.dtype} is no number; torch and DLPack have no such elements")
    if not shown.dtype.isnative:
        issues.append(f"byte order: {shown.dtype.str} is not this machine's ({sys.byteorder} endian)")
    if not shown.flags.c_contiguous:
        issues.append(
            f"contiguity: shape {shown.shape} with strides {shown.strides} has gaps or another order; Arrow, and torch_to_numpy, want none"
        )
    if any(stride < 0 for stride in shown.strides):
        issues.append(f"strides: {shown.strides} has negative ones, which torch has not")
    if not shown.flags.aligned:
        issues.append(
            f"alignment: address {found['ptr']:#x} is no multiple of the {shown.dtype.alignment} bytes that {shown.dtype} wants"
        )
    elif found["ptr"] % _JAX_ALIGNMENT and shown.nbytes:
        found["notes"].append(
            f"alignment: JAX copies what does not begin at a multiple of {_JAX_ALIGNMENT} bytes"
        )
    if _nobody_keeps(shown):
        issues.append("ownership: it shows a bare address (ctypes); nothing keeps the memory there alive")
    if not shown.flags.writeable and not isinstance(array, TensorView):
        found["notes"].append(
            "ownership: it is read-only; torch has no read-only tensors, so numpy_to_torch_zero_copy refuses it"
        )
    found["compatible"] = not issues
    return found


class _Capsule:
    """Gives its capsule, once, to whoever asks as the protocol wants it."""

    def __init__(self, capsule: Any) -> None:
        self._capsule = capsule

    def __dlpack__(self, **_: Any) -> Any:
        return self._capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        return 1, 0  # NumPy looks at the capsule's own


def _capsule_name(capsule: Any) -> str:
    name_of = ctypes.pythonapi.PyCapsule_GetName
    name_of.restype, name_of.argtypes = ctypes.c_char_p, [ctypes.py_object]
    return (name_of(capsule) or b"").decode(errors="replace")


def _is(array: Any, module: str, name: str) -> bool:
    """Whether it is of that class. A module that nobody imported has made no array."""
    loaded = sys.modules.get(module)
    return loaded is not None and isinstance(array, getattr(loaded, name, ()))


def _device(array: Any) -> str:
    if _is(array, "torch", "Tensor") or isinstance(array, TensorView):
        return str(array.device)
    if hasattr(array, "__cuda_array_interface__"):
        return "cuda"
    return "cpu"


def _nobody_keeps(array: np.ndarray[Any, np.dtype[Any]]) -> bool:
    """Whether at the end of its chain of bases there is an address that somebody named, and no owner."""
    owner: Any = array
    while isinstance(owner, (np.ndarray, memoryview)):
        if isinstance(owner, memoryview):
            owner = owner.obj
        elif owner.flags.owndata:
            return False
        elif owner.base is None:
            return True
        else:
            owner = owner.base
    while isinstance(owner, (ctypes.Array, ctypes.Structure, ctypes.Union, ctypes._SimpleCData)):
        if owner._b_base_ is None:
            return not owner._b_needsfree_
        owner = owner._b_base_
        if isinstance(owner, ctypes._Pointer):
            return True
    return False


def _about(message: str) -> str:
    for word, about in (
        ("device", "device"),
        ("contiguous", "contiguity"),
        ("layout", "strides"),
        ("chunks", "contiguity"),
        ("nulls", "dtype"),
    ):
        if word in message:
            return about
    return "dtype"


def _numpy(field: str, array: Any) -> np.ndarray[Any, np.dtype[Any]]:
    """`array` as NumPy's, without a copy."""
    if isinstance(array, np.ndarray):
        return array
    if isinstance(array, TensorView):
        return array.numpy()
    if isinstance(array, ZeroCopyArray):
        return array.to_numpy()
    if _is(array, "torch", "Tensor"):
        return torch_to_numpy_zero_copy(array)
    if _is(array, "pyarrow", "Array") or _is(array, "pyarrow", "ChunkedArray"):
        return arrow_to_numpy_zero_copy(array)
    if hasattr(array, "__dlpack__"):
        return from_dlpack(array)
    try:
        shown = memoryview(array)
    except TypeError:
        raise _wrong_type(
            field, array, "shows no memory", "NumPy, torch and Arrow arrays, views, DLPack and buffers"
        ) from None
    return np.asarray(shown)


def _wrong_type(field: str, array: Any, what: str, allowed: str) -> TypeError:
    return TypeError(
        f"{field}: {type(array).__module__}.{type(array).__qualname__} {what}; allowed are {allowed}"
    )


def _refused(field: str, what: str, allowed: str) -> InvalidArgumentError:
    return InvalidArgumentError(f"{field}: {what}; allowed are {allowed}", code="INVALID_ARGUMENT")
