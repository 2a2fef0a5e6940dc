# SPDX-License-Identifier: Apache-2.0
"""An optional log with one line of JSON for each request of a step: sizes and times, never a text."""

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
    """A log file to which all steps of a server append whole lines.

    Args:
        path: file, created for its owner alone if it does not exist; a terminal or a pipe is also possible.
        source: fields that every line has in addition to those of its request.

    Raises:
        OSError: the file cannot be opened for writing.
    """

    def __init__(self, path: Path, source: Mapping[str, str]) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._source = dict(source)

    @classmethod
    def wanted(cls, source: Mapping[str, str]) -> RequestLog | None:
        """Return the log that the environment names, or None if it names none."""
        path = os.environ.get(REQUEST_LOG)
        return cls(Path(path), source) if path else None

    def write(self, **said: object) -> None:
        """Append a line without the fields that are None. A line that cannot be written is lost, as on a full disk."""
        entry = {"time": _now(), **self._source, **{name: value for name, value in said.items() if value is not None}}
        with suppress(OSError):  # a log failure must not fail a request
            os.write(self._descriptor, json.dumps(entry).encode() + b"\n")


def _now() -> str:
    return datetime.fromtimestamp(time.time(), timezone.utc).isoformat(timespec="milliseconds")
