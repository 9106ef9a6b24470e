"""The node of the quickstart: started once, found again by later runs, stopped by --stop."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from dataclasses import asdict, dataclass
from pathlib import Path

_READY_S = 60.0
_STOP_S = 15.0

OTHERS = "running before, started by somebody else"


@dataclass
class Started:
    pid: int  # of penstockd's warden
    start_time: str  # of that process, so that a reused pid is not mistaken for it
    program: str  # penstockd's path and times: a node of another build is started anew
    socket_dir: str
    memory: str


class Node:
    def __init__(self, build: Path) -> None:
        self._bin = build / "bin"
        self._state = build / "quickstart-node.json"
        self.log = build / "quickstart-node.log"

    def cli(self, *words: str, address: str | None = None) -> subprocess.CompletedProcess[str]:
        env = dict(os.environ) | ({"PENSTOCK_ADDRESS": address} if address else {})
        return subprocess.run(
            [self._bin / "penstock", *words], env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL
        )

    def running(self) -> Started | None:
        """The node that an earlier run started, if it still lives."""
        try:
            started = Started(**json.loads(self._state.read_text()))
        except (OSError, ValueError, TypeError):
            return None
        return started if _start_time(started.pid) == started.start_time else None

    def ensure(self, memory: str, address: str | None) -> tuple[str, str]:
        """A node that answers: its address, and how it came to be: started, found, or OTHERS."""
        mine = self.running()
        wanted = (self._program(), memory, address or (mine.socket_dir if mine else ""))
        if mine and (mine.program, mine.memory, mine.socket_dir) != wanted:
            self.stop()
            mine = None
        if mine:
            return mine.socket_dir, "found running"
        if (found := self._answering(address)) is not None:
            return found, OTHERS
        return self._start(memory, address).socket_dir, "started"

    def stop(self) -> bool:
        started = self.running()
        self._state.unlink(missing_ok=True)
        if started is None:
            return False
        os.kill(started.pid, signal.SIGTERM)
        end = time.monotonic() + _STOP_S
        while _start_time(started.pid) == started.start_time:
            if time.monotonic() > end:
                raise SystemExit(f"quickstart: penstockd (pid {started.pid}) does not end; see {self.log}")
            time.sleep(0.02)
        return True

    def _answering(self, address: str | None) -> str | None:
        asked = self.cli("nodes", "-o", "json", "--timeout", "500ms", address=address)
        return json.loads(asked.stdout)[0]["socket_dir"] if asked.returncode == 0 else None

    def _start(self, memory: str, address: str | None) -> Started:
        read_fd, write_fd = os.pipe()
        command: list[str | Path] = [self._bin / "penstockd", f"--memory={memory}", "--grpc_port=0", f"--ready_fd={write_fd}"]
        if address:
            command.append(f"--socket_dir={address}")
        with open(self.log, "wb") as log:
            process = subprocess.Popen(
                command, pass_fds=[write_fd], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        os.close(write_fd)
        with os.fdopen(read_fd) as pipe:
            line = pipe.readline()  # ends when penstockd is ready, or ends
        if not line:
            raise SystemExit(f"quickstart: penstockd did not start:\n{self.log.read_text()[-2000:]}")
        socket_dir = json.loads(line)["socket_dir"]
        started = Started(process.pid, _start_time(process.pid) or "", self._program(), socket_dir, memory)
        self._state.write_text(json.dumps(asdict(started)))
        return started

    def _program(self) -> str:
        files = [self._bin / "penstockd", *sorted(self._bin.glob("libpenstock_node.so*"))]
        return " ".join(f"{file} {file.stat().st_mtime_ns}" for file in files)


def _start_time(pid: int) -> str | None:
    """Field 22 of /proc/PID/stat; None when there is no such process, or only its remains."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]
