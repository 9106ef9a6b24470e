"""One client of a run: random operations on few names, each written down before it begins and after it has ended.

    python -m chaos.client '{"address": ..., "history": ..., "client": 3, "seed": 7, "names": 8, "deletes": false}'
    python -m chaos.client '{"address": ..., "fill": true, "client": 3}'      # fills the node until it is told to end

A line of the history is ["call", n, operation without its answer] or ["end", n, time, answer]; what has no end was not answered.
Times are CLOCK_MONOTONIC, one clock for all processes of the machine.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from typing import Any, TextIO

import numpy as np
import penstock

from support.history import ABSENT, AMBIGUOUS, CONFLICT, DELETE, DONE, GET, NOT_FOUND, NOTHING, PUT
from support.pattern import pattern, shows

SIZES = (8, 4096, 300_000, 1_500_000)  # in place, staged, and above what is staged
TIMEOUT_S = 3.0
PUTS_OF_A_CLIENT = 1_000_000
_MULTIPLIER = 0xD1B54A32D192ED03


def value_of(array: np.ndarray) -> str:
    """Which put made these bytes, by the bytes; `torn` if no put did."""
    if array.nbytes < 8:
        return f"torn: {array.nbytes} bytes"
    first = int(np.ascontiguousarray(array).view(np.uint64)[0])
    seed = (first - 1) * pow(_MULTIPLIER, -1, 1 << 64) % (1 << 64)
    return f"v{seed}" if shows(array, seed) else f"torn: begins as v{seed}"


PAUSE_S = 0.02  # after a call that failed: a client that hammers a node without a place makes histories that nobody can judge
REFUSED = "no place in its cluster"


def name_of(number: int) -> str:
    return f"chaos/{number}"


class Client:
    def __init__(self, client: int, seed: int, names: int, deletes: bool, history: TextIO, store: penstock.Store) -> None:
        self._client, self._history, self._store = client, history, store
        self._rng = random.Random(f"{seed}/{client}")
        self._names = [name_of(i) for i in range(names)]
        self._deletes = deletes
        self._count = 0

    def step(self) -> None:
        kinds = [self._put, self._get, self._stat, self._swap, self._put_if_absent, self._delete]
        self._rng.choices(kinds, [5, 8, 1, 2, 1, 2 if self._deletes else 0])[0](self._rng.choice(self._names))

    def put_first(self, nth: int, of: int) -> None:
        """Every `of`th name, so that each node of so many gets its share of new names."""
        for name in self._names[nth::of]:
            self._put(name)

    def read_all(self) -> bool:
        """Whether every name was answered."""
        return all([self._get(name) for name in self._names])

    def _put(self, name: str, condition: str | int | None = None) -> None:
        seed = self._client * PUTS_OF_A_CLIENT + self._count + 1
        options: dict[str, Any] = {} if condition is None else {"if_absent": True} if condition == ABSENT else {"if_version": condition}
        array = pattern(seed, self._rng.choice(SIZES))

        def call() -> dict:
            return {"outcome": DONE, "version": self._store.put(name, array, **options).version}

        self._record({"name": name, "kind": PUT, "value": f"v{seed}", "condition": condition}, call)

    def _put_if_absent(self, name: str) -> None:
        self._put(name, ABSENT)

    def _swap(self, name: str) -> None:
        version = self._stat(name).get("version")
        if version is not None:
            self._put(name, version)

    def _get(self, name: str) -> bool:
        def call() -> dict:
            with self._store.get(name) as view:
                return {"outcome": DONE, "value": value_of(view.numpy()), "version": view.version}

        return self._record({"name": name, "kind": GET}, call)["outcome"] != NOTHING

    def _stat(self, name: str) -> dict:
        return self._record({"name": name, "kind": GET}, lambda: {"outcome": DONE, "version": self._store.stat(name).version})

    def _delete(self, name: str) -> None:
        self._record({"name": name, "kind": DELETE}, lambda: {"outcome": DONE if self._store.delete(name) else NOT_FOUND})

    def _record(self, operation: dict, call: Any) -> dict:
        self._count += 1
        self._say(["call", self._count, operation | {"call": time.monotonic(), "client": str(self._client)}])
        answer = answer_of(operation, call)
        self._say(["end", self._count, time.monotonic(), answer])
        return answer

    def _say(self, line: list) -> None:
        self._history.write(json.dumps(line) + "\n")
        self._history.flush()


def answer_of(operation: dict, call: Any) -> dict:
    """What the history says of it. Anything but the errors that a client must be ready for is told as `unexpected`."""
    writes = operation["kind"] != GET
    try:
        return call()
    except (penstock.ConflictError, penstock.AlreadyExistsError) as error:
        if operation.get("condition") is not None:
            return {"outcome": CONFLICT}
        return {"outcome": AMBIGUOUS if writes else NOTHING, "unexpected": repr(error)}
    except penstock.NotFoundError:
        return {"outcome": NOT_FOUND if operation["kind"] != PUT else CONFLICT}
    except penstock.StoreFullError:
        return {"outcome": NOTHING, "error": "StoreFullError"}
    except (penstock.UnavailableError, penstock.DeadlineError) as error:
        time.sleep(PAUSE_S)
        refused = REFUSED in str(error)  # before anything was done
        return {"outcome": AMBIGUOUS if writes and not refused else NOTHING, "error": type(error).__name__}
    except Exception as error:
        return {"outcome": AMBIGUOUS if writes else NOTHING, "unexpected": repr(error)}


def connect(address: str, label: str, deadline_s: float = 60.0) -> penstock.Store:
    """Tries again while the node is away."""
    end = time.monotonic() + deadline_s
    while True:
        try:
            return penstock.connect(address, timeout=TIMEOUT_S, label=label)
        except (penstock.UnavailableError, penstock.DeadlineError):
            if time.monotonic() > end:
                raise
            time.sleep(0.1)


def fill(store: penstock.Store, client: int) -> None:
    """Takes all memory that it gets, and gives it back when it is told to end."""
    over = False

    def end(*_: object) -> None:
        nonlocal over
        over = True

    signal.signal(signal.SIGTERM, end)
    prefix, count = f"fill/{client}", 0
    for nbytes in (16 << 20, 1 << 20, 1 << 16):
        while not over:
            try:
                store.put(f"{prefix}/{count}", np.zeros(nbytes, np.uint8))
                count += 1
            except penstock.Error:
                break
    while not over:
        time.sleep(0.02)
    for _ in range(300):  # or the node stays full, and cannot even keep copies
        try:
            store.delete_prefix(f"{prefix}/")
            break
        except penstock.Error:
            time.sleep(0.1)


def main() -> None:
    options = json.loads(sys.argv[1])
    client = options["client"]
    with connect(options["address"], "chaos") as store:
        if options.get("fill"):
            return fill(store, client)
        with open(options["history"], "a") as history:
            one = Client(client, options["seed"], options["names"], options["deletes"], history, store)
            parent = os.getppid()
            while os.getppid() == parent:
                one.step()


if __name__ == "__main__":
    main()
