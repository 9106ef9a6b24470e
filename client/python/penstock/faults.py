"""Stray writes to tensor memory end in an explanation."""

from __future__ import annotations

import faulthandler

from penstock import _core

__all__ = ["enable_fault_messages"]


def enable_fault_messages() -> None:
    """From now on a write to read-only tensor memory is explained on standard error.

    Such a write comes from a C extension, or a framework without read-only arrays, and ends the
    process (SIGSEGV). With this call the process first says that the memory belongs to a tensor, and
    what to do; then Python's faulthandler, which is enabled too, prints the stack. Other faults go to
    faulthandler directly. Call it in the main thread, once.
    """
    if not faulthandler.is_enabled():
        faulthandler.enable()
    _core._install_fault_messages()
