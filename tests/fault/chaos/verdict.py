"""After the last fault: the cluster serves again, every history has an order, and nothing is left."""

from __future__ import annotations

import dataclasses
import json
import time
from collections import Counter
from pathlib import Path
from typing import Iterator

import penstock
from chaos.client import Client, connect, name_of
from chaos.cluster import Cluster
from support.books import books
from support.history import AMBIGUOUS, GET, NOTHING, PUT, Operation

SERVES_WITHIN_S = 60.0
EMPTY_WITHIN_S = 60.0
NOTHING_LEFT = ("tensors", "drafts", "draft_bytes", "pins", "retired", "retired_bytes", "leaving_bytes", "quarantined_bytes")
FIRST_OBSERVER = 900  # clients' numbers


def put_first(cluster: Cluster) -> None:
    """Every name has a value, and each node is the first to have some, before anything goes wrong."""
    for node, daemon in enumerate(cluster.daemons):
        with connect(str(daemon.socket_dir), "chaos") as store:
            _observer(cluster, FIRST_OBSERVER + node, store).put_first(node, len(cluster.daemons))


def read_at_the_end(cluster: Cluster) -> list[str]:
    """Every name through every node, as part of the history. Returns which nodes did not answer in time."""
    silent = []
    for node, daemon in enumerate(cluster.daemons):
        end = time.monotonic() + SERVES_WITHIN_S
        with connect(str(daemon.socket_dir), "chaos") as store:
            observer = _observer(cluster, FIRST_OBSERVER + 50 + node, store)
            while not observer.read_all():
                if time.monotonic() > end:
                    silent.append(f"node {node} does not answer for every name {SERVES_WITHIN_S:.0f} s after the last fault")
                    break
                time.sleep(0.2)
    return silent


def _observer(cluster: Cluster, number: int, store: penstock.Store) -> Client:
    history = cluster.history(number).open("a")
    return Client(number, cluster.setup.seed, cluster.setup.names, False, history, store)


def accounting_at_the_end(cluster: Cluster) -> list[str]:
    """Deletes everything, with no client left. Returns what the books still say then."""
    left = []
    end = time.monotonic() + EMPTY_WITHIN_S
    for node, daemon in enumerate(cluster.daemons):
        with connect(str(daemon.socket_dir), "observer") as store:
            while still := _still_there(store, cluster.setup.names):
                if time.monotonic() > end:
                    left.append(f"node {node}: {still}")
                    break
                time.sleep(0.1)
    return left


def _still_there(store: penstock.Store, names: int) -> dict[str, object]:
    try:
        store.delete_prefix("")
        for number in range(names):  # a copy that a get of before has left goes with the answer that there is none
            try:
                store.get(name_of(number)).close()
            except (penstock.NotFoundError, penstock.DataLossError):
                pass
        return {key: value for key, value in books(store, NOTHING_LEFT).items() if value != 0}
    except penstock.Error as error:
        return {"error": repr(error)}


def operations_of(path: Path) -> Iterator[tuple[Operation, dict]]:
    """With each its answer as it was written; what was not answered is ambiguous, or nothing."""
    calls: dict[int, dict] = {}
    with path.open() as lines:
        for line in lines:
            try:
                kind, number, *rest = json.loads(line)
            except ValueError:
                continue  # the client was killed while it wrote it
            if kind == "call":
                calls[number] = rest[0]
            else:
                end, answer = rest
                yield _operation(calls.pop(number), end, answer), answer
    for call in calls.values():
        yield _operation(call, float("inf"), {"outcome": NOTHING if call["kind"] == GET else AMBIGUOUS}), {}


def _operation(call: dict, end: float, answer: dict) -> Operation:
    told = {key: answer[key] for key in ("outcome", "value", "version") if key in answer}
    return Operation(**(call | {"end": end} | told))


def history_of(where: Path) -> tuple[list[Operation], Counter, list[str]]:
    """All clients' operations, how many of which kind and outcome, and answers that no client should get."""
    operations, outcomes, unexpected = [], Counter(), []
    for path in sorted(where.glob("history-*")):
        for operation, answer in operations_of(path):
            operations.append(operation)
            outcomes[f"{operation.kind}: {operation.outcome}"] += 1
            if "unexpected" in answer:
                unexpected.append(f"{operation}: {answer['unexpected']}")
            if str(operation.value).startswith("torn"):
                unexpected.append(f"{operation}: bytes of no put")
    return operations, outcomes, unexpected


def without_repetitions(operations: list[Operation]) -> tuple[list[Operation], int]:
    """An ambiguous put that readers saw under several versions as so many puts, and how often that was so.

    Nodes without a directory remember a put by the live record alone: when its answer was lost and it has been overwritten before it
    is asked for again, it happens again. With a directory this is wrong like anything else.
    """
    versions: dict[tuple[str, str], set[int]] = {}
    for o in operations:
        if o.kind == GET and o.value is not None and o.version is not None:
            versions.setdefault((o.name, o.value), set()).add(o.version)
    unsure = {(o.name, o.value) for o in operations if o.kind == PUT and o.outcome == AMBIGUOUS}
    repeated = {key: seen for key, seen in versions.items() if key in unsure and len(seen) > 1}
    split: list[Operation] = []
    for o in operations:
        seen = repeated.get((o.name, str(o.value)))
        if seen is None:
            split.append(o)
        elif o.kind == PUT:
            split += [dataclasses.replace(o, value=f"{o.value}@{version}") for version in seen]
        else:
            split.append(dataclasses.replace(o, value=f"{o.value}@{o.version}"))
    return split, sum(len(seen) - 1 for seen in repeated.values())
