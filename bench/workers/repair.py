"""Measures what clients notice of repairs: python -m workers.repair MIB HOLDER HERE, the socket directories of nodes.

Puts with two copies at HOLDER; gets at HERE.
"""

from __future__ import annotations

import sys
from statistics import median
from time import perf_counter_ns

import numpy as np

import penstock
from workers.answer import serve

EACH = 32 << 20
MIB = 1 << 20


def main() -> None:
    count = int(sys.argv[1]) * MIB // EACH
    holder, here = (penstock.connect(address, timeout=120) for address in sys.argv[2:4])
    out, part = np.empty(EACH, np.uint8), np.empty(MIB, np.uint8)

    def put() -> float:
        for i in range(count):
            holder.put(f"bench/{i}", np.full(EACH, i, np.uint8), replicas=2)
        return count * EACH

    def fetch() -> float:
        """Bytes a second, of all of them one after the other; some are read from the other holder."""
        start = perf_counter_ns()
        for i in range(count):
            here.get(f"bench/{i}", out=out)
        return count * EACH / ((perf_counter_ns() - start) / 1e9)

    def get() -> float:
        """The median of a second's gets."""
        took = []
        end = perf_counter_ns() + 1e9
        while (start := perf_counter_ns()) < end:
            here.get(f"bench/{len(took) % count}", np.s_[:MIB], out=part)
            took.append(perf_counter_ns() - start)
        return median(took)

    serve({"put": put, "fetch": fetch, "get": get})


if __name__ == "__main__":
    main()
