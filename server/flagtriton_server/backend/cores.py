# SPDX-License-Identifier: Apache-2.0
"""How this process shares the processor's cores with the other steps on the machine."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import torch

__all__ = ["give_way", "share_cores"]

_MORE_NICENESS = 5
"""A thread gets a third of the time of one without where both want a core, and all of it where no other does."""


def share_cores(instances: int) -> int:
    """Give this process its share of the processor's cores; return how many threads that is."""
    threads = max(1, len(os.sched_getaffinity(0)) // instances)
    torch.set_num_threads(threads)
    return threads


def give_way() -> None:
    """Let go first who has less to do: processes that load a model or tokenise, and this one's main thread.

    The main thread, in which Triton calls a step, takes requests and refuses those that find their queue full.

    A step whose process has died takes several seconds of a core to come back, which is a minute beside models that
    compute on all cores without a pause.
    """
    threads = {int(folder.name) for folder in Path("/proc/self/task").iterdir()}
    for thread in threads - {os.getpid()}:  # on Linux each has a niceness of its own
        with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
            os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + _MORE_NICENESS)
