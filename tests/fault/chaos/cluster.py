"""The processes of a run: nodes and members of etcd, each on a host of its own, and clients on the nodes' hosts."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from support.daemon import BUILD, ROOT, Daemon, clean_environment, start_daemon
from support.hosts import Host, Hosts
from support.waiting import until

GRPC_PORT, DATA_PORT, ETCD_PORT = 7411, 7412, 2379


@dataclass
class Firewall:
    """What a host drops of what comes in; nobody is told. Rules of nft, each there as often as it was added."""

    host: Host
    _rules: list[str] = field(default_factory=list)

    def add(self, *rules: str) -> None:
        self._rules += rules
        self._load()

    def remove(self, *rules: str) -> None:
        for rule in rules:
            self._rules.remove(rule)
        self._load()

    def _load(self) -> None:
        chain = "\n".join(("type filter hook input priority 0; policy accept;", *(f"{rule} drop" for rule in self._rules)))
        table = f"table inet chaos\ndelete table inet chaos\ntable inet chaos {{\nchain input {{\n{chain}\n}}\n}}\n"
        subprocess.run([*self.host.prefix, "nft", "-f", "-"], input=table.encode(), check=True)


@dataclass
class Member:
    """A member of etcd. It ends with this process, so only the main thread may start it."""

    index: int
    host: Host
    folder: Path
    peers: str  # as --initial-cluster has it
    process: subprocess.Popen | None = None

    def start(self) -> None:
        if self.process is not None and self.process.poll() is None:
            return
        here = self.host.address
        self.process = subprocess.Popen(
            [*self.host.prefix, "setpriv", "--pdeathsig=KILL", "etcd", f"--name=e{self.index}", f"--data-dir={self.folder / 'data'}",
             f"--listen-client-urls=http://{here}:{ETCD_PORT}", f"--advertise-client-urls=http://{here}:{ETCD_PORT}",
             f"--listen-peer-urls=http://{here}:2380", f"--initial-advertise-peer-urls=http://{here}:2380",
             f"--initial-cluster={self.peers}", "--heartbeat-interval=100", "--election-timeout=1000"],
            stdout=subprocess.DEVNULL, stderr=(self.folder.parent / f"etcd{self.index}.log").open("ab"), stdin=subprocess.DEVNULL,
        )

    def kill(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait()

    def is_healthy(self) -> bool:
        asked = subprocess.run(
            [*self.host.prefix, "etcdctl", f"--endpoints=http://{self.host.address}:{ETCD_PORT}", "--command-timeout=2s", "endpoint", "health"],
            env=os.environ | {"ETCDCTL_API": "3"}, capture_output=True, check=False)
        return asked.returncode == 0


@dataclass
class Setup:
    nodes: int = 3
    members: int = 3
    with_etcd: bool = False  # the nodes use it; else they know each other by --peers
    memory: str = "128MiB"
    clients: int = 6
    names: int = 8
    deletes: bool = False  # and no put happens twice: the nodes use the directory
    seed: int = 1


class Cluster:
    """`with Cluster(...)`: everything serves. Every process is gone at the end, and so is what was mounted."""

    def __init__(self, setup: Setup, where: Path) -> None:
        self.setup, self.where = setup, where
        self.daemons: list[Daemon] = []
        self.members: list[Member] = []
        self.clients: dict[int, tuple[subprocess.Popen, int]] = {}  # by number: the process, and its node
        self._next_client = 1
        self._stack = ExitStack()

    def __enter__(self) -> Cluster:
        try:
            hosts = list(self._stack.enter_context(Hosts(self.setup.nodes + self.setup.members)))
            self.hosts, self._member_hosts = hosts[: self.setup.nodes], hosts[self.setup.nodes :]
            self.firewalls = [Firewall(host) for host in hosts]
            self._start_members()
            for i in range(self.setup.nodes):
                self.daemons.append(self._start_node(i))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for number in list(self.clients):
            self.end_client(number, signal.SIGKILL)
        for daemon in self.daemons:
            if daemon.process.poll() is None:
                daemon.process.kill()
                daemon.process.wait()
        for member in self.members:
            member.kill()
            subprocess.run(["umount", str(member.folder)], check=False, stderr=subprocess.DEVNULL)
        self._stack.close()

    def _start_members(self) -> None:
        peers = ",".join(f"e{i}=http://{host.address}:2380" for i, host in enumerate(self._member_hosts))
        for i, host in enumerate(self._member_hosts):
            folder = self.where / f"e{i}"
            folder.mkdir()
            # etcd sets 64 MiB aside for its log, and makes the next one before that is full.
            subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200m", "penstock-chaos", str(folder)], check=True)
            self.members.append(Member(i, host, folder, peers))
            self.members[-1].start()
        for member in self.members:
            until(member.is_healthy, f"etcd member {member.index} is healthy")

    def _start_node(self, i: int) -> Daemon:
        here = self.hosts[i].address
        if self.setup.with_etcd:
            others = "--etcd=" + ",".join(f"{member.host.address}:{ETCD_PORT}" for member in self.members)
        else:
            others = "--peers=" + ",".join(f"{host.address}:{GRPC_PORT}" for host in self.hosts if host.address != here)
        return start_daemon(self.where / f"n{i}", f"--host={here}", f"--data_net={here}", f"--grpc_port={GRPC_PORT}",
                            f"--data_port={DATA_PORT}", f"--memory={self.setup.memory}", "--log_level=error", others,
                            prefix=self.hosts[i].prefix)

    def history(self, client: int) -> Path:
        return self.where / f"history-{client}"

    def start_client(self, node: int, **more: object) -> int:
        number, self._next_client = self._next_client, self._next_client + 1
        options = {"address": str(self.daemons[node].socket_dir), "history": str(self.history(number)), "client": number,
                   "seed": self.setup.seed, "names": self.setup.names, "deletes": self.setup.deletes} | more
        path = os.pathsep.join((str(ROOT / "tests"), str(ROOT / "tests" / "fault"), str(BUILD / "python")))
        process = subprocess.Popen([*self.hosts[node].prefix, sys.executable, "-m", "chaos.client", json.dumps(options)],
                                   env=clean_environment(PYTHONPATH=path), stdin=subprocess.DEVNULL)
        self.clients[number] = (process, node)
        return number

    def end_client(self, number: int, how: int) -> None:
        process, _ = self.clients.pop(number)
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)
            process.send_signal(how)
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def why_not(members: int) -> str | None:
    """What is missing on this machine for a run."""
    if why := Hosts.why_not():
        return why
    needed = {"nft": "nftables"} | ({"etcd": "etcd-server", "etcdctl": "etcd-client"} if members else {})
    missing = [package for program, package in needed.items() if shutil.which(program) is None]
    return f"needs {' '.join(missing)}" if missing else None
