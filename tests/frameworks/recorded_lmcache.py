"""The connectors under names that LMCache can load, with their calls written down."""

from __future__ import annotations

from typing import Any

from penstock.lmcache import NativeConnector, PenstockAdapter
from recording import Recorder

_NATIVE = ("submit_batch_get", "submit_batch_set", "submit_batch_exists", "submit_batch_delete", "drain_completions", "close")
_REMOTE = ("exists", "exists_sync", "batched_contains", "batched_async_contains", "get", "batched_get", "batched_get_non_blocking",
           "put", "batched_put", "remove_sync", "list", "ping", "close")


def recorded_native(**arguments: Any) -> Recorder:
    return Recorder(NativeConnector(**arguments), _NATIVE, "lmcache_native")


class RecordedAdapter(PenstockAdapter):
    def create_connector(self, context: Any) -> Any:
        return Recorder(super().create_connector(context), _REMOTE, "lmcache_remote")
