"""Several nodes that know each other by --peers."""

from __future__ import annotations

import atexit
import os
import socket
import time
from pathlib import Path

from support.daemon import Cli, Daemon, start_daemon


HAS_RDMA = any(Path("/sys/class/infiniband").glob("*"))


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def start_nodes(where: Path, count: int, *flags: str, **env: str) -> list[Daemon]:
    """Each with 256 MiB unless `flags` say otherwise, in a folder of its own below `where`."""
    if os.environ.get("NODES_BY_ETCD"):
        return _start_by_etcd(where, count, *flags, **env)
    ports = free_ports(count)
    return [
        start_daemon(where / f"n{i}", f"--grpc_port={port}", "--data_port=0", *(flags or ("--memory=256MiB",)),
                     "--peers=" + ",".join(f"127.0.0.1:{other}" for other in ports if other != port), **env)
        for i, port in enumerate(ports)
    ]


def _start_by_etcd(where: Path, count: int, *flags: str, **env: str) -> list[Daemon]:
    """The same nodes as a cluster on etcd: for running tests of --peers against the directory (NODES_BY_ETCD=1)."""
    from support.etcd import Etcd

    where.mkdir(parents=True, exist_ok=True)
    etcd = Etcd(where / "etcd")
    etcd.__enter__()
    atexit.register(etcd.__exit__, None, None, None)
    ports = free_ports(count)
    daemons = [
        start_daemon(where / f"n{i}", f"--grpc_port={port}", "--data_port=0", *(flags or ("--memory=256MiB",)), etcd.flag, "--member_ttl=3s", **env)
        for i, port in enumerate(ports)
    ]
    end = time.monotonic() + 20
    while any(str(Cli(daemon.socket_dir).json("nodes")[0]["cluster"]).count("'up'") != count for daemon in daemons) and time.monotonic() < end:
        time.sleep(0.05)
    return daemons


def flags_of_node(address: str, peer: str) -> tuple[str, ...]:
    """Of one that other machines reach at `address`, host:port; its data port is the next one."""
    host, port = address.rsplit(":", 1)
    return f"--host={host}", f"--data_net={host}", f"--grpc_port={port}", f"--data_port={int(port) + 1}", f"--peers={peer}"


def calls_of_nodes(daemon: Daemon) -> int:
    """That other nodes made here in all their sessions."""
    return sum(int(s["requests"]) for s in Cli(daemon.socket_dir).json("sessions") if s["label"] == "node")
