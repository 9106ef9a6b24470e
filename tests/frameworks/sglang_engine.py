"""The parts of SGLang that keep KV caches, real ones, on a CPU without a model: pools, and the controller with its threads."""

from __future__ import annotations

import tempfile
import threading
from typing import Any

import torch

# torchvision's operators are in a part of it that needs torch's own build; importing it asks for their names.
_LIBRARY = torch.library.Library("torchvision", "DEF")
for _operator in ("nms", "qnms"):
    _LIBRARY.define(f"{_operator}(Tensor x) -> Tensor")

PAGE, LAYERS, HEADS, DIM, TOKENS = 16, 3, 2, 8, 2048


def start() -> None:
    """Once a process."""
    import torch.distributed as distributed
    from sglang.srt import runtime_context
    from sglang.srt.server_args import ServerArgs

    file = tempfile.NamedTemporaryFile(delete=False)
    distributed.init_process_group("gloo", init_method=f"file://{file.name}", rank=0, world_size=1)
    arguments = ServerArgs(model_path="dummy", device="cpu")
    runtime_context.publish(arguments, role="scheduler", ranks=runtime_context.SpawnRanks(world_rank=0, gpu_id=0))


def device_pool(mla: bool = False, dtype: torch.dtype = torch.bfloat16) -> Any:
    from sglang.srt.mem_cache import memory_pool

    options = {"size": TOKENS, "page_size": PAGE, "dtype": dtype, "layer_num": LAYERS, "device": "cpu", "enable_memory_saver": False}
    if mla:
        return memory_pool.MLATokenToKVPool(kv_lora_rank=24, qk_rope_head_dim=8, **options)
    return memory_pool.MHATokenToKVPool(head_num=HEADS, head_dim=DIM, enable_alt_stream=False, **options)


def host_pool(device: Any, layout: str, mla: bool = False, allocator: str = "default") -> Any:
    from sglang.srt.mem_cache.pool_host.mha import MHATokenToKVPoolHost
    from sglang.srt.mem_cache.pool_host.mla import MLATokenToKVPoolHost

    kind, info = (MLATokenToKVPoolHost, device._mla_buffer_info()) if mla else (MHATokenToKVPoolHost, device._mha_buffer_info())
    options = {"target_layer_num": LAYERS} if mla else {}
    pool = kind(info, 2.0, 0, PAGE, layout, pin_memory=False, device="cpu", allocator_type=allocator,
                device_capacity_tokens=TOKENS, start_layer=0, end_layer=LAYERS, **options)
    fill(pool)
    return pool


def fill(pool: Any) -> None:
    """Other bytes in each element."""
    pool.kv_buffer.copy_(torch.randn(pool.kv_buffer.shape).to(pool.kv_buffer.dtype))


class Controller:
    """A HiCacheController with the dynamic backend, and what a scheduler does with it."""

    def __init__(self, layout: str, interface_v1: int, *, mla: bool = False, allocator: str = "default", **settings: Any) -> None:
        import torch.distributed as distributed
        from sglang.srt.managers.cache_controller import HiCacheController
        from sglang.srt.mem_cache.allocator.paged import PagedTokenToKVPoolAllocator

        device = device_pool(mla)
        self.host = host_pool(device, layout, mla, allocator)
        self.controller = HiCacheController(
            PagedTokenToKVPoolAllocator(TOKENS, PAGE, torch.bfloat16, "cpu", device, False),
            self.host, PAGE, distributed.group.WORLD, threading.Event(), storage_backend="dynamic", prefetch_threshold=PAGE,
            model_name="org/tiny",
            storage_backend_extra_config={"backend_name": "penstock", "module_path": "penstock.sglang", "class_name": "PenstockHiCache",
                                          "interface_v1": interface_v1, **settings})

    def pages(self, indices: torch.Tensor) -> list[torch.Tensor]:
        return [self.host.get_data_page(int(index)).clone() for index in indices[::PAGE]]

    def backup(self, tokens: list[int]) -> tuple[int, list[torch.Tensor]]:
        """Tokens that were written to the store, and their pages."""
        from sglang.srt.mem_cache.utils import get_hash_str

        hashes: list[str] = []
        for start in range(0, len(tokens), PAGE):
            hashes.append(get_hash_str(tokens[start : start + PAGE], hashes[-1] if hashes else None))
        indices = self.host.alloc(len(tokens))
        self.controller.write_storage(indices, tokens, hashes)
        done = self.controller.ack_backup_queue.get(timeout=30)
        pages = self.pages(indices)
        self.host.free(indices)
        return done.completed_tokens, pages

    def prefetch(self, tokens: list[int]) -> tuple[int, list[torch.Tensor]]:
        """Tokens that came from the store, and their pages; the host pool is cleared before."""
        self.host.kv_buffer.zero_()
        self.controller.prefetch("request", tokens)
        operation = self.controller.prefetch_hit_queue.get(timeout=30)
        if operation.storage_hit_count == 0:
            return 0, []
        indices = self.controller.alloc_prefetch_host_buffers(operation, operation.storage_hit_count)
        operation.host_indices = indices
        self.controller.prefetch_buffer.put(operation)
        completed = 0
        while not (ack := self.controller.ack_prefetch_queue.get(timeout=30)).completed_req:
            completed = ack.completed_tokens
        pages = self.pages(indices[:completed])
        self.host.free(indices)
        return completed, pages

    def close(self) -> None:
        self.controller.detach_storage_backend()
