"""What a tensor costs in memory beyond its own bytes."""

from __future__ import annotations

import os
from pathlib import Path

from runner.node import Node
from runner.setting import Setting

NAME_BYTES = 20  # of "bench/names/00000042" (bench/workers/names.h)
_TENSOR_SEGMENTS = ("arena", "extent")
_BLOCK = 512  # unit of st_blocks


class Footprint:
    """Asked for "bytes N", fills an empty store with N tensors and answers bytes a tensor, without data and name.

    Counted: pages of the catalog and the other shared segments that hold no tensors, the private memory of the
    warden and the node, and what the allocator rounds blocks up by.
    """

    def __init__(self, setting: Setting) -> None:
        self._setting = setting

    def ask(self, measurement: str) -> float:
        count = int(measurement.removeprefix("bytes "))
        with (
            Node(self._setting.build, "1GiB") as node,
            self._setting.program("names_bench", f"--address={node.address}") as worker,
        ):
            before = overhead_bytes(node)
            worker.ask(f"fill {count}")
            return (overhead_bytes(node) - before) / count - NAME_BYTES


def overhead_bytes(node: Node) -> int:
    df = node.ask("df")
    rounding = int(df["block_bytes"]) - int(df["tensor_bytes"])
    processes = node.processes()
    return rounding + shared_bytes(processes[0]) + sum(private_bytes(pid) for pid in processes)


def shared_bytes(warden: int) -> int:
    """Pages of the memfds that the warden holds, those of tensors aside."""
    pages: dict[int, int] = {}
    for fd in Path(f"/proc/{warden}/fd").iterdir():
        try:
            target = os.readlink(fd)
            status = os.stat(fd)
        except FileNotFoundError:
            continue
        if target.startswith("/memfd:penstock-") and not any(kind in target for kind in _TENSOR_SEGMENTS):
            pages[status.st_ino] = status.st_blocks * _BLOCK
    return sum(pages.values())


def private_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) << 10
    raise RuntimeError(f"/proc/{pid}/status has no RssAnon")
