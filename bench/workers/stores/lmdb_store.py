"""LMDB: a B-tree in a mapped file, without waiting for a disk; gets are views of the map."""

from __future__ import annotations

import lmdb
import numpy as np


class Store:
    def __init__(self, folder: str) -> None:
        self._db = lmdb.open(folder, map_size=4 << 30, sync=False, metasync=False, writemap=True, map_async=True)
        self._read = self._db.begin(buffers=True)

    def put(self, name: str, array: np.ndarray) -> None:
        self._read.abort()
        with self._db.begin(write=True) as write:
            write.put(name.encode(), array.data)
        self._read = self._db.begin(buffers=True)

    def get(self, name: str) -> np.ndarray:
        return np.frombuffer(self._read.get(name.encode()), np.uint8)

    def put_many(self, tensors: dict[str, np.ndarray]) -> None:
        self._read.abort()
        with self._db.begin(write=True) as write, write.cursor() as cursor:
            cursor.putmulti([(name.encode(), array.data) for name, array in tensors.items()])
        self._read = self._db.begin(buffers=True)

    def get_many(self, names: list[str]) -> list[np.ndarray]:
        return [self.get(name) for name in names]

    def close(self) -> None:
        self._read.abort()
        self._db.close()
