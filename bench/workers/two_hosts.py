"""Measures gets of another host's tensors: python -m workers.two_hosts HOME READER, the socket directories of two nodes.

Runs on the reader's host (its end of the wire is counted there); UNIX sockets reach both nodes.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from time import perf_counter_ns
from typing import Callable

import numpy as np

import penstock
from workers.answer import once_ns, serve

GIB = 1 << 30
MIB = 1 << 20
OTHERS = 7
_READER = """
import sys, time, penstock
store = penstock.connect(sys.argv[1], timeout=120)
store.get("bench/here")
for line in sys.stdin:
    store.get("bench/here")  # this code is in the cache again after the sleep; the tensor's record is not
    start = time.perf_counter_ns()
    view = store.get(line.strip())
    print(time.perf_counter_ns() - start, flush=True)
    del view
"""


def received_bytes() -> int:
    return int(Path("/sys/class/net/wire/statistics/rx_bytes").read_text())


class Readers:
    """Eight processes of one host."""

    def __init__(self, home: penstock.Store, address: str) -> None:
        self._home = home
        self._processes = [
            subprocess.Popen([sys.executable, "-c", _READER, address], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            for _ in range(OTHERS + 1)
        ]
        self._tensor = np.ones(GIB, np.uint8)

    def _put(self) -> None:
        self._home.put("bench/1 GiB", self._tensor)

    def _start(self, which: int) -> None:
        self._processes[which].stdin.write("bench/1 GiB\n")
        self._processes[which].stdin.flush()

    def _took(self, which: int) -> float:
        return float(self._processes[which].stdout.readline())

    def link_carries(self) -> float:
        """Times the tensor's size, when all eight get it at once."""
        self._put()
        before = received_bytes()
        for i in range(OTHERS + 1):
            self._start(i)
        for i in range(OTHERS + 1):
            self._took(i)
        return (received_bytes() - before) / GIB

    def first(self) -> float:
        """Bytes a second of the first one."""
        self._put()
        self._start(0)
        return GIB / (self._took(0) / 1e9)

    def later(self) -> float:
        """The slowest of the second to eighth, in ns."""
        self.first()
        slowest = 0.0
        for i in range(1, OTHERS + 1):
            self._start(i)
            slowest = max(slowest, self._took(i))
        return slowest


class Boxes:
    """A box of columns of a row-major matrix beside as many bytes that lie together."""

    ROWS, COLUMNS = 16384, 8192  # f32: 512 MiB
    WIDTH = 256                  # runs of 1 KiB, 16 MiB in all

    def __init__(self, home: penstock.Store, here: penstock.Store) -> None:
        self._here = here
        home.put("bench/matrix", np.ones((self.ROWS, self.COLUMNS), np.float32))
        self.columns = np.s_[:, 1000:1000 + self.WIDTH]
        self.rows = np.s_[100:100 + self.ROWS * self.WIDTH // self.COLUMNS]
        self._out = np.empty(self.ROWS * self.WIDTH, np.float32)

    def read(self, box: object) -> float:
        shape = (self.ROWS, self.WIDTH) if box is self.columns else (-1, self.COLUMNS)
        return once_ns(lambda: self._here.get("bench/matrix", box, out=self._out.reshape(shape)))

    def wire(self, box: object) -> float:
        before = received_bytes()
        self.read(box)
        return (received_bytes() - before) / self._out.nbytes


def main() -> None:
    home, here = (penstock.connect(address, timeout=120) for address in sys.argv[1:3])
    here.put("bench/here", 1)
    made: dict[str, object] = {}

    def lazily(kind: Callable[[], object], name: str) -> object:
        if name not in made:
            made[name] = kind()
        return made[name]

    readers = lambda: lazily(lambda: Readers(home, sys.argv[2]), "readers")  # noqa: E731
    boxes = lambda: lazily(lambda: Boxes(home, here), "boxes")  # noqa: E731

    def small() -> float:
        home.put("bench/small", np.ones(4096, np.uint8))
        return once_ns(lambda: here.get("bench/small"))

    serve({
        "link carries": lambda: readers().link_carries(),
        "first get": lambda: readers().first(),
        "later gets": lambda: readers().later(),
        "get 4 KiB": small,
        "columns": lambda: boxes().read(boxes().columns),
        "rows": lambda: boxes().read(boxes().rows),
        "columns on the wire": lambda: boxes().wire(boxes().columns),
        "rows on the wire": lambda: boxes().wire(boxes().rows),
    })


if __name__ == "__main__":
    main()
