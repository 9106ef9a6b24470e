"""One host gives a tensor to eight others at once, over links of 1 Gbit/s: beside a transfer to one of them."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack

from runner.build import ROOT, VENV_PYTHON
from runner.node import Node, clean_environment
from runner.records import Ask, Case
from runner.rounds import measure
from runner.setting import Needs, Setting
from runner.worker import Worker

sys.path.append(str(ROOT / "tests"))
from support.hosts import Hosts  # noqa: E402: nine hosts and a switch, as the tests have them

NEEDS = Needs(python=True, groups=("hosts",))

READERS = 8
RATE = "1gbit"
MIB = 1 << 20


def cases(size: str) -> list[Case]:
    return [
        Case(f"{size} to {READERS} hosts", "ms", Ask("hosts", "all", 1e-6), Ask("hosts", "one", 1e-6), "ms to one host", goal="ratio >= 0.8"),
        Case(f"{size} to {READERS} hosts: the source sends", "copies", Ask("hosts", "source sends"), goal="value <= 1.2"),
    ]


def run(setting: Setting) -> list[dict]:
    if why := Hosts.why_not():
        print(f"bench: broadcast: not measured: {why}", file=sys.stderr)
        return []
    mib, size = (128, "128 MiB") if setting.quick else (1024, "1 GiB")
    with Hosts(READERS + 1) as hosts, ExitStack() as stack:
        nodes = []
        for i, host in enumerate(hosts):
            host.slow(RATE)
            peers = ",".join(f"{other.address}:7411" for other in hosts if other is not host)
            memory = f"{mib * (5 if i == 0 else 3) // 2}MiB"  # the source has the old one and the new one for a moment
            flags = (f"--host={host.address}", f"--data_net={host.address}", f"--peers={peers}")
            nodes.append(stack.enter_context(Node(setting.build, memory, *flags, host=host.prefix)))
        path = os.pathsep.join((str(setting.build / "python"), str(ROOT / "bench")))
        words = [*hosts[0].prefix, VENV_PYTHON, "-m", "workers.broadcast", mib * MIB, *(node.address for node in nodes)]
        worker = stack.enter_context(Worker(words, env=clean_environment(PYTHONPATH=path, PYTHONDONTWRITEBYTECODE="1")))
        return measure("broadcast", cases(size), {"hosts": worker}, setting)
