"""The node's accounting: what must be back at nothing after any death."""

from __future__ import annotations

import os
import time

import penstock

from support.waiting import until

TRANSIENT = ("drafts", "draft_bytes", "retired", "retired_bytes", "leaving_bytes", "pins", "sessions")
MUTABLE = ("channels", "channel_bytes", "regions", "region_bytes")
MEMORY = ("tensors", "tensor_bytes", "block_bytes", "extents", "extent_bytes", *MUTABLE)


def books(store: penstock.Store, keys: tuple[str, ...] = TRANSIENT) -> dict[str, int]:
    df = store.stats()
    return {key: int(df[key]) for key in keys}


def await_books(store: penstock.Store, expected: dict[str, int], since: float, what: str) -> float:
    """Waits until the books are as `expected`. Returns the seconds since the death at `since`.

    The promise is 1 s (DESIGN.md, invariant 4). On a machine that has more to run than cores, the
    node may have to wait for its turn: 3 s then, and the time is printed.
    """
    until(lambda: books(store, tuple(expected)) == expected,
          f"{what}: the books say {books(store, tuple(expected))}, expected {expected}")
    seconds = time.monotonic() - since
    loaded = os.getloadavg()[0] > (os.cpu_count() or 1)
    print(f"{what}: accounting back after {1e3 * seconds:.0f} ms (load {os.getloadavg()[0]:.1f})")
    assert seconds < (3.0 if loaded else 1.0), f"{what}: accounting back only after {seconds:.2f} s"
    return seconds


def nothing_left(store: penstock.Store) -> None:
    """After all tensors are deleted nothing is held: no block, no extent, no pin, one session."""
    store.delete_prefix("")
    empty = dict.fromkeys(TRANSIENT + MEMORY, 0) | {"sessions": 1}
    until(lambda: books(store, tuple(empty)) == empty,
          f"an empty store: {books(store, tuple(empty))}")
