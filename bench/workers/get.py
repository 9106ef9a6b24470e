"""Measures gets from Python: python -m workers.get ADDRESS."""

from __future__ import annotations

import subprocess
import sys
from time import perf_counter_ns

import numpy as np

import penstock
from workers.answer import each_ns, once_ns, serve

SIZES = {"4 KiB": 4 << 10, "1 MiB": 1 << 20, "1 GiB": 1 << 30}
# Another process puts it: what it did to its own page tables is of no use to the reader.
_WRITER = """
import sys, numpy, penstock
store = penstock.connect(sys.argv[1], timeout=60)
tensor = numpy.ones(1 << 30, numpy.uint8)
for line in sys.stdin:
    print(store.put("bench/just put", tensor).version, flush=True)
"""
_READER = """
import sys, numpy, penstock
assert penstock.connect(sys.argv[1]).get("bench/4 KiB").numpy()[0] == 1
"""


class JustPut:
    """Gets of 1 GiB that another process has put a moment before."""

    def __init__(self, address: str, store: penstock.Store) -> None:
        self._store = store
        self._writer = subprocess.Popen(
            [sys.executable, "-c", _WRITER, address], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def get_and_touch(self) -> float:
        self._writer.stdin.write("put\n")
        self._writer.stdin.flush()
        version = int(self._writer.stdout.readline())
        int(self._store.get("bench/4 KiB").numpy()[0])  # this code is in the cache again; the new tensor's pages are not
        start = perf_counter_ns()
        view = self._store.get("bench/just put")
        array = view.numpy()
        total = int(array[0]) + int(array[-1])
        spent = perf_counter_ns() - start
        if total != 2 or view.version < version:
            raise RuntimeError(f"read {total} of version {view.version}, not 2 of {version}")
        return spent


def process_ns(source: str, *arguments: str) -> float:
    return once_ns(lambda: subprocess.run([sys.executable, "-c", source, *arguments], check=True))


def main() -> None:
    address = sys.argv[1]
    store = penstock.connect(address, timeout=60)
    measurements = {}
    for label, size in SIZES.items():
        name = f"bench/{label}"
        store.put(name, np.ones(size, np.uint8))
        measurements[f"get numpy {label}"] = lambda name=name: each_ns(lambda: store.get(name).numpy())
        measurements[f"get torch {label}"] = lambda name=name: each_ns(lambda: store.get(name).torch())
    many = [f"bench/many/{i}" for i in range(1000)]
    store.put_many({name: np.ones(4096, np.uint8) for name in many})
    raw = bytes(4096)
    frombuffer = np.frombuffer
    just_put = JustPut(address, store)
    serve(measurements | {
        "np.frombuffer": lambda: each_ns(lambda: frombuffer(raw, np.uint8)),
        "get and touch 1 GiB": just_put.get_and_touch,
        "get_many": lambda: each_ns(lambda: [v.numpy() for v in store.get_many(many).values()], 0.1, 1),
        "np.frombuffer many": lambda: each_ns(lambda: {n: frombuffer(raw, np.uint8) for n in many}, 0.05, 1),
        "start to first get": lambda: process_ns(_READER, address),
        "start of NumPy": lambda: process_ns("import numpy"),
    })


if __name__ == "__main__":
    main()
