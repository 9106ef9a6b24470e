"""Putting many tensors in few calls, each with metadata of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from penstock._core import TensorInfo
from penstock.errors import Error
from penstock.store import Store

__all__ = ["put_all"]


def put_all(
    store: Store, items: Sequence[tuple[str, Any, dict[str, str]]], **options: Any
) -> list[TensorInfo | Error]:
    """Puts (name, array, metadata) each; what became of them, in their order. Options as `Store.put`.

    One call for all that have the same metadata; that is one for nearly all.
    """
    groups: dict[tuple[tuple[str, str], ...], list[int]] = {}
    for i, (_, _, metadata) in enumerate(items):
        groups.setdefault(tuple(sorted(metadata.items())), []).append(i)
    results: dict[int, TensorInfo | Error] = {}
    for group, indices in groups.items():
        tensors = [items[i][:2] for i in indices]
        done = store.put_many(tensors, errors="return", metadata=dict(group) or None, **options)
        results.update(zip(indices, done))
    return [results[i] for i in range(len(items))]
