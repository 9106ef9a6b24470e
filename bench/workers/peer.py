"""Measures one store from Python, all alike: python -m workers.peer STORE FOLDER (STORE: a module of stores/)."""

from __future__ import annotations

import importlib
import sys

import numpy as np

from workers.answer import each_ns, once_ns, serve

SIZES = {"4 KiB": 4 << 10, "1 MiB": 1 << 20, "64 MiB": 64 << 20, "1 GiB": 1 << 30}


def main() -> None:
    store = importlib.import_module(f"workers.stores.{sys.argv[1]}_store").Store(sys.argv[2])
    source = np.ones(SIZES["1 GiB"], np.uint8)
    small = source[: SIZES["4 KiB"]].copy()
    many = {f"many/{i}": small for i in range(1000)}
    names = list(many)

    def get_of(label: str):
        name, array = f"get/{label}", source[: SIZES[label]]

        def measure() -> float:
            if name not in put:
                store.put(name, array)
                put.add(name)
            got = store.get(name)
            if got.nbytes != array.nbytes or got[0] != 1 or got[-1] != 1:
                raise RuntimeError(f"{name}: got other bytes than were put")
            return each_ns(lambda: store.get(name), 0.05, 1 if array.nbytes > 1 << 24 else 16)

        return measure

    def put_of(label: str):
        array = source[: SIZES[label]]
        return lambda: once_ns(lambda: store.put(f"get/{label}", array))

    def get_many() -> float:
        if "many" not in put:
            store.put_many(many)
            put.add("many")
        return each_ns(lambda: store.get_many(names), 0.05, 1)

    put: set[str] = set()
    try:
        serve({
            **{f"get {label}": get_of(label) for label in SIZES},
            "get_many": get_many,
            "put 4 KiB": lambda: each_ns(lambda: store.put("put/4k", small), 0.05, 16),
            "put_many": lambda: each_ns(lambda: store.put_many(many), 0.05, 1),
            **{f"put {label}": put_of(label) for label in ("64 MiB", "1 GiB")},
        })
    finally:
        store.close()


if __name__ == "__main__":
    main()
