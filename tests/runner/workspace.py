"""Where things are, and the environment that tests run in."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import BinaryIO


class Workspace:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.build = root / "build"
        self.logs = self.build / "test-logs"
        self.python = root / ".venv" / "bin" / "python"
        self.logs.mkdir(parents=True, exist_ok=True)

    def log_path(self, group: str) -> Path:
        return self.logs / f"{group}.log"

    def open_log(self, group: str) -> BinaryIO:
        return open(self.log_path(group), "ab", buffering=0)

    def scratch(self) -> "Scratch":
        return Scratch()

    def environment(self, scratch: Path) -> dict[str, str]:
        """The caller's, without settings that would point tests at a store that runs already."""
        env = {k: v for k, v in os.environ.items() if not k.startswith("PENSTOCK_")}
        env["TMPDIR"] = env["XDG_RUNTIME_DIR"] = str(scratch)
        # Not PENSTOCK_...: that is how the daemon's flags are spelled.
        env["TESTS_BUILD_DIR"] = str(self.build)
        env["PATH"] = os.pathsep.join((str(self.build / "bin"), env.get("PATH", os.defpath)))
        env["PYTHONPATH"] = os.pathsep.join(
            str(path) for path in (self.build / "python", self.root / "tests")
        )
        env["PYTHONDONTWRITEBYTECODE"] = "1"
        return env


class Scratch:
    """A folder for temporary files and sockets; its path is short, as a socket's may have 107 bytes only."""

    def __enter__(self) -> Path:
        self._path = Path(tempfile.mkdtemp(prefix="pst-", dir="/tmp"))
        return self._path

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._path, ignore_errors=True)


def tail(path: Path, since: int = 0, lines: int = 40) -> str:
    """The last lines of what the file holds from byte `since` on."""
    try:
        text = path.read_bytes()[since:].decode("utf-8", "replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-lines:])
