"""The rdma lane beside ucx_perftest, on this machine's RDMA device, or in a guest with a software one (function, not speed)."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator

from runner.build import ROOT, VENV_PYTHON
from runner.node import clean_environment
from runner.records import Ask, Case
from runner.rounds import measure
from runner.setting import Needs, Setting
from runner.worker import Worker, WorkerError

NEEDS = Needs(programs=("rdma_bench",), groups=("rdma", "ucx-tools"), python=True)

_MB = 1e-6
_MARK = "RECORDS "
# As tests/rdma/run: what software RoCE needs of UCX 1.13.
_SOFT_ROCE = {"UCX_NET_DEVICES": "rxe0:1", "UCX_TLS": "rc_v,self", "UCX_UD_VERBS_ETH_DGID_CHECK": "n", "UCX_RC_TIMEOUT": "50ms",
              "UCX_RC_RETRY_COUNT": "3"}


def _rate(size: str) -> Case:
    return Case(f"read, {size}", "MB/s", Ask("lane", f"read {size}", _MB), Ask("perftest", size, _MB),
                "MB/s of ucx_perftest, ucp_get", "ratio >= 0.9", better="higher")


CASES = [
    _rate("1 MiB"),
    _rate("64 MiB"),
    Case("target's CPU in reads", "ms a s", Ask("lane", "target's CPU in reads", 1e3), Ask("lane", "target's CPU asleep", 1e3),
         "ms a s when nobody reads", "ratio >= 0.8"),
]


class Perftest:
    """Answers with the bytes a second of ucx_perftest's ucp_get."""

    _ITERATIONS = {"1 MiB": 64, "64 MiB": 4}

    def ask(self, size: str) -> float:
        nbytes = int(size.split()[0]) << 20
        words = ["ucx_perftest", "-f", "-t", "ucp_get", "-s", str(nbytes), "-n", str(self._ITERATIONS[size]), "-w", "1"]
        with subprocess.Popen(words[:1], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
            try:
                for _ in range(50):
                    client = subprocess.run([words[0], "127.0.0.1", *words[1:]], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                            timeout=120)
                    if "refused" not in client.stdout:
                        break
            finally:
                server.kill()
        # iterations, typical and average latency, overall; bandwidth in MiB/s, average and overall; messages a second
        numbers = re.findall(r"^\s*\d+(?:\s+(?:[0-9.]+|inf)){5,}.*$", client.stdout, re.MULTILINE)
        if client.returncode or not numbers:
            raise WorkerError(f"ucx_perftest: {client.stdout[-300:]}")
        return float(numbers[-1].split()[-3]) * (1 << 20)


@contextmanager
def _lane(setting: Setting) -> Iterator[Worker]:
    program = str(setting.build / "bench" / "rdma_bench")
    server = subprocess.Popen([program, "--serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=_environment(), text=True)
    try:
        pid, address, key, peer = server.stdout.readline().split()
        with Worker([program, f"--pid={pid}", f"--block={address}", f"--key={key}", f"--peer={peer}"], env=_environment()) as worker:
            yield worker
    finally:
        server.stdin.close()
        server.wait(timeout=20)


def _environment() -> dict[str, str]:
    return clean_environment(**{name: value for name, value in os.environ.items() if name.startswith("UCX_")})


def measure_here(setting: Setting) -> list[dict]:
    with _lane(setting) as lane:
        return measure("rdma", CASES, {"lane": lane, "perftest": Perftest()}, setting)


def _measure_in_guest(setting: Setting) -> list[dict]:
    script = ("import json, sys; from pathlib import Path; from runner.setting import Setting; from runner.suites import rdma; "
              f"print('{_MARK}' + json.dumps(rdma.measure_here(Setting(Path({str(setting.build)!r}), {setting.quick}))))")
    command = f"PYTHONPATH={shlex.quote(str(ROOT / 'bench'))} {VENV_PYTHON.relative_to(ROOT)} -c {shlex.quote(script)}"
    guest = subprocess.run([ROOT / "tests" / "rdma" / "guest", setting.build / "rdma-guest", command], stdout=subprocess.PIPE,
                           stderr=subprocess.STDOUT, text=True, env=os.environ | _SOFT_ROCE | {"GUEST_SECONDS": "600"})
    for line in guest.stdout.splitlines():
        if line.startswith("bench:"):
            print(line, file=sys.stderr)
        if line.startswith(_MARK):
            return json.loads(line[len(_MARK):])
    print(guest.stdout[-2000:], file=sys.stderr)
    raise RuntimeError(f"the guest ended with {guest.returncode}")


def run(setting: Setting) -> list[dict]:
    if not (setting.build / "bench" / "rdma_bench").exists() or shutil.which("ucx_perftest") is None:
        print("bench: rdma: not measured: needs a build with UCX, and ucx_perftest (ucx-utils)", file=sys.stderr)
        return []
    if any(Path("/sys/class/infiniband").glob("*")):
        return measure_here(setting)
    print("no RDMA device here: in a guest with a software one, where ratios say something and values do not", flush=True)
    return _measure_in_guest(setting)
