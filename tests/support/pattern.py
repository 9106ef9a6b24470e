"""Bytes that say what they are: a tensor is whole if it equals the pattern of its seed."""

from __future__ import annotations

import numpy as np


def pattern(seed: int, nbytes: int) -> np.ndarray:
    """u8 of `nbytes`; any two seeds differ in every 8 bytes, and no part repeats another."""
    words = np.arange(nbytes // 8 + 1, dtype=np.uint64)
    words *= np.uint64(0x9E3779B97F4A7C15)
    words += np.uint64((seed * 0xD1B54A32D192ED03 + 1) % 2**64)
    return words.view(np.uint8)[:nbytes]


def shows(array: np.ndarray, seed: int) -> bool:
    """Whether all of `array` is the pattern of `seed`."""
    return bool(np.array_equal(np.asarray(array), pattern(seed, array.nbytes)))
