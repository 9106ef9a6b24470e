"""Strategies of TorchStore, which say whose storage volume takes a tensor.

They are accepted and change nothing: a tensor that is put lies on the node of the host it was put on, and
readers on other hosts copy it from there.
"""

from __future__ import annotations

from penstock.compat.torchstore.transport import TransportType

__all__ = [
    "ControllerStorageVolumes",
    "HostStrategy",
    "LocalRankStrategy",
    "SingletonStrategy",
    "TorchStoreStrategy",
]


class TorchStoreStrategy:
    """Base of the strategies."""

    def __init__(self, default_transport_type: TransportType = TransportType.Unset) -> None:
        if not isinstance(default_transport_type, TransportType):
            raise TypeError(
                "default_transport_type: must be a TransportType, "
                f"not {type(default_transport_type).__name__}"
            )
        self.default_transport_type = default_transport_type


class HostStrategy(TorchStoreStrategy):
    """One volume a host: what Penstock does anyway."""


class LocalRankStrategy(TorchStoreStrategy):
    """One volume a rank."""


class SingletonStrategy(TorchStoreStrategy):
    """One volume for all."""


class ControllerStorageVolumes(TorchStoreStrategy):
    """One volume, of the controller."""
