"""Eight processes of one host get a tensor of another one: what the link carries, and what each get costs."""

from __future__ import annotations

import sys

from runner.hosts import TwoHosts
from runner.iperf import Iperf
from runner.records import Ask, Case
from runner.rounds import measure
from runner.setting import Needs, Setting
from runner.two_nodes import two_nodes

NEEDS = Needs(python=True, groups=("hosts",))

CASES = [
    Case("first get, 1 GiB", "GB/s", Ask("two hosts", "first get", 1e-9), Ask("iperf3", "one stream", 1e-9),
         "GB/s of iperf3, one stream", better="higher"),
    Case("slowest of the 2nd to 8th", "us", Ask("two hosts", "later gets", 1e-3), goal="value <= 10"),
    Case("8 at once: the link carries", "x 1 GiB", Ask("two hosts", "link carries"), goal="value <= 1.05"),
    Case("first get, 4 KiB", "us", Ask("two hosts", "get 4 KiB", 1e-3)),
]


def run(setting: Setting) -> list[dict]:
    if why := TwoHosts.why_not():
        print(f"bench: fetch: not measured: {why}", file=sys.stderr)
        return []
    with TwoHosts() as hosts, two_nodes(hosts, setting, "4GiB") as worker:
        iperf = Iperf(hosts, 1)
        try:
            return measure("fetch", CASES, {"two hosts": worker, "iperf3": iperf}, setting)
        finally:
            iperf.close()
