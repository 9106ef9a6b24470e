"""What can go wrong: each fault begins, and ends when its time is over. All are drawn from one seed.

A fault is a function of the cluster and the random numbers that begins it, and returns what was done and how to undo it; None
if it cannot be done now. A new one is a function with @_fault.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
from typing import Callable

from chaos.cluster import DATA_PORT, Cluster, Firewall

Undo = Callable[[], None]
Fault = Callable[[Cluster, random.Random], "tuple[str, Undo] | None"]

FAULTS: dict[str, Fault] = {}
OF_ETCD: set[str] = set()


def _fault(of_etcd: bool = False) -> Callable[[Fault], Fault]:
    def add(fault: Fault) -> Fault:
        FAULTS[fault.__name__] = fault
        if of_etcd:
            OF_ETCD.add(fault.__name__)
        return fault

    return add


def _send(pid: int | None, number: int) -> None:
    try:
        if pid is not None:
            os.kill(pid, number)
    except ProcessLookupError:
        pass


def _nothing() -> None:
    """It heals by itself."""


def _dropping(what: str, *rules: tuple[Firewall, str]) -> tuple[str, Undo]:
    for firewall, rule in rules:
        firewall.add(rule)

    def undo() -> None:
        for firewall, rule in rules:
            firewall.remove(rule)

    return what, undo


def _two(cluster: Cluster, rng: random.Random) -> tuple[int, int]:
    a, b = rng.sample(range(len(cluster.daemons)), 2)
    return a, b


# ---- processes ----


@_fault()
def node_killed(cluster: Cluster, rng: random.Random) -> tuple[str, Undo] | None:
    node = rng.randrange(len(cluster.daemons))
    _send(cluster.daemons[node].node_pid, signal.SIGKILL)
    return f"the process of node {node}", _nothing


@_fault()
def node_stopped(cluster: Cluster, rng: random.Random) -> tuple[str, Undo] | None:
    node = rng.randrange(len(cluster.daemons))
    pid = cluster.daemons[node].node_pid
    _send(pid, signal.SIGSTOP)
    return f"the process of node {node}", lambda: _send(pid, signal.SIGCONT)


@_fault()
def warden_stopped(cluster: Cluster, rng: random.Random) -> tuple[str, Undo] | None:
    node = rng.randrange(len(cluster.daemons))
    pid = cluster.daemons[node].process.pid
    _send(pid, signal.SIGSTOP)
    return f"of node {node}", lambda: _send(pid, signal.SIGCONT)


@_fault()
def client_killed(cluster: Cluster, rng: random.Random) -> tuple[str, Undo] | None:
    if not cluster.clients:
        return None
    number = rng.choice(sorted(cluster.clients))
    node = cluster.clients[number][1]
    cluster.end_client(number, signal.SIGKILL)
    return f"client {number}", lambda: _started(cluster, node)


def _started(cluster: Cluster, node: int) -> None:
    cluster.start_client(node)


@_fault()
def client_stopped(cluster: Cluster, rng: random.Random) -> tuple[str, Undo] | None:
    if not cluster.clients:
        return None
    number = rng.choice(sorted(cluster.clients))
    pid = cluster.clients[number][0].pid
    _send(pid, signal.SIGSTOP)
    return f"client {number}", lambda: _send(pid, signal.SIGCONT)


@_fault()
def memory_full(cluster: Cluster, rng: random.Random) -> tuple[str, Undo] | None:
    node = rng.randrange(len(cluster.daemons))
    number = cluster.start_client(node, fill=True)
    return f"of node {node}", lambda: _end(cluster, number)


def _end(cluster: Cluster, number: int) -> None:
    if number in cluster.clients:
        cluster.end_client(number, signal.SIGTERM)


# ---- the network ----


@_fault()
def link_down(cluster: Cluster, rng: random.Random) -> tuple[str, Undo] | None:
    host = rng.choice(cluster.hosts)
    host.cut()
    return f"of {host.address}", host.heal


@_fault()
def partition(cluster: Cluster, rng: random.Random) -> tuple[str, Undo] | None:
    a, b = _two(cluster, rng)
    return _dropping(f"between nodes {a} and {b}",
                     (cluster.firewalls[a], f"ip saddr {cluster.hosts[b].address}"),
                     (cluster.firewalls[b], f"ip saddr {cluster.hosts[a].address}"))


@_fault()
def one_way(cluster: Cluster, rng: random.Random) -> tuple[str, Undo] | None:
    a, b = _two(cluster, rng)
    return _dropping(f"node {a} does not hear node {b}", (cluster.firewalls[a], f"ip saddr {cluster.hosts[b].address}"))


@_fault()
def data_only(cluster: Cluster, rng: random.Random) -> tuple[str, Undo] | None:
    node = rng.randrange(len(cluster.daemons))
    return _dropping(f"the data port of node {node}", (cluster.firewalls[node], f"tcp dport {DATA_PORT}"))


@_fault()
def loss(cluster: Cluster, rng: random.Random) -> tuple[str, Undo] | None:
    node, percent = rng.randrange(len(cluster.daemons)), rng.choice((1, 5, 20))
    return _dropping(f"{percent} % of what comes to node {node}", (cluster.firewalls[node], f"numgen random mod 100 < {percent}"))


@_fault()
def slow_link(cluster: Cluster, rng: random.Random) -> tuple[str, Undo] | None:
    host, rate = rng.choice(cluster.hosts), rng.choice(("1mbit", "20mbit", "200mbit"))
    host.slow(rate)
    return f"{rate} for {host.address}", host.fast


# ---- etcd ----


@_fault(of_etcd=True)
def etcd_killed(cluster: Cluster, rng: random.Random) -> tuple[str, Undo] | None:
    member = rng.choice(cluster.members)
    member.kill()
    return f"member {member.index}", member.start


@_fault(of_etcd=True)
def etcd_stopped(cluster: Cluster, rng: random.Random) -> tuple[str, Undo] | None:
    member = rng.choice(cluster.members)
    pid = member.process.pid
    _send(pid, signal.SIGSTOP)
    return f"member {member.index}", lambda: _send(pid, signal.SIGCONT)


@_fault(of_etcd=True)
def etcd_link_down(cluster: Cluster, rng: random.Random) -> tuple[str, Undo] | None:
    host = rng.choice(cluster.members).host
    host.cut()
    return f"of {host.address}", host.heal


@_fault(of_etcd=True)
def etcd_only(cluster: Cluster, rng: random.Random) -> tuple[str, Undo] | None:
    """A node that reaches all other nodes, and no member."""
    node = rng.randrange(len(cluster.daemons))
    rules = [(cluster.firewalls[node], f"ip saddr {member.host.address}") for member in cluster.members]
    return _dropping(f"node {node} does not hear etcd", *rules)


@_fault(of_etcd=True)
def etcd_disk_full(cluster: Cluster, rng: random.Random) -> tuple[str, Undo] | None:
    member = rng.choice(cluster.members)
    filler = member.folder / "filler"
    if filler.exists():
        return None
    subprocess.run(["dd", "if=/dev/zero", f"of={filler}", "bs=1M"], check=False, capture_output=True)

    def undo() -> None:
        filler.unlink()
        if member.process.poll() is not None:  # it ends when it cannot write
            member.start()

    return f"of member {member.index}", undo
