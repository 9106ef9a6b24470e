"""The stream lane between two network namespaces, beside iperf3 with one stream and a bare socket round trip."""

from __future__ import annotations

import subprocess
import sys
from typing import Iterator
from contextlib import contextmanager

from runner.hosts import CLIENT, SERVER, TwoHosts
from runner.iperf import Iperf
from runner.node import clean_environment
from runner.records import Ask, Case
from runner.rounds import measure
from runner.setting import Needs, Setting
from runner.worker import Worker

NEEDS = Needs(programs=("lane_bench",), groups=("hosts",))

_GB = 1e-9
_IPERF = Ask("iperf3", "one stream", _GB)


def _rate(name: str, measurement: str, goal: str = "") -> Case:
    return Case(name, "GB/s", Ask("lane", measurement, _GB), _IPERF, "GB/s of iperf3, one stream", goal, better="higher")


CASES = [
    _rate("read, 64 MiB", "read 64 MiB", "ratio >= 1.3"),
    _rate("read, 1 GiB", "read 1 GiB", "ratio >= 1.3"),
    _rate("write, 64 MiB", "write 64 MiB", "ratio >= 1.3"),
    _rate("write, 1 GiB", "write 1 GiB", "ratio >= 1.3"),
    _rate("read by TLS, 64 MiB", "read by TLS 64 MiB", "ratio >= 0.6"),
    _rate("read by TLS, 1 GiB", "read by TLS 1 GiB", "ratio >= 0.6"),
    _rate("write by TLS, 64 MiB", "write by TLS 64 MiB", "ratio >= 0.6"),
    _rate("write by TLS, 1 GiB", "write by TLS 1 GiB", "ratio >= 0.6"),
    Case("read, 4 KiB", "us", Ask("lane", "read 4 KiB", 1e-3), Ask("lane", "bare round trip", 1e-3),
         "us of a bare socket round trip", "ratio >= 0.5"),
    Case("slowest of 64 readers", "means", Ask("lane", "slowest of 64 readers"), goal="value >= 0.7", better="higher"),
]

# For information: it is for who asks for it.
UCX_TCP_CASES = [_rate("read by ucx-tcp, 64 MiB", "read by ucx-tcp 64 MiB"), _rate("write by ucx-tcp, 64 MiB", "write by ucx-tcp 64 MiB")]


def _environment() -> dict[str, str]:
    return clean_environment() | {"UCX_LOG_FILE": "stderr"}  # stdout is for answers


@contextmanager
def _serving(hosts: TwoHosts, setting: Setting) -> Iterator[tuple[Worker, list[Case]]]:
    """A client of a server on the other host, and the cases that it can measure."""
    program = str(setting.build / "bench" / "lane_bench")
    server = subprocess.Popen([*hosts.server, program, f"--serve={SERVER}"], stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE, env=_environment())
    try:
        port, secure, bare, ucx = server.stdout.readline().split()
        words = [*hosts.client, program, f"--address={SERVER}:{int(port)}",
                 f"--secure={SERVER}:{int(secure)}", f"--bare={SERVER}:{int(bare)}", f"--ucx={ucx.decode()}", f"--own={CLIENT}"]
        with Worker(words, env=_environment()) as worker:
            yield worker, CASES if ucx == b"-" else CASES + UCX_TCP_CASES
    finally:
        server.stdin.close()
        server.wait(timeout=20)


def run(setting: Setting) -> list[dict]:
    if why := TwoHosts.why_not():
        print(f"bench: remote: not measured: {why}", file=sys.stderr)
        return []
    with TwoHosts() as hosts, _serving(hosts, setting) as (lane, cases):
        iperf = Iperf(hosts, 1)
        try:
            return measure("remote", cases, {"lane": lane, "iperf3": iperf}, setting)
        finally:
            iperf.close()
