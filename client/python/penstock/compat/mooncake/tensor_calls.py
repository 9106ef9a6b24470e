"""Mooncake's calls for torch tensors. They are stored as tensors of Penstock, which every client of it sees.

What is got is the caller's own memory, filled by one copy. torch is imported when a call needs it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from penstock._core import dtype_name
from penstock.compat.mooncake.codes import ErrorCode, logger, mismatch, report
from penstock.compat.mooncake.config import ReplicateConfig
from penstock.compat.mooncake.session import BYTES, KIND, Session
from penstock.errors import InvalidArgumentError

if TYPE_CHECKING:
    import torch

__all__ = ["TensorCalls"]


class TensorCalls(Session):
    """The part of MooncakeDistributedStore for tensors; ``key_tp_0``, ``key_tp_1``, ... are parts of one."""

    def put_tensor(self, key: str, tensor: torch.Tensor) -> int:
        """Stores a tensor; one that is there stays, which is a success."""
        return self.batch_pub_tensor([key], [tensor])[0]

    def pub_tensor(self, key: str, tensor: torch.Tensor, config: ReplicateConfig | None = None) -> int:
        """The same, with a config."""
        return self.batch_pub_tensor([key], [tensor], config)[0]

    def batch_put_tensor(self, keys: list[str], tensors_list: list[torch.Tensor]) -> list[int]:
        """Stores several; a code each."""
        return self.batch_pub_tensor(keys, tensors_list)

    def batch_pub_tensor(
        self, keys: list[str], tensors_list: list[torch.Tensor], config: ReplicateConfig | None = None
    ) -> list[int]:
        """The same, with a config."""
        return self._put_tensors("put_tensor", keys, tensors_list, config, replace=False)

    def upsert_tensor(self, key: str, tensor: torch.Tensor) -> int:
        """Stores a tensor in place of what is there."""
        return self.batch_upsert_pub_tensor([key], [tensor])[0]

    def upsert_pub_tensor(self, key: str, tensor: torch.Tensor, config: ReplicateConfig | None = None) -> int:
        """The same, with a config."""
        return self.batch_upsert_pub_tensor([key], [tensor], config)[0]

    def batch_upsert_tensor(self, keys: list[str], tensors_list: list[torch.Tensor]) -> list[int]:
        """Stores several in place of what is there; a code each."""
        return self.batch_upsert_pub_tensor(keys, tensors_list)

    def batch_upsert_pub_tensor(
        self, keys: list[str], tensors_list: list[torch.Tensor], config: ReplicateConfig | None = None
    ) -> list[int]:
        """The same, with a config."""
        return self._put_tensors("upsert_tensor", keys, tensors_list, config, replace=True)

    def get_tensor(self, key: str) -> torch.Tensor | None:
        """A tensor of the caller's own; None if there is none, or bytes only."""
        return self.batch_get_tensor([key])[0]

    def batch_get_tensor(self, keys: list[str]) -> list[torch.Tensor | None]:
        """The same of several."""
        from penstock.compat.tensors import own_tensor

        tensors: list[torch.Tensor | None] = []
        for key, view in zip(keys, self._views("get_tensor", keys)):
            if isinstance(view, int):
                tensors.append(None)
            elif view.metadata.get(KIND) == BYTES:
                logger.error("get_tensor: %r holds bytes, no tensor", key)
                tensors.append(None)
            else:
                tensors.append(own_tensor(view))
        return tensors

    def put_tensor_with_tp(
        self, key: str, tensor: torch.Tensor, tp_rank: int = 0, tp_size: int = 1, split_dim: int = 0
    ) -> int:
        """Stores all `tp_size` parts of a tensor, whatever the rank; of one part, under `key` itself."""
        return self.batch_pub_tensor_with_tp([key], [tensor], None, tp_rank, tp_size, split_dim)[0]

    def pub_tensor_with_tp(
        self,
        key: str,
        tensor: torch.Tensor,
        config: ReplicateConfig | None = None,
        tp_rank: int = 0,
        tp_size: int = 1,
        split_dim: int = 0,
    ) -> int:
        """The same, with a config."""
        return self.batch_pub_tensor_with_tp([key], [tensor], config, tp_rank, tp_size, split_dim)[0]

    def batch_put_tensor_with_tp(
        self,
        base_keys: list[str],
        tensors_list: list[torch.Tensor],
        tp_rank: int = 0,
        tp_size: int = 1,
        split_dim: int = 0,
    ) -> list[int]:
        """Stores the parts of several tensors; a code each."""
        return self.batch_pub_tensor_with_tp(base_keys, tensors_list, None, tp_rank, tp_size, split_dim)

    def batch_pub_tensor_with_tp(
        self,
        base_keys: list[str],
        tensors_list: list[torch.Tensor],
        config: ReplicateConfig | None = None,
        tp_rank: int = 0,
        tp_size: int = 1,
        split_dim: int = 0,
    ) -> list[int]:
        """The same, with a config."""
        if tp_size <= 1 or len(base_keys) != len(tensors_list):
            return self.batch_pub_tensor(base_keys, tensors_list, config)
        return [self._put_split(*item, config, tp_size, split_dim) for item in zip(base_keys, tensors_list)]

    def get_tensor_with_tp(
        self, key: str, tp_rank: int = 0, tp_size: int = 1, split_dim: int = 0
    ) -> torch.Tensor | None:
        """The part of a rank."""
        return self.batch_get_tensor_with_tp([key], tp_rank, tp_size)[0]

    def batch_get_tensor_with_tp(
        self, base_keys: list[str], tp_rank: int = 0, tp_size: int = 1
    ) -> list[torch.Tensor | None]:
        """The same of several."""
        if tp_size <= 1:
            return self.batch_get_tensor(base_keys)
        return self.batch_get_tensor([_part(key, tp_rank) for key in base_keys])

    def _put_split(
        self, key: str, tensor: torch.Tensor, config: ReplicateConfig | None, tp_size: int, split_dim: int
    ) -> int:
        try:
            parts = tensor.chunk(tp_size, split_dim)
        except (AttributeError, IndexError) as error:
            return _refuse("put_tensor_with_tp", f"tensor: {error}")
        if len(parts) != tp_size:
            return _refuse("put_tensor_with_tp", f"tensor: has {len(parts)} parts, not {tp_size}")
        keys = [_part(key, rank) for rank in range(tp_size)]
        codes = self.batch_pub_tensor(keys, list(parts), config)
        return next((code for code in codes if code), int(ErrorCode.OK))

    def _put_tensors(
        self, call: str, keys: list[str], tensors: Sequence[Any], config: Any, replace: bool
    ) -> list[int]:
        if code := mismatch(call, keys, tensors):
            return [code] * len(keys)
        codes: dict[int, int] = {}
        items: list[tuple[int, tuple[str, Any, dict[str, str]]]] = []
        for i, (key, tensor) in enumerate(zip(keys, tensors)):
            try:
                items.append((i, (key, _checked(tensor, key), {})))
            except InvalidArgumentError as error:
                codes[i] = report(call, error)
        done = self._put_all(call, [item for _, item in items], config, replace)
        codes.update((i, code) for (i, _), code in zip(items, done))
        return [codes[i] for i in range(len(keys))]


def _checked(tensor: Any, key: str) -> torch.Tensor:
    """The tensor in host memory, if it is one that the store can have."""
    import torch

    if not isinstance(tensor, torch.Tensor) or tensor.layout != torch.strided:
        raise InvalidArgumentError(
            f"tensor: of {key!r} is no dense tensor, but {type(tensor).__name__}", code="INVALID_ARGUMENT"
        )
    dtype_name(tensor.dtype)
    return tensor.detach().cpu()


def _part(key: str, rank: int) -> str:
    return f"{key}_tp_{rank}"


def _refuse(call: str, message: str) -> int:
    return report(call, InvalidArgumentError(message, code="INVALID_ARGUMENT"))
