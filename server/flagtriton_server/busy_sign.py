# SPDX-License-Identifier: Apache-2.0
"""A word from an encoder to the tokenizer before it: there is no room, so tokenise nothing for now.

Without it a request that is refused has gone through two processes and been tokenised, which in a storm is half of
what a server does. Imports no torch.
"""

from __future__ import annotations

import mmap
import os
import struct
import time
from pathlib import Path

__all__ = ["BusySign", "sign_path"]

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


class BusySign:
    """One moment for each priority, by the monotonic clock that all processes share, until which it is up.

    Args:
        path: a file in shared memory, made if it is not there; one that cannot be opened is done without. Those of
            servers that have ended are removed.
    """

    def __init__(self, path: Path) -> None:
        _remove_abandoned()
        self._moments: mmap.mmap | bytearray
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        except OSError:  # somebody else's
            self._moments = bytearray(_SIZE)
            return
        with os.fdopen(descriptor, "r+b") as file:
            file.truncate(_SIZE)
            self._moments = mmap.mmap(descriptor, _SIZE)

    def tell(self, bulk: bool, full: bool) -> None:
        """Say that further requests of a priority will find no room, or that they will again."""
        _MOMENT.pack_into(self._moments, bulk * _MOMENT.size, time.monotonic() + _UP_S if full else 0.0)

    def is_up(self, bulk: bool) -> bool:
        """Return whether they will find none."""
        (until,) = _MOMENT.unpack_from(self._moments, bulk * _MOMENT.size)
        return time.monotonic() < float(until)


def _here() -> str:
    """Return what names begin with: containers may share the folder, and each counts its processes from 1."""
    return f"{_PREFIX}{_PROCESSES.stat().st_ino}_"


def _remove_abandoned() -> None:
    here = _here()
    for path in FOLDER.glob(f"{here}*"):
        server = path.name.removeprefix(here).partition("_")[0]
        if server.isdigit() and not Path("/proc", server).exists():
            path.unlink(missing_ok=True)
