"""What a framework's tensors are made of: a view of the store, or a file in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from penstock.safetensors._source import SafetensorError

if TYPE_CHECKING:
    from penstock import _core
    from penstock._core import TensorView

__all__ = ["Framework", "framework_of"]

_BACKENDS = ("mmap", "pread")


class Framework:
    """NumPy, or torch with a device."""

    def __init__(self, device: Any = None) -> None:
        self._device = device  # None = NumPy

    def of_view(self, view: TensorView) -> Any:
        """The view as a tensor of the framework, over the store's memory where that is the CPU."""
        if self._device is None:
            return view.numpy()
        return self._placed(view.torch())

    def of_file(self, file: _core.TensorFile, index: int) -> Any:
        """A copy of one tensor of a file."""
        if self._device is None:
            return file.numpy(index)
        return self._placed(file.torch(index))

    def _placed(self, tensor: Any) -> Any:
        return tensor if self._device.type == "cpu" else tensor.to(self._device)


def framework_of(framework: str, device: Any, backend: str) -> Framework:
    """By the names that safetensors.safe_open takes. Raises SafetensorError."""
    if backend not in _BACKENDS:
        raise SafetensorError(f"backend: is {backend!r}; allowed are 'mmap' and 'pread'")
    if framework in ("np", "numpy"):
        if str(device) != "cpu":
            raise SafetensorError(f"device: is {device!r}; allowed for NumPy is 'cpu'")
        return Framework()
    if framework in ("pt", "torch", "pytorch"):
        return Framework(_torch_device(device))
    raise SafetensorError(f"framework: is {framework!r}; allowed are 'pt', 'torch', 'pytorch', 'np', 'numpy'")


def _torch_device(device: Any) -> Any:
    import torch

    try:
        return torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise SafetensorError(f"device: is {device!r}, which torch does not know: {error}") from None


def contiguous_array(array: Any) -> Any:
    """A NumPy array as the format has it: in C order, little endian."""
    if not isinstance(array, np.ndarray):
        return array
    little = (
        array.astype(array.dtype.newbyteorder("<"), copy=False) if array.dtype.byteorder == ">" else array
    )
    return little if little.flags.c_contiguous else little.copy(order="C")
