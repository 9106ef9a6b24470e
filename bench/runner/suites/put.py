"""Puts from C++ and from Python, beside a copy of the same bytes into warm memory."""

from __future__ import annotations

from runner.node import Node
from runner.records import Ask, Case
from runner.rounds import measure
from runner.setting import Needs, Setting

NEEDS = Needs(programs=("put_bench",), python=True)

_US = 1e-3  # a worker's nanoseconds in microseconds


def _case(name: str, unit: str, value: Ask, ceiling: Ask, ceiling_name: str, goal: str) -> Case:
    return Case(name, unit, value, ceiling, ceiling_name, goal)


CASES = [
    _case("C++ put, 4 KiB", "us", Ask("c++", "put 4 KiB", _US), Ask("c++", "copy 4 KiB", _US), "us of the copy",
          "value <= 5"),
    _case("C++ put, 4 KiB, new name each", "us", Ask("c++", "put 4 KiB, new names", _US),
          Ask("c++", "copy 4 KiB", _US), "us of the copy", "value <= 5"),
    _case("C++ put_many, 1000 x 4 KiB", "ms", Ask("c++", "put_many 4096", 1e-6), Ask("c++", "copy many 4096", 1e-6),
          "ms of the copies", "value <= 1.0"),
    _case("C++ put_many, 1000 x 64 B", "ms", Ask("c++", "put_many 64", 1e-6), Ask("c++", "copy many 64", 1e-6),
          "ms of the copies", "value <= 1.0"),
    _case("C++ put, 1 GiB", "ms", Ask("c++", "put 1 GiB", 1e3), Ask("c++", "copy 1 GiB", 1e3),
          "ms of the streaming copy", "ratio >= 0.95"),
    _case("C++ create, fill, publish, 1 GiB", "ms", Ask("c++", "create, fill, publish 1 GiB", 1e3),
          Ask("c++", "copy 1 GiB", 1e3), "ms of the streaming copy", "ratio >= 0.95"),
    Case("C++ create, publish, 1 GiB (nothing copied)", "us", Ask("c++", "create, publish 1 GiB", 1e6)),
    _case("Python put, 4 KiB", "us", Ask("python", "put 4 KiB", _US), Ask("python", "np.copyto 4 KiB", _US),
          "us of np.copyto", "value <= 8"),
    _case("Python put_many, 1000 x 4 KiB", "ms", Ask("python", "put_many", 1e-6),
          Ask("python", "np.copyto many", 1e-6), "ms of np.copyto", "value <= 1.2"),
    _case("Python put, 1 GiB", "ms", Ask("python", "put 1 GiB", 1e-6), Ask("c++", "copy 1 GiB", 1e3),
          "ms of the streaming copy", "ratio >= 0.95"),
    _case("Python put, 1 GiB, beside NumPy", "ms", Ask("python", "put 1 GiB", 1e-6),
          Ask("python", "np.copyto 1 GiB", 1e-6), "ms of np.copyto", "ratio >= 1"),
]


def run(setting: Setting) -> list[dict]:
    with (
        Node(setting.build, "6GiB") as node,
        setting.program("put_bench", f"--address={node.address}") as cpp,
        setting.python("put", node.address) as python,
    ):
        return measure("put", CASES, {"c++": cpp, "python": python}, setting)
