"""The connector under a name that vLLM can load, with its calls written down."""

from __future__ import annotations

from typing import Any

from penstock.vllm import PenstockConnector
from recording import write_call

SCHEDULER = ("get_num_new_matched_tokens", "update_state_after_alloc", "build_connector_meta", "request_finished", "reset_cache")
WORKER = ("register_kv_caches", "start_load_kv", "wait_for_save", "get_block_ids_with_load_errors")


def describe(thing: Any) -> Any:
    """What a connector reads of vLLM's objects."""
    if hasattr(thing, "all_token_ids"):
        return {"request": thing.request_id, "tokens": list(thing.all_token_ids)}
    if hasattr(thing, "get_block_ids"):
        return {"blocks": [list(ids) for ids in thing.get_block_ids()]}
    if hasattr(thing, "scheduled_cached_reqs"):
        cached = thing.scheduled_cached_reqs
        return {
            "new": [[new.req_id, new.num_computed_tokens, list(new.block_ids[0])] for new in thing.scheduled_new_reqs],
            "cached": {
                "req_ids": list(cached.req_ids),
                "resumed": sorted(cached.resumed_req_ids),
                "new_block_ids": [None if ids is None else [list(group) for group in ids] for ids in cached.new_block_ids],
                "num_computed_tokens": list(cached.num_computed_tokens),
            },
            "num_scheduled_tokens": dict(thing.num_scheduled_tokens),
        }
    if hasattr(thing, "transfers"):
        return [list(map(list, transfers)) for transfers in thing.transfers]
    if hasattr(thing, "no_compile_layers"):
        return {"forward_context": sorted(thing.no_compile_layers)}
    return None


def _recorded(name: str) -> Any:
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = getattr(super(RecordedConnector, self), name)(*args, **kwargs)
        write_call("vllm", name, args, kwargs, result, describe)
        return result

    return call


class RecordedConnector(PenstockConnector):
    """As PenstockConnector."""


for _name in (*SCHEDULER, *WORKER):
    setattr(RecordedConnector, _name, _recorded(_name))
