"""A private store node for this process: tests, notebooks, single-process programs."""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Mapping, Sequence

from penstock.errors import UnavailableError
from penstock.tls import tls_files

if TYPE_CHECKING:
    from penstock.store import Store

__all__ = ["LocalNode", "find_penstockd", "start_local"]

_START_SECONDS = 30.0
_STOP_SECONDS = 10.0


def start_local(
    memory: str | int = "1GiB",
    *,
    peers: Sequence[str] = (),
    tls: Mapping[str, Any] | None = None,
    spill: str | os.PathLike[str] | None = None,
    arguments: Sequence[str] = (),
) -> LocalNode:
    """Starts a penstockd of one's own; it ends with this process, or with ``node.close()``.

    memory: bytes, or a size as "512MiB" or "50%". peers: ``host:port`` of nodes of a store that this
    one is a window to, for hosts that have no node: it keeps copies only, what is put through it is
    kept by them (new names are spread over them), so nothing is lost with it. tls: as in connect().
    spill: a directory where it moves the coldest tensors when memory is full, and back when they are
    asked for; those that lie there outlive the node, and are served again by the next one.
    arguments: further flags of penstockd.
    Raises UnavailableError when it does not come up; the message has what it said.
    """
    flags = []
    if peers:
        flags += [f"--peers={','.join(peers)}", "--new_names=peers"]
    if spill is not None:
        flags.append(f"--spill_dir={os.fspath(spill)}")
    flags += [f"--tls_{key}={path}" for key, path in tls_files(tls).items()]
    return LocalNode(memory, [*flags, *arguments])


def find_penstockd() -> str:
    """The daemon: $PENSTOCKD, beside this package, in the build tree, or on PATH."""
    package = Path(__file__).resolve().parent
    candidates = [
        os.environ.get("PENSTOCKD"),
        package / "bin" / "penstockd",
        package.parent.parent / "bin" / "penstockd",  # build/python/penstock -> build/bin
        shutil.which("penstockd"),
    ]
    for candidate in candidates:
        if candidate and Path(candidate).is_file() and os.access(candidate, os.X_OK):
            return str(candidate)
    raise UnavailableError(
        "start_local: penstockd was not found beside the package or on PATH",
        code="UNAVAILABLE",
        hint="set PENSTOCKD to its path",
    )


class LocalNode:
    """A running private node. A context manager."""

    def __init__(self, memory: str | int, arguments: Sequence[str] = ()) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="penstock-", ignore_cleanup_errors=True)
        self._owner = os.getpid()
        self._log = open(os.path.join(self._directory.name, "penstockd.log"), "w+b")
        read_end, write_end = os.pipe()
        try:
            command = [
                find_penstockd(),
                f"--socket_dir={self.address}",
                f"--memory={memory}",
                "--grpc_port=-1",
                "--exit_with_parent",
                f"--ready_fd={write_end}",
                *arguments,
            ]
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                pass_fds=(write_end,),
                start_new_session=True,  # Ctrl-C in a terminal is for this program, not for the node
            )
        except BaseException:
            os.close(read_end)
            self._log.close()
            self._directory.cleanup()
            raise
        finally:
            os.close(write_end)
        try:
            self.ready = self._wait_ready(read_end)
        except BaseException:
            self.close()
            raise
        finally:
            os.close(read_end)

    @property
    def address(self) -> str:
        """Its socket directory, for connect() and $PENSTOCK_ADDRESS."""
        return self._directory.name

    @property
    def pid(self) -> int:
        """Process id of its warden."""
        return self._process.pid

    def connect(self, **options: Any) -> Store:
        """A Store of this node; options as penstock.connect()."""
        from penstock.store import connect

        return connect(self.address, **options)

    def log(self) -> str:
        """What the node has printed so far."""
        return Path(self._log.name).read_text(errors="replace")

    def close(self) -> None:
        """Stops the node; its tensors are gone. Open views stay valid. Idempotent."""
        if os.getpid() != self._owner or self._log.closed:
            return  # a forked child does not own it
        self._process.terminate()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()
        self._directory.cleanup()

    def __del__(self) -> None:
        if hasattr(self, "_process"):
            self.close()

    def __repr__(self) -> str:
        if self._log.closed:
            return "LocalNode(closed)"
        return f"LocalNode(address={self.address!r}, pid={self.pid})"

    def __enter__(self) -> LocalNode:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _wait_ready(self, read_end: int) -> dict[str, Any]:
        """The line that penstockd writes when it serves."""
        line = b""
        end = time.monotonic() + _START_SECONDS
        while not line.endswith(b"\n"):
            left = end - time.monotonic()
            if left <= 0 or not select.select([read_end], [], [], left)[0]:
                raise self._failed(f"did not serve within {_START_SECONDS:.0f} s")
            chunk = os.read(read_end, 4096)
            if not chunk:
                raise self._failed("ended at once")
            line += chunk
        ready: dict[str, Any] = json.loads(line)
        return ready

    def _failed(self, what: str) -> UnavailableError:
        said = self.log().strip() or "nothing"
        return UnavailableError(
            f"start_local: penstockd {what}; it said: {said}", code="UNAVAILABLE", hint=""
        )


if sys.platform != "linux":
    raise ImportError("penstock runs on Linux only")
