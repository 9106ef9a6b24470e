"""Other stores beside Penstock, each from a Python process of its own, all in the same run."""

from __future__ import annotations

import sys
import tempfile
from contextlib import ExitStack

from runner.node import Node
from runner.peer_stores import PEERS, CannotInstall, install
from runner.records import Ask, Case
from runner.rounds import measure
from runner.setting import Needs, Setting
from runner.worker import WorkerError

NEEDS = Needs(python=True)


def _questions(large: str) -> tuple[tuple[str, str, float], ...]:
    """Measurement, unit, and what a nanosecond is in it."""
    return (
        ("get 4 KiB", "us", 1e-3), ("get 1 MiB", "us", 1e-3), (f"get {large}", "us", 1e-3), ("get_many", "ms", 1e-6),
        ("put 4 KiB", "us", 1e-3), ("put_many", "ms", 1e-6), (f"put {large}", "ms", 1e-6),
    )


def _cases(peers: list[str], large: str) -> list[Case]:
    return [
        Case(f"{question}: {peer}", unit, Ask(peer, question, scale), Ask("penstock", question, scale),
             f"{unit} of Penstock", "ratio <= 1")
        for question, unit, scale in _questions(large)
        for peer in peers
    ]


def run(setting: Setting) -> list[dict]:
    with ExitStack() as stack:
        node = stack.enter_context(Node(setting.build, "4GiB"))
        workers = {"penstock": stack.enter_context(setting.python("peer", "penstock", node.address))}
        for peer in PEERS:
            try:
                interpreter, env = install(peer)
                folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="psb-", dir="/dev/shm"))
                worker = stack.enter_context(
                    setting.python("peer", peer.name, folder, interpreter=interpreter, **env))
                worker.ask("get 4 KiB")
            except (CannotInstall, WorkerError) as why:
                print(f"bench: peers: {peer.name}: skipped: {why}", file=sys.stderr)
                continue
            workers[peer.name] = worker
        names = [name for name in workers if name != "penstock"]
        large = "64 MiB" if setting.quick else "1 GiB"
        return measure("peers", _cases(names, large), workers, setting)
