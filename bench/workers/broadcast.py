"""Measures a tensor's way from one host to others: python -m workers.broadcast BYTES SOURCE READER..., the socket directories of nodes.

Runs on the source's host (its end of the cable is counted there); UNIX sockets reach all nodes.
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from time import perf_counter_ns

import numpy as np

import penstock
from workers.answer import serve

NAME = "bench/broadcast"


def sent_bytes() -> int:
    return int(Path("/sys/class/net/eth/statistics/tx_bytes").read_text())


class Broadcast:
    def __init__(self, nbytes: int, source: str, readers: list[str]) -> None:
        self._source = penstock.connect(source, timeout=120)
        self._readers = [penstock.connect(reader, timeout=120) for reader in readers]
        self._tensor = np.zeros(nbytes, np.uint8)
        self._number = 0
        self._sent = 0.0
        for reader in self._readers:  # their memory's pages are made, one after the other: it is one machine
            self.to([reader])

    def to(self, readers: list[penstock.Store]) -> float:
        """ns until the last of these hosts has a new tensor."""
        self._number += 1
        self._tensor[::4096] = self._number
        self._source.delete_prefix(NAME)
        self._source.put(NAME, self._tensor)
        ready = threading.Barrier(len(readers) + 1)
        right: list[bool] = []
        threads = [threading.Thread(target=self._get, args=(reader, ready, right)) for reader in readers]
        for thread in threads:
            thread.start()
        before = sent_bytes()
        ready.wait()
        start = perf_counter_ns()
        for thread in threads:
            thread.join()
        took = perf_counter_ns() - start
        self._sent = (sent_bytes() - before) / self._tensor.nbytes
        if right != [True] * len(readers):
            raise RuntimeError("a host has something else than was put")
        return took

    def _get(self, reader: penstock.Store, ready: threading.Barrier, right: list[bool]) -> None:
        ready.wait()
        with reader.get(NAME) as view:
            shown = view.numpy()
            right.append(view.path == "fetch" and shown[0] == shown[-4096] == self._number)

    def source_sends(self) -> float:
        """Copies, in the last broadcast."""
        self.to(self._readers)
        return self._sent

    def one(self) -> float:
        return self.to(self._readers[:1])

    def all(self) -> float:
        return self.to(self._readers)


def main() -> None:
    nbytes, source, *readers = sys.argv[1:]
    broadcast = Broadcast(int(nbytes), source, readers)
    serve({"one": broadcast.one, "all": broadcast.all, "source sends": broadcast.source_sends})


if __name__ == "__main__":
    main()
