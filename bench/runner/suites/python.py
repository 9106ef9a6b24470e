"""Gets from Python: the call, the first touch right after a put, many at once, and the start of a process."""

from __future__ import annotations

from runner.node import Node
from runner.records import Ask, Case
from runner.rounds import measure
from runner.setting import Needs, Setting

NEEDS = Needs(python=True, groups=("torch",))

_US = 1e-3
_FROMBUFFER = Ask("python", "np.frombuffer", _US)


def _call(name: str, measurement: str, goal: str) -> Case:
    return Case(name, "us", Ask("python", measurement, _US), _FROMBUFFER, "us of np.frombuffer", goal)


CASES = [
    *(_call(f"get().numpy(), {size}", f"get numpy {size}", "value <= 1.0") for size in ("4 KiB", "1 MiB", "1 GiB")),
    _call("the same, first and last element, 1 GiB just put", "get and touch 1 GiB", "value <= 10"),
    *(_call(f"get().torch(), {size}", f"get torch {size}", "value <= 3") for size in ("4 KiB", "1 MiB", "1 GiB")),
    Case("get_many, 1000 x 4 KiB", "ms", Ask("python", "get_many", 1e-6),
         Ask("python", "np.frombuffer many", 1e-6), "ms of np.frombuffer", "value <= 1.0"),
    Case("process start to first get, NumPy", "s", Ask("python", "start to first get", 1e-9),
         Ask("python", "start of NumPy", 1e-9), "s of import numpy", "value <= 0.3"),
]
STATE_DICTS = [
    Case("get_state_dict, 1000 tensors by view", "ms", Ask("state dicts", "state dict by view", 1e-6), goal="value <= 3"),
    Case("get_state_dict, 1000 tensors, torch", "ms", Ask("state dicts", "state dict as torch", 1e-6)),
    Case("put_state_dict, 1 GiB in 16 tensors", "GB/s", Ask("state dicts", "put_state_dict", 1e-9), Ask("state dicts", "copy", 1e-9),
         "GB/s of a copy", "ratio >= 0.9", better="higher"),
    Case("dcp.save, 512 MiB", "s", Ask("state dicts", "save", 1e-9), Ask("state dicts", "save files", 1e-9), "s with files on tmpfs", "ratio >= 2"),
    *(
        Case(f"dcp.async_save {kind}, 512 MiB, {what}", "s", Ask("state dicts", f"{until} {kind} here", 1e-9),
             Ask("state dicts", f"{until} {kind} files", 1e-9), "s with torch's stager and files on tmpfs", goal)
        for kind in ("THREAD", "PROCESS")
        for until, what, goal in (("blocked", "training waits", "ratio >= 1"), ("all", "until it is there", "ratio >= 2"))
    ),
    Case("dcp.load, 512 MiB", "s", Ask("state dicts", "load", 1e-9), Ask("state dicts", "load files", 1e-9), "s with files on tmpfs", "ratio >= 2"),
]


def run(setting: Setting) -> list[dict]:
    with Node(setting.build, "6GiB") as node, setting.python("get", node.address) as worker:
        records = measure("python", CASES, {"python": worker}, setting)
    with Node(setting.build, "8GiB") as node, setting.python("state_dicts", node.address) as worker:
        return records + measure("python", STATE_DICTS, {"state dicts": worker}, setting)
