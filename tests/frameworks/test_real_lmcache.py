"""penstock.lmcache under LMCache itself: its own checks, its benchmarks, its server."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any, Iterator

import pytest

PLUGIN = json.dumps({"type": "native_plugin", "module_path": "recorded_lmcache", "class_name": "recorded_native"})
ADDRESSED = """
chunk_size: 256
local_cpu: false
max_local_cpu_size: 0.1
remote_url: "plugin://penstock"
remote_serde: "naive"
remote_storage_plugins: ["penstock"]
extra_config:
  remote_storage_plugin.penstock.module_path: recorded_lmcache
  remote_storage_plugin.penstock.class_name: RecordedAdapter
"""


@pytest.fixture
def environment(store: Any, tmp_path: Path) -> dict[str, str]:
    config = tmp_path / "lmcache.yaml"
    config.write_text(ADDRESSED)
    return os.environ | {"LMCACHE_CONFIG_FILE": str(config), "LMCACHE_DISABLE_BANNER": "1", "LMCACHE_TRACK_USAGE": "false"}


def lmcache(environment: dict[str, str], *arguments: str) -> str:
    program = str(Path(sys.executable).with_name("lmcache"))
    done = subprocess.run([program, *arguments], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def basic_check(environment: dict[str, str], mode: str, *arguments: str) -> dict[str, str]:
    """The rows of the table of its own check: operation -> passed/all."""
    command = [sys.executable, "-m", "lmcache.v1.basic_check", "--mode", mode, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    rows = dict(re.findall(r"^\| ([A-Z][^|]*?) +\|(?:[^|]*\|){3} +(\d+/\d+) ", done.stdout, re.MULTILINE))
    assert rows, done.stdout + done.stderr
    return rows


@pytest.mark.parametrize("mode", ["test_remote", "test_storage_manager"])
def test_its_check_of_the_connector_in_process(environment, store, mode):
    rows = basic_check(environment, mode, "--num-keys", "5")
    assert rows == {"EXISTS (non-exist)": "5/5", "PUT": "5/5", "EXISTS (exist)": "5/5", "GET": "5/5"}
    infos = list(store.list("lmcache/"))
    assert len(infos) == 5 and not any(info.keep for info in infos)


def test_its_check_of_the_plugin(environment, store):
    rows = basic_check(environment, "test_l2_adapter", "--l2-adapter", PLUGIN)
    assert rows == {"LOOKUP (absent)": "5/5", "STORE": "5/5", "LOOKUP (exist)": "5/5", "LOAD": "5/5"}
    assert len(list(store.list("lmcache/"))) == 5


def test_its_benchmark_of_the_plugin_verifies_the_bytes(environment, store):
    out = lmcache(environment, "bench", "l2", "--l2-adapter", PLUGIN, "--no-skip-verify", "--num-keys", "16",
                  "--in-flight", "4", "--lookup-max-hit-rate", "0.5", "--format", "json")
    assert "All 64 keys data verified OK" in out and out.count("loaded=64/64") == 2 and "found=32/64" in out, out
    assert len(list(store.list("lmcache/"))) == 128


# --- the server ---


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    def __init__(self, environment: dict[str, str], log: Path) -> None:
        self.environment, self.log = environment, log
        self.port, self.http = free_port(), free_port()
        program = str(Path(sys.executable).with_name("lmcache"))
        self.process = subprocess.Popen(
            [program, "server", "--port", str(self.port), "--http-port", str(self.http), "--l1-size-gb", "0.25", "--chunk-size", "16",
             "--eviction-policy", "LRU", "--supported-transfer-mode", "auto", "--disable-observability", "--l2-adapter", PLUGIN],
            env=environment, stdout=open(log, "w"), stderr=subprocess.STDOUT)
        end = time.monotonic() + 90
        while not self.healthy():
            assert self.process.poll() is None and time.monotonic() < end, log.read_text()
            time.sleep(0.1)

    def healthy(self) -> bool:
        try:
            return b"healthy" in urllib.request.urlopen(f"http://127.0.0.1:{self.http}/healthcheck", timeout=2).read()
        except OSError:
            return False

    def bench(self, requests: int = 3) -> str:
        """What its client tells, the checksums among it."""
        return lmcache(self.environment, "bench", "server", "--mode", "cpu", "--rpc-url", f"tcp://localhost:{self.port}",
                       "--url", f"http://localhost:{self.http}", "--num-tokens", "64", "--kvcache-shape-spec", "(2,64,16,2,16):float16:4",
                       "--num-blocks", "64", "--interval", "0.05", "--start", "0", "--end", str(requests), "--format", "json")

    def clear(self) -> None:
        lmcache(self.environment, "kvcache", "clear", "--url", f"http://localhost:{self.http}")

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(") ", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.fixture
def server(environment: dict[str, str], tmp_path: Path) -> Iterator[Server]:
    server = Server(environment, tmp_path / "server.log")
    yield server
    server.process.terminate()
    server.process.wait(30)


def checksums(out: str) -> list[str]:
    return re.findall(r"warm\] CHECKSUM: (\w+)", out)


def test_the_server_gives_back_what_it_forgot(server, store):
    cold = server.bench()
    assert cold.count("CHECKSUM MATCH OK") == 3 and cold.count("cold] LOOKUP: 0/4 chunks hit") == 3
    assert len(list(store.list("lmcache/"))) == 12
    server.clear()
    again = server.bench()
    assert again.count("cold] LOOKUP: 4/4 chunks hit") == 3
    assert "(0 L1, 4 L2)" in server.log.read_text()  # they came from the store
    assert checksums(again) == checksums(cold) and len(checksums(cold)) == 3


def test_other_bytes_in_the_store_are_other_bytes_in_the_server(server, store):
    cold = server.bench(1)
    for info in list(store.list("lmcache/")):
        store.put(info.name, b"\1" * info.nbytes, keep=False)
    server.clear()
    assert checksums(server.bench(1)) != checksums(cold)


def test_an_idle_server_does_not_spin(server):
    server.bench(1)
    before = server.cpu_seconds()
    time.sleep(2)
    assert server.cpu_seconds() - before < 0.6  # a drain that leaves the eventfd readable takes a core: 2 s


def test_the_server_goes_on_without_the_store(server, store, node):
    cold = server.bench(1)
    node.close()
    again = server.bench(1)  # of its own memory
    assert checksums(again) == checksums(cold)
    server.clear()
    missed = server.bench(1)
    assert "cold] LOOKUP: 0/4 chunks hit" in missed and "CHECKSUM MATCH OK" in missed
    assert server.log.read_text().count("the store is away") == 1
