"""Measures puts from Python: python -m workers.put ADDRESS."""

from __future__ import annotations

import sys
from multiprocessing.shared_memory import SharedMemory

import numpy as np

import penstock
from workers.answer import each_ns, once_ns, serve

GIB = 1 << 30


def main() -> None:
    store = penstock.connect(sys.argv[1], timeout=60)
    source = np.ones(GIB, np.uint8)
    small = source[:4096].copy()
    many = {f"bench/py/many/{i}": small for i in range(1000)}
    shared = SharedMemory(create=True, size=GIB)
    warm = np.ndarray(GIB, np.uint8, buffer=shared.buf)
    warm[:] = 0
    rows = warm[: 1000 * 4096].reshape(1000, 4096)
    try:
        serve({
            "put 4 KiB": lambda: each_ns(lambda: store.put("bench/py/4k", small), 0.1, 16),
            "np.copyto 4 KiB": lambda: each_ns(lambda: np.copyto(rows[7], small)),
            "put_many": lambda: each_ns(lambda: store.put_many(many), 0.1, 1),
            "np.copyto many": lambda: each_ns(lambda: [np.copyto(row, small) for row in rows], 0.05, 1),
            "put 1 GiB": lambda: once_ns(lambda: store.put("bench/py/1g", source)),
            "np.copyto 1 GiB": lambda: once_ns(lambda: np.copyto(warm, source)),
        })
    finally:
        del warm, rows
        shared.close()
        shared.unlink()


if __name__ == "__main__":
    main()
