# SPDX-License-Identifier: Apache-2.0
"""One line of JSON for each request of a step, where somebody asked for it: sizes and times, never a text."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path

from flagtriton.protocol.runtime_files import REQUEST_LOG

__all__ = ["RequestLog"]


class RequestLog:
    """A file that the steps of a server append to, each of them whole lines.

    Args:
        path: made if it is not there, for its owner alone; a terminal or pipe will do, too.
        source: what every line says beside its own.

    Raises:
        OSError: it cannot be written.
    """

    def __init__(self, path: Path, source: Mapping[str, str]) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._source = dict(source)

    @classmethod
    def wanted(cls, source: Mapping[str, str]) -> RequestLog | None:
        """Return the log that the environment asks for, if it does."""
        path = os.environ.get(REQUEST_LOG)
        return cls(Path(path), source) if path else None

    def write(self, **said: object) -> None:
        """Append a line; what is None is left out of it. One that cannot be written is lost, as on a full disk."""
        entry = {"time": _now(), **self._source, **{name: value for name, value in said.items() if value is not None}}
        with suppress(OSError):  # a log is no reason to fail a request
            os.write(self._descriptor, json.dumps(entry).encode() + b"\n")


def _now() -> str:
    return datetime.fromtimestamp(time.time(), timezone.utc).isoformat(timespec="milliseconds")
