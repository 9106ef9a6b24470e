"""Begins and ends faults, by a seed, in one thread."""

from __future__ import annotations

import random
import time
from collections import Counter
from typing import Callable

from chaos.cluster import Cluster
from chaos.faults import FAULTS, OF_ETCD, Undo

AT_ONCE = 2


class Injector:
    def __init__(self, cluster: Cluster, seed: int, kinds: list[str] | None, log: Callable[[str], None]) -> None:
        self._cluster, self._log = cluster, log
        self._rng = random.Random(seed)
        self._kinds = kinds or [kind for kind in FAULTS if kind not in OF_ETCD or cluster.members]
        self._active: list[tuple[float, str, Undo]] = []
        self._start = time.monotonic()
        self.count: Counter[str] = Counter()

    def run(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        begin_next = time.monotonic()
        while (now := time.monotonic()) < end:
            self._heal(now)
            if now >= begin_next and len(self._active) < AT_ONCE:
                self._begin(now)
                begin_next = now + self._rng.expovariate(1.5)
            time.sleep(0.01)

    def heal_all(self) -> None:
        self._heal(float("inf"))

    def _begin(self, now: float) -> None:
        kind, length = self._rng.choice(self._kinds), self._rng.uniform(0.2, 4.0)
        begun = FAULTS[kind](self._cluster, self._rng)
        if begun is None:
            return
        what, undo = begun
        self.count[kind] += 1
        self._log(f"{now - self._start:8.3f} {kind}: {what}, for {length:.2f} s")
        self._active.append((now + length, kind, undo))

    def _heal(self, now: float) -> None:
        over = [fault for fault in self._active if fault[0] <= now]
        self._active = [fault for fault in self._active if fault[0] > now]
        for _, kind, undo in over:
            undo()
            self._log(f"{time.monotonic() - self._start:8.3f} {kind} is over")
