"""A trainer gives 128 MiB of weights to four workers, each on a host of its own: beside gloo's broadcast."""

from __future__ import annotations

import os
import shlex
import sys
from contextlib import ExitStack

from runner.build import ROOT, VENV_PYTHON
from runner.node import Node, clean_environment
from runner.records import Ask, Case
from runner.rounds import measure
from runner.setting import Needs, Setting
from runner.worker import Worker

sys.path.append(str(ROOT / "tests"))
from support.hosts import Hosts  # noqa: E402: five hosts and a switch, as the tests have them

NEEDS = Needs(python=True, groups=("hosts", "torch"))

WORKERS = 4

CASES = [
    Case("put_state_dict to the last of 4 workers, 128 MiB", "ms", Ask("trainer", "by store", 1e-6), Ask("trainer", "by gloo", 1e-6), "ms of gloo's broadcast"),
]


def run(setting: Setting) -> list[dict]:
    if why := Hosts.why_not():
        print(f"bench: weights: not measured: {why}", file=sys.stderr)
        return []
    with Hosts(WORKERS + 1) as hosts, ExitStack() as stack:
        nodes = []
        for host in hosts:
            peers = ",".join(f"{other.address}:7411" for other in hosts if other is not host)
            flags = (f"--host={host.address}", f"--data_net={host.address}", f"--peers={peers}")
            nodes.append(stack.enter_context(Node(setting.build, "1GiB", *flags, host=host.prefix)))
        path = os.pathsep.join((str(setting.build / "python"), str(ROOT / "bench")))
        workers = [shlex.join((*hosts[i].prefix, str(nodes[i].address))) for i in range(1, WORKERS + 1)]
        words = [*hosts[0].prefix, VENV_PYTHON, "-m", "workers.weights", nodes[0].address, hosts[0].address, *workers]
        worker = stack.enter_context(Worker(words, env=clean_environment(PYTHONPATH=path, PYTHONDONTWRITEBYTECODE="1")))
        return measure("weights", CASES, {"trainer": worker}, setting)
