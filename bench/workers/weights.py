"""Measures how long the weights of a trainer take to four workers on hosts of their own: python -m workers.weights ADDRESS HOST WORDS...

The trainer's process, on its host. WORDS: for each worker, as one argument, the words that run a command on its host and then its
store's address. HOST: this host's address, for gloo.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from time import perf_counter_ns

import torch
import torch.distributed as dist

import penstock
from workers.answer import serve

PREFIX = "bench/policy"
TENSORS, ELEMENTS = 16, 2 << 20  # of 4 bytes: 128 MiB
PORT = 29_501


def make_state() -> dict[str, torch.Tensor]:
    return {f"layer.{i}": torch.zeros(ELEMENTS) for i in range(TENSORS)}


def join(host: str, rank: int, ranks: int) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "eth"
    dist.init_process_group("gloo", init_method=f"tcp://{host}:{PORT}", rank=rank, world_size=ranks)


class Trainer:
    def __init__(self, address: str, host: str, workers: list[str]) -> None:
        self._store = penstock.connect(address, timeout=60)
        self._state = make_state()
        self._number = 0
        ranks = len(workers) + 1
        self._workers = []
        for rank, words in enumerate(workers, start=1):
            *prefix, where = shlex.split(words)
            command = [*prefix, sys.executable, "-m", "workers.weights", "worker", where, host, str(rank), str(ranks)]
            self._workers.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        join(host, 0, ranks)

    def _tell(self, what: str) -> None:
        for worker in self._workers:
            worker.stdin.write(f"{what}\n")
            worker.stdin.flush()

    def _await_all(self) -> None:
        for worker in self._workers:
            if worker.stdout.readline() != "done\n":
                raise RuntimeError("a worker has ended, or holds something else than was put")

    def by_store(self) -> float:
        self._number += 1
        for tensor in self._state.values():
            tensor.fill_(float(self._number))
        self._tell(f"get {self._number}")
        start = perf_counter_ns()
        self._store.put_state_dict(PREFIX, self._state, number=self._number, keep_last=2)
        self._await_all()
        return perf_counter_ns() - start

    def by_gloo(self) -> float:
        self._tell("broadcast")
        start = perf_counter_ns()
        for tensor in self._state.values():
            dist.broadcast(tensor, 0)
        self._await_all()
        return perf_counter_ns() - start


def work(address: str, host: str, rank: int, ranks: int) -> None:
    store = penstock.connect(address, timeout=60)
    state = make_state()
    join(host, rank, ranks)
    for line in sys.stdin:
        what, *number = line.split()
        if what == "get":
            wanted = int(number[0])
            store.wait_snapshot(PREFIX, after=wanted - 1, timeout=60)
            store.get_state_dict(PREFIX, into=state)
            right = all(tensor[0] == wanted and tensor[-1] == wanted for tensor in state.values())
            print("done" if right else "wrong", flush=True)
        else:
            for tensor in state.values():
                dist.broadcast(tensor, 0)
            print("done", flush=True)


def main() -> None:
    if sys.argv[1] == "worker":
        work(sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
        return
    trainer = Trainer(sys.argv[1], sys.argv[2], sys.argv[3:])
    serve({"by store": trainer.by_store, "by gloo": trainer.by_gloo})
    os._exit(0)  # the workers end with their stdin


if __name__ == "__main__":
    main()
