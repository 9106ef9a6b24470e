"""A client of one node of a cluster with very many names: scale.py ADDRESS NAMES SEED.

"fill BEGIN END" puts that part of the names. "begin" starts a thread that gets names at random and one that puts; "end" stops them;
in between and afterwards the other measurements tell what they have seen since "begin".
"""

from __future__ import annotations

import random
import sys
import threading
import time

import numpy as np

import penstock
from workers.answer import serve

_BATCH = 1000
_REPLICAS = 2
_PATIENCE_S = 120.0


def name_of(number: int) -> str:
    return f"scale/{number % 997:03}/{number:08}"


def value_of(number: int) -> np.ndarray:
    return np.full(16, number % 251, np.uint8)


class Client:
    def __init__(self, address: str, names: int, seed: int) -> None:
        self._store = penstock.connect(address, timeout=60)
        self._names, self._seed = names, seed
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._gets: list[float] = []
        self._puts: list[float] = []
        self._broken: list[str] = []

    def fill(self, begin: int, end: int) -> float:
        start = time.perf_counter()
        for at in range(begin, end, _BATCH):
            self._store.put_many({name_of(i): value_of(i) for i in range(at, min(at + _BATCH, end))}, replicas=_REPLICAS)
        return time.perf_counter() - start

    def begin(self) -> float:
        self._gets, self._puts = [], []
        self._stop.clear()
        self._threads = [threading.Thread(target=self._run, args=(what,)) for what in (self._get, self._put)]
        for thread in self._threads:
            thread.start()
        return 0.0

    def end(self) -> float:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        if self._broken:
            raise RuntimeError(self._broken[0])
        return float(len(self._gets) + len(self._puts))

    def quantile(self, of: str, part: float) -> float:
        seconds = sorted(self._gets if of == "gets" else self._puts)
        return seconds[min(int(len(seconds) * part), len(seconds) - 1)]

    def _run(self, what) -> None:
        try:
            what()
        except Exception as error:
            self._broken.append(f"{type(error).__name__}: {error}")

    # A call counts from its beginning to its answer, whatever was "not yet" in between.
    def _get(self) -> None:
        choice = random.Random(self._seed)
        while not self._stop.is_set():
            number = choice.randrange(self._names)
            start = time.perf_counter()
            view = self._patiently(lambda: self._store.get(name_of(number)))
            self._gets.append(time.perf_counter() - start)
            if int(view.numpy()[7]) != number % 251:
                raise RuntimeError(f"{name_of(number)} has a wrong value")
            view.release()

    def _put(self) -> None:
        number = 0
        while not self._stop.is_set():
            number += 1
            start = time.perf_counter()
            self._patiently(lambda: self._store.put(f"load/{self._seed}/{number % 1000}", value_of(number), replicas=_REPLICAS))
            self._puts.append(time.perf_counter() - start)
            time.sleep(0.001)

    def _patiently(self, call):
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            try:
                return call()
            except (penstock.UnavailableError, penstock.DeadlineError):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)


class _Measurements(dict):
    """Those with arguments, too: "fill BEGIN END"."""

    def __init__(self, client: Client) -> None:
        super().__init__(begin=client.begin, end=client.end)
        self._client = client
        for of in ("gets", "puts"):
            self[f"99.9 % of {of}"] = lambda of=of: client.quantile(of, 0.999)
            self[f"worst of {of}"] = lambda of=of: client.quantile(of, 1.0)

    def __missing__(self, name: str):
        words = name.split()
        if words[0] != "fill":
            raise KeyError(name)
        return lambda: self._client.fill(int(words[1]), int(words[2]))


def main() -> None:
    serve(_Measurements(Client(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))


if __name__ == "__main__":
    main()
