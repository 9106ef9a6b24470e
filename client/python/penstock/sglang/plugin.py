"""SGLang's own class over `HiCacheCalls`. Importing this imports SGLang."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

from penstock.sglang.calls import HiCacheCalls

__all__ = ["PenstockHiCache"]

_storage: Any = importlib.import_module("sglang.srt.mem_cache.hicache_storage")
_HiCacheStorage: Any = _storage.HiCacheStorage


class PenstockHiCache(HiCacheCalls, _HiCacheStorage):  # type: ignore[misc]
    """The dynamic storage backend."""

    def batch_exists_v2(
        self, keys: Sequence[str], pool_transfers: Sequence[Any] | None = None, extra_info: Any = None
    ) -> Any:
        """SGLang's PoolTransferResult of `hits()`."""
        return _storage.PoolTransferResult(*self.hits(keys, pool_transfers or ()))
