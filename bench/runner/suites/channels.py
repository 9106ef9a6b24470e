"""What does one step take from a writer to a reader in another process, beside a pipe and a queue, and on another node?"""

from __future__ import annotations

import socket
import sys

from runner.node import Node
from runner.peer_stores import CannotInstall, PeerStore, install
from runner.records import Ask, Case
from runner.rounds import measure
from runner.setting import Needs, Setting

NEEDS = Needs(programs=("channel_bench",), python=True)

_US = 1e-3  # a worker's nanoseconds in microseconds


def _case(name: str, worker: str, value: str, ceiling: str, ceiling_name: str, goal: str) -> Case:
    return Case(name, "us", Ask(worker, value, _US), Ask(worker, ceiling, _US), ceiling_name, goal)


CASES = [
    _case("C++ step, 64 B, a core each", "c++", "channel 64 B, a core each", "pipe 64 B, a core each", "us of a pipe",
          "value <= 2 and ratio >= 2"),
    _case("C++ step, 64 B", "c++", "channel 64 B", "pipe 64 B", "us of a pipe", ""),
    _case("C++ step, 28 KiB (84x84x4)", "c++", "channel 28 KiB", "pipe 28 KiB", "us of a pipe", "ratio >= 2"),
    _case("C++ step, 1 MiB", "c++", "channel 1 MiB", "pipe 1 MiB", "us of a pipe", "ratio >= 1"),
    Case("C++ write of a step, nobody waits", "ns", Ask("c++", "write 64 B")),
    _case("Python step, 64 B, a core each", "python", "channel 64 B, a core each", "pipe 64 B, a core each",
          "us of multiprocessing.Pipe", "value <= 10 and ratio >= 2"),
    _case("Python step, 64 B", "python", "channel 64 B", "pipe 64 B", "us of multiprocessing.Pipe",
          "value <= 10 and ratio >= 2"),
    _case("Python step, 64 B, beside a queue", "python", "channel 64 B", "queue 64 B", "us of multiprocessing.Queue",
          "ratio >= 5"),
    _case("Python step, 28 KiB (84x84x4)", "python", "channel 28 KiB", "pipe 28 KiB", "us of multiprocessing.Pipe",
          "ratio >= 2"),
    _case("Python step, 28 KiB, beside a queue", "python", "channel 28 KiB", "queue 28 KiB",
          "us of multiprocessing.Queue", "ratio >= 5"),
    Case("C++ region, held for reading", "ns", Ask("c++", "region read"), goal="value <= 1000"),
    Case("C++ region, held for writing", "ns", Ask("c++", "region write"), goal="value <= 1000"),
    _case("Python region, held for writing", "python", "region write", "multiprocessing.Lock",
          "us of multiprocessing.Lock", ""),
]

_BETWEEN_NODES = [
    _case(f"C++ step to a reader on another node, {size}", "c++", f"channel between nodes {size}", f"TCP {size}", "us of a TCP connection", "")
    for size in ("64 B", "28 KiB", "1 MiB")
]

_GYM = Ask("envs", "AsyncVectorEnv", 1e-3)
_ENVIRONMENTS = [
    Case(f"64 CartPole environments, {processes} processes", "k obs/s", Ask("envs", f"channels, {processes} processes", 1e-3),
         _GYM, "k obs/s of gymnasium's AsyncVectorEnv", "ratio >= 1", better="higher")
    for processes in (64, 4)
]


def run(setting: Setting) -> list[dict]:
    with (
        Node(setting.build, "512MiB") as node,
        setting.program("channel_bench", f"--address={node.address}") as cpp,
        setting.python("channel", node.address) as python,
    ):
        records = measure("channels", CASES, {"c++": cpp, "python": python}, setting)
    return records + _between_nodes(setting) + _environments(setting)


def _between_nodes(setting: Setting) -> list[dict]:
    """Two nodes of this host, over loopback: what the way through both of them adds to a connection."""
    with socket.socket() as one, socket.socket() as two:
        for each in (one, two):
            each.bind(("127.0.0.1", 0))
        ports = [each.getsockname()[1] for each in (one, two)]
    flags = [(f"--grpc_port={own}", "--data_port=0", f"--peers=127.0.0.1:{other}") for own, other in (ports, ports[::-1])]
    with (
        Node(setting.build, "512MiB", *flags[0]) as here,
        Node(setting.build, "512MiB", *flags[1]) as there,
        setting.program("channel_bench", f"--address={here.address}", f"--other={there.address}") as cpp,
    ):
        return measure("channels", _BETWEEN_NODES, {"c++": cpp}, setting)


def _environments(setting: Setting) -> list[dict]:
    """With a node of their own: 64 processes are much for others to be beside."""
    try:
        interpreter, _ = install(PeerStore("gymnasium", ("gymnasium==1.4.0",)))
    except CannotInstall as error:
        print(f"bench: channels: environments left out: {error}", file=sys.stderr)
        return []
    with (
        Node(setting.build, "512MiB") as node,
        setting.python("envs", node.address, interpreter=interpreter) as worker,
    ):
        return measure("channels", _ENVIRONMENTS, {"envs": worker}, setting)
