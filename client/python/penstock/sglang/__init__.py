"""SGLang's hierarchical cache keeps its pages in a Penstock store (HiCache's third level).

    --enable-hierarchical-cache --hicache-storage-backend dynamic --hicache-storage-backend-extra-config
        '{"backend_name": "penstock", "module_path": "penstock.sglang", "class_name": "PenstockHiCache", "interface_v1": 1}'

``interface_v1`` moves pages between SGLang's host pool and the store with one copy; without it, SGLang copies each page once more.
Further fields: address (else $PENSTOCK_ADDRESS, else the default), prefix, timeout, ttl.
"""

from __future__ import annotations

from typing import Any

__all__ = ["PenstockHiCache"]


def __getattr__(name: str) -> Any:  # a subclass of SGLang's, which is imported for it only
    if name == "PenstockHiCache":
        from penstock.sglang import plugin

        return plugin.PenstockHiCache
    raise AttributeError(f"module 'penstock.sglang' has no attribute {name!r}")
