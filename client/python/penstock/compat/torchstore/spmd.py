"""torchstore.spmd: for jobs of torchrun."""

from penstock.compat.torchstore.api import initialize_spmd as initialize

__all__ = ["initialize"]
