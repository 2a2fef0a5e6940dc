# SPDX-License-Identifier: Apache-2.0
"""The check that an answer fits into the shared memory through which it is sent."""

from __future__ import annotations

import os

from flagtriton_server.errors import RequestError

__all__ = ["ResponseBudget"]

_SHARED_MEMORY = "/dev/shm"
_SPARE = 1 << 20  # bytes by which the backend's pool grows in addition to the requested ones


class ResponseBudget:
    """Space for the answers of this process. Shared memory that an answer has used once stays with the process."""

    def __init__(self) -> None:
        self._largest = 0  # bytes

    def refusal(self, needed: int) -> RequestError | None:
        """Return the error for an answer of `needed` bytes if it cannot be sent, else None.

        A sender that runs out of shared memory cannot send anything any more, and its client would wait forever.
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
