"""A few layers of the model, computed in torch straight from the store's memory and again from the file.

  encoder.py PREFIX FILE [--layers N]

For a BERT encoder (all-MiniLM-L6-v2): the embeddings and the first layers, attention and feed-forward. For any
other file: a chain of the first matrices in it. Prints one line of JSON: what was computed, whether the results
are equal bit by bit, a checksum, milliseconds, and how many bytes of weights were used where they lie.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from functools import partial
from pathlib import Path
from typing import Callable

import penstock
import safetensors_file
import torch
from torch.nn import functional

Weights = Callable[[str], torch.Tensor]

TOKENS = torch.tensor([[101, 1996, 2300, 4509, 2091, 1996, 13852, 16473, 102]])  # any will do: both sides get the same
HEADS = 12
MAPPED_FROM_BYTES = 32 << 10  # smaller weights share pages with others, so torch gets a copy of them


def attention(x: torch.Tensor, weights: Weights, layer: str) -> torch.Tensor:
    def project(which: str) -> torch.Tensor:
        name = f"{layer}.attention.self.{which}"
        y = functional.linear(x, weights(f"{name}.weight"), weights(f"{name}.bias"))
        return y.view(*y.shape[:2], HEADS, -1).transpose(1, 2)

    mixed = functional.scaled_dot_product_attention(project("query"), project("key"), project("value"))
    mixed = mixed.transpose(1, 2).reshape(x.shape)
    out = f"{layer}.attention.output"
    y = functional.linear(mixed, weights(f"{out}.dense.weight"), weights(f"{out}.dense.bias"))
    return norm(x + y, weights, f"{out}.LayerNorm")


def feed_forward(x: torch.Tensor, weights: Weights, layer: str) -> torch.Tensor:
    inner, out = f"{layer}.intermediate.dense", f"{layer}.output"
    y = functional.gelu(functional.linear(x, weights(f"{inner}.weight"), weights(f"{inner}.bias")))
    y = functional.linear(y, weights(f"{out}.dense.weight"), weights(f"{out}.dense.bias"))
    return norm(x + y, weights, f"{out}.LayerNorm")


def norm(x: torch.Tensor, weights: Weights, name: str) -> torch.Tensor:
    return functional.layer_norm(x, x.shape[-1:], weights(f"{name}.weight"), weights(f"{name}.bias"), eps=1e-12)


def embed(weights: Weights) -> torch.Tensor:
    positions = torch.arange(TOKENS.shape[1])
    x = functional.embedding(TOKENS, weights("embeddings.word_embeddings.weight"))
    x = x + weights("embeddings.position_embeddings.weight")[positions]
    x = x + weights("embeddings.token_type_embeddings.weight")[0]
    return norm(x, weights, "embeddings.LayerNorm")


def bert(weights: Weights, layers: int) -> torch.Tensor:
    x = embed(weights)
    for i in range(layers):
        x = attention(x, weights, f"encoder.layer.{i}")
        x = feed_forward(x, weights, f"encoder.layer.{i}")
    return x


def matrices(weights: Weights, names: list[str]) -> torch.Tensor:
    total = torch.zeros(())
    for name in names:
        matrix = weights(name).float()
        total = total + torch.tanh(torch.linspace(-1, 1, matrix.shape[1]) @ matrix.T).sum()
    return total


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("prefix")
    parser.add_argument("file", type=Path)
    parser.add_argument("--layers", type=int, default=2)
    args = parser.parse_args()
    entries = safetensors_file.read(args.file)
    store = penstock.connect(label="quickstart encoder")
    compute: Callable[[Weights], torch.Tensor]
    views = {}

    def mapped(name: str) -> torch.Tensor:
        views[name] = view = store.get(f"{args.prefix}/{name}")
        tensor: torch.Tensor = view.torch()
        return tensor

    def from_file(name: str) -> torch.Tensor:
        return torch.from_numpy(entries[name].array()).clone()  # a copy is aligned: same kernels, same rounding

    if "encoder.layer.0.attention.self.query.weight" in entries:
        what = f"embeddings and {args.layers} encoder layers"
        compute = partial(bert, layers=args.layers)
    else:
        names = [n for n, e in entries.items() if len(e.shape) == 2 and e.dtype in ("F32", "F16", "F64")][:4]
        what = f"products with {len(names)} matrices"
        compute = partial(matrices, names=names)
    with torch.no_grad():
        begin = time.perf_counter()
        ours = compute(mapped)
        milliseconds = (time.perf_counter() - begin) * 1e3
        theirs = compute(from_file)
    sizes = [view.nbytes for view in views.values()]
    told = {
        "computed": what, "equal": torch.equal(ours, theirs), "checksum": ours.double().sum().item(),
        "milliseconds": milliseconds, "weights": len(sizes), "weight_bytes": sum(sizes),
        "mapped_bytes": sum(size for size in sizes if size >= MAPPED_FROM_BYTES),
    }
    print(json.dumps(told))
    return 0 if told["equal"] else 1


if __name__ == "__main__":
    sys.exit(main())
