"""Penstock."""

from __future__ import annotations

import numpy as np

import penstock


class Store:
    def __init__(self, folder: str) -> None:
        self._store = penstock.connect(folder, timeout=60)
        self.put = self._store.put
        self.put_many = self._store.put_many

    def get(self, name: str) -> np.ndarray:
        return self._store.get(name).numpy()

    def get_many(self, names: list[str]) -> list[np.ndarray]:
        return [view.numpy() for view in self._store.get_many(names).values()]

    def close(self) -> None:
        self._store.close()
