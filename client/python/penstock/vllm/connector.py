"""vLLM's KV connector over `SchedulerSide` and `WorkerSide`. Importing this imports vLLM."""

from __future__ import annotations

import importlib
import logging
from typing import Any

from penstock.kv_cache import KVCache
from penstock.vllm.scheduler_side import SchedulerSide, Transfers
from penstock.vllm.worker_side import WorkerSide

__all__ = ["PenstockConnector", "StepTransfers", "cache_of_rank"]

_base: Any = importlib.import_module("vllm.distributed.kv_transfer.kv_connector.v1.base")
_Connector: Any = _base.KVConnectorBase_V1
_Metadata: Any = _base.KVConnectorMetadata


class StepTransfers(_Metadata):  # type: ignore[misc]
    """What goes from the scheduler to the workers in each step."""

    def __init__(self, transfers: Transfers) -> None:
        self.transfers = transfers


class PenstockConnector(_Connector):  # type: ignore[misc]
    """Blocks are looked up when a request is scheduled, loaded before its first step, and saved as they fill."""

    def __init__(self, vllm_config: Any, role: Any, kv_cache_config: Any = None) -> None:
        super().__init__(vllm_config=vllm_config, role=role, kv_cache_config=kv_cache_config)
        transfer = vllm_config.kv_transfer_config
        parallel = vllm_config.parallel_config
        if role == _base.KVConnectorRole.SCHEDULER:
            if transfer.kv_load_failure_policy != "recompute":
                logging.getLogger(__name__).warning(
                    "a block that is evicted between its lookup and its load fails the request; "
                    'set "kv_load_failure_policy": "recompute" in --kv-transfer-config'
                )
            self._scheduler = SchedulerSide(
                [cache_of_rank(vllm_config, rank) for rank in range(parallel.world_size)],
                vllm_config.cache_config.block_size,
                loads=transfer.is_kv_consumer,
                saves=transfer.is_kv_producer,
            )
        else:
            cache = cache_of_rank(vllm_config, parallel.rank % parallel.world_size)
            self._worker = WorkerSide(cache, kv_cache_config.num_blocks)

    @property
    def requires_kv_delivery(self) -> bool:
        """A save that is dropped is a later miss, no more."""
        return False

    # --- in the scheduler ---

    def get_num_new_matched_tokens(self, request: Any, num_computed_tokens: int) -> tuple[int, bool]:
        return self._scheduler.matched_tokens(request, num_computed_tokens), False

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        self._scheduler.allocated(request, blocks.get_block_ids()[0], num_external_tokens)

    def build_connector_meta(self, scheduler_output: Any) -> StepTransfers:
        return StepTransfers(self._scheduler.transfers(scheduler_output))

    def request_finished(self, request: Any, block_ids: list[int]) -> tuple[bool, None]:
        self._scheduler.finished(request)
        return False, None

    def reset_cache(self) -> bool:
        """Deletes the blocks of this model and layout, of other engines too."""
        return self._scheduler.clear()

    # --- in a worker ---

    def register_kv_caches(self, kv_caches: dict[str, Any]) -> None:
        self._worker.register(kv_caches)

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        self._worker.load(self._get_connector_metadata().transfers.loads)

    def wait_for_layer_load(self, layer_name: str) -> None:
        """All layers are there when `start_load_kv` returns."""

    def save_kv_layer(self, layer_name: str, kv_layer: Any, attn_metadata: Any, **kwargs: Any) -> None:
        """Blocks are saved whole, after the last layer."""

    def wait_for_save(self) -> None:
        self._worker.save(self._get_connector_metadata().transfers.saves)

    def get_block_ids_with_load_errors(self) -> set[int]:
        return self._worker.take_failed()

    # --- in both ---

    def shutdown(self) -> None:
        side = getattr(self, "_scheduler", None) or self._worker
        side.close()


def cache_of_rank(vllm_config: Any, rank: int) -> KVCache:
    """The KVCache with one worker's part of the blocks; its name tells all that the bytes depend on."""
    model, cache, parallel = vllm_config.model_config, vllm_config.cache_config, vllm_config.parallel_config
    settings = vllm_config.kv_transfer_config.kv_connector_extra_config or {}
    layout = {
        "dtype": str(model.dtype),
        "cache_dtype": str(cache.cache_dtype),
        "block_size": cache.block_size,
        "tensor_parallel": parallel.tensor_parallel_size,
        "pipeline_parallel": parallel.pipeline_parallel_size,
        "rank": rank,
        "world_size": parallel.world_size,
        "revision": [str(getattr(model, "revision", None)), settings.get("revision")],
    }
    return KVCache(
        settings.get("prefix") or "vllm",
        model=str(model.model),
        layout=layout,
        address=settings.get("address"),
        timeout=float(settings.get("timeout") or 2.0),
        ttl=settings.get("ttl"),
        label="vllm",
    )
