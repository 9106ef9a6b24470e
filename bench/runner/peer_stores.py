"""The other stores: what they need, and a virtual environment for each under .venvs/."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from runner.build import ROOT

_NUMPY = "numpy==2.4.6"
_INSTALL_DEADLINE_S = 600
# redis-server of the system, or these packages unpacked beside the environment: no server is set up.
_REDIS_PACKAGES = ("redis-server", "redis-tools", "libjemalloc2", "liblua5.1-0", "liblzf1", "lua-bitop", "lua-cjson",
                   "libhiredis0.14")


class CannotInstall(RuntimeError):
    """Why a store is left out."""


@dataclass(frozen=True)
class PeerStore:
    name: str
    packages: tuple[str, ...] = ()


PEERS = (
    PeerStore("shared_memory"),
    PeerStore("safetensors", ("safetensors==0.8.0",)),
    PeerStore("lmdb", ("lmdb==3.0.0",)),
    PeerStore("redis", ("redis==8.1.0",)),
    PeerStore("ray", ("ray==2.60.0",)),
)


def install(peer: PeerStore) -> tuple[Path, dict[str, str]]:
    """The interpreter that runs the peer's worker, and its environment. CannotInstall says why not."""
    folder = ROOT / ".venvs" / f"bench-{peer.name}"
    wanted = "\n".join((_NUMPY, *peer.packages))
    done = folder / "installed.txt"
    if not done.is_file() or done.read_text() != wanted:
        shutil.rmtree(folder, ignore_errors=True)
        _run([sys.executable, "-m", "venv", folder])
        _run([folder / "bin" / "python", "-m", "pip", "install", "-q", "--disable-pip-version-check",
              *wanted.splitlines()])
        done.write_text(wanted)
    return folder / "bin" / "python", _redis_environment(folder) if peer.name == "redis" else {}


def _redis_environment(folder: Path) -> dict[str, str]:
    if system := shutil.which("redis-server"):
        return {"REDIS_SERVER": system}
    unpacked = folder / "redis"
    server = unpacked / "usr" / "bin" / "redis-server"
    if not server.exists():
        unpacked.mkdir(exist_ok=True)
        _run(["apt-get", "download", *_REDIS_PACKAGES], cwd=unpacked)
        for package in unpacked.glob("*.deb"):
            _run(["dpkg", "-x", package, unpacked])
    libraries = unpacked / "usr" / "lib" / f"{os.uname().machine}-linux-gnu"
    return {"REDIS_SERVER": str(server), "LD_LIBRARY_PATH": str(libraries)}


def _run(command: list[str | Path], cwd: Path | None = None) -> None:
    words = [str(word) for word in command]
    try:
        done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, stdin=subprocess.DEVNULL,
                              timeout=_INSTALL_DEADLINE_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CannotInstall(str(error)) from error
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:]
        raise CannotInstall(f"{' '.join(words[:4])} ...: {last[0] if last else done.returncode}")
