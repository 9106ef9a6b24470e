"""Real etcd members of a test's own (Debian's etcd-server)."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

from support.nodes import free_ports
from support.waiting import freeze

needs_etcd_reason = None if shutil.which("etcd") and shutil.which("etcdctl") else "needs etcd-server and etcd-client (deploy/install_deps test)"


@dataclass
class Member:
    name: str
    words: list[str]
    client: str  # host:port
    log: Path
    process: subprocess.Popen | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(self.words, stdout=self.log.open("ab"), stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)

    def kill(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait()
            self.process = None

    def pause(self) -> None:
        freeze(self.process.pid)

    def resume(self) -> None:
        self.process.send_signal(signal.SIGCONT)


@dataclass
class Etcd:
    """`with Etcd(folder, 3) as etcd:` three members; `etcd.flag` is what penstockd is told."""

    folder: Path
    count: int = 1
    scheme: str = "http"
    flags: tuple[str, ...] = ()  # of every member
    ctl_flags: tuple[str, ...] = ()
    members: list[Member] = field(default_factory=list)

    def __post_init__(self) -> None:
        ports = free_ports(2 * self.count)
        clients, peers = ports[: self.count], ports[self.count :]
        cluster = ",".join(f"m{i}=http://127.0.0.1:{peers[i]}" for i in range(self.count))
        for i in range(self.count):
            client, peer = f"127.0.0.1:{clients[i]}", f"http://127.0.0.1:{peers[i]}"
            words = ["etcd", "--name", f"m{i}", "--data-dir", str(self.folder / f"m{i}"), "--listen-client-urls", f"{self.scheme}://{client}",
                     "--advertise-client-urls", f"{self.scheme}://{client}", "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
                     "--initial-cluster", cluster, "--heartbeat-interval=100", "--election-timeout=1000", *self.flags]
            self.members.append(Member(f"m{i}", words, client, self.folder / f"m{i}.log"))

    @property
    def flag(self) -> str:
        return "--etcd=" + ",".join(member.client for member in self.members)

    def ctl(self, *words: str, check: bool = True) -> str:
        endpoints = ",".join(f"{self.scheme}://{member.client}" for member in self.members)
        done = subprocess.run(["etcdctl", f"--endpoints={endpoints}", *self.ctl_flags, *words], env={"ETCDCTL_API": "3", "PATH": "/usr/bin:/bin"},
                              capture_output=True, text=True, check=False)
        assert not check or done.returncode == 0, f"etcdctl {words}: {done.stderr}"
        return done.stdout

    def leader(self) -> Member:
        for member in self.members:
            with urllib.request.urlopen(f"http://{member.client}/metrics", timeout=5) as answer:
                if b"\netcd_server_is_leader 1" in answer.read():
                    return member
        raise AssertionError("no member leads")

    def wait(self) -> None:
        deadline = time.monotonic() + 30
        while True:
            try:
                self.ctl("endpoint", "health")
                return
            except AssertionError:
                assert time.monotonic() < deadline, self.members[0].log.read_text()[-2000:]
                time.sleep(0.1)

    def __enter__(self) -> Etcd:
        self.folder.mkdir(parents=True, exist_ok=True)
        for member in self.members:
            member.start()
        self.wait()
        return self

    def __exit__(self, *_: object) -> None:
        for member in self.members:
            member.kill()
