# SPDX-License-Identifier: Apache-2.0
"""How this process gets its memory from the operating system."""

from __future__ import annotations

import ctypes

__all__ = ["keep_freed_memory"]

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8
_MOST = 2**31 - 1


def keep_freed_memory() -> bool:
    """Let the C library reuse what one forward pass frees for the next, rather than hand it back to the system.

    The activations of a pass are tens of megabytes. glibc maps and unmaps blocks of that size one by one, and every
    page of a fresh block costs a fault: a fifth of the time on a processor. What is kept is bounded by one pass.

    Returns:
        Whether this C library could be told: glibc can, musl cannot.
    """
    library = ctypes.CDLL(None)
    mallopt, malloc_trim = getattr(library, "mallopt", None), getattr(library, "malloc_trim", None)
    if mallopt is None or malloc_trim is None:
        return False
    mallopt(_M_ARENA_MAX, 1)  # another thread's blocks, too, can then be as large as a pass needs them
    malloc_trim(0)  # what is free so far goes back; from now on it stays
    # It returns 1 for success. Older releases take 32 MB at most; a trim threshold alone would make matters worse.
    if not (mallopt(_M_MMAP_THRESHOLD, 1 << 30) or mallopt(_M_MMAP_THRESHOLD, 32 << 20)):
        return False
    return bool(mallopt(_M_TRIM_THRESHOLD, _MOST))
