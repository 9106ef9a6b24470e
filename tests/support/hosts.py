"""Hosts on one machine: network namespaces whose cables lead to one switch. Needs root and iproute2.

    with Hosts(3) as hosts:
        start_daemon(..., "--host=" + hosts[0].address, prefix=hosts[0].prefix)
        hosts[1].slow("100mbit")
        hosts[1].cut()
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from typing import Iterator


@dataclass
class Host:
    name: str  # of the namespace
    switch: str  # the namespace of the switch
    port: str  # the switch's end of this host's cable
    address: str

    @property
    def prefix(self) -> tuple[str, ...]:
        """The words that run a command on it."""
        return ("ip", "netns", "exec", self.name)

    def cut(self) -> None:
        """Nothing gets through any more, and nobody is told."""
        _run("ip", "-n", self.switch, "link", "set", self.port, "down")

    def heal(self) -> None:
        _run("ip", "-n", self.switch, "link", "set", self.port, "up")

    def slow(self, rate: str) -> None:
        """Both ways, as tc writes it: 100mbit. A burst holds several packets of 64 KiB, as veth passes them: else tc cuts them into small ones, which costs the CPU."""
        shape = ("root", "tbf", "rate", rate, "burst", "256kb", "latency", "50ms")
        _run("tc", "-n", self.switch, "qdisc", "replace", "dev", self.port, *shape)
        _run("tc", "-n", self.name, "qdisc", "replace", "dev", "eth", *shape)

    def fast(self) -> None:
        for where, device in ((self.switch, self.port), (self.name, "eth")):
            subprocess.run(["tc", "-n", where, "qdisc", "delete", "dev", device, "root"], stderr=subprocess.DEVNULL, check=False)


class Hosts:
    def __init__(self, count: int) -> None:
        self._switch = f"penstock-{os.getpid()}-switch"
        self._hosts = [Host(f"penstock-{os.getpid()}-{i}", self._switch, f"p{i}", f"10.78.0.{i + 1}") for i in range(count)]

    @staticmethod
    def why_not() -> str | None:
        if os.geteuid() != 0:
            return "needs root, to make network namespaces"
        return None if shutil.which("ip") and shutil.which("tc") else "needs iproute2"

    def __getitem__(self, i: int) -> Host:
        return self._hosts[i]

    def __iter__(self) -> Iterator[Host]:
        return iter(self._hosts)

    def __enter__(self) -> Hosts:
        try:
            _run("ip", "netns", "add", self._switch)
            _run("ip", "-n", self._switch, "link", "add", "bridge", "type", "bridge")
            _run("ip", "-n", self._switch, "link", "set", "bridge", "up")
            for host in self._hosts:
                _run("ip", "netns", "add", host.name)
                _run("ip", "link", "add", "eth", "netns", host.name, "type", "veth", "peer", "name", host.port, "netns", self._switch)
                _run("ip", "-n", self._switch, "link", "set", host.port, "master", "bridge", "up")
                _run("ip", "-n", host.name, "address", "add", f"{host.address}/24", "dev", "eth")
                for device in ("lo", "eth"):
                    _run("ip", "-n", host.name, "link", "set", device, "up")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for name in (self._switch, *(host.name for host in self._hosts)):
            subprocess.run(["ip", "netns", "delete", name], stderr=subprocess.DEVNULL, check=False)


def _run(*words: str) -> None:
    subprocess.run(words, check=True)
