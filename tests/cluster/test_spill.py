"""Tensors that have no room in memory go to disk and come back: limits, full disks, bad files, restarts."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import urllib.request
from pathlib import Path
from typing import Callable, Iterator

import numpy as np
import pytest

import penstock
from support.daemon import BUILD, Cli, Daemon, clean_environment, start_daemon
from support.pattern import pattern, shows
from support.waiting import until

MIB = 1 << 20
NBYTES = 2 * MIB
COUNT = 192  # three times the memory

Start = Callable[..., Daemon]


@pytest.fixture
def start(short_tmp: Path, request: pytest.FixtureRequest) -> Iterator[Start]:
    """Starts nodes of 128 MiB with a spill directory; those that still run are stopped."""
    started: list[Daemon] = []

    def node(spill: Path, *flags: str, where: str = "n") -> Daemon:
        folder = short_tmp / f"spill-{abs(hash(request.node.name)) % 10**6}-{where}"
        started.append(start_daemon(folder, "--memory=128MiB", f"--spill_dir={spill}", *flags))
        return started[-1]

    yield node
    for daemon in started:
        assert daemon.stop() == 0


def connect(daemon: Daemon) -> penstock.Store:
    return penstock.connect(str(daemon.socket_dir), timeout=60)


def fill(store: penstock.Store, count: int = COUNT) -> None:
    for i in range(count):
        store.put(f"t/{i}", pattern(i, NBYTES))


def check(store: penstock.Store, names: range | list[int] = range(COUNT)) -> None:
    for i in names:
        assert shows(store.get(f"t/{i}").numpy(), i), f"t/{i}"


def spilled(store: penstock.Store) -> list[int]:
    return [int(info.name[2:]) for info in store.list("t/") if info.spilled]


def test_three_times_the_memory_is_read_back(start: Start, tmp_path: Path) -> None:
    daemon = start(tmp_path / "spill", "--http_port=0")
    cli = Cli(daemon.socket_dir)
    with connect(daemon) as store:
        fill(store)
        df = cli.json("df")
        assert df["tensors"] == COUNT and df["tensor_bytes"] == COUNT * NBYTES and df["spill_limit_bytes"] > 0
        assert df["spilled"] == len(spilled(store)) == df["spilled_bytes"] // NBYTES and df["spills"] >= df["spilled"] > COUNT // 2
        assert len(list((tmp_path / "spill").glob("*.tensor"))) == df["spilled"]
        name = f"t/{spilled(store)[0]}"
        assert store.stat(name).spilled and store.exists(name)
        (info,) = cli.json("stat", name)
        assert info["spilled"] is True and info["keep"] is True
        assert "spilled" in cli.text("stat", name) and cli.text("ls", "-l", name).splitlines()[1].split()[-1] == "spilled"
        assert "spilled to disk" in cli.text("df")
        assert store.stat(name).spilled, "looking does not bring it back"
        check(store)
        many = store.get_many([f"t/{i}" for i in range(20)])
        assert all(shows(many[f"t/{i}"].numpy(), i) for i in range(20))
        address = cli.json("nodes")[0]["http_address"]
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as response:
            metrics = response.read().decode()
        df = cli.json("df")
        for field, metric in (("spilled", "spilled"), ("spilled_bytes", "spilled_bytes"), ("spills", "spills_total"), ("spill_ins", "spill_ins_total")):
            assert f"penstock_{metric} {df[field]}\n" in metrics
        del many
        assert store.delete_prefix("") == COUNT
        until(lambda: not list((tmp_path / "spill").glob("*.tensor")), "files go with their tensors")


def test_a_killed_node_loses_nothing_and_goes_on(start: Start, tmp_path: Path) -> None:
    daemon = start(tmp_path / "spill")
    with connect(daemon) as store:
        failures: list[Exception] = []

        def write() -> None:
            try:
                fill(store)
            except Exception as error:  # noqa: BLE001
                failures.append(error)

        writer = threading.Thread(target=write)
        writer.start()
        for floor in (10, 60):
            until(lambda: int(store.stats()["spilled"]) > floor, "some are spilled")  # noqa: B023
            pid = daemon.node_pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            until(lambda: daemon.node_pid not in (None, pid), "the warden forks a new node")  # noqa: B023
        writer.join()
        assert not failures
        check(store)


def test_a_stopped_node_serves_what_was_spilled_when_it_is_started_again(start: Start, tmp_path: Path) -> None:
    daemon = start(tmp_path / "spill")
    with connect(daemon) as store:
        fill(store)
        store.put("t/0", pattern(0, NBYTES))
        fill(store)
        there = spilled(store)
        gone = there.pop(0)
        assert store.delete(f"t/{gone}")
        versions = {i: store.stat(f"t/{i}").version for i in there}
    assert daemon.stop() == 0
    again = start(tmp_path / "spill", where="m")
    with connect(again) as store:
        assert set(there) <= set(spilled(store)), "some may have been on their way"
        assert not store.exists(f"t/{gone}")
        assert {i: store.stat(f"t/{i}").version for i in there} == versions
        assert 2 in versions.values()
        check(store, there)
        assert store.put(f"t/{there[0]}", pattern(1, 8)).version == versions[there[0]] + 1
        fill(store)
        check(store)


def test_a_second_node_may_not_use_the_directory(start: Start, tmp_path: Path) -> None:
    start(tmp_path / "spill")
    run = subprocess.run([BUILD / "bin" / "penstockd", f"--socket_dir={tmp_path / 's'}", "--grpc_port=none", f"--spill_dir={tmp_path / 'spill'}"],
                         env=clean_environment(), capture_output=True, text=True, timeout=60)
    assert run.returncode == 1 and "flag --spill_dir: another node uses" in run.stderr


def test_a_file_with_a_wrong_byte_is_data_loss_by_name(start: Start, tmp_path: Path) -> None:
    daemon = start(tmp_path / "spill")
    with connect(daemon) as store:
        fill(store)
        bad = f"t/{spilled(store)[0]}"
        (path,) = [file for file in (tmp_path / "spill").glob("*.tensor") if bad.encode() + b"\x12" in file.read_bytes()[:4096]]
        with path.open("r+b") as file:
            file.seek(1_000_000)
            byte = file.read(1)
            file.seek(1_000_000)
            file.write(bytes([byte[0] ^ 0x40]))
        with pytest.raises(penstock.Error) as caught:
            store.get(bad)
        assert caught.value.code == "DATA_LOSS" and bad in str(caught.value) and path.name in str(caught.value)
        until(lambda: path.with_suffix(".bad").exists() and not path.exists(), "the file is set aside")
        check(store, [i for i in range(COUNT) if f"t/{i}" != bad])
        assert store.put(bad, pattern(7, 100)).version == 2 and shows(store.get(bad).numpy(), 7)


def test_the_limit_is_kept_and_the_error_says_who_holds_what(start: Start, tmp_path: Path) -> None:
    daemon = start(tmp_path / "spill", "--spill_limit=100MiB")
    with connect(daemon) as store:
        stored = 0
        with pytest.raises(penstock.StoreFullError) as caught:
            for stored in range(COUNT):
                store.put(f"t/{stored}", pattern(stored, NBYTES))
        text = str(caught.value)
        assert "spill directory, which may take 100MiB" in text and f"pid {os.getpid()}" in text and "in extents" in text
        files = list((tmp_path / "spill").glob("*.tensor"))
        assert 80 * MIB < sum(file.stat().st_size for file in files) <= 100 * MIB
        check(store, range(stored))  # what is there can be read, though both are full
        store.delete_prefix("t/1")
        fill(store, 20)
        check(store, range(20))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "none", str(folder)], capture_output=True, text=True)
    if mounted.returncode != 0:
        pytest.skip(f"cannot mount a tmpfs: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_an_error_for_puts_and_loses_nothing(start: Start, small_disk: Path) -> None:
    daemon = start(small_disk / "spill", "--spill_limit=10GiB")
    with connect(daemon) as store:
        stored = 0
        with pytest.raises(penstock.StoreFullError) as caught:
            for stored in range(COUNT):
                store.put(f"t/{stored}", pattern(stored, NBYTES))
        assert "its file system is full" in str(caught.value)
        held = [store.get(f"t/{i}") for i in range(stored) if not store.stat(f"t/{i}").spilled]
        assert held and all(shows(view.numpy(), int(view.name[2:])) for view in held)


def test_get_or_create_does_not_make_what_is_spilled(start: Start, tmp_path: Path) -> None:
    daemon = start(tmp_path / "spill")
    with connect(daemon) as store:
        fill(store)
        i = spilled(store)[0]

        def make() -> np.ndarray:
            raise AssertionError("it is there")

        assert shows(store.get_or_create(f"t/{i}", make).numpy(), i)


def test_what_is_spilled_expires(start: Start, tmp_path: Path) -> None:
    daemon = start(tmp_path / "spill")
    with connect(daemon) as store:
        store.put("short", pattern(3, NBYTES), ttl=3)
        fill(store, 100)
        until(lambda: not store.exists("short"), "it expires")
        assert "short" not in [info.name for info in store.list()]
        until(lambda: len(list((tmp_path / "spill").glob("*.tensor"))) == len(spilled(store)), "with its file")


def test_readers_and_writers_of_more_than_there_is(start: Start, tmp_path: Path) -> None:
    daemon = start(tmp_path / "spill")
    with connect(daemon) as store:
        fill(store, 100)

    def work(which: int) -> None:
        with connect(daemon) as mine:
            for round in range(60):
                i = (which * 31 + round * 7) % 100
                if round % 6 == 0:
                    mine.put(f"t/{i}", pattern(i, NBYTES))
                assert shows(mine.get(f"t/{i}").numpy(), i), i

    errors: list[BaseException] = []

    def guarded(which: int) -> None:
        try:
            work(which)
        except BaseException as error:  # noqa: BLE001
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(which,)) for which in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors, errors[0]


def test_start_local_takes_a_directory(tmp_path: Path) -> None:
    with penstock.start_local("96MiB", spill=tmp_path / "spill") as node, node.connect() as store:
        for i in range(100):
            store.put(f"t/{i}", pattern(i, NBYTES))
        assert list((tmp_path / "spill").glob("*.tensor"))
        check(store, range(100))


def test_soft_pins_outlast_other_cache_tensors(start: Start, tmp_path: Path) -> None:
    daemon = start(tmp_path / "spill")
    cli = Cli(daemon.socket_dir)
    with connect(daemon) as store:
        store.put("soft", pattern(1, NBYTES), keep=False, soft_pin=True)
        assert store.stat("soft").soft_pin and cli.json("stat", "soft")[0]["soft_pin"] is True
        cli.run("put", "by-cli", "-", "--dtype", "u8", "--shape", 8, "--cache", "--soft-pin", stdin=bytes(8))
        assert store.stat("by-cli").soft_pin
        for i in range(200):
            store.put(f"cache/{i}", pattern(i, NBYTES), keep=False)
        assert store.exists("soft") and not store.exists("cache/0")
        with pytest.raises(penstock.InvalidArgumentError, match="^soft_pin"):
            store.put("x", pattern(1, 8), soft_pin=True)
        with pytest.raises(TypeError, match="^soft_pin"):
            store.put("x", pattern(1, 8), keep=False, soft_pin=1)
        assert "--soft-pin needs --cache" in cli.error(2, "put", "x", "-", "--dtype", "u8", "--shape", 8, "--soft-pin", stdin=bytes(8))


def test_a_tensor_that_is_read_all_the_time_survives_a_scan(start: Start, tmp_path: Path) -> None:
    """Local gets make no call: the node sees them by the traces that they leave (server/store/use_sampler.h)."""
    daemon = start(tmp_path / "spill")
    with connect(daemon) as store:
        store.put("hot", pattern(1, NBYTES), keep=False)
        stop = threading.Event()

        def read() -> None:
            while not stop.wait(0.002):
                store.get("hot").release()

        reader = threading.Thread(target=read)
        reader.start()
        try:
            for i in range(400):
                store.put(f"scan/{i}", pattern(i, NBYTES), keep=False)
        finally:
            stop.set()
            reader.join()
        assert store.exists("hot") and not store.exists("scan/0")
