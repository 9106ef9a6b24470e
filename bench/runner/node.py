"""A penstockd of the run's own, in a folder of its own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

READY_DEADLINE_S = 60


class Node:
    """Serves from __enter__ to __exit__; it ends with this process, whatever happens to that."""

    def __init__(self, build: Path, memory: str, *flags: str, host: Sequence[str] = ()) -> None:
        """`host`: the words that run a command on another one (runner.hosts); `flags` then say where it listens."""
        self._build = build
        self._flags = [f"--memory={memory}", *(flags or ("--grpc_port=none",))]
        self._host = host

    def __enter__(self) -> "Node":
        self.address = Path(tempfile.mkdtemp(prefix="psb-", dir="/tmp"))  # short: a socket's path has 107 bytes
        read_fd, write_fd = os.pipe()
        self.process = subprocess.Popen(
            [
                *self._host, str(self._build / "bin" / "penstockd"), f"--socket_dir={self.address}", *self._flags,
                "--exit_with_parent", "--log_level=warning", f"--ready_fd={write_fd}",
            ],
            pass_fds=[write_fd], stdin=subprocess.DEVNULL, env=clean_environment(),
        )
        os.close(write_fd)
        watchdog = threading.Timer(READY_DEADLINE_S, self.process.kill)
        watchdog.start()
        with os.fdopen(read_fd) as pipe:
            ready = pipe.readline()
        watchdog.cancel()
        if not ready:
            raise RuntimeError(f"penstockd ended with {self.process.wait()} before it was ready")
        return self

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.address, ignore_errors=True)

    def ask(self, verb: str) -> dict:
        """What `penstock VERB --output json` says."""
        done = subprocess.run(
            [str(self._build / "bin" / "penstock"), verb, "--address", str(self.address), "--output", "json"],
            check=True, capture_output=True, stdin=subprocess.DEVNULL, env=clean_environment(),
        )
        return json.loads(done.stdout)

    def processes(self) -> list[int]:
        """The warden, and the node process below it."""
        warden = self.process.pid
        children = Path(f"/proc/{warden}/task/{warden}/children").read_text().split()
        return [warden, *(int(child) for child in children)]


def clean_environment(**more: str) -> dict[str, str]:
    """The caller's, without settings that belong to another store."""
    return {k: v for k, v in os.environ.items() if not k.startswith("PENSTOCK_")} | more
