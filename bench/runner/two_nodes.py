"""Two nodes on two hosts that know each other, and a worker on the second one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from runner.build import ROOT, VENV_PYTHON
from runner.hosts import CLIENT, SERVER, TwoHosts
from runner.node import Node, clean_environment
from runner.setting import Setting
from runner.worker import Worker


@contextmanager
def two_nodes(hosts: TwoHosts, setting: Setting, memory: str) -> Iterator[Worker]:
    """A workers.two_hosts whose tensors are at home on hosts.server."""
    flags = [(f"--host={here}", f"--data_net={here}", f"--peers={there}:7411") for here, there in ((SERVER, CLIENT), (CLIENT, SERVER))]
    path = os.pathsep.join((str(setting.build / "python"), str(ROOT / "bench")))
    with Node(setting.build, memory, *flags[0], host=hosts.server) as home, Node(setting.build, memory, *flags[1], host=hosts.client) as reader:
        words = [*hosts.client, VENV_PYTHON, "-m", "workers.two_hosts", home.address, reader.address]
        with Worker(words, env=clean_environment(PYTHONPATH=path, PYTHONDONTWRITEBYTECODE="1")) as worker:
            yield worker
