"""DTensors of four real ranks (torchrun, gloo) through penstock.compat.torchstore."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import penstock
import pytest

pytest.importorskip("torch")

RANKS = Path(__file__).with_name("torchstore_ranks.py")


def test_four_ranks_put_and_get_dtensors(node: penstock.LocalNode, store: penstock.Store) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "4", str(RANKS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, env={**os.environ, "PENSTOCK_ADDRESS": node.address})
    assert done.returncode == 0, done.stderr[-6000:]
    assert [info.name for info in store.list(".penstock/")] == []
