"""glibc malloc settings for steady tensor workloads."""

from __future__ import annotations

import ctypes

__all__ = ["tune_allocator"]

# Parameter numbers from glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_TOP_PAD = -2
_M_MMAP_THRESHOLD = -3

_MIB = 1 << 20


def tune_allocator() -> bool:
    """Keep freed memory in the process instead of returning it to the kernel after each tensor.

    By default glibc maps every large block afresh, and the page faults of clearing it cost a small
    model dearly. Call once, before the first large allocation. The price is that the resident size
    stays at its peak. Returns whether it took effect; without ``mallopt`` nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    mallopt.argtypes = [ctypes.c_int, ctypes.c_int]
    mallopt.restype = ctypes.c_int
    # Older versions of glibc refuse a map threshold above 32 MiB.
    mapped = mallopt(_M_MMAP_THRESHOLD, 1024 * _MIB) or mallopt(_M_MMAP_THRESHOLD, 32 * _MIB)
    kept = mallopt(_M_TRIM_THRESHOLD, 2047 * _MIB)
    padded = mallopt(_M_TOP_PAD, 256 * _MIB)
    return bool(mapped and kept and padded)
