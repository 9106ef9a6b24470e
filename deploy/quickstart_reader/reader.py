"""Maps every tensor under a prefix and compares each byte with a safetensors file: reader.cc in Python.

  reader.py PREFIX FILE --framework numpy|torch [--hold]

Prints one line of JSON: reader, tensors, bytes, mismatched_tensors, first_get_ns, get_ns (of the call and the
array). With --hold it keeps all arrays until its standard input ends.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any, Callable

import numpy as np
import penstock
import safetensors_file

ROUNDS = 20
Array = np.ndarray[Any, np.dtype[Any]]


def numpy_bytes(array: Array) -> Array:
    return array.reshape(-1).view(np.uint8)


def torch_bytes(tensor: Any) -> Array:
    import torch

    array: Array = tensor.reshape(-1).view(torch.uint8).numpy()
    return array


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("prefix")
    parser.add_argument("file", type=Path)
    parser.add_argument("--framework", choices=["numpy", "torch"], default="numpy")
    parser.add_argument("--hold", action="store_true")
    args = parser.parse_args()

    view_as: Callable[[Any], Any] = lambda view: view.numpy()
    as_bytes: Callable[[Any], np.ndarray] = numpy_bytes
    if args.framework == "torch":
        import torch  # noqa: F401  imported here so that no get pays for it

        view_as, as_bytes = (lambda view: view.torch()), torch_bytes

    entries = safetensors_file.read(args.file)
    store = penstock.connect(label=f"quickstart {args.framework}")
    arrays, mismatched, total, first_get_ns = [], 0, 0, 0
    for name, entry in entries.items():
        begin = time.perf_counter_ns()
        array = view_as(store.get(f"{args.prefix}/{name}"))
        first_get_ns = first_get_ns or time.perf_counter_ns() - begin
        same = tuple(array.shape) == entry.shape and np.array_equal(as_bytes(array), entry.bytes)
        mismatched += not same
        total += entry.bytes.size
        arrays.append(array)

    names = [f"{args.prefix}/{name}" for name in entries]
    times = []
    for _ in range(ROUNDS):
        for name in names:
            begin = time.perf_counter_ns()
            view_as(store.get(name))
            times.append(time.perf_counter_ns() - begin)
    told = {
        "reader": args.framework, "tensors": len(arrays), "bytes": total, "mismatched_tensors": mismatched,
        "first_get_ns": first_get_ns, "get_ns": round(statistics.median(times)) if times else 0,
    }
    print(json.dumps(told), flush=True)
    if args.hold:
        sys.stdin.read()
    return 1 if mismatched else 0


if __name__ == "__main__":
    sys.exit(main())
