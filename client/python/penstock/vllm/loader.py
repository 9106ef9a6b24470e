"""``--load-format penstock``. Importing this imports vLLM."""

from __future__ import annotations

import importlib
from typing import Any

from penstock.vllm.weights import open_store, stored_weights, weights_prefix

__all__ = ["PenstockModelLoader", "register"]

_loaders: Any = importlib.import_module("vllm.model_executor.model_loader")
_BaseModelLoader: Any = importlib.import_module(
    "vllm.model_executor.model_loader.base_loader"
).BaseModelLoader


class PenstockModelLoader(_BaseModelLoader):  # type: ignore[misc]
    """Takes weights from a store by view: they are copied once, into the model."""

    def __init__(self, load_config: Any) -> None:
        super().__init__(load_config)
        self._settings = dict(load_config.model_loader_extra_config or {})
        self._prefix = weights_prefix(self._settings)

    def download_model(self, model_config: Any) -> None:
        """There is nothing to download: weights are in the store."""

    def load_weights(self, model: Any, model_config: Any) -> None:
        """Raises ValueError if a parameter of the model gets nothing; quantized models have ones that need not."""
        with open_store(self._settings) as store:
            loaded = model.load_weights(stored_weights(store, self._prefix))
        if loaded is None or model_config.quantization is not None:
            return
        missing = {name for name, _ in model.named_parameters()} - loaded
        if missing:
            raise ValueError(
                f"prefix: {self._prefix} lacks weights of {sorted(missing)[:10]} ({len(missing)} in all)"
            )


def register() -> None:
    """Idempotent."""
    if _loaders._LOAD_FORMAT_TO_MODEL_LOADER.get("penstock") is not PenstockModelLoader:
        _loaders.register_model_loader("penstock")(PenstockModelLoader)
