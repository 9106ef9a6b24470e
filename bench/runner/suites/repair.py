"""The second copies of tensors are made again when a host is lost, over links of 1 Gbit/s: how fast, and do clients' gets notice?"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from runner.build import ROOT, VENV_PYTHON
from runner.node import Node, clean_environment
from runner.records import Ask, Case
from runner.rounds import measure
from runner.setting import Needs, Setting
from runner.worker import Worker, WorkerError

sys.path.append(str(ROOT / "tests"))
from support.hosts import Host, Hosts  # noqa: E402: hosts and a switch, as the tests have them

NEEDS = Needs(python=True, groups=("hosts",))

RATE = "1gbit"
ETCD_PORT = 2379
FLAG = "--repair_bandwidth"
WAIT_S = 60

CASES = [
    Case("unthrottled repair", "MB/s", Ask("hosts", "repair", 1e-6), Ask("hosts", "fetch", 1e-6), "MB/s of gets over the same link",
         goal="ratio >= 0.8", better="higher"),
    Case("get 1 MiB meanwhile, default throttle", "ms", Ask("hosts", "get beside repair", 1e-6), Ask("hosts", "get", 1e-6), "ms without repair",
         goal="ratio >= 0.9"),
]


def run(setting: Setting) -> list[dict]:
    if why := Hosts.why_not():
        print(f"bench: repair: not measured: {why}", file=sys.stderr)
        return []
    with Hosts(5) as hosts:
        return measure("repair", CASES, {"hosts": Losses(setting, list(hosts))}, setting)


class Losses:
    """For each value a new cluster loses a host; its ceiling is of the same cluster, before that."""

    def __init__(self, setting: Setting, hosts: list[Host]) -> None:
        self._setting = setting
        self._hosts = hosts
        self._mib = 256 if setting.quick else 1024
        self._ceilings: dict[str, float] = {}
        said = subprocess.run([str(setting.build / "bin" / "penstockd"), "--help"], capture_output=True, text=True, check=False)
        self._unthrottled = (f"{FLAG}=unlimited",) if FLAG in said.stdout + said.stderr else ()

    def ask(self, measurement: str) -> float:
        if measurement == "repair":
            with self._cluster(*self._unthrottled) as (worker, lose):
                self._ceilings["fetch"] = worker.ask("fetch")
                return lose(None)
        if measurement == "get beside repair":
            with self._cluster() as (worker, lose):
                self._ceilings["get"] = worker.ask("get")
                return lose(lambda: worker.ask("get"))
        return self._ceilings[measurement]

    @contextmanager
    def _cluster(self, *flags: str) -> Iterator[tuple[Worker, Callable[[Callable[[], float] | None], float]]]:
        """Tensors on hosts 0 and 1, none on 2 and 3, a worker on 3. `lose` takes 1 away: bytes a second, or what its argument says meanwhile."""
        *hosts, last = self._hosts
        with ExitStack() as stack:
            etcd = stack.enter_context(_etcd(last))
            memory = f"{self._mib * 2}MiB"
            where = [(f"--host={h.address}", f"--data_net={h.address}", f"--advertise={h.address}", f"--etcd={etcd}", "--member_ttl=2s", *flags) for h in hosts]
            nodes = [stack.enter_context(Node(self._setting.build, memory, *where[i], host=hosts[i].prefix)) for i in (0, 1)]
            _await(lambda: _up(nodes[0]) == 2, "two nodes see each other")
            path = os.pathsep.join((str(self._setting.build / "python"), str(ROOT / "bench")))
            with Worker([VENV_PYTHON, "-m", "workers.repair", self._mib, nodes[0].address, nodes[0].address],
                        env=clean_environment(PYTHONPATH=path, PYTHONDONTWRITEBYTECODE="1")) as writer:
                writer.ask("put")
            nodes += [stack.enter_context(Node(self._setting.build, memory, *where[i], host=hosts[i].prefix)) for i in (2, 3)]
            _await(lambda: all(_up(node) == 4 for node in nodes), "four nodes see each other")
            for host in hosts:
                host.slow(RATE)
                stack.callback(host.fast)
            words = [*hosts[3].prefix, VENV_PYTHON, "-m", "workers.repair", self._mib, nodes[0].address, nodes[3].address]
            worker = stack.enter_context(Worker(words, env=clean_environment(PYTHONPATH=path, PYTHONDONTWRITEBYTECODE="1")))
            yield worker, lambda meanwhile: self._lose(nodes[1], meanwhile)

    def _lose(self, node: Node, meanwhile: Callable[[], float] | None) -> float:
        for pid in node.processes():
            os.kill(pid, 9)
        total = self._mib << 20
        before = _sent(self._hosts[0])
        _await(lambda: _sent(self._hosts[0]) - before > total * 0.05, "copies are being made")
        if meanwhile:
            return meanwhile()
        start, already = time.monotonic(), _sent(self._hosts[0])
        _await(lambda: _sent(self._hosts[0]) - before > total * 0.95, "all copies are made")
        return (_sent(self._hosts[0]) - already) / (time.monotonic() - start)


@contextmanager
def _etcd(host: Host) -> Iterator[str]:
    client, peer = (f"http://{host.address}:{port}" for port in (ETCD_PORT, ETCD_PORT + 1))
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="psb-etcd-"))
        process = subprocess.Popen(
            [*host.prefix, "etcd", "--name=m", f"--data-dir={folder}", f"--listen-client-urls={client}", f"--advertise-client-urls={client}",
             f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}", f"--initial-cluster=m={peer}"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
        stack.callback(process.wait)
        stack.callback(process.kill)
        yield f"{host.address}:{ETCD_PORT}"


def _up(node: Node) -> int:
    return str(node.ask("nodes")[0]["cluster"]).count("'up'")


def _sent(host: Host) -> int:
    done = subprocess.run([*host.prefix, "cat", "/sys/class/net/eth/statistics/tx_bytes"], check=True, capture_output=True)
    return int(done.stdout)


def _await(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + WAIT_S
    while not condition():
        if time.monotonic() > end:
            raise WorkerError(f"not within {WAIT_S} s: {what}")
        time.sleep(0.01)
