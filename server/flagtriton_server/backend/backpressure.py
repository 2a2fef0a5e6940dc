# SPDX-License-Identifier: Apache-2.0
"""Backpressure: the encoder sets a flag when its queue is nearly full; the tokenizer then rejects requests.

Without the flag, a rejected request has passed through two processes and has been tokenized. Under overload that is
half of a server's work. Imports no torch.
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
"""Seconds until a flag expires. It bounds how long the flag of an encoder that died stays set."""

_TIME = struct.Struct("<d")
_SIZE = 2 * _TIME.size  # interactive, bulk


class BackpressureFlag:
    """One flag for each priority, stored as the time until which it is set.

    The time is that of the monotonic clock, which all processes share. The constructor also removes the flags of this
    user's servers that have ended.

    Args:
        path: file in shared memory, created if it does not exist. If it cannot be opened, only this process sees the
            flag.
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
        """Set the flag of a priority if its queue is full, else clear it."""
        _TIME.pack_into(self._times, bulk * _TIME.size, time.monotonic() + _EXPIRES_AFTER_S if full else 0.0)

    def is_set(self, bulk: bool) -> bool:
        """Return whether the queue has no room for requests of a priority."""
        (until,) = _TIME.unpack_from(self._times, bulk * _TIME.size)
        return time.monotonic() < float(until)

    def close(self) -> None:
        """Close the file; the last step that closes it removes it. Afterwards only this process sees the flag."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is None:
            return
        if isinstance(times := self._times, mmap.mmap):
            self._times = bytearray(times[:])
            times.close()
        _remove_unless_used(self._path, descriptor)
        os.close(descriptor)


def _open(path: Path) -> int | None:
    """Return a descriptor of the file, or None if it cannot be opened. A shared lock on it marks the file as used."""
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError:  # another user's file
            return None
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        with contextlib.suppress(OSError):
            if path.stat().st_ino == os.fstat(descriptor).st_ino:
                return descriptor
        os.close(descriptor)  # another process removed the file before this lock


def _remove_unless_used(path: Path, descriptor: int) -> None:
    """Remove the file if no other process has it open. Never blocks another process."""
    with contextlib.suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if path.stat().st_ino == os.fstat(descriptor).st_ino:
            path.unlink()
