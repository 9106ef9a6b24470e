"""Three hosts on one switch: slow cables, and cables that are cut in the middle of what is going on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Iterator

import pytest

from support.daemon import Cli, Daemon, start_daemon
from support.hosts import Hosts
from support.waiting import until
from support.worker import Worker

MIB = 1 << 20
NBYTES = 8 * MIB
TIMEOUT_S = 3.0
SLOW = "32mbit"  # NBYTES take 2 s

IN_THE_WORKER = f"""
import time
store = penstock.connect(timeout={TIMEOUT_S})
out = np.empty({NBYTES}, np.uint8)
def attempt(call):
    "The name of the error, or nothing; and how long it took."
    start = time.monotonic()
    try:
        result = call()
    except penstock.Error as error:
        return type(error).__name__, time.monotonic() - start
    return "", time.monotonic() - start
def new_value(seed):
    return pattern(seed, {NBYTES})
def shown(seeds, name="x"):
    "Whether all of it is of one of the seeds."
    with store.get(name) as view:
        return any(shows(view.numpy(), seed) for seed in seeds)
"""


@dataclass
class Net:
    """Node 1 is the home of 'x' in all tests; the worker is a client of node 0."""

    hosts: Hosts
    nodes: list[Daemon]
    worker: Worker
    at_home: Worker


@pytest.fixture(scope="module")
def net(short_tmp: Path) -> Iterator[Net]:
    why = Hosts.why_not()
    if why:
        pytest.skip(why)
    with Hosts(3) as hosts:
        nodes = [
            start_daemon(short_tmp / f"link{i}", "--memory=128MiB", f"--host={host.address}", f"--data_net={host.address}", "--grpc_port=7411",
                         "--data_port=7412", "--peers=" + ",".join(f"{other.address}:7411" for other in hosts if other is not host), prefix=host.prefix)
            for i, host in enumerate(hosts)
        ]
        with Worker(nodes[0].socket_dir, prefix=hosts[0].prefix) as worker, Worker(nodes[1].socket_dir, prefix=hosts[1].prefix) as at_home:
            for one in (worker, at_home):
                one.do(IN_THE_WORKER)
            yield Net(hosts, nodes, worker, at_home)
        assert [node.stop() for node in nodes] == [0, 0, 0]


@pytest.fixture
def whole(net: Net) -> Iterator[Net]:
    """All cables whole and fast, 'x' (and 'y') at home on node 1, nothing else anywhere. Afterwards nothing is held anywhere."""
    for one in (net.worker, net.at_home):
        until(lambda one=one: one.do("attempt(lambda: store.delete_prefix(''))[0]") == "", "the nodes answer each other", deadline_s=20)
    net.at_home.do("[store.put(name, new_value(1)) for name in 'xy']")
    yield net
    for host in net.hosts:
        host.heal()
        host.fast()
    nothing_is_held(net)


def nothing_is_held(net: Net) -> None:
    """Though the sessions of the nodes go on: they are used meanwhile."""

    def held() -> dict:
        net.worker.do("attempt(lambda: store.get('x'))")
        return {i: {key: value for key, value in books_of(node).items() if value} for i, node in enumerate(net.nodes)}

    until(lambda: not any(held().values()), "nothing is held", deadline_s=20)


def books_of(node: Daemon) -> dict[str, int]:
    df = Cli(node.socket_dir).json("df")
    return {key: int(df[key]) for key in ("drafts", "draft_bytes", "pins", "retired", "quarantined_bytes")}


OPERATIONS = {
    "get": "store.get('x')",
    "get into an array": "store.get('x', out=out)",
    "get a box": f"store.get('x', np.s_[{MIB}:{4 * MIB}])",
    "get_many": "store.get_many(['x', 'y'])",
    "put": "store.put('x', new_value(2))",
    "put_many": "store.put_many({'x': new_value(2), 'y': new_value(2)})",
    "create": "fill_a_draft()",
}


def test_over_slow_links_everything_comes_whole(whole):
    worker = whole.worker
    whole.hosts[0].slow("400mbit")
    assert worker.do("shown([1])") and worker.do("store.get('x').path") == "fetch"
    assert worker.do("store.put('y', new_value(3)).version == 2 and shown([3], 'y')")
    assert worker.do(f"np.array_equal(store.get('y', np.s_[{MIB}:{2 * MIB}]).numpy(), new_value(3)[{MIB}:{2 * MIB}])")
    assert whole.at_home.do("shown([3], 'y')")
    whole.at_home.do("store.put('x', new_value(4))")
    assert worker.do("shows(store.get('x', out=out), 4)")


@pytest.mark.parametrize("what", OPERATIONS)
def test_a_cable_is_cut_in_the_middle(whole, what):
    worker, home = whole.worker, whole.nodes[1]
    worker.do("def fill_a_draft():\n  with store.create('x', (8 << 20,), 'u8') as draft:\n    draft.numpy()[...] = new_value(2)")
    whole.hosts[1].slow(SLOW)
    worker.start(f"attempt(lambda: {OPERATIONS[what]})")
    until(lambda: books_of(home)["drafts" if what.startswith(("put", "create")) else "pins"] > 0, "it is under way")
    whole.hosts[1].cut()
    error, took = worker.result()
    assert error in (("PartialError",) if what.endswith("many") else ("DeadlineError", "UnavailableError")), error
    assert took < TIMEOUT_S + 1
    whole.hosts[1].heal()
    whole.hosts[1].fast()
    # What was not acknowledged may have been done or not, but not in part.
    assert whole.at_home.do("shown([1, 2])")
    until(lambda: worker.do("attempt(lambda: store.get('x'))[0]") == "", "it heals", deadline_s=20)
    assert worker.do("shown([1, 2])")
    nothing_is_held(whole)
    until(lambda: worker.do(f"attempt(lambda: {OPERATIONS[what]})[0]") == "", "it goes again", deadline_s=20)


def test_of_many_only_those_behind_the_cut_fail(whole):
    worker, hosts = whole.worker, whole.hosts
    with Worker(whole.nodes[2].socket_dir, prefix=hosts[2].prefix) as third:
        third.do("store.put('z', pattern(1, 70_000))")
    assert worker.do("shows(store.get('z').numpy(), 1)")
    hosts[1].cut()
    got = worker.do("{name: type(one).__name__ for name, one in store.get_many(['x', 'z', 'y'], errors='return').items()}")
    assert got["z"] == "TensorView" and got["x"] in ("DeadlineError", "UnavailableError", "TensorView")
    put = worker.do("[type(one).__name__ for one in store.put_many({'x': new_value(2), 'z': pattern(2, 70_000)}, errors='return')]")
    assert put[0] in ("DeadlineError", "UnavailableError") and put[1] == "TensorInfo"
    assert worker.do("shows(store.get('z').numpy(), 2)")
    hosts[1].heal()
    until(lambda: worker.do("attempt(lambda: store.put('x', new_value(5)))[0]") == "", "it heals", deadline_s=20)
    assert whole.at_home.do("shown([5])")


def test_who_is_cut_off_serves_nothing_by_name_that_may_have_changed(whole):
    worker, at_home = whole.worker, whole.at_home
    assert worker.do("shown([1])")
    version = worker.do("store.get('x').version")
    whole.hosts[0].cut()
    took = at_home.do("attempt(lambda: store.put('x', new_value(2)))")
    assert took[0] == "" and took[1] < TIMEOUT_S, "the lease of the one that is cut off ends by itself"
    assert worker.do("attempt(lambda: store.get('x'))[0]") in ("DeadlineError", "UnavailableError")
    assert worker.do(f"shows(store.get('x', version={version}).numpy(), 1)"), "an exact version needs nobody"
    whole.hosts[0].heal()
    until(lambda: worker.do("attempt(lambda: store.get('x'))[0]") == "", "it heals", deadline_s=20)
    assert worker.do("shown([2])")
