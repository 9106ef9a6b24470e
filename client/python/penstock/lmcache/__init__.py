"""LMCache keeps its chunks in a Penstock store.

LMCache's server (multi-process mode), which loads the class by name and needs nothing else:

    lmcache server ... --l2-adapter '{"type": "native_plugin", "module_path": "penstock.lmcache",
        "class_name": "NativeConnector", "adapter_params": {"address": "/run/penstock"}}'

In the engine's own process (``LMCACHE_CONFIG_FILE``):

    remote_storage_plugins: ["penstock"]
    extra_config:
      remote_storage_plugin.penstock.module_path: penstock.lmcache
      remote_storage_plugin.penstock.class_name: PenstockAdapter
      remote_storage_plugin.penstock.address: /run/penstock        # else $PENSTOCK_ADDRESS, else the default
"""

from __future__ import annotations

from typing import Any

from penstock.lmcache.native import NativeConnector

__all__ = ["NativeConnector", "PenstockAdapter", "PenstockConnector"]


def __getattr__(name: str) -> Any:  # these are subclasses of LMCache's, which is imported for them only
    if name in ("PenstockAdapter", "PenstockConnector"):
        from penstock.lmcache import plugin

        return getattr(plugin, name)
    raise AttributeError(f"module 'penstock.lmcache' has no attribute {name!r}")
