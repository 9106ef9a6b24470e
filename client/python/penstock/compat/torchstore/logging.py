"""init_logging of TorchStore."""

from __future__ import annotations

import logging
import os

__all__ = ["init_logging"]


def init_logging() -> None:
    """Sets the level of this package's log to $TORCHSTORE_LOG_LEVEL, if it is one."""
    level = logging.getLevelName(os.environ.get("TORCHSTORE_LOG_LEVEL", "").upper())
    if isinstance(level, int):
        logging.getLogger("penstock.compat.torchstore").setLevel(level)
