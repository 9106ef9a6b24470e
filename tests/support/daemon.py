"""A penstockd of a test's own, and the built `penstock` to talk to it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ.get("TESTS_BUILD_DIR") or os.environ.get("PENSTOCK_BUILD") or ROOT / "build")
DEADLINE_S = 60


def clean_environment(**more: str) -> dict[str, str]:
    """The caller's, without settings that belong to another store."""
    return {k: v for k, v in os.environ.items() if not k.startswith("PENSTOCK_")} | more


@dataclass
class Daemon:
    """A running penstockd. It ends with the test process, whatever happens to that."""

    process: subprocess.Popen
    socket_dir: Path
    ready: dict

    @property
    def node_pid(self) -> int | None:
        """The node process below the warden; None while there is none."""
        for child in _children(self.process.pid):
            if _comm(child) == "penstock-node":
                return child
        return None

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
        env = clean_environment(PENSTOCK_ADDRESS=str(self.address), TERM="xterm", TZ="UTC")
        env.pop("NO_COLOR", None)
        options.setdefault("stdin", subprocess.DEVNULL)
        return subprocess.Popen(
            [str(BUILD / "bin" / "penstock"), *(str(word) for word in words)],
            env=env | self.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options,
        )

    def run(self, *words: object, code: int | None = 0, stdin: bytes | None = None) -> subprocess.CompletedProcess:
        options = {} if stdin is None else {"stdin": subprocess.PIPE}
        with self.popen(*words, **options) as process:
            out, err = process.communicate(stdin, timeout=DEADLINE_S)
        result = subprocess.CompletedProcess(process.args, process.returncode, out, err)
        assert code in (None, result.returncode), f"{words}: exit {result.returncode}\n{out[-2000:]}\n{err.decode()}"
        return result

    def text(self, *words: object, **options) -> str:
        return self.run(*words, **options).stdout.decode()

    def json(self, *words: object, **options):
        return json.loads(self.run(*words, "--output", "json", **options).stdout)

    def error(self, code: int, *words: object, **options) -> str:
        result = self.run(*words, code=code, **options)
        assert result.stderr, f"{words}: exit {code} without a word"
        return result.stderr.decode()


def start_daemon(
    socket_dir: Path, *flags: str, uid: int | None = None, cgroup: Path | None = None,
    program: Path = BUILD / "bin" / "penstockd", prefix: tuple[str, ...] = (), **env: str
) -> Daemon:
    """Returns once it serves. `uid`: run it as another user; `cgroup`: in that one (both for root only).

    `prefix`: a command that execs it, such as `ip netns exec NAME`.
    """
    read_fd, write_fd = os.pipe()

    def enter_cgroup() -> None:
        (cgroup / "cgroup.procs").write_text(str(os.getpid()))

    try:
        process = subprocess.Popen(
            [
                *prefix, str(program), f"--socket_dir={socket_dir}", "--grpc_port=0",
                "--exit_with_parent", f"--ready_fd={write_fd}", *flags,
            ],
            pass_fds=[write_fd], stdin=subprocess.DEVNULL, env=clean_environment(**env),
            user=uid, group=uid, extra_groups=None if uid is None else [],
            preexec_fn=None if cgroup is None else enter_cgroup,
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


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _comm(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""
