"""Builds what a suite runs, without fault points, as a user would."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
VENV_PYTHON = ROOT / ".venv" / "bin" / "python"
_ALWAYS = ("penstockd", "penstock", "penstock_node")


def build(programs: tuple[str, ...], wants_python: bool, groups: tuple[str, ...] = ()) -> Path:
    """The build folder, with `programs` in it. BENCH_BUILD_DIR names one that is ready, and builds nothing."""
    if ready := os.environ.get("BENCH_BUILD_DIR"):
        return Path(ready).resolve()
    dependencies = ["build", *(("core",) if wants_python else ()), *groups]
    _run([ROOT / "deploy" / "install_deps", *dependencies])
    targets = [*_ALWAYS, *programs, *(("penstock_python_package",) if wants_python else ())]
    _run([ROOT / "deploy" / "build", "-DPENSTOCK_BUILD_BENCH=ON", *targets])
    return ROOT / "build-release"


def _run(command: list[str | Path]) -> None:
    done = subprocess.run(
        [str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
        text=True,
    )
    if done.returncode:
        sys.exit(f"{done.stdout[-4000:]}\nbench: {command[0]} failed; nothing was measured")
