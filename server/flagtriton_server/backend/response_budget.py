# SPDX-License-Identifier: Apache-2.0
"""Whether an answer still fits into the shared memory through which it travels."""

from __future__ import annotations

import os

from flagtriton_server.errors import RequestError

__all__ = ["ResponseBudget"]

_SHARED_MEMORY = "/dev/shm"
_SPARE = 1 << 20  # bytes by which the backend's pool grows beyond what is asked for


class ResponseBudget:
    """What this process knows of the room for answers. The memory that one has once had stays the process's own."""

    def __init__(self) -> None:
        self._largest = 0  # bytes

    def refusal(self, needed: int) -> RequestError | None:
        """Return why an answer of so many bytes cannot be sent, None where it can.

        A sender that fails for want of shared memory cannot send anything any more, and its client would wait for ever.
        """
        if needed <= self._largest:
            return None
        room = os.statvfs(_SHARED_MEMORY)
        free = room.f_bavail * room.f_frsize
        if needed + _SPARE > free:
            return RequestError(
                f"{_SHARED_MEMORY} has {free} bytes free, and this answer needs {needed}; send fewer texts in each, or "
                "with docker, use '--shm-size' flag to control the shared memory",
                "INTERNAL",
            )
        self._largest = needed
        return None
