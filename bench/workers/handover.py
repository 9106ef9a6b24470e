"""Measures how 1 GiB gets from one process to another by other means: python -m workers.handover ADDRESS."""

from __future__ import annotations

import pickle
import sys
from multiprocessing.shared_memory import SharedMemory

import numpy as np

import penstock
from workers.answer import each_ns, once_ns, serve

GIB = 1 << 30


def shared_memory_life() -> None:
    """Makes a segment and drops it; nobody fills it."""
    segment = SharedMemory(create=True, size=GIB)
    segment.close()
    segment.unlink()


def main() -> None:
    store = penstock.connect(sys.argv[1], timeout=60)
    source = np.ones(GIB, np.uint8)
    shared = SharedMemory(create=True, size=GIB)

    def put_and_get() -> None:
        store.put("bench/handover", source)
        store.get("bench/handover").numpy()

    def attach() -> None:
        segment = SharedMemory(shared.name, track=False) if sys.version_info >= (3, 13) else SharedMemory(shared.name)
        np.ndarray(GIB, np.uint8, buffer=segment.buf)
        segment.close()

    store.put("bench/attach", source)
    try:
        serve({
            "put and get": lambda: once_ns(put_and_get),
            "pickle": lambda: once_ns(lambda: pickle.loads(pickle.dumps(source, protocol=4))),
            "create shared_memory": lambda: once_ns(shared_memory_life),
            "attach shared_memory": lambda: each_ns(attach, 0.04, 4),
        })
    finally:
        shared.close()
        shared.unlink()


if __name__ == "__main__":
    main()
