"""What one TCP stream moves between two hosts: the ceiling of what crosses hosts without RDMA."""

from __future__ import annotations

import json
import subprocess

from runner.hosts import SERVER, TwoHosts
from runner.worker import WorkerError


class Iperf:
    """Answers with the bytes a second that one TCP stream moves from the server to the client."""

    def __init__(self, hosts: TwoHosts, seconds: float) -> None:
        self._server = subprocess.Popen([*hosts.server, "iperf3", "-s"], stdout=subprocess.DEVNULL)
        self._command = [*hosts.client, "iperf3", "-c", SERVER, "-R", "-J", "-t", str(seconds)]

    def ask(self, _: str) -> float:
        said = json.loads(subprocess.run(self._command, stdout=subprocess.PIPE, timeout=60).stdout)
        if "error" in said:
            raise WorkerError(f"iperf3: {said['error']}")
        return said["end"]["sum_received"]["bits_per_second"] / 8

    def close(self) -> None:
        self._server.terminate()
        self._server.wait()
