# SPDX-License-Identifier: Apache-2.0
"""A word from an encoder to the tokenizer before it: there is no room, so tokenise nothing for now.

Without it a request that is refused has gone through two processes and been tokenised, which in a storm is half of
what a server does. Imports no torch.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import struct
import time
from pathlib import Path

__all__ = ["BusySign", "remove_signs", "sign_path"]

FOLDER = Path("/dev/shm")
_PREFIX = "flagtriton_busy_"
_PROCESSES = Path("/proc/self/ns/pid")

_UP_S = 2.0
"""How long it stays up at most, so that an encoder that has died keeps nobody out for long."""

_MOMENT = struct.Struct("<d")
_SIZE = 2 * _MOMENT.size  # interactive, bulk


def sign_path(model_name: str, version: str) -> Path:
    """Return where the steps of one version of a deployment find their sign, of one server among several.

    Args:
        model_name: a step's.
        version: a number.
    """
    return FOLDER / f"{_here()}{os.getppid()}_{version}_{model_name.rpartition('_')[0]}"


def remove_signs(server: int) -> None:
    """Remove the files of a server whose steps were killed.

    Args:
        server: its process id.
    """
    for path in FOLDER.glob(f"{_here()}{server}_*"):
        _removed(path)


class BusySign:
    """One moment for each priority, by the monotonic clock that all processes share, until which it is up.

    Args:
        path: a file in shared memory, made if it is not there; one that cannot be opened is done without. Those of
            this user's servers that have ended are removed.
    """

    def __init__(self, path: Path) -> None:
        _remove_abandoned()
        self._path = path
        self._descriptor = _opened(path)
        self._moments: mmap.mmap | bytearray = bytearray(_SIZE)
        if self._descriptor is not None:
            os.ftruncate(self._descriptor, _SIZE)
            self._moments = mmap.mmap(self._descriptor, _SIZE)

    def tell(self, bulk: bool, full: bool) -> None:
        """Say that further requests of a priority will find no room, or that they will again."""
        _MOMENT.pack_into(self._moments, bulk * _MOMENT.size, time.monotonic() + _UP_S if full else 0.0)

    def is_up(self, bulk: bool) -> bool:
        """Return whether they will find none."""
        (until,) = _MOMENT.unpack_from(self._moments, bulk * _MOMENT.size)
        return time.monotonic() < float(until)

    def close(self) -> None:
        """Leave it; the last step to do so removes the file. From then on this one speaks to itself."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is None:
            return
        if isinstance(moments := self._moments, mmap.mmap):
            self._moments = bytearray(moments[:])
            moments.close()
        _remove_unless_used(self._path, descriptor)
        os.close(descriptor)


def _here() -> str:
    """Return what names begin with: containers may share the folder, and each counts its processes from 1.

    Each user has names of their own, as nobody may open, or remove, what is another's there.
    """
    return f"{_PREFIX}{os.getuid()}_{_PROCESSES.stat().st_ino}_"


def _opened(path: Path) -> int | None:
    """Return a descriptor of a file, whose lock says that it is used; None where it cannot be opened."""
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError:  # somebody else's
            return None
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        with contextlib.suppress(OSError):
            if path.stat().st_ino == os.fstat(descriptor).st_ino:
                return descriptor
        os.close(descriptor)  # it was removed before it was locked


def _remove_unless_used(path: Path, descriptor: int) -> None:
    """Remove a file that no process but this one has open; nobody is kept from that, or from using it."""
    with contextlib.suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if path.stat().st_ino == os.fstat(descriptor).st_ino:
            path.unlink()


def _remove_abandoned() -> None:
    for path in FOLDER.glob(f"{_here()}*"):
        server = path.name.removeprefix(_here()).partition("_")[0]
        if server.isdigit() and not Path("/proc", server).exists():
            _removed(path)


def _removed(path: Path) -> None:
    with contextlib.suppress(OSError):  # it is gone already
        path.unlink()
