"""The software RoCE device of the guests in which tests/rdma runs."""

from __future__ import annotations

from pathlib import Path

import pytest

_PACKETS = Path("/sys/class/infiniband/rxe0/ports/1/hw_counters/sent_pkts")

needs_verbs = pytest.mark.skipif(not _PACKETS.exists(), reason="no software RoCE device: tests/rdma/run has a guest with one")


def sent_packets() -> int:
    """Since the device was made; of at most 4 KiB each."""
    return int(_PACKETS.read_text())
