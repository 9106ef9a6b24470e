"""Entry points of the wheel: the daemon and the command line are native programs in penstock/bin."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def _exec(name: str) -> None:
    program = Path(__file__).resolve().parent / "bin" / name
    os.execv(program, [name, *sys.argv[1:]])


def penstock() -> None:
    """Runs the command line."""
    _exec("penstock")


def penstockd() -> None:
    """Runs the daemon."""
    _exec("penstockd")
