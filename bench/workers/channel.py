"""Measures steps through channels from Python: python -m workers.channel ADDRESS.

A process of its own answers each step, so half of a round trip is what one takes from writer to reader.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

import penstock
from workers.answer import each_ns, serve

PATIENCE = 60.0
SHAPES = {"64 B": (64,), "28 KiB": (84, 84, 4)}  # the second is an Atari observation


def echo_channel(address: str, name: str, shape: tuple[int, ...]) -> None:
    store = penstock.connect(address, timeout=PATIENCE)
    back = store.channel(f"{name}/back", shape, "u8")
    there = store.subscribe(name, timeout=PATIENCE)
    try:
        while True:
            back.put(there.next(PATIENCE).numpy())
    except penstock.UnavailableError:
        pass  # the end


def echo_pipe(pipe: Connection) -> None:
    try:
        while True:
            pipe.send(pipe.recv())
    except EOFError:
        pass


def echo_queue(there: Any, back: Any) -> None:
    while (step := there.get()) is not None:
        back.put(step)


def apart(other: int, measure: Callable[[], float]) -> float:
    """`measure` while this process and the other one have a core each, if there are two."""
    before = os.sched_getaffinity(0)
    mine, *others = sorted(before)
    os.sched_setaffinity(0, {mine})
    os.sched_setaffinity(other, {others[0] if others else mine})
    try:
        return measure()
    finally:
        os.sched_setaffinity(0, before)
        os.sched_setaffinity(other, before)


def half(round_trip: Callable[[], object]) -> float:
    return each_ns(round_trip, 0.2, 16) / 2


def main() -> None:
    address = sys.argv[1]
    context = multiprocessing.get_context("spawn")
    measurements: dict[str, Callable[[], float]] = {}
    started = []

    def start(target: Callable[..., None], *arguments: object) -> int:
        process = context.Process(target=target, args=arguments, daemon=True)
        process.start()
        started.append(process)
        return process.pid

    store = penstock.connect(address, timeout=PATIENCE)
    queues = []
    for label, shape in SHAPES.items():
        step = np.ones(shape, np.uint8)
        of_channel = start(echo_channel, address, f"python/{label}", shape)
        ch = store.channel(f"python/{label}", shape, "u8")
        rd = store.subscribe(f"python/{label}/back", timeout=PATIENCE)
        mine, theirs = context.Pipe()
        of_pipe = start(echo_pipe, theirs)
        theirs.close()
        there, back = context.Queue(), context.Queue()
        queues.append(there)
        start(echo_queue, there, back)

        def channel(ch=ch, rd=rd, step=step) -> None:
            ch.put(step)
            rd.next(PATIENCE).numpy()

        def pipe(mine=mine, step=step) -> None:
            mine.send(step)
            mine.recv()

        def queue(there=there, back=back, step=step) -> None:
            there.put(step)
            back.get()

        measurements |= {
            f"channel {label}": lambda channel=channel: half(channel),
            f"pipe {label}": lambda pipe=pipe: half(pipe),
            f"queue {label}": lambda queue=queue: half(queue),
            f"channel {label}, a core each": lambda pid=of_channel, channel=channel: apart(pid, lambda: half(channel)),
            f"pipe {label}, a core each": lambda pid=of_pipe, pipe=pipe: apart(pid, lambda: half(pipe)),
        }
    region = store.region("python/region", 4096)

    def write_region() -> None:
        with region.writing():
            pass

    measurements["region write"] = lambda: each_ns(write_region)
    lock = context.Lock()

    def take_lock() -> None:
        with lock:
            pass

    measurements["multiprocessing.Lock"] = lambda: each_ns(take_lock)
    try:
        serve(measurements)
    finally:
        for process in started:
            process.terminate()
        os._exit(0)  # the queues' threads wait for nobody


if __name__ == "__main__":
    main()
