"""Memory that a process keeps: what a step lets go of, the next one needs again."""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGEST_THRESHOLD_BYTES = 32 * 1024 * 1024
"""Of M_MMAP_THRESHOLD, with 64 bits."""


def keep_heap() -> bool:
    """Have the C library give no memory back to the kernel; returns whether it could be told (glibc only).

    Else it takes megabytes from the kernel and gives them back in every step, and the kernel clears every page anew.
    Source: mallopt(3).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, LARGEST_THRESHOLD_BYTES) and mallopt(M_TRIM_THRESHOLD, 2**31 - 1))
