"""Nodes that are a cluster on etcd."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Callable, TypeVar

import penstock
from support.daemon import Cli, Daemon, start_daemon
from support.etcd import Etcd
from support.waiting import until

TTL_S = 2

T = TypeVar("T")


class Cluster:
    """Nodes of one name in one etcd, and a client of each; all are stopped at the end."""

    def __init__(self, folder: Path, etcd: Etcd, name: str) -> None:
        self.folder, self.etcd, self.name = folder, etcd, name
        self.daemons: list[Daemon] = []

    def start(self, *flags: str, **options) -> Daemon:
        where = self.folder / f"{self.name[-12:]}{len(self.daemons)}"
        daemon = start_daemon(where, "--memory=64MiB", "--data_port=0", self.etcd.flag, f"--cluster={self.name}", f"--member_ttl={TTL_S}s", *flags, **options)
        self.daemons.append(daemon)
        return daemon

    def start_all(self, count: int, *flags: str) -> list[penstock.Store]:
        daemons = [self.start(*flags) for _ in range(count)]
        agree(daemons, count)
        return [connect(daemon) for daemon in daemons]

    def stop(self) -> None:
        for daemon in self.daemons:
            if daemon.process.poll() is None:
                for pid in (daemon.process.pid, daemon.node_pid):  # a test may have stopped them
                    if pid is not None:
                        os.kill(pid, signal.SIGCONT)
                daemon.stop()


def info(daemon: Daemon) -> dict:
    return Cli(daemon.socket_dir).json("nodes")[0]


def up(daemon: Daemon) -> int:
    return [node["state"] for node in info(daemon)["cluster"].get("nodes", [])].count("up")


def agree(daemons: list[Daemon], count: int) -> None:
    until(lambda: all(up(daemon) == count and info(daemon)["cluster"]["serving"] for daemon in daemons), f"all see {count}", 30)


def connect(daemon: Daemon) -> penstock.Store:
    return penstock.connect(str(daemon.socket_dir), timeout=20)


def kill_host(daemon: Daemon) -> None:
    """The host is gone: warden, node and memory."""
    for pid in (daemon.process.pid, daemon.node_pid):
        os.kill(pid, signal.SIGKILL)
    daemon.process.wait()


def patiently(call: Callable[[], T], seconds: float = 20) -> T:
    """The call's result: what is "not yet" is asked again."""
    end = time.monotonic() + seconds
    while True:
        try:
            return call()
        except penstock.UnavailableError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)
