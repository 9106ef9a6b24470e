"""multiprocessing.shared_memory: one segment a tensor; it knows neither versions nor who still reads."""

from __future__ import annotations

import os
from multiprocessing.shared_memory import SharedMemory

import numpy as np


class Store:
    def __init__(self, folder: str) -> None:
        self._prefix = f"psb-{os.getpid()}-"
        self._made: dict[str, SharedMemory] = {}
        self._open: list[SharedMemory] = []

    def _name(self, name: str) -> str:
        return self._prefix + name.replace("/", "-")

    def put(self, name: str, array: np.ndarray) -> None:
        segment = self._made.get(name)
        if segment is None or segment.size < array.nbytes:
            segment = self._made[name] = SharedMemory(self._name(name), create=True, size=array.nbytes)
        np.copyto(np.ndarray(array.shape, array.dtype, buffer=segment.buf), array)

    def get(self, name: str) -> np.ndarray:
        segment = SharedMemory(self._name(name))
        self._open.append(segment)  # the array does not keep it mapped
        if len(self._open) > 2000:
            self._forget()
        return np.ndarray(segment.size, np.uint8, buffer=segment.buf)

    def _forget(self) -> None:
        for segment in self._open:
            try:
                segment.close()
            except BufferError:  # an array of it is still there
                pass
        self._open = []

    def put_many(self, tensors: dict[str, np.ndarray]) -> None:
        for name, array in tensors.items():
            self.put(name, array)

    def get_many(self, names: list[str]) -> list[np.ndarray]:
        return [self.get(name) for name in names]

    def close(self) -> None:
        self._forget()
        for segment in self._made.values():
            segment.unlink()
