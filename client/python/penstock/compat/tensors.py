"""Views as torch tensors of the caller's own, by one copy straight from the store's memory.

`TensorView.torch()` is no copy, but all of a process share its copy-on-write pages: what one caller writes,
the next one would get. Other stores give each caller a tensor to do with as it likes.
"""

from __future__ import annotations

import ctypes

import numpy as np
import torch

from penstock._core import TensorView, dtype_name
from penstock.errors import InvalidArgumentError

__all__ = ["fill", "own_tensor", "takes_bytes"]

_LARGE = 4 << 20  # bytes, from which on NumPy does so


def own_tensor(view: TensorView) -> torch.Tensor:
    """A new contiguous tensor in host memory with what a view shows."""
    tensor = _empty(view.shape, view.torch().dtype, view.nbytes)
    fill(tensor, view)
    return tensor


def _empty(shape: tuple[int, ...], dtype: torch.dtype, nbytes: int) -> torch.Tensor:
    if nbytes < _LARGE:
        return torch.empty(shape, dtype=dtype)
    # NumPy asks for huge pages, torch does not: filling its memory takes three times as long (128 MiB,
    # transparent_hugepage=madvise).
    return torch.from_numpy(np.empty(nbytes, np.uint8)).view(dtype).reshape(shape)


def takes_bytes(target: torch.Tensor, dtype: str) -> bool:
    """Whether the bytes of a tensor of `dtype` can go into `target` as they are."""
    if target.device.type != "cpu" or target.is_conj() or target.is_neg():
        return False
    try:
        return dtype_name(target.dtype) == dtype
    except InvalidArgumentError:  # of torch only
        return False


def fill(target: torch.Tensor, view: TensorView) -> None:
    """Copies a view into a tensor of its shape, of any dtype and device; autograd is told."""
    shown = view.torch()
    if takes_bytes(target, view.dtype) and target.is_contiguous() and shown.is_contiguous():
        # torch shows large blocks in place, through a second mapping, and small ones as a dense copy.
        in_place = tuple(n * shown.element_size() for n in shown.stride()) == view.strides
        ctypes.memmove(target.data_ptr(), view.ptr if in_place else shown.data_ptr(), view.nbytes)  # without the GIL
        torch.autograd.graph.increment_version(target)
        return
    with torch.no_grad():
        target.copy_(shown)
