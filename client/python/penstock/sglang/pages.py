"""The pages of one host pool of SGLang's, and the KVCache that has them."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from penstock._core import TensorView
from penstock.kv_cache import KVCache

__all__ = ["PagePool", "bytes_of", "torch_module"]


class PagePool:
    """Moves pages between a host pool and a KVCache, with one copy where the pool shows its own memory.

    Threading: any. Ownership: the pool is SGLang's; the cache is this object's.
    Errors: what the pool raises if it shows no pages at all, when this is made; ValueError for indices that fit no keys.
    """

    def __init__(self, pool: Any, cache: KVCache) -> None:
        self.cache = cache
        self._pool = pool
        self._page_size: int = getattr(pool, "page_size", 1) or 1
        self._in_place = _shares_memory(self._page(0), pool)

    def put(self, keys: Sequence[str], host_indices: Any) -> list[bool]:
        """All in one call; pages that lie apart in the pool are gathered by the same copy."""
        pages = (self._page(index) for index in self._first_indices(keys, host_indices))
        return self.cache.put(zip(keys, pages))

    def fill(self, keys: Sequence[str], host_indices: Any) -> list[bool]:
        """Fills pages of the pool; whether each was there. A page that was not stays as it is."""
        indices = self._first_indices(keys, host_indices)
        views = self.cache.views(keys)
        return [view is not None and self._fill(index, view) for index, view in zip(indices, views)]

    def _fill(self, index: int, view: TensorView) -> bool:
        if self._in_place:
            return self.cache.copy(view, bytes_of(self._page(index)))
        page = self._pool.get_dummy_flat_data_page()
        if not self.cache.copy(view, bytes_of(page)):
            return False
        self._pool.set_from_flat_data_page(index, page)
        return True

    def _page(self, index: int) -> Any:
        """A page where it lies in the pool, with gaps if its layers lie apart; a copy if the pool cannot."""
        return self._pool.get_data_page(index, flat=False)

    def _first_indices(self, keys: Sequence[str], host_indices: Any) -> list[int]:
        """The index of each page's first token."""
        indices: list[int] = host_indices.tolist()
        if len(indices) != len(keys) * self._page_size:
            raise ValueError(
                f"host_indices: are {len(indices)}, not {self._page_size} for each of {len(keys)} keys"
            )
        return indices[:: self._page_size]


def bytes_of(tensor: Any) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The memory of a torch tensor as NumPy's u8, strided as it is: NumPy lacks some dtypes of torch's."""
    array: np.ndarray[Any, np.dtype[np.uint8]] = tensor.view(torch_module().uint8).numpy()
    return array


def torch_module() -> Any:
    """torch, which SGLang has imported before it comes here."""
    return importlib.import_module("torch")


def _shares_memory(page: Any, pool: Any) -> bool:
    """Whether a page is a part of one of the pool's buffers, not a copy."""
    buffers: list[Any] = []
    for field in ("kv_buffer", "k_buffer", "v_buffer"):
        buffer = getattr(pool, field, None)
        buffers += buffer if isinstance(buffer, (list, tuple)) else [buffer]
    memory = page.untyped_storage().data_ptr()
    return any(b is not None and b.untyped_storage().data_ptr() == memory for b in buffers)
