"""What the numbers were measured on."""

from __future__ import annotations

import os
from pathlib import Path


def describe() -> str:
    """Processor, cores, page kind of shared memory and load, in one line."""
    load = os.getloadavg()[0]
    line = f"{_processor()}, {len(os.sched_getaffinity(0))} cores, {_pages()}, load average {load:.1f}"
    if load > 0.5:
        line += " (busy: ratios hold better than values)"
    return line


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return os.uname().machine


def _pages() -> str:
    try:
        reserved = int(Path("/proc/sys/vm/nr_hugepages").read_text())
        shmem = Path("/sys/kernel/mm/transparent_hugepage/shmem_enabled").read_text()
    except OSError:
        return "4 KiB pages"
    if reserved:
        return f"2 MiB pages ({reserved} reserved)"
    setting = shmem.partition("[")[2].partition("]")[0]
    if setting in ("always", "within_size", "advise", "force"):
        return f"transparent 2 MiB pages ({setting})"
    return f"4 KiB pages (shmem_enabled: {setting})"
