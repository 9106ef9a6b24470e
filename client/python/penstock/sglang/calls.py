"""The calls of SGLang's HiCacheStorage over KVCaches; knows nothing of SGLang's classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from penstock.kv_cache import KVCache
from penstock.sglang.pages import PagePool, bytes_of, torch_module

__all__ = ["HiCacheCalls", "Hits"]

# What of the configuration and of a host pool tells whether two processes can use each other's pages.
_RANKS = ("pp_rank", "pp_size", "attn_cp_rank", "attn_cp_size", "dcp_rank", "dcp_size")
_POOL = (
    *("layout", "dtype", "page_size", "layer_num", "head_num", "head_dim", "v_head_dim"),
    *("kv_cache_dim", "size_per_token"),
)
_KV = "kv"
_SHARDED_WITH_MLA = "mamba"  # the pool whose pages differ by rank even if those of KV do not


class Hits(NamedTuple):
    """How many pages there are: usable in all pools, in each pool from the first on, and every length that is usable."""

    usable: int
    by_pool: dict[str, int]
    lengths: list[int]


class HiCacheCalls:
    """What SGLang asks of a storage backend. A page is a tensor of the pool's dtype; one that is missing is None or False.

    Threading: any; SGLang calls from its prefetch and backup threads. Ownership: pages and host pools are SGLang's; nothing of pages is
    kept beyond a call. Errors: wrong fields raise InvalidArgumentError when this is made; a store that is away is a miss.
    """

    def __init__(self, storage_config: Any, kwargs: Mapping[str, Any] | None = None) -> None:
        """As SGLang makes it. Fields of ``extra_config``: address, prefix, timeout, ttl."""
        self._config = storage_config
        self._settings = dict(storage_config.extra_config or {})
        self._cache = self._open(None)  # until the host pool is known
        self._pools: dict[str, PagePool] = {}

    def register_mem_pool_host(self, mem_pool_host: Any) -> None:
        """From here on pages of KV are those of this pool, and named so. Raises what a pool raises that shows no pages."""
        self.register_mem_host_pool_v2(mem_pool_host, _KV)

    def register_mem_host_pool_v2(self, host_pool: Any, host_pool_name: str) -> None:
        """One more pool of a hybrid model; its pages are named by its own layout."""
        name = _text(host_pool_name)
        pool = PagePool(host_pool, self._open(host_pool, name))
        previous = self._cache if name == _KV else getattr(self._pools.get(name), "cache", None)
        self._pools[name] = pool
        if name == _KV:
            self._cache = pool.cache
        if previous is not None:
            previous.close()

    # --- interface_v1: straight from and into the host pool ---

    def batch_set_v1(self, keys: Sequence[str], host_indices: Any, extra_info: Any = None) -> list[bool]:
        """Stores the pages at these places of the host pool: whether each is there now."""
        return self._pools[_KV].put(keys, host_indices)

    def batch_get_v1(self, keys: Sequence[str], host_indices: Any, extra_info: Any = None) -> list[bool]:
        """Reads pages to these places of the host pool: whether each was there."""
        return self._pools[_KV].fill(keys, host_indices)

    # --- hybrid models: several pools ---

    def batch_set_v2(self, transfers: Sequence[Any], extra_info: Any = None) -> dict[str, list[bool]]:
        """The same for the pools of hybrid models, by the name of the pool."""
        return {t.name: self._move(t, PagePool.put) for t in transfers}

    def batch_get_v2(self, transfers: Sequence[Any], extra_info: Any = None) -> dict[str, list[bool]]:
        """The same for the pools of hybrid models, by the name of the pool."""
        return {t.name: self._move(t, PagePool.fill) for t in transfers}

    def hits(self, keys: Sequence[str], transfers: Sequence[Any]) -> Hits:
        """How much of a prefix is usable, given what each pool must have of it (``hit_policy``).

        all_pages: every page of the prefix; trailing_pages: the last ones of it, as many as the transfer has keys.
        """
        count = self._cache.longest_prefix(keys)
        by_pool = {_KV: count} if count else {}
        lengths = list(range(1, count + 1))
        for transfer in transfers:
            if not lengths:
                break
            there = self._pools[_text(transfer.name)].cache.contains(keys[:count])
            usable = _usable_lengths(there, transfer)
            if usable:
                by_pool[transfer.name] = max(usable)
            lengths = [length for length in lengths if length in usable]
        return Hits(lengths[-1] if lengths else 0, by_pool, lengths)

    # --- the generic interface: SGLang copies pages out of and into its pool ---

    def get(self, key: str, target_location: Any = None, target_sizes: Any = None) -> Any:
        """`target_location`, filled; None if the page is missing. Without one: a copy, flat and of u8."""
        return self.batch_get([key], None if target_location is None else [target_location])[0]

    def batch_get(
        self, keys: Sequence[str], target_locations: Sequence[Any] | None = None, target_sizes: Any = None
    ) -> list[Any]:
        """As get(), in one call."""
        targets = target_locations if target_locations is not None else [None] * len(keys)
        pages = []
        for view, target in zip(self._cache.views(keys), targets):
            if view is not None and target is None:
                target = torch_module().empty(view.nbytes, dtype=torch_module().uint8)
            found = view is not None and self._cache.copy(view, bytes_of(target))
            pages.append(target if found else None)
        return pages

    def set(self, key: str, value: Any = None, target_location: Any = None, target_sizes: Any = None) -> bool:
        """Stores a page; True if it was there already."""
        return self.batch_set([key], [value])

    def batch_set(
        self,
        keys: Sequence[str],
        values: Sequence[Any] | None = None,
        target_locations: Any = None,
        target_sizes: Any = None,
    ) -> bool:
        """Puts tensors in one call; whether all are in the store now."""
        return all(self._cache.put(zip(keys, values or [], strict=True)))

    # --- lookups and the rest ---

    def exists(self, key: str) -> bool:
        """Whether the page is stored."""
        return self._cache.longest_prefix([key]) == 1

    def batch_exists(self, keys: Sequence[str], extra_info: Any = None) -> int:
        """How many from the first on are there. One call."""
        return self._cache.longest_prefix(keys)

    def clear(self) -> bool:
        """Deletes this rank's pages, of all pools; whether the store was there to do it."""
        for cache in self._caches():
            cache.clear()
        return self._cache.answers()

    def close(self) -> None:
        """Ends the use of the store. Idempotent."""
        for cache in self._caches():
            cache.close()

    def _move(self, transfer: Any, move: Callable[[PagePool, Sequence[str], Any], list[bool]]) -> list[bool]:
        keys = transfer.keys or []
        if transfer.host_indices is None:  # the pool had no room
            return [False] * len(keys)
        return move(self._pools[_text(transfer.name)], keys, transfer.host_indices)

    def _caches(self) -> list[KVCache]:
        return [self._cache] + [pool.cache for pool in self._pools.values() if pool.cache is not self._cache]

    def _open(self, pool: Any, name: str = _KV) -> KVCache:
        config = self._config
        layout: dict[str, Any] = {"pool": name} | {field: getattr(config, field, None) for field in _RANKS}
        if not config.is_mla_model or name == _SHARDED_WITH_MLA:  # else all ranks have the same pages, once
            layout["tp"] = [config.tp_rank, config.tp_size]
        layout |= {field: str(getattr(pool, field, None)) for field in _POOL}
        return KVCache(
            self._settings.get("prefix") or "sglang",
            model=config.model_name or "",
            layout=layout,
            address=self._settings.get("address"),
            timeout=float(self._settings.get("timeout") or 2.0),
            ttl=self._settings.get("ttl"),
            label="sglang",
        )


def _text(name: Any) -> str:
    """Names of pools are str, or an enumeration of str."""
    return str(getattr(name, "value", name))


def _usable_lengths(there: Sequence[bool], transfer: Any) -> set[int]:
    policy = _text(transfer.hit_policy)
    if policy == "all_pages":
        first_gap = next((i for i, is_there in enumerate(there) if not is_there), len(there))
        return set(range(1, first_gap + 1))
    if policy == "trailing_pages":
        window = max(1, len(transfer.keys or ()))
        return {n for n in range(1, len(there) + 1) if all(there[max(0, n - window) : n])}
    raise NotImplementedError(f"hit_policy: {policy}; known are all_pages and trailing_pages")
