# SPDX-License-Identifier: Apache-2.0
"""Settings of a step's process: number and niceness of threads, memory, OpenMP. Imports no torch."""

from __future__ import annotations

import contextlib
import ctypes
import os
from pathlib import Path

__all__ = ["keep_freed_memory", "limit_openmp_spinning", "lower_priority", "threads_per_instance"]

_MORE_NICENESS = 5
"""Niceness that is added to a thread.

If it shares a core with a thread without niceness, it gets a third of the time of that thread. Alone on a core, it gets
all the time.
"""

_SPINS = 14_000
"""Iterations of GNU OpenMP's wait loop, about 0.6 ms: the time between two operations of a forward pass."""

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8
_MAX_TRIM_THRESHOLD = 2**31 - 1


def threads_per_instance(instances: int) -> int:
    """Return the number of the processor's cores that each instance of a step computes on, at least one."""
    return max(1, len(os.sched_getaffinity(0)) // instances)


def limit_openmp_spinning() -> None:
    """Shorten the time that OpenMP's threads spin for work, unless the environment sets it.

    By default they spin for 14 ms after the last operation of a forward pass, on cores that another deployment could
    use. A single query is equally fast without that. Several deployments together answer three times as much
    (docs/benchmarks.md). OpenMP reads the variable when it is loaded, so call this before torch is imported.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", str(_SPINS))


def lower_priority() -> None:
    """Raise the niceness of all threads except the main thread.

    Triton calls a step in the main thread. That thread accepts requests and rejects them when the queue is full.
    Processes that load a model or tokenize also keep a higher priority. A step that restarts needs seconds of a core.
    At equal priority that takes a minute on a machine whose cores compute without a pause.
    """
    threads = {int(folder.name) for folder in Path("/proc/self/task").iterdir()}
    for thread in threads - {os.getpid()}:  # on Linux niceness is a property of a thread
        with contextlib.suppress(ProcessLookupError):  # the thread has ended
            os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + _MORE_NICENESS)


def keep_freed_memory() -> bool:
    """Let the C library keep the memory that a forward pass frees, so that the next pass reuses it.

    The activations of a pass are tens of megabytes. By default glibc maps and unmaps each block of that size, and every
    page of a fresh block costs a page fault. These faults take a fifth of the time on a processor. The kept memory is
    at most that of one pass.

    Returns:
        Whether this C library supports it: glibc does, musl does not.
    """
    library = ctypes.CDLL(None)
    mallopt, malloc_trim = getattr(library, "mallopt", None), getattr(library, "malloc_trim", None)
    if mallopt is None or malloc_trim is None:
        return False
    mallopt(_M_ARENA_MAX, 1)  # all threads allocate from one arena
    malloc_trim(0)  # returns the memory that is free now; blocks that are freed later stay
    # mallopt returns 1 for success. Older releases accept 32 MB at most. A trim threshold alone would be slower.
    if not (mallopt(_M_MMAP_THRESHOLD, 1 << 30) or mallopt(_M_MMAP_THRESHOLD, 32 << 20)):
        return False
    return bool(mallopt(_M_TRIM_THRESHOLD, _MAX_TRIM_THRESHOLD))
