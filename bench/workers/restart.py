"""How long does a node not answer when its process is killed? restart.py ADDRESS COUNT: a store with that many tensors."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

import numpy as np

import penstock
from workers.answer import serve

_BATCH = 10_000


def fill(store: penstock.Store, count: int) -> None:
    data = np.zeros(16, np.uint8)
    for start in range(0, count, _BATCH):
        store.put_many({f"t/{i:07}": data for i in range(start, min(start + _BATCH, count))})


def node_process(warden: int) -> int | None:
    with open(f"/proc/{warden}/task/{warden}/children") as children:
        for child in children.read().split():
            with open(f"/proc/{child}/comm") as comm:
                if comm.read().strip() == "penstock-node":
                    return int(child)
    return None


class Restarts:
    def __init__(self, address: str, warden: int, count: int) -> None:
        self.store = penstock.connect(address, timeout=60)
        self.warden, self.count = warden, count
        fill(self.store, count)
        self.puts = 0

    def until_a_put_is_answered(self) -> float:
        """The put stays in the ring while there is no node process, and the next one executes it."""
        self.puts += 1
        time.sleep(2.5)  # the warden waits longer before it forks again after many deaths
        old = node_process(self.warden)
        assert old is not None
        os.kill(old, signal.SIGKILL)
        start = time.perf_counter_ns()
        while True:
            try:
                self.store.put("probe", np.full(16, self.puts % 251, np.uint8))
                break
            except penstock.UnavailableError:
                continue
        took = time.perf_counter_ns() - start
        assert node_process(self.warden) != old
        assert int(self.store.get("probe").numpy()[0]) == self.puts % 251
        return took

    def longest_get(self) -> float:
        """By name, until a put of another thread is answered: the catalog is there, so nobody is asked."""
        time.sleep(2.5)
        self.store.get("t/0000000")
        old = node_process(self.warden)
        assert old is not None
        put = threading.Thread(target=self.store.put, args=("probe", np.zeros(16, np.uint8)))
        os.kill(old, signal.SIGKILL)
        put.start()
        worst = i = 0
        while put.is_alive():
            start = time.perf_counter_ns()
            self.store.get(f"t/{i % self.count:07}")
            worst = max(worst, time.perf_counter_ns() - start)
            i += 7919
        assert i, "no get was made"
        return worst


def main() -> None:
    restarts = Restarts(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
    serve({"put after SIGKILL": restarts.until_a_put_is_answered, "longest get after SIGKILL": restarts.longest_get})


if __name__ == "__main__":
    main()
