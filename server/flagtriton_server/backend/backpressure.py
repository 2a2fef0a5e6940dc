# SPDX-License-Identifier: Apache-2.0
"""Backpressure: the encoder sets a flag when its queue is nearly full; the tokenizer then rejects requests.

Without it a rejected request has passed two processes and been tokenised, which under overload is half of a server's
work. Imports no torch.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import struct
import time
from pathlib import Path

from flagtriton.protocol.runtime_files import remove_abandoned_flags

__all__ = ["BackpressureFlag"]

_EXPIRES_AFTER_S = 2.0
"""An encoder that dies leaves its flag set for at most this long."""

_TIME = struct.Struct("<d")
_SIZE = 2 * _TIME.size  # interactive, bulk


class BackpressureFlag:
    """For each priority the time until which the flag is set, by the monotonic clock that all processes share.

    Args:
        path: a file in shared memory, created if it does not exist. If it cannot be opened, only this process sees the
            flag. Flags of this user's servers that have ended are removed.
    """

    def __init__(self, path: Path) -> None:
        remove_abandoned_flags()
        self._path = path
        self._descriptor = _open(path)
        self._times: mmap.mmap | bytearray = bytearray(_SIZE)
        if self._descriptor is not None:
            os.ftruncate(self._descriptor, _SIZE)
            self._times = mmap.mmap(self._descriptor, _SIZE)

    def set(self, bulk: bool, full: bool) -> None:
        """Set the flag of a priority, or clear it."""
        _TIME.pack_into(self._times, bulk * _TIME.size, time.monotonic() + _EXPIRES_AFTER_S if full else 0.0)

    def is_set(self, bulk: bool) -> bool:
        """Return whether the queue has no room for requests of a priority."""
        (until,) = _TIME.unpack_from(self._times, bulk * _TIME.size)
        return time.monotonic() < float(until)

    def close(self) -> None:
        """Leave the file, which the last step to leave removes. From then on only this process sees the flag."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is None:
            return
        if isinstance(times := self._times, mmap.mmap):
            self._times = bytearray(times[:])
            times.close()
        _remove_unless_used(self._path, descriptor)
        os.close(descriptor)


def _open(path: Path) -> int | None:
    """Return a descriptor of the file with a shared lock, which marks it as used; None if it cannot be opened."""
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError:  # another user's file
            return None
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        with contextlib.suppress(OSError):
            if path.stat().st_ino == os.fstat(descriptor).st_ino:
                return descriptor
        os.close(descriptor)  # it was removed before it was locked


def _remove_unless_used(path: Path, descriptor: int) -> None:
    """Remove the file if no other process has it open. Never blocks another process."""
    with contextlib.suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if path.stat().st_ino == os.fstat(descriptor).st_ino:
            path.unlink()
