"""Memory that a process keeps: what a step lets go of, the next one needs again."""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
AT_ONCE_BYTES = 16 * 1024 * 1024
"""When memory runs out it is asked for in such pieces."""
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
    bounded = mallopt(M_MMAP_THRESHOLD, LARGEST_THRESHOLD_BYTES) and mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    return bool(bounded and mallopt(M_TOP_PAD, AT_ONCE_BYTES))
