"""glibc malloc settings that keep freed memory in the process, because every training step allocates it again."""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
TOP_PAD_BYTES = 16 * 1024 * 1024
"""Size of the pieces in which the heap grows."""
LARGEST_THRESHOLD_BYTES = 32 * 1024 * 1024
"""The largest M_MMAP_THRESHOLD accepted on 64-bit systems."""


def retain_freed_memory() -> bool:
    """Configure malloc not to return freed memory to the kernel; return whether that succeeded (glibc only).

    Otherwise every step takes megabytes from the kernel and returns them, and the kernel zeroes every page again.
    Source: mallopt(3).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    thresholds_set = mallopt(M_MMAP_THRESHOLD, LARGEST_THRESHOLD_BYTES) and mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    return bool(thresholds_set and mallopt(M_TOP_PAD, TOP_PAD_BYTES))
