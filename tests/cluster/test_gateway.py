"""Clients on hosts without a node: connect("host:port") starts one that keeps copies only."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path
from typing import Iterator

import numpy as np
import pytest

import penstock
from support.certificates import Authority
from support.daemon import BUILD, Daemon, clean_environment, start_daemon
from support.nodes import free_ports
from support.pattern import pattern, shows
from support.waiting import freeze, until

MIB = 1 << 20


def can_unshare() -> bool:
    return subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode == 0


pytestmark = pytest.mark.skipif(not can_unshare(), reason="may not make a mount namespace")


def start_far(where: Path, *flags: str) -> Daemon:
    """A node whose files nobody else sees, as if it were on another host."""
    where.mkdir()
    hide = ["unshare", "-m", "--propagation", "private", "sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"', str(where)]
    return start_daemon(where / "s", "--data_port=0", "--memory=256MiB", *flags, prefix=hide)


@pytest.fixture
def far(tmp_path) -> Iterator[list[Daemon]]:
    ports = free_ports(2)
    daemons = [start_far(tmp_path / f"far-{i}", f"--grpc_port={port}", f"--peers=127.0.0.1:{ports[1 - i]}") for i, port in enumerate(ports)]
    yield daemons
    for daemon in daemons:
        daemon.stop()


def others_of(store: penstock.Store) -> set[str]:
    """The ids of the nodes that are not this process's own."""
    return {node["node"] for node in store.transports()[1:]}


def addresses(daemons: list[Daemon]) -> str:
    return ",".join(f"127.0.0.1:{daemon.ready['grpc_port']}" for daemon in daemons)


def test_a_store_of_other_hosts_is_used_as_any_other(far):
    with penstock.connect(addresses(far), gateway_memory="256MiB") as one, penstock.connect(addresses(far), gateway_memory="256MiB") as two:
        assert one.address != two.address
        for n, nbytes in enumerate((0, 10, 100_000, 5 * MIB)):
            info = one.put("x", pattern(n, nbytes))
            view = two.get("x")
            assert view.version == info.version and view.path == "fetch" and shows(view.numpy(), n)
            assert info.nodes[0] in others_of(one), "a peer, not this process's node"
        two.put("x", pattern(9, 1000))
        assert shows(one.get("x").numpy(), 9)
        out = np.empty(1000, np.uint8)
        one.get("x", out=out)
        assert shows(out, 9) and np.array_equal(two.get("x", np.s_[10:20]).numpy(), out[10:20])
        one.put_many({f"m/{i}": pattern(i, 1000 * i) for i in range(50)})
        assert all(shows(view.numpy(), i) for i, view in enumerate(two.get_many([f"m/{i}" for i in range(50)]).values()))
        assert two.longest_prefix([f"m/{i}" for i in range(60)]) == 50
        assert [info.name for info in one.list("m/", limit=2)] == ["m/0", "m/1"]
        with pytest.raises(penstock.AlreadyExistsError):
            two.put("x", pattern(1, 10), if_absent=True)
        assert one.delete("x") and not two.exists("x")
        assert two.delete_prefix("m/") == 50 and list(one.list()) == []


def test_one_address_is_enough_for_all_nodes_of_the_store(far):
    with penstock.connect(addresses(far[::-1]), gateway_memory="128MiB") as store:
        homes = {store.put(f"x/{i:02}", pattern(i, 100)).nodes[0] for i in range(20)}
    with penstock.connect(addresses(far[:1]), gateway_memory="128MiB") as store:
        assert all(shows(store.get(f"x/{i:02}").numpy(), i) for i in range(20)), "some are at home on the node that was not named"
        assert [info.name for info in store.list()] == [f"x/{i:02}" for i in range(20)]
        assert len(homes) == 2 and homes == others_of(store)


def test_where_nothing_is_bound_to_a_process_checkpoints_are_staged_in_its_memory(far):
    torch = pytest.importorskip("torch")
    from penstock.torch import StorageWriter

    with penstock.connect(addresses(far), gateway_memory="128MiB") as store:
        weight = torch.arange(300_000.0)
        staged = StorageWriter(store, "ckpt").stage({"w": weight, "step": 3})
        weight.zero_()
        assert torch.equal(staged["w"], torch.arange(300_000.0)) and staged["step"] == 3
        assert list(store.list(".penstock/")) == []


def test_what_was_put_outlives_who_put_it(far):
    program = (f"import os, numpy as np, penstock; s = penstock.connect({addresses(far)!r}, gateway_memory='128MiB'); "
               "s.put('kept', np.arange(100_000)); print(s.address, flush=True); os.kill(os.getpid(), 9)")
    ended = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, timeout=60, env=os.environ.copy())
    assert ended.returncode == -signal.SIGKILL
    until(lambda: not _penstockd_of(ended.stdout.decode().strip()), "its node has ended, too")
    with penstock.connect(addresses(far), gateway_memory="128MiB") as store:
        assert np.array_equal(store.get("kept").numpy(), np.arange(100_000))


def test_new_names_are_spread_over_the_peers_and_everybody_spreads_them_alike(far):
    with penstock.connect(addresses(far), gateway_memory="128MiB") as one, penstock.connect(addresses(far[::-1]), gateway_memory="128MiB") as two:
        first = {name: one.put(name, 1).nodes for name in (f"n/{i}" for i in range(40))}
        one.delete_prefix("n/")
        second = {name: two.put(name, 1).nodes for name in first}
        assert first == second
        assert {nodes[0] for nodes in first.values()} == others_of(one) and len(others_of(one)) == 2


def _penstockd_of(socket_dir: str) -> bool:
    return any(f"--socket_dir={socket_dir}".encode() in path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists())


def test_the_store_ends_its_node_and_views_stay(far):
    store = penstock.connect(addresses(far), gateway_memory="128MiB")
    store.put("x", pattern(1, MIB))
    view = store.get("x")
    where = store.address
    copy = pickle.loads(pickle.dumps(store))
    assert copy.address != where and shows(copy.get("x").numpy(), 1)
    copy.close()
    pid = os.fork()
    if pid == 0:
        os._exit(0 if shows(store.get("x").numpy(), 1) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    store.close()
    assert not _penstockd_of(where) and shows(view.numpy(), 1)


def test_over_tls(tmp_path):
    authority = Authority(tmp_path / "ca")
    node, client = authority.sign("node"), authority.sign("client")
    daemon = start_far(tmp_path / "far", *node.flags())
    with penstock.connect(addresses([daemon]), tls=client.files(), gateway_memory="128MiB") as store:
        store.put("x", pattern(1, 3 * MIB))
        out = np.empty(3 * MIB, np.uint8)
        assert shows(store.get("x", out=out), 1) and shows(store.get("x").numpy(), 1)
    with pytest.raises(penstock.UnavailableError):
        penstock.connect(addresses([daemon]), timeout=2)
    daemon.stop()


def test_who_starts_none_says_what_to_do(far):
    asked = subprocess.run([str(BUILD / "bin" / "penstock"), "ls", f"--address={addresses(far)}"], capture_output=True, text=True,
                           env=clean_environment(), timeout=30)
    assert asked.returncode != 0 and "is on another host" in asked.stderr and "--new_names=peers" in asked.stderr


def test_a_home_that_is_away_gets_nothing_and_says_so(far):
    with penstock.start_local("128MiB", peers=[addresses(far[:1])]) as node, node.connect(timeout=3) as store:
        store.put("x", pattern(1, 10))
        freeze(far[0].process.pid)
        os.kill(far[0].node_pid, signal.SIGKILL)  # nobody makes another one
        with pytest.raises((penstock.UnavailableError, penstock.DeadlineError)):
            store.put("new", pattern(2, 10))
        os.kill(far[0].process.pid, signal.SIGCONT)

        def put() -> bool:
            try:
                store.put("new", pattern(2, 10))
            except (penstock.UnavailableError, penstock.DeadlineError):
                return False
            return True

        until(put, "the home is back")
        assert shows(store.get("new").numpy(), 2) and shows(store.get("x").numpy(), 1)


def test_it_needs_peers():
    with pytest.raises(penstock.UnavailableError, match="--new_names cannot be 'peers' without --peers"):
        penstock.start_local("128MiB", arguments=["--new_names=peers"])


def test_snapshots_are_written_and_read_without_a_node_of_ones_own(far):
    state = {"w": np.arange(300_000), "b": np.ones(3), "step": 5}
    with penstock.connect(addresses(far), gateway_memory="256MiB") as one, penstock.connect(addresses(far), gateway_memory="256MiB") as two:
        assert one.put_state_dict("ckpt", state).number == 1
        with pytest.raises(ZeroDivisionError), one.snapshot("ckpt") as snap:
            snap.put("w", np.ones(5))
            raise ZeroDivisionError
        assert two.put_state_dict("ckpt", state, keep_last=1).number == 2 and one.snapshots("ckpt") == [2]
        for store in (one, two):
            loaded = store.get_state_dict("ckpt")
            assert (loaded["w"] == state["w"]).all() and loaded["step"] == 5
        one.remove_snapshot("ckpt", 2)
        assert [info.name for info in two.list(".penstock/")] == []
