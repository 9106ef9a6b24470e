"""The ways of handing 1 GiB to another process, side by side: shared memory, pickle, gRPC and Penstock."""

from __future__ import annotations

from runner.node import Node
from runner.records import Ask, Case
from runner.rounds import measure
from runner.setting import Needs, Setting

NEEDS = Needs(programs=("put_bench", "grpc_bench"), python=True)

_COPY = Ask("c++", "copy 1 GiB", 1e3)
_HANDOVER = Ask("python", "put and get", 1e-6)

CASES = [
    Case("create and fill 1 GiB", "ms", Ask("c++", "create, fill, publish 1 GiB", 1e3), _COPY,
         "ms of the streaming copy", "ratio >= 0.95"),
    Case("create 1 GiB, nothing filled", "us", Ask("c++", "create, publish 1 GiB", 1e6),
         Ask("python", "create shared_memory", 1e-3), "us of shared_memory (no page filled)", "value <= 15000"),
    Case("attach 1 GiB", "us", Ask("c++", "get 1 GiB", 1e-3), Ask("python", "attach shared_memory", 1e-3),
         "us of shared_memory", "value <= 0.1"),
    Case("hand over 1 GiB, beside pickle", "ms", _HANDOVER, Ask("python", "pickle", 1e-6), "ms of pickle",
         "ratio >= 2"),
    Case("hand over 1 GiB, beside gRPC", "ms", _HANDOVER, Ask("grpc", "grpc 1 GiB", 1e3), "ms of gRPC",
         "ratio >= 2"),
]


def run(setting: Setting) -> list[dict]:
    with (
        Node(setting.build, "6GiB") as node,
        setting.program("put_bench", f"--address={node.address}") as cpp,
        setting.program("grpc_bench", f"--socket={node.address}/bench.sock") as grpc,
        setting.python("handover", node.address) as python,
    ):
        cpp.ask("create, fill, publish 1 GiB")  # what "attach" gets
        return measure("seeds", CASES, {"c++": cpp, "grpc": grpc, "python": python}, setting)
