"""tests/fault/run, shortly; and that it would tell: a history with a lost put, and a run that a node does not survive."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from chaos import verdict
from chaos.client import value_of
from chaos.cluster import why_not
from chaos.faults import FAULTS, OF_ETCD
from support.daemon import ROOT, clean_environment
from support.history import AMBIGUOUS, NOTHING
from support.linearizable import check
from support.pattern import pattern

RUN = ROOT / "tests" / "fault" / "run"


@pytest.fixture
def can_run() -> None:
    if why := why_not(members=3):
        pytest.skip(why)


def run(*words: object, deadline_s: float = 110) -> tuple[int, dict, str]:
    ended = subprocess.run([str(RUN), *(str(word) for word in words)], capture_output=True, text=True, timeout=deadline_s,
                           env=clean_environment(), check=False)
    return ended.returncode, json.loads(ended.stdout) if ended.stdout else {}, ended.stderr


def test_a_short_run_holds(can_run):
    code, summary, said = run("--seconds", 20, "--seed", 20261128)
    assert code == 0, f"{summary}\n{said[-3000:]}"
    assert summary["operations"] > 200 and summary["answered"] > 100
    assert sum(summary["faults"].values()) >= 5


def test_the_seed_draws_the_faults(can_run):
    code, summary, said = run("--seconds", 4, "--seed", 3, "--faults", "node_killed,loss", "--members", 0, "--clients", 3)
    assert code == 0, f"{summary}\n{said[-3000:]}"
    assert set(summary["faults"]) <= {"node_killed", "loss"} and summary["seed"] == 3


def test_a_fault_that_is_not_known_is_refused():
    code, _, said = run("--faults", "moonlight")
    assert code == 2 and "faults: there is no moonlight" in said


def test_every_fault_of_etcd_is_one():
    assert OF_ETCD < set(FAULTS)


def write_history(path: Path, *lines: list) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_what_was_not_answered_is_ambiguous_and_a_torn_line_is_passed_over(tmp_path):
    path = tmp_path / "history-1"
    write_history(path, ["call", 1, {"name": "x", "kind": "put", "value": "v1", "call": 1.0, "client": "1"}],
                  ["call", 2, {"name": "x", "kind": "get", "call": 2.0, "client": "1"}])
    with path.open("a") as file:
        file.write('["end", 1, 3.0, {"outc')
    operations, _, unexpected = verdict.history_of(tmp_path)
    assert [o.outcome for o in operations] == [AMBIGUOUS, NOTHING] and unexpected == []


def test_a_lost_put_in_the_clients_histories_is_found(tmp_path):
    write_history(tmp_path / "history-1", ["call", 1, {"name": "x", "kind": "put", "value": "v1", "call": 1.0, "client": "1"}],
                  ["end", 1, 2.0, {"outcome": "done", "version": 1}])
    write_history(tmp_path / "history-2", ["call", 1, {"name": "x", "kind": "get", "call": 3.0, "client": "2"}],
                  ["end", 1, 4.0, {"outcome": "not found"}])
    operations, outcomes, _ = verdict.history_of(tmp_path)
    assert outcomes == {"put: done": 1, "get: not found": 1}
    (wrong,) = check(operations)
    assert wrong.name == "x" and len(wrong.part) == 2


def test_without_a_directory_a_put_may_happen_again(tmp_path):
    write_history(tmp_path / "history-1", ["call", 1, {"name": "x", "kind": "put", "value": "v1", "call": 1.0, "client": "1"}])
    lines = []
    for i, (kind, value, version) in enumerate([("get", "v1", 1), ("put", "v2", 2), ("get", "v2", 2), ("get", "v1", 3)]):
        lines.append(["call", i, {"name": "x", "kind": kind, "call": 2.0 + i, "client": "2"} | ({"value": value} if kind == "put" else {})])
        lines.append(["end", i, 2.5 + i, {"outcome": "done", "version": version} | ({"value": value} if kind == "get" else {})])
    write_history(tmp_path / "history-2", *lines)
    operations, _, _ = verdict.history_of(tmp_path)
    assert len(check(operations)) == 1
    split, repeated = verdict.without_repetitions(operations)
    assert repeated == 1 and check(split) == []


def test_bytes_of_no_put_and_errors_that_nobody_expects_are_told(tmp_path):
    write_history(tmp_path / "history-1", ["call", 1, {"name": "x", "kind": "get", "call": 1.0, "client": "1"}],
                  ["end", 1, 2.0, {"outcome": "done", "value": "torn: begins as v7", "version": 1}],
                  ["call", 2, {"name": "x", "kind": "get", "call": 3.0, "client": "1"}],
                  ["end", 2, 4.0, {"outcome": "nothing", "unexpected": "RuntimeError('?')"}])
    assert len(verdict.history_of(tmp_path)[2]) == 2


@pytest.mark.parametrize("seed, nbytes", [(1, 8), (3_000_001, 4096), (7, 300_000)])
def test_bytes_say_which_put_made_them(seed, nbytes):
    array = pattern(seed, nbytes).copy()
    assert value_of(array) == f"v{seed}"
    if nbytes > 8:
        array[-1] ^= 1
        assert value_of(array) == f"torn: begins as v{seed}"


def test_the_run_ends_what_it_started(can_run):
    """No process, no mount, no namespace of it is left, though it was interrupted."""
    process = subprocess.Popen([str(RUN), "--seconds", "60", "--seed", "1"], env=clean_environment(), stderr=subprocess.PIPE,
                               stdout=subprocess.DEVNULL, text=True)
    for line in process.stderr:
        if " for " in line:  # the first fault has begun
            break
    process.send_signal(2)
    process.stderr.read()
    assert process.wait(timeout=60) != 0
    assert f"penstock-{process.pid}-" not in subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    assert "penstock-chaos" not in Path("/proc/mounts").read_text()
