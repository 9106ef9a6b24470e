"""LMCache's own classes over `RemoteCalls`. Importing this imports LMCache."""

from __future__ import annotations

import importlib
from typing import Any

from penstock.lmcache.remote import RemoteCalls, open_cache

__all__ = ["PenstockAdapter", "PenstockConnector"]

_connectors: Any = importlib.import_module("lmcache.v1.storage_backend.connector")
_base: Any = importlib.import_module("lmcache.v1.storage_backend.connector.base_connector")
_RemoteConnector: Any = _base.RemoteConnector
_ConnectorAdapter: Any = _connectors.ConnectorAdapter


class PenstockConnector(RemoteCalls, _RemoteConnector):  # type: ignore[misc]
    """The in-process connector, for workers and for schedulers, which have no memory for chunks."""

    def __init__(
        self,
        loop: Any,
        local_cpu_backend: Any,
        config: Any,
        metadata: Any = None,
        plugin_name: str = "penstock",
    ) -> None:
        """As LMCache makes it. metadata: if it is not given, the backend's."""
        torch: Any = importlib.import_module("torch")
        formats: Any = importlib.import_module("lmcache.v1.memory_management").MemoryFormat
        if metadata is None:
            metadata = local_cpu_backend.metadata
        _RemoteConnector.__init__(self, config, metadata)
        self.open_calls(
            open_cache(config, metadata, plugin_name),
            allocate=lambda shapes, *rest: local_cpu_backend.allocate([torch.Size(s) for s in shapes], *rest),
            dtype=lambda name: None if name is None else getattr(torch, name),
            memory_format=lambda name: formats[name],
        )


class PenstockAdapter(_ConnectorAdapter):  # type: ignore[misc]
    """Makes the connector for ``plugin://penstock`` and ``plugin://penstock.INSTANCE``."""

    def __init__(self) -> None:
        super().__init__("plugin://penstock")

    def create_connector(self, context: Any) -> PenstockConnector:
        return PenstockConnector(
            context.loop,
            context.local_cpu_backend,
            context.config,
            context.metadata,
            context.plugin_name or context.url.removeprefix("plugin://"),
        )
