"""Ray's object store; it has no names, so the references are kept here."""

from __future__ import annotations

import numpy as np
import ray


class Store:
    def __init__(self, folder: str) -> None:
        ray.init(num_cpus=1, object_store_memory=4 << 30, include_dashboard=False, logging_level="ERROR",
                 log_to_driver=False, _temp_dir=folder)
        self._refs: dict[str, ray.ObjectRef] = {}

    def put(self, name: str, array: np.ndarray) -> None:
        self._refs[name] = ray.put(array)

    def get(self, name: str) -> np.ndarray:
        return ray.get(self._refs[name])

    def put_many(self, tensors: dict[str, np.ndarray]) -> None:
        for name, array in tensors.items():
            self.put(name, array)

    def get_many(self, names: list[str]) -> list[np.ndarray]:
        return ray.get([self._refs[name] for name in names])

    def close(self) -> None:
        ray.shutdown()
