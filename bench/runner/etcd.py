"""An etcd of the run's own, with one member."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

READY_DEADLINE_S = 30


class Etcd:
    """`flag` is what penstockd is told; it is there from __enter__ to __exit__."""

    def __enter__(self) -> "Etcd":
        self._folder = tempfile.mkdtemp(prefix="psb-etcd-", dir="/tmp")
        client, peer = _free_port(), _free_port()
        self.flag = f"--etcd=127.0.0.1:{client}"
        self._process = subprocess.Popen(
            ["etcd", "--data-dir", self._folder, "--listen-client-urls", f"http://127.0.0.1:{client}", "--advertise-client-urls",
             f"http://127.0.0.1:{client}", "--listen-peer-urls", f"http://127.0.0.1:{peer}"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + READY_DEADLINE_S
        while not _is_healthy(client):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.__exit__()
                raise RuntimeError("etcd has not become ready")
            time.sleep(0.05)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


def _is_healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1) as answer:
            return b'"true"' in answer.read()
    except (urllib.error.URLError, OSError):
        return False
