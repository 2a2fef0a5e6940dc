# SPDX-License-Identifier: Apache-2.0
"""Checks the machine's free shared memory, and the free disk space for the log."""

from __future__ import annotations

import shutil
from pathlib import Path

from flagtriton_tools.errors import ToolError

__all__ = ["SHARED_MEMORY", "check_room"]

SHARED_MEMORY = Path("/dev/shm")

_MB = 1_000_000
_OF_EACH_MODEL = 1.1 * _MB
"""Shared memory of a Python model's process at its start, bytes. It grows with the tensors that pass through."""

_COMFORTABLE = 256 * _MB
_FOR_LOGS = 100 * _MB


def check_room(models: int, log_file: Path | None) -> list[str]:
    """Return warnings about scarce resources.

    Args:
        models: number of models to load.
        log_file: log, which grows on its disk; None is the terminal.

    Raises:
        ToolError: the shared memory is too small to start that number of models.
    """
    warnings = []
    free = shutil.disk_usage(SHARED_MEMORY).free if SHARED_MEMORY.is_dir() else 0
    larger = "give the container more with `docker run --shm-size 1g`, in Kubernetes with an emptyDir of medium Memory"
    if free < models * _OF_EACH_MODEL:
        raise ToolError(
            f"{SHARED_MEMORY} has {free / _MB:.1f} MB free, and {models} models begin with "
            f"{models * _OF_EACH_MODEL / _MB:.1f} MB; {larger}"
        )
    if free < _COMFORTABLE:
        warnings.append(f"warning: {SHARED_MEMORY} has only {free / _MB:.0f} MB free for tensors; {larger}")
    if log_file is not None:
        folder = next(parent for parent in log_file.absolute().parents if parent.is_dir())
        left = shutil.disk_usage(folder).free
        if left < _FOR_LOGS:
            warnings.append(
                f"warning: {folder} has only {left / _MB:.0f} MB free for the log; make room, or --log-file"
            )
    return warnings
