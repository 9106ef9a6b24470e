"""The connector in vLLM's scheduler: which blocks the store has, which ones to load, and which ones to save."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from penstock.kv_cache import KVCache
from penstock.vllm.block_keys import BlockKeys

__all__ = ["SchedulerSide", "Transfer", "Transfers"]


class Transfer(NamedTuple):
    """One block: its key in the store, and its number in the engine."""

    key: str
    block_id: int


class Transfers(NamedTuple):
    """What the workers do in one step."""

    loads: list[Transfer]
    saves: list[Transfer]


@dataclass
class _Tracked:
    """What is known of a request that has not finished."""

    request: Any
    keys: BlockKeys
    block_ids: list[int] = field(default_factory=list)
    looked_up_from: int = 0  # in blocks: what the engine itself has
    saved: int = 0  # leading blocks that are in the store, or need not be put there


class SchedulerSide:
    """Plans transfers. A block counts as there only if every worker's part of it is.

    Threading: vLLM's scheduler thread. Ownership: holds requests from their first lookup until `finished`.
    """

    def __init__(self, caches: Sequence[KVCache], block_size: int, *, loads: bool, saves: bool) -> None:
        """caches: one for each worker. loads, saves: whether this engine does that at all (``kv_role``)."""
        self._caches = caches
        self._block_size = block_size
        self._loads = loads
        self._saves = saves
        self._tracked: dict[str, _Tracked] = {}
        self._planned: list[Transfer] = []

    def matched_tokens(self, request: Any, computed_tokens: int) -> int:
        """Tokens after the `computed_tokens` that the store has. The last token of a request is always left to compute."""
        tracked = self._track(request)
        tracked.looked_up_from = computed_tokens // self._block_size
        if not self._loads:
            return 0
        keys = tracked.keys.first((request.num_tokens - 1) // self._block_size)[tracked.looked_up_from :]
        if not keys:
            return 0
        return min(cache.longest_prefix(keys) for cache in self._caches) * self._block_size

    def allocated(self, request: Any, block_ids: Sequence[int], external_tokens: int) -> None:
        """The engine has made room, and loads `external_tokens` of what matched."""
        tracked = self._track(request)
        tracked.block_ids = list(block_ids)
        begin = tracked.looked_up_from
        end = begin + external_tokens // self._block_size
        self._planned += map(Transfer, tracked.keys.first(end)[begin:], tracked.block_ids[begin:end])
        tracked.saved = max(tracked.saved, end)

    def transfers(self, scheduler_output: Any) -> Transfers:
        """Of the step that is about to run: loads as planned, and a save for each block that it fills."""
        cached = scheduler_output.scheduled_cached_reqs
        saves: list[Transfer] = []
        for new in scheduler_output.scheduled_new_reqs:
            saves += self._filled(new.req_id, new.num_computed_tokens, scheduler_output)
        for i, req_id in enumerate(cached.req_ids):
            tracked = self._tracked.get(req_id)
            new_block_ids = cached.new_block_ids[i]
            if tracked is not None and new_block_ids is not None and req_id not in cached.resumed_req_ids:
                tracked.block_ids += new_block_ids[0]  # those of a resumed one came with `allocated`
            saves += self._filled(req_id, cached.num_computed_tokens[i], scheduler_output)
        loads, self._planned = self._planned, []
        return Transfers(loads, saves)

    def finished(self, request: Any) -> None:
        """A request is over: what was remembered of it goes."""
        self._tracked.pop(request.request_id, None)

    def clear(self) -> bool:
        """Deletes all blocks of this model and layout, of other engines too; whether the store was there to do it."""
        for cache in self._caches:
            cache.clear()
        return all(cache.answers() for cache in self._caches)

    def close(self) -> None:
        """Ends the use of the store. Idempotent."""
        for cache in self._caches:
            cache.close()

    def _track(self, request: Any) -> _Tracked:
        tracked = self._tracked.get(request.request_id)
        if tracked is None:
            tracked = _Tracked(request, BlockKeys(request, self._block_size))
            self._tracked[request.request_id] = tracked
        return tracked

    def _filled(self, req_id: str, computed_tokens: int, scheduler_output: Any) -> list[Transfer]:
        tracked = self._tracked.get(req_id)
        if tracked is None or not self._saves:
            return []
        # Drafted tokens may be refused, so only tokens that are known count.
        after = computed_tokens + scheduler_output.num_scheduled_tokens[req_id]
        full = min(after, len(tracked.request.all_token_ids)) // self._block_size
        keys = tracked.keys.first(full)
        filled = list(map(Transfer, keys[tracked.saved :], tracked.block_ids[tracked.saved : full]))
        tracked.saved = max(tracked.saved, full)
        return filled
