"""vLLM keeps KV blocks in a Penstock store, and takes weights from one.

    vllm serve MODEL --kv-transfer-config '{"kv_connector": "PenstockConnector", "kv_connector_module_path": "penstock.vllm",
        "kv_role": "kv_both", "kv_load_failure_policy": "recompute", "kv_connector_extra_config": {"address": "/run/penstock"}}'

    penstock import --prefix models/llama CHECKPOINT_FOLDER
    vllm serve MODEL --load-format penstock --model-loader-extra-config '{"prefix": "models/llama"}'

Extra fields of the connector: address (else $PENSTOCK_ADDRESS, else the default), prefix, timeout, ttl, and revision: whatever tells
these weights from others of the same name. Of the loader: prefix, address, timeout.
"""

from __future__ import annotations

from typing import Any

__all__ = ["PenstockConnector", "PenstockModelLoader", "register"]


def register() -> None:
    """Makes ``--load-format penstock`` known. vLLM calls it in each of its processes (entry point ``vllm.general_plugins``)."""
    from penstock.vllm import loader

    loader.register()


def __getattr__(name: str) -> Any:  # these are subclasses of vLLM's, which is imported for them only
    if name == "PenstockConnector":
        from penstock.vllm import connector

        return connector.PenstockConnector
    if name == "PenstockModelLoader":
        from penstock.vllm import loader

        return loader.PenstockModelLoader
    raise AttributeError(f"module 'penstock.vllm' has no attribute {name!r}")
