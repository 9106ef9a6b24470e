"""Very many names: memory of each, lookups, and listing them all while others get; names of a cluster."""

from __future__ import annotations

import time

from runner.etcd import Etcd
from runner.footprint import Footprint
from runner.node import Node
from runner.records import Ask, Case
from runner.rounds import measure
from runner.setting import Needs, Setting

NEEDS = Needs(programs=("names_bench", "cluster_bench"), groups=("etcd",))

_US, _MS = 1e6, 1e3  # a worker's seconds


def _put(size: str, count: int) -> list[Case]:
    return [
        Case(f"put with a replica, {size}", "ms", Ask("cluster", f"put {count}", _MS), Ask("cluster", f"wire and two calls {count}", _MS),
             "ms of the wire and two gRPC calls", "ratio >= 0.667"),
        Case(f"put without, {size}", "ms", Ask("cluster", f"put alone {count}", _MS)),
    ]


CLUSTER_CASES = [
    Case("lookup by the home, another node, p50", "us", Ask("cluster", "lookup", _US), Ask("cluster", "call", _US), "us of a gRPC call",
         "ratio >= 0.77"),
    *_put("4 KiB", 4096), *_put("1 MiB", 1 << 20), *_put("64 MiB", 64 << 20),
]


def _cases(few: int, many: int) -> list[Case]:
    return [
        Case(f"memory of a tensor, {many:,} of them, beyond data and name", "bytes", Ask("footprint", f"bytes {many}"),
             goal="value <= 200"),
        Case(f"get among {few:,}", "ns", Ask("few", f"get among {few}"), goal="value <= 500"),
        Case(f"get among {many:,}", "ns", Ask("many", f"get among {many}"), Ask("few", f"get among {few}"),
             f"ns among {few:,}", "value <= 500"),
        Case(f"list of {many:,} by prefix", "ns a name", Ask("many", "list")),
        Case("get while that runs, 99.9 %", "ns", Ask("many", "99.9 % get while listing"),
             Ask("many", "99.9 % get"), "ns without it", "ratio >= 0.5"),
        Case("get while that runs, the worst", "us", Ask("many", "worst get while listing", 1e-3),
             Ask("many", "worst get", 1e-3), "us without it"),
    ]


def run(setting: Setting) -> list[dict]:
    few, many = 10_000, 100_000 if setting.quick else 1_000_000
    with (
        Node(setting.build, "1GiB") as small,
        Node(setting.build, "2GiB") as large,
        setting.program("names_bench", f"--address={small.address}") as few_worker,
        setting.program("names_bench", f"--address={large.address}") as many_worker,
    ):
        few_worker.ask(f"fill {few}")
        many_worker.ask(f"fill {many}")
        workers = {"few": few_worker, "many": many_worker, "footprint": Footprint(setting)}
        records = measure("names", _cases(few, many), workers, setting)
    return records + _cluster(setting)


def _cluster(setting: Setting) -> list[dict]:
    with Etcd() as etcd:
        flags = ("--grpc_port=0", "--data_port=0", etcd.flag, "--cluster=bench")
        with (
            Node(setting.build, "1GiB", *flags, "--host_label=a") as here,
            Node(setting.build, "1GiB", *flags, "--host_label=b") as there,
        ):
            _await_members([here, there])
            peer = there.ask("nodes")[0]["tcp_address"]
            with setting.program("cluster_bench", f"--address={here.address}", f"--peer={peer}") as worker:
                return measure("names", CLUSTER_CASES, {"cluster": worker}, setting)


def _await_members(nodes: list[Node]) -> None:
    deadline = time.monotonic() + 30
    while True:
        clusters = [node.ask("nodes")[0]["cluster"] for node in nodes]
        if all(cluster["serving"] and len(cluster["nodes"]) == len(nodes) for cluster in clusters):
            return
        if time.monotonic() > deadline:
            raise RuntimeError(f"the nodes have not become a cluster: {clusters}")
        time.sleep(0.1)
