"""Measures how many observations 64 CartPole environments in other processes give a second: python -m workers.envs ADDRESS.

Gymnasium's AsyncVectorEnv (a pipe and shared memory for each environment) beside channels: one from the trainer with all
actions, and one from each process of environments with what became of them.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Callable

import gymnasium
import numpy as np

import penstock
from workers.answer import serve

ENVIRONMENTS = 64
PATIENCE = 60.0
RESULT = 6  # 4 observed numbers, the reward, and whether the episode ended


def play(address: str, name: str, first: int, count: int) -> None:
    """Environments first.. of one process: waits for actions, steps, writes what came of it."""
    environments = [gymnasium.make("CartPole-v1") for _ in range(count)]
    store = penstock.connect(address, timeout=PATIENCE)
    with store.channel(f"{name}/{first}", (count, RESULT), "f32") as out:
        actions = store.subscribe(f"{name}/actions", timeout=PATIENCE)
        ended = [True] * count
        try:
            while True:
                chosen = actions.next(PATIENCE).numpy()[first : first + count].tolist()
                with out.write() as slot:
                    results = slot.numpy()
                    for i, environment in enumerate(environments):
                        if ended[i]:
                            results[i, :4], results[i, 4:] = environment.reset()[0], 0
                            ended[i] = False
                            continue
                        seen, reward, terminated, truncated, _ = environment.step(chosen[i])
                        ended[i] = terminated or truncated
                        results[i, :4], results[i, 4], results[i, 5] = seen, reward, ended[i]
        except penstock.UnavailableError:
            pass  # the trainer has ended


class Channels:
    """The trainer's side."""

    def __init__(self, address: str, name: str, processes: int) -> None:
        count = ENVIRONMENTS // processes
        context = multiprocessing.get_context("spawn")
        self.processes = [
            context.Process(target=play, args=(address, name, i * count, count), daemon=True) for i in range(processes)
        ]
        for process in self.processes:
            process.start()
        store = penstock.connect(address, timeout=PATIENCE)
        readers = [store.subscribe(f"{name}/{i * count}", timeout=PATIENCE) for i in range(processes)]
        self.actions = store.channel(f"{name}/actions", ENVIRONMENTS, "i64")
        self.readers = readers
        self.results = np.empty((ENVIRONMENTS, RESULT), np.float32)
        self.rows = [self.results[i * count : (i + 1) * count] for i in range(processes)]

    def step(self, actions: np.ndarray) -> None:
        self.actions.put(actions)
        for reader, rows in zip(self.readers, self.rows):
            reader.read_into(rows, next=True, timeout=PATIENCE)


class Gym:
    def __init__(self) -> None:
        make = lambda: gymnasium.make("CartPole-v1")  # noqa: E731
        self.envs = gymnasium.vector.AsyncVectorEnv([make] * ENVIRONMENTS, shared_memory=True)
        self.envs.reset(seed=1)

    def step(self, actions: np.ndarray) -> None:
        self.envs.step(actions)


def observations_a_second(step: Callable[[np.ndarray], None], seconds: float = 1.0) -> float:
    actions = np.random.default_rng(1).integers(0, 2, (256, ENVIRONMENTS))
    for i in range(20):
        step(actions[i])
    start, steps = time.perf_counter(), 0
    while (spent := time.perf_counter() - start) < seconds:
        step(actions[steps % 256])
        steps += 1
    return steps * ENVIRONMENTS / spent


def main() -> None:
    address = sys.argv[1]
    gym = Gym()  # forks; before there is a session
    each = Channels(address, "each", ENVIRONMENTS)
    few = Channels(address, "few", 4)
    try:
        serve({
            "AsyncVectorEnv": lambda: observations_a_second(gym.step),
            "channels, 64 processes": lambda: observations_a_second(each.step),
            "channels, 4 processes": lambda: observations_a_second(few.step),
        })
    finally:
        gym.envs.close(terminate=True)
        for process in (*each.processes, *few.processes):
            process.terminate()
        os._exit(0)


if __name__ == "__main__":
    main()
