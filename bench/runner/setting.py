"""What a suite is given: where the programs are, how long it may take, and how to start workers."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path

from runner.build import ROOT, VENV_PYTHON
from runner.node import clean_environment
from runner.worker import Worker


@dataclass(frozen=True)
class Needs:
    """What is built for a suite. python: the extension, and .venv with NumPy; groups: of deploy/dependencies.txt."""

    programs: tuple[str, ...] = ()
    python: bool = False
    groups: tuple[str, ...] = ()


@dataclass(frozen=True)
class Setting:
    build: Path
    quick: bool
    started: float = field(default_factory=time.monotonic)  # one Setting a suite

    @property
    def rounds(self) -> int:
        return 3 if self.quick else 7

    @property
    def deadline(self) -> float:
        """time.monotonic() from which on no further round begins; a slow machine gets fewer rounds."""
        return self.started + (30 if self.quick else 600)

    def program(self, name: str, *arguments: object) -> Worker:
        return Worker([self.build / "bench" / name, *arguments], env=clean_environment())

    def python(self, module: str, *arguments: object, interpreter: Path = VENV_PYTHON, **env: str) -> Worker:
        """A worker of bench/workers, run by `interpreter`."""
        path = os.pathsep.join((str(self.build / "python"), str(ROOT / "bench")))
        return Worker(
            [interpreter, "-m", f"workers.{module}", *arguments],
            env=clean_environment(PYTHONPATH=path, PYTHONDONTWRITEBYTECODE="1", **env),
        )
