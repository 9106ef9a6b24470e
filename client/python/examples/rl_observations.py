"""Environments in processes of their own stream observations to a trainer, and take its actions, over channels.

    pip install gymnasium
    python rl_observations.py

Each process of environments writes one channel (observation, reward, whether the episode ended); the trainer writes one with all actions. A
step makes no call and copies nothing but the values: the reader looks into the writer's slot, and waits on a futex. A reader that is too slow is told
how many steps it missed; if a process dies, who waits for it gets UnavailableError.
"""

from __future__ import annotations

import multiprocessing
import time

import gymnasium
import numpy as np

import penstock

PROCESSES = 4
ENVIRONMENTS = 16  # of each process
STEPS = 300
RESULT = 6  # 4 observed numbers, the reward, and whether the episode ended


def play(address: str, rank: int) -> None:
    environments = [gymnasium.make("CartPole-v1") for _ in range(ENVIRONMENTS)]
    seen = [environment.reset(seed=rank * ENVIRONMENTS + i)[0] for i, environment in enumerate(environments)]
    # First the actions: when the trainer finds the results of this process, it sends them.
    with (
        penstock.connect(address) as store,
        store.subscribe("actions", timeout=30) as actions,
        store.channel(f"results/{rank}", (ENVIRONMENTS, RESULT), "f32") as results,
    ):
        for _ in range(STEPS):
            chosen = actions.next(timeout=30).numpy()[rank].tolist()
            with results.write() as slot:
                rows = slot.numpy()
                for i, environment in enumerate(environments):
                    seen[i], reward, terminated, truncated, _ = environment.step(chosen[i])
                    ended = terminated or truncated
                    if ended:
                        seen[i], _ = environment.reset()
                    rows[i, :4], rows[i, 4], rows[i, 5] = seen[i], float(reward), ended


def train(store: penstock.Store) -> None:
    with store.channel("actions", (PROCESSES, ENVIRONMENTS), "i64") as actions:
        readers = [store.subscribe(f"results/{rank}", timeout=30) for rank in range(PROCESSES)]
        chosen = np.zeros((PROCESSES, ENVIRONMENTS), np.int64)
        rewards = episodes = 0.0
        start = time.perf_counter()
        for _ in range(STEPS):
            actions.put(chosen)
            for rank, reader in enumerate(readers):
                step = reader.next(timeout=30)
                rows = step.numpy()
                chosen[rank] = rows[:, 2] + rows[:, 3] > 0  # pushes to where the pole leans and falls
                rewards += float(rows[:, 4].sum())
                episodes += float(rows[:, 5].sum())
                assert step.ok() and step.missed == 0
        rate = STEPS * PROCESSES * ENVIRONMENTS / (time.perf_counter() - start)
        print(f"{STEPS} steps of {PROCESSES * ENVIRONMENTS} environments, {rate:,.0f} observations/s, reward {rewards:.0f}, {episodes:.0f} episodes")


def main() -> None:
    context = multiprocessing.get_context("spawn")
    with penstock.start_local(memory="128MiB") as node, node.connect() as store:
        processes = [context.Process(target=play, args=(node.address, rank)) for rank in range(PROCESSES)]
        for process in processes:
            process.start()
        train(store)
        for process in processes:
            process.join()


if __name__ == "__main__":
    main()
