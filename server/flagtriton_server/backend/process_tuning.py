# SPDX-License-Identifier: Apache-2.0
"""Settings of a step's process: threads and their priority, memory, OpenMP. Imports no torch."""

from __future__ import annotations

import contextlib
import ctypes
import os
from pathlib import Path

__all__ = ["keep_freed_memory", "limit_openmp_spinning", "lower_priority", "threads_per_instance"]

_MORE_NICENESS = 5
"""A thread gets a third of a thread's time without niceness where both want a core, and all of it where it is alone."""

_SPINS = 14_000
"""Iterations of GNU OpenMP's wait loop, about 0.6 ms: the time from one operation of a forward pass to the next."""

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8
_MAX_TRIM_THRESHOLD = 2**31 - 1


def threads_per_instance(instances: int) -> int:
    """Return how many of the processor's cores each of a step's instances computes on, at least one."""
    return max(1, len(os.sched_getaffinity(0)) // instances)


def limit_openmp_spinning() -> None:
    """Shorten how long OpenMP's threads spin for work, unless the environment says how long.

    By default they spin for 14 ms after the last operation of a forward pass, on cores that another deployment could
    use. A single query is as fast without that, and several deployments together answer three times as much
    (docs/benchmarks.md). OpenMP reads the variable when it is loaded: call this before torch is imported.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", str(_SPINS))


def lower_priority() -> None:
    """Raise the niceness of all threads but the main thread.

    Triton calls a step in the main thread, which accepts requests and rejects those that find the queue full. Processes
    that load a model or tokenise have a higher priority, too: a step that is restarted needs seconds of a core, which
    takes a minute on a machine whose cores compute without a pause.
    """
    threads = {int(folder.name) for folder in Path("/proc/self/task").iterdir()}
    for thread in threads - {os.getpid()}:  # on Linux each thread has its own niceness
        with contextlib.suppress(ProcessLookupError):  # it has ended
            os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + _MORE_NICENESS)


def keep_freed_memory() -> bool:
    """Let the C library reuse memory that one forward pass frees for the next, rather than return it to the system.

    The activations of a pass are tens of megabytes. glibc maps and unmaps blocks of that size one by one, and every
    page of a fresh block costs a fault: a fifth of the time on a processor. One pass bounds what is kept.

    Returns:
        Whether this C library supports it: glibc does, musl does not.
    """
    library = ctypes.CDLL(None)
    mallopt, malloc_trim = getattr(library, "mallopt", None), getattr(library, "malloc_trim", None)
    if mallopt is None or malloc_trim is None:
        return False
    mallopt(_M_ARENA_MAX, 1)  # blocks of all threads grow in one arena
    malloc_trim(0)  # returns what is free now; later blocks stay
    # mallopt returns 1 for success. Older releases take 32 MB at most; a trim threshold alone would make it slower.
    if not (mallopt(_M_MMAP_THRESHOLD, 1 << 30) or mallopt(_M_MMAP_THRESHOLD, 32 << 20)):
        return False
    return bool(mallopt(_M_TRIM_THRESHOLD, _MAX_TRIM_THRESHOLD))
