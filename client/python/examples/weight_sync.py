"""A trainer gives its weights to inference workers after every step.

    python weight_sync.py                      # a private node, one trainer, four workers on this host
    python weight_sync.py trainer ADDRESS      # or each on a host of its own; ADDRESS is a socket directory or host:port
    python weight_sync.py worker ADDRESS

The trainer publishes a snapshot a step; it is seen whole or not at all. A worker waits for the next one (no polling), and fills its model in
place: its parameters keep their addresses, and float32 becomes the bfloat16 that it computes in on the way. On the trainer's host the weights
are copied once, from the store's memory; on another they come over RDMA or TCP.
"""

from __future__ import annotations

import subprocess
import sys

import torch

import penstock

PREFIX = "policy"
STEPS = 20
WORKERS = 4


def make_model(dtype: torch.dtype) -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.Tanh(), torch.nn.Linear(256, 4)).to(dtype)


def train(store: penstock.Store) -> None:
    model = make_model(torch.float32)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for step in range(1, STEPS + 1):
        batch = torch.randn(32, 64)
        loss = (model(batch) - batch[:, :4]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        # keep_last=2: who is still reading the one before is not disturbed; its memory is freed when nobody reads it
        store.put_state_dict(PREFIX, model.state_dict(), number=step, keep_last=2, metadata={"loss": f"{loss.item():.4f}"})
    print(f"trainer: {STEPS} steps, the last loss is {loss.item():.4f}")


def work(store: penstock.Store) -> None:
    model = make_model(torch.bfloat16)
    addresses = [parameter.data_ptr() for parameter in model.parameters()]
    step, updates = 0, 0
    while step < STEPS:
        step = store.wait_snapshot(PREFIX, after=step, timeout=60)
        store.get_state_dict(PREFIX, into=model.state_dict())
        updates += 1
        with torch.no_grad():
            model(torch.randn(1, 64, dtype=torch.bfloat16))
    assert addresses == [parameter.data_ptr() for parameter in model.parameters()], "in place"
    print(f"worker: {updates} updates, the last is step {step}\n", end="", flush=True)  # in one piece: the others print, too


def main() -> None:
    if len(sys.argv) == 3:
        with penstock.connect(sys.argv[2]) as store:
            {"trainer": train, "worker": work}[sys.argv[1]](store)
        return
    with penstock.start_local(memory="256MiB") as node:
        roles = ["worker"] * WORKERS + ["trainer"]
        processes = [subprocess.Popen([sys.executable, __file__, role, node.address]) for role in roles]
        if any([process.wait() for process in processes]):
            sys.exit("one of the processes failed")


if __name__ == "__main__":
    main()
