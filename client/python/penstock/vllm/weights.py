"""Weights of a model as tensors of a store; knows nothing of vLLM's classes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from penstock.errors import InvalidArgumentError, NotFoundError
from penstock.store import Store

__all__ = ["open_store", "stored_weights", "weights_prefix"]

_BATCH = 32  # tensors that are asked for in one call


def weights_prefix(settings: dict[str, Any]) -> str:
    """`prefix` of the loader's extra configuration, checked."""
    prefix = settings.get("prefix")
    if not isinstance(prefix, str) or not prefix.strip("/"):
        raise InvalidArgumentError(
            f"prefix: is {prefix!r}; --model-loader-extra-config must tell the names of the weights: "
            '{"prefix": "models/llama"} for models/llama/model.embed_tokens.weight and so on',
            code="INVALID_ARGUMENT",
        )
    unknown = set(settings) - {"prefix", "address", "timeout"}
    if unknown:
        raise InvalidArgumentError(
            f"model_loader_extra_config: knows no {sorted(unknown)}; allowed are prefix, address, timeout",
            code="INVALID_ARGUMENT",
        )
    return prefix.strip("/") + "/"


def open_store(settings: dict[str, Any]) -> Store:
    """Raises UnavailableError when there is none: without weights there is no engine."""
    return Store(
        settings.get("address"), timeout=float(settings.get("timeout") or 60.0), label="vllm weights"
    )


def stored_weights(store: Store, prefix: str) -> Iterator[tuple[str, Any]]:
    """(name, torch tensor) of all weights under `prefix`, in the order of their names; views, not copies, on this host.

    A tensor shows the store's memory, copy-on-write; it stays valid as long as it lives. Raises NotFoundError if there are none.
    """
    names = [info.name for info in store.list(prefix)]
    if not names:
        raise NotFoundError(
            f"prefix: there is no tensor under {prefix}",
            code="NOT_FOUND",
            name=prefix,
            hint=f"penstock import --prefix {prefix[:-1]} CHECKPOINT_FOLDER",
        )
    for start in range(0, len(names), _BATCH):
        views = store.get_many(names[start : start + _BATCH])
        for name, view in views.items():
            yield name[len(prefix) :], view.torch()  # type: ignore[union-attr]  # get_many raises errors
