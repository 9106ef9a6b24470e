"""What programs configure of Mooncake: the client's setup, and how an object is kept."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

__all__ = ["ReplicateConfig", "SoftPinAction", "address_of", "put_options"]


class SoftPinAction(IntEnum):
    """What a put does to the soft pin of an object."""

    PRESERVE = 0
    ENABLE = 1
    DISABLE = 2


@dataclass(slots=True)
class ReplicateConfig:
    """How an object is kept.

    replica_num: copies on as many nodes; one where the store cannot have more. Any pin: it stays until it is
    removed; without one it goes when room is needed, the least recently used first. What else there is,
    places objects in Mooncake and changes nothing here.
    """

    replica_num: int = 1
    nof_replica_num: int = 0
    dfs_replica_num: int = 0
    with_soft_pin: bool = False
    soft_pin_action: SoftPinAction = SoftPinAction.PRESERVE
    with_hard_pin: bool = False
    preferred_segments: list[str] = field(default_factory=list)
    preferred_segment: str = ""
    preferred_nof_segments: list[str] = field(default_factory=list)
    prefer_alloc_in_same_node: bool = False
    data_type: Any = 0
    group_ids: list[str] | None = None


def put_options(config: ReplicateConfig | None) -> dict[str, Any]:
    """The options of Store.put."""
    if config is None:
        config = ReplicateConfig()
    if not isinstance(config, ReplicateConfig):
        raise TypeError(f"config: must be a ReplicateConfig, not {type(config).__name__}")
    pinned = config.with_hard_pin or config.with_soft_pin or config.soft_pin_action == SoftPinAction.ENABLE
    return {"replicas": config.replica_num, "keep": bool(pinned)}


def address_of(master_server_addr: str) -> str | None:
    """The Penstock store that stands for a Mooncake master: $PENSTOCK_ADDRESS, else what the program gives.

    So a program that names its master ``host:50051`` runs unchanged where the variable is set, and one that
    may be changed gives a socket directory or ``host:port`` of a penstockd.
    """
    return os.environ.get("PENSTOCK_ADDRESS") or master_server_addr or None
