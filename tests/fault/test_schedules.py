"""Random schedules: puts, gets, boxes, batches and deletes through three nodes, while processes are killed and stopped.

What is checked: a get shows bytes that are whole and were put last, or, where the outcome of a put or delete is not known (its
client was killed, or it raised), the ones before; all nodes agree in the end; every call ends by its deadline and a second; and
nothing stays drafted, pinned, retired or quarantined. A schedule that fails prints its seed:

    SCHEDULE_SEED=12345 python -m pytest tests/fault/test_schedules.py     repeats that one, a hundred times
"""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, Iterator

import numpy as np
import pytest

import penstock
from support.books import books
from support.daemon import Cli, Daemon, start_daemon
from support.nodes import free_ports
from support.pattern import pattern, shows
from support.waiting import until

BATCHES, SCHEDULES = 10, 100
NODES = 3
NAMES = [f"s/{i}" for i in range(4)]
SIZES = [0, 10, 5_000, 300_000, 3 << 20]
POINTS = ["node.remote.reserved", "node.remote.written", "node.remote.published", "node.peer.reserved", "node.peer.published",
          "node.publish.live", "node.put.copied", "node.delete.before"]
TIMEOUT_S = 10.0

Value = tuple[int, int] | None  # seed and bytes; None: no such tensor


@dataclass
class Cluster:
    daemons: list[Daemon]
    faults: list[Path]
    stores: list[penstock.Store]
    last_seed: int = 0
    may_be: dict[str, set[Value]] = field(default_factory=lambda: {name: {None} for name in NAMES})

    def fresh(self, rng: random.Random) -> Value:
        self.last_seed += 1
        return self.last_seed, rng.choice(SIZES)

    def signal(self, node: int, number: int) -> None:
        if pid := self.daemons[node].node_pid:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pass

    def only_this_client(self, node: int) -> bool:
        self.wake_all()
        asked = Cli(self.daemons[node].socket_dir).popen("sessions", "-o", "json")
        out, _ = asked.communicate(timeout=30)
        return asked.returncode == 0 and sum(session["label"] == "schedule" for session in json.loads(out)) == 1

    def wake_all(self) -> None:
        for node in range(NODES):
            self.signal(node, signal.SIGCONT)

    def nothing_under_way(self) -> bool:
        self.wake_all()  # one may have been on its way to where it stops
        try:
            return all(books(store, ("drafts", "quarantined_bytes")) == {"drafts": 0, "quarantined_bytes": 0} for store in self.stores)
        except penstock.Error:
            return False


@pytest.fixture(scope="module")
def cluster(short_tmp: Path) -> Iterator[Cluster]:
    ports = free_ports(NODES)
    daemons, faults = [], []
    for node, port in enumerate(ports):
        faults.append(short_tmp / f"schedule-faults-{node}")
        faults[-1].mkdir()
        peers = ",".join(f"127.0.0.1:{other}" for other in ports if other != port)
        daemons.append(start_daemon(short_tmp / f"schedule-{node}", f"--grpc_port={port}", "--data_port=0", "--memory=128MiB",
                                    f"--peers={peers}", PENSTOCK_FAULT_DIR=str(faults[-1])))
    stores = [penstock.connect(str(daemon.socket_dir), timeout=TIMEOUT_S, label="schedule") for daemon in daemons]
    yield Cluster(daemons, faults, stores)
    for store in stores:
        store.close()
    assert [daemon.stop() for daemon in daemons] == [0] * NODES


class Schedule:
    """One seed's sequence of steps; `log` says what was done."""

    def __init__(self, cluster: Cluster, seed: int) -> None:
        self.cluster = cluster
        self.rng = random.Random(seed)
        self.log: list[str] = []
        self._threads: list[threading.Thread] = []
        self._over = False

    def run(self) -> None:
        for _ in range(self.rng.randint(2, 5)):
            if self.rng.random() < 0.5:
                self._fault()
            self._step()
        self._over = True
        for thread in self._threads:
            thread.join()
        for folder in self.cluster.faults:
            for left in folder.iterdir():
                left.unlink(missing_ok=True)
        for name in NAMES:
            self._settle(name)

    # --- what goes wrong ---

    def _fault(self) -> None:
        node = self.rng.randrange(NODES)
        kind = self.rng.choices(["stop", "kill", "point"], [100, 7, 80])[0]
        delay, length = self.rng.uniform(0, 0.003), self.rng.uniform(0.001, 0.04)
        if kind == "point":
            point = self.rng.choice(POINTS)
            what = "kill" if self.rng.random() < 0.08 else "stop"
            self.log.append(f"arm {point} of {node}: {what}")
            (self.cluster.faults[node] / point).write_text(what)
            if what == "stop":
                self._later(0.02, lambda: self._wake(node))
            return
        self.log.append(f"{kind} {node} in {1e3 * delay:.1f} ms" + (f" for {1e3 * length:.0f} ms" if kind == "stop" else ""))
        if kind == "kill":
            self._later(delay, lambda: self.cluster.signal(node, signal.SIGKILL))
            return

        def stop() -> None:
            self.cluster.signal(node, signal.SIGSTOP)
            time.sleep(length)
            self.cluster.signal(node, signal.SIGCONT)

        self._later(delay, stop)

    def _wake(self, node: int) -> None:
        while not self._over:  # whenever the point is reached
            self.cluster.signal(node, signal.SIGCONT)
            time.sleep(0.01)

    def _later(self, delay: float, act: Callable[[], None]) -> None:
        def run() -> None:
            time.sleep(delay)
            act()

        self._threads.append(threading.Thread(target=run))
        self._threads[-1].start()

    # --- what is done ---

    def _step(self) -> None:
        node = self.rng.randrange(NODES)
        name = self.rng.choice(NAMES)
        step = self.rng.choices([self._put, self._get, self._delete, self._put_many, self._get_many, self._put_and_die], [6, 6, 1, 2, 2, 2])[0]
        step(node, name)

    def _call(self, what: str, call: Callable[[], object]) -> object:
        """Its result, or the Error that it raised; in time."""
        self.log.append(what)
        begin = time.monotonic()
        try:
            result = call()
        except penstock.Error as error:
            result = error
        seconds = time.monotonic() - begin
        self.log[-1] += f" -> {result!r:.120} in {1e3 * seconds:.1f} ms"
        assert seconds < TIMEOUT_S + 1, "a call did not end by its deadline"
        return result

    def _put(self, node: int, name: str) -> None:
        value = self.cluster.fresh(self.rng)
        result = self._call(f"put {name} = {value} through {node}", lambda: self.cluster.stores[node].put(name, pattern(*value)))
        self._was_changed(name, value, result)

    def _was_changed(self, name: str, value: Value, result: object) -> None:
        if isinstance(result, penstock.Error):
            assert isinstance(result, (penstock.UnavailableError, penstock.DeadlineError)), result
            self.cluster.may_be[name].add(value)
            self._settle(name)
        else:
            self.cluster.may_be[name] = {value}

    def _put_many(self, node: int, _: str) -> None:
        values = {name: self.cluster.fresh(self.rng) for name in self.rng.sample(NAMES, self.rng.randint(1, len(NAMES)))}
        results = self._call(f"put_many {values} through {node}", lambda: self.cluster.stores[node].put_many(
            {name: pattern(*value) for name, value in values.items()}, errors="return"))
        for i, (name, value) in enumerate(values.items()):
            self._was_changed(name, value, results if isinstance(results, penstock.Error) else results[i])

    def _put_and_die(self, node: int, name: str) -> None:
        value = self.cluster.fresh(self.rng)
        life = self.rng.uniform(0, 0.015)
        self.log.append(f"put {name} = {value} through {node} by a client that lives {1e3 * life:.1f} ms")
        store, array = self.cluster.stores[node], pattern(*value)
        pid = os.fork()
        if pid == 0:
            try:
                store.put(name, array)
            finally:
                os._exit(0)
        time.sleep(life)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        until(lambda: self.cluster.only_this_client(node), "what the client had asked for is done, or dropped")
        self.cluster.may_be[name].add(value)
        self._settle(name)

    def _delete(self, node: int, name: str) -> None:
        result = self._call(f"delete {name} through {node}", lambda: self.cluster.stores[node].delete(name))
        self._was_changed(name, None, result)

    def _get(self, node: int, name: str) -> None:
        kind = self.rng.choice(["view", "out", "box"])
        store = self.cluster.stores[node]
        candidates = self.cluster.may_be[name]
        if kind == "view" or len(candidates) != 1 or None in candidates:
            return self._check(name, self._call(f"get {name} through {node}", lambda: store.get(name)))
        ((seed, nbytes),) = candidates
        begin = self.rng.randint(0, nbytes)
        box = np.s_[begin:self.rng.randint(begin, nbytes)]
        out = np.zeros(nbytes, np.uint8)
        want = pattern(seed, nbytes)
        if kind == "out":
            result = self._call(f"get {name} into an array through {node}", lambda: store.get(name, out=out))
        else:
            want = want[box]
            result = self._call(f"get {name}[{box.start}:{box.stop}] through {node}", lambda: store.get(name, box))
        if isinstance(result, penstock.Error):
            return self._check(name, result)
        got = np.asarray(result)
        assert np.array_equal(got, want), f"{name} through {node}: {kind} shows other bytes than {candidates}"

    def _get_many(self, node: int, _: str) -> None:
        names = self.rng.sample(NAMES, self.rng.randint(1, len(NAMES)))
        results = self._call(f"get_many {names} through {node}", lambda: self.cluster.stores[node].get_many(names, errors="return"))
        for name in names:
            self._check(name, results if isinstance(results, penstock.Error) else results[name])

    def _check(self, name: str, result: object) -> None:
        if isinstance(result, (penstock.UnavailableError, penstock.DeadlineError)):
            return
        candidates = self.cluster.may_be[name]
        if isinstance(result, penstock.NotFoundError):
            assert None in candidates, f"{name}: is gone; should be one of {candidates}"
            return
        assert not isinstance(result, penstock.Error), result
        ever = {(seed, result.nbytes) for seed in range(1, self.cluster.last_seed + 1)}
        facts = f"{name}: {result!r}, {result.path}"
        shown = self._value_of(result, candidates) or self._value_of(result, ever)
        assert shown in candidates, f"{facts}: shows {shown}, should be one of {candidates}"

    @staticmethod
    def _value_of(view: penstock.TensorView, candidates: set[Value]) -> Value:
        for value in candidates:
            if value is not None and view.nbytes == value[1] and shows(view.numpy(), value[0]):
                return value
        return None

    def _settle(self, name: str) -> None:
        """When nothing is under way any more, all nodes say the same, and it is one of what may be."""
        until(self.cluster.nothing_under_way, "nothing is under way")
        candidates = self.cluster.may_be[name]
        said: list[Value] = []
        for node, store in enumerate(self.cluster.stores):
            result: object = None

            def answered() -> bool:
                nonlocal result
                try:
                    result = store.get(name)
                except penstock.NotFoundError as error:
                    result = error
                except (penstock.UnavailableError, penstock.DeadlineError):
                    return False
                return True

            until(answered, f"node {node} answers")
            self.log.append(f"in the end {name} through {node}: {result!r}")
            self._check(name, result)
            said.append(None if isinstance(result, penstock.NotFoundError) else self._value_of(result, candidates))
            result = None
        assert len(set(said)) == 1, f"{name}: the nodes say {said}; it may be {candidates}"
        self.cluster.may_be[name] = {said[0]}


@pytest.mark.parametrize("batch", range(BATCHES))
def test_a_hundred_schedules(cluster: Cluster, batch: int) -> None:
    given = os.environ.get("SCHEDULE_SEED")
    first = int(given) if given else random.SystemRandom().randrange(1 << 31)
    print(f"schedules from seed {first} on")
    for i in range(SCHEDULES):
        seed = first if given else first + i
        schedule = Schedule(cluster, seed)
        try:
            schedule.run()
        except BaseException:
            print(f"schedule {seed}:", *schedule.log, sep="\n  ")
            raise
    for store in cluster.stores:
        until(lambda: [books(store)[key] for key in ("drafts", "draft_bytes", "pins", "retired")] == [0, 0, 0, 0], f"nothing is left: {books(store)}")
        assert int(store.stats()["quarantined_bytes"]) == 0
