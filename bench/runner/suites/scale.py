"""Very many names in a cluster of five nodes on this machine: a node joins, and one is lost, while clients get and put."""

from __future__ import annotations

import os
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from runner.etcd import Etcd
from runner.node import Node
from runner.records import Ask, Case, record
from runner.setting import Needs, Setting
from runner.worker import Worker

NEEDS = Needs(python=True, groups=("etcd",))

_NODES = 5
_SETTLED_S = 1800.0
_MS = 1e3


class _Cluster:
    def __init__(self, setting: Setting, etcd: Etcd, memory: str, names: int, stack: ExitStack) -> None:
        self._setting, self._etcd, self._memory, self._names, self._stack = setting, etcd, memory, names, stack
        self.nodes: list[Node] = []

    def start(self) -> Node:
        flags = ("--grpc_port=0", "--data_port=0", self._etcd.flag, "--cluster=bench", f"--host_label=h{len(self.nodes)}")
        node = self._stack.enter_context(Node(self._setting.build, self._memory, *flags))
        self.nodes.append(node)
        return node

    def client(self, node: Node, seed: int) -> Worker:
        return self._stack.enter_context(self._setting.python("scale", node.address, self._names, seed))

    def await_members(self, count: int) -> None:
        deadline = time.monotonic() + 60
        while True:
            clusters = [node.ask("nodes")[0]["cluster"] for node in self.nodes]
            if all(cluster["serving"] and sum(n["state"] == "up" for n in cluster["nodes"]) == count for cluster in clusters):
                return
            if time.monotonic() > deadline:
                raise RuntimeError(f"no cluster of {count}: {clusters}")
            time.sleep(0.1)

    def totals(self, *fields: str) -> dict[str, int]:
        answers = [node.ask("df") for node in self.nodes]
        return {field: sum(int(answer[field]) for answer in answers) for field in fields}

    def seconds_until_replicated(self) -> float:
        """Until no home misses a copy, twice in a row."""
        start, quiet = time.monotonic(), 0
        while quiet < 2:
            time.sleep(1)
            quiet = quiet + 1 if self.totals("under_replicated")["under_replicated"] == 0 else 0
            if time.monotonic() - start > _SETTLED_S:
                raise RuntimeError("copies are still missing")
        return time.monotonic() - start

    def kill(self, node: Node) -> None:
        """Its host is gone: warden, node and memory."""
        for pid in node.processes():
            os.kill(pid, signal.SIGKILL)
        self.nodes.remove(node)


def _loopback_bytes() -> int:
    line = next(line for line in Path("/proc/net/dev").read_text().splitlines() if line.strip().startswith("lo:"))
    return int(line.split(":")[1].split()[0])


def _under_load(clients: list[Worker], event) -> dict[str, float]:
    """What clients feel from before `event` until it has returned."""
    before = _loopback_bytes()
    for client in clients:
        client.ask("begin")
    start = time.monotonic()
    event()
    took = time.monotonic() - start
    calls = sum(client.ask("end") for client in clients)
    worst = {what: max(client.ask(what) for client in clients) for what in ("99.9 % of gets", "worst of gets", "99.9 % of puts", "worst of puts")}
    return worst | {"seconds": took, "calls": calls, "MiB": (_loopback_bytes() - before) / (1 << 20)}


def _records(what: str, felt: dict[str, float]) -> list[dict]:
    rows = [(f"{what}: until all is settled", "s", felt["seconds"]), (f"{what}: bytes on the loopback, those of the load included", "MiB", felt["MiB"])]
    rows += [(f"{what}: {name}", "ms", felt[name] * _MS) for name in ("99.9 % of gets", "worst of gets", "99.9 % of puts", "worst of puts")]
    return [record("scale", Case(name, unit, Ask("", "")), [value], []) for name, unit, value in rows]


def run(setting: Setting) -> list[dict]:
    names = int(os.environ.get("BENCH_SCALE_NAMES") or (50_000 if setting.quick else 10_000_000))
    memory = f"{max(256, names * 2 * 1000 // (1 << 20) // _NODES)}MiB"  # under 1 KB a name and copy
    with Etcd() as etcd, ExitStack() as stack:
        cluster = _Cluster(setting, etcd, memory, names, stack)
        for _ in range(_NODES):
            cluster.start()
        cluster.await_members(_NODES)
        clients = [cluster.client(node, i) for i, node in enumerate(cluster.nodes)]
        part = 20_000
        with ThreadPoolExecutor(_NODES) as pool:  # in parts: a worker's answer is awaited for minutes only
            start = time.monotonic()
            for done in pool.map(lambda i: [clients[i].ask(f"fill {at} {min(at + part, names)}") for at in range(i * part, names, _NODES * part)], range(_NODES)):
                print(f"bench: scale: filled in {sum(done):.0f} s", file=sys.stderr)
            filled = time.monotonic() - start
        held = cluster.totals("held", "under_replicated")
        if held["held"] < 2 * names:
            raise RuntimeError(f"{held} of {names} names")
        rows = [record("scale", Case(f"{names:,} names with two replicas each over {_NODES} nodes: put", "names/s", Ask("", ""), better="higher"), [names / filled], [])]
        rows += _records("quiet", _under_load(clients, lambda: time.sleep(10)))

        def join() -> None:
            cluster.start()
            cluster.await_members(_NODES + 1)
            cluster.seconds_until_replicated()

        rows += _records("a node joins", _under_load(clients, join))

        lost = cluster.nodes[0]

        def lose() -> None:
            cluster.kill(lost)
            cluster.await_members(_NODES)
            cluster.seconds_until_replicated()

        rows += _records("a node is lost", _under_load(clients[1:], lose))
        return rows
