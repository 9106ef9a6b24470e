"""Exchange with frameworks that are imported only when they are asked for."""

from __future__ import annotations

from typing import Any

import numpy as np

from penstock.errors import InvalidArgumentError


def plain_torch_tensor(tensor: Any, field: str) -> Any:
    """The same memory as a tensor that torch lets out through DLPack."""
    if tensor.device.type != "cpu":
        raise InvalidArgumentError(
            f"{field}: lies on device {tensor.device}; allowed is cpu: use tensor.cpu()",
            code="INVALID_ARGUMENT",
        )
    if str(tensor.layout) != "torch.strided" or tensor.is_quantized:
        raise InvalidArgumentError(
            f"{field}: has layout {tensor.layout}; allowed are strided tensors: use tensor.to_dense()",
            code="INVALID_ARGUMENT",
        )
    tensor = tensor.detach()
    if field == "out" and (tensor.is_conj() or tensor.is_neg()):
        raise InvalidArgumentError(
            "out: is a conjugated or negated view; allowed are plain tensors", code="INVALID_ARGUMENT"
        )
    if tensor.is_conj():
        tensor = tensor.resolve_conj()
    if tensor.is_neg():
        tensor = tensor.resolve_neg()
    return tensor


def to_jax(view: Any) -> Any:
    """A jax.Array; JAX copies what is not aligned to 64 bytes, or strided."""
    from jax import dlpack

    return dlpack.from_dlpack(view)


def to_cupy(view: Any) -> Any:
    """A copy on the current GPU."""
    import cupy

    return cupy.asarray(view.numpy())


def to_arrow(view: Any) -> Any:
    """A pyarrow array over the same memory: 1-d primitive, n-d rows of a fixed_shape_tensor."""
    import pyarrow as pa

    from penstock.interop import numpy_to_arrow_zero_copy

    array = view.numpy()
    if array.ndim == 0 or not array.flags.c_contiguous:
        raise InvalidArgumentError(
            f"arrow: the view has shape {array.shape} and strides {array.strides}; allowed are views "
            "of 1 and more dimensions without gaps",
            code="INVALID_ARGUMENT",
        )
    if array.dtype == np.bool_ or array.dtype.kind not in "iuf":
        raise InvalidArgumentError(
            f"arrow: has no plain layout for {view.dtype}; allowed are integers, f16, f32 and f64",
            code="INVALID_ARGUMENT",
        )
    flat = numpy_to_arrow_zero_copy(array.reshape(-1))
    if array.ndim == 1:
        return flat
    rows = pa.FixedSizeListArray.from_arrays(flat, int(np.prod(array.shape[1:])))
    return pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(flat.type, array.shape[1:]), rows)
