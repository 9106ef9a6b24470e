"""Real processes: a penstockd of its own for each test module, and the built `penstock` to talk to it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Iterator, Sequence

import pytest

ROOT = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ.get("TESTS_BUILD_DIR") or os.environ.get("PENSTOCK_BUILD") or ROOT / "build")
DEADLINE_S = 60


@dataclass
class Daemon:
    """A running penstockd. It ends with the test process, whatever happens to that."""

    process: subprocess.Popen
    socket_dir: Path
    ready: dict

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=DEADLINE_S)


@dataclass
class Cli:
    """Calls `penstock` on one store. `env` replaces the environment's PENSTOCK_* and NO_COLOR."""

    address: Path
    env: dict[str, str] = field(default_factory=dict)

    def popen(self, *words: object, **options) -> subprocess.Popen:
        env = {k: v for k, v in os.environ.items() if not k.startswith("PENSTOCK_") and k != "NO_COLOR"}
        env |= {"PENSTOCK_ADDRESS": str(self.address), "TERM": "xterm", "TZ": "UTC"} | self.env
        options.setdefault("stdin", subprocess.DEVNULL)
        return subprocess.Popen(
            [str(BUILD / "bin" / "penstock"), *(str(word) for word in words)],
            env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options,
        )

    def run(self, *words: object, code: int = 0, stdin: bytes | None = None) -> subprocess.CompletedProcess:
        options = {} if stdin is None else {"stdin": subprocess.PIPE}
        with self.popen(*words, **options) as process:
            out, err = process.communicate(stdin, timeout=DEADLINE_S)
        result = subprocess.CompletedProcess(process.args, process.returncode, out, err)
        assert result.returncode == code, f"{words}: exit {result.returncode}\n{out[-2000:]}\n{err.decode()}"
        return result

    def text(self, *words: object, **options) -> str:
        return self.run(*words, **options).stdout.decode()

    def json(self, *words: object, **options):
        return json.loads(self.run(*words, "--output", "json", **options).stdout)

    def error(self, code: int, *words: object, **options) -> str:
        result = self.run(*words, code=code, **options)
        assert result.stderr, f"{words}: exit {code} without a word"
        return result.stderr.decode()


def start_daemon(socket_dir: Path, *flags: str) -> Daemon:
    read_fd, write_fd = os.pipe()
    try:
        process = subprocess.Popen(
            [
                str(BUILD / "bin" / "penstockd"), f"--socket_dir={socket_dir}", "--grpc_port=0",
                "--exit_with_parent", f"--ready_fd={write_fd}", *flags,
            ],
            pass_fds=[write_fd], stdin=subprocess.DEVNULL,
            env={k: v for k, v in os.environ.items() if not k.startswith("PENSTOCK_")},
        )
    finally:
        os.close(write_fd)
    # The pipe ends when penstockd does, so this waits no longer than it lives.
    watchdog = threading.Timer(DEADLINE_S, process.kill)
    watchdog.start()
    with os.fdopen(read_fd) as pipe:
        line = pipe.readline()
    watchdog.cancel()
    if not line:
        raise RuntimeError(f"penstockd ended with {process.wait()} before it was ready")
    return Daemon(process, socket_dir, json.loads(line))


@pytest.fixture(scope="session")
def short_tmp() -> Iterator[Path]:
    """A folder whose path is short: that of a socket may have 107 bytes only."""
    path = Path(tempfile.mkdtemp(prefix="pst-", dir="/tmp"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="module")
def daemon(short_tmp: Path, request: pytest.FixtureRequest) -> Iterator[Daemon]:
    socket_dir = short_tmp / request.module.__name__.rsplit(".", 1)[-1][:40]
    daemon = start_daemon(socket_dir, "--memory=256MiB")
    yield daemon
    assert daemon.stop() == 0, "penstockd did not stop gracefully"


@pytest.fixture(scope="module")
def module_cli(daemon: Daemon) -> Cli:
    return Cli(daemon.socket_dir)


@pytest.fixture
def cli(module_cli: Cli) -> Iterator[Cli]:
    """The module's store, empty at the start of each test."""
    module_cli.run("rm", "--all")
    yield module_cli
