"""How much memory processes have of the store's segments, as the kernel counts it (/proc/PID/smaps)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Iterable

# Segments that hold tensors; the catalog, rings and pin tables are something else.
_SEGMENT = re.compile(r"/memfd:penstock-(?:arena|extent)")
_HEADER = re.compile(r"^[0-9a-f]+-[0-9a-f]+ ")


@dataclass
class Usage:
    rss: int = 0  # bytes that are mapped and present: what `top` shows, once per process
    pss: int = 0  # the same, each page divided by the number of processes that map it

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(self.rss + other.rss, self.pss + other.pss)


def usage(pid: int) -> Usage:
    total, counting = Usage(), False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if _HEADER.match(line):
            counting = _SEGMENT.search(line) is not None
        elif counting and line.startswith("Rss:"):
            total.rss += int(line.split()[1]) * 1024
        elif counting and line.startswith("Pss:"):
            total.pss += int(line.split()[1]) * 1024
    return total


def usage_of(pids: Iterable[int]) -> Usage:
    return sum((usage(pid) for pid in pids), Usage())
