"""Names of KV blocks: a chain of hashes over the tokens, so that equal prefixes have equal names in every engine.

vLLM's own block hashes begin with a random number in each process, unless all have the same PYTHONHASHSEED.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from typing import Any

__all__ = ["BlockKeys"]


class BlockKeys:
    """The keys of one request's full blocks, made as its tokens come. One thread at a time.

    A key stands for all tokens up to the end of its block, and for what else the KV values depend on: the LoRA adapter, the salt, and
    the images or the like that begin in these blocks. A request whose prompt is embeddings has no keys.
    """

    def __init__(self, request: Any, block_size: int) -> None:
        self._request = request
        self._block_size = block_size
        self._keys: list[str] = []
        self._has_tokens = getattr(request, "prompt_embeds", None) is None
        lora = getattr(request, "lora_request", None)
        root = [getattr(lora, "lora_name", None), getattr(request, "cache_salt", None), block_size]
        self._parent = hashlib.sha256(json.dumps(root).encode()).digest()
        features = getattr(request, "mm_features", None) or ()
        self._features = [(feature.mm_position.offset, str(feature.identifier)) for feature in features]

    def first(self, count: int) -> list[str]:
        """The keys of the first `count` blocks; fewer if there are fewer full ones."""
        if self._has_tokens:
            tokens = self._request.all_token_ids
            full = min(count, len(tokens) // self._block_size)
            while len(self._keys) < full:
                begin = len(self._keys) * self._block_size
                self._append(tokens[begin : begin + self._block_size], begin)
        return self._keys[:count]

    def _append(self, tokens: Any, begin: int) -> None:
        end = begin + self._block_size
        inside = sorted(f for f in self._features if begin <= f[0] < end)
        block = array("q", tokens).tobytes() + json.dumps(inside).encode()
        self._parent = hashlib.sha256(self._parent + block).digest()
        self._keys.append(self._parent.hex())
