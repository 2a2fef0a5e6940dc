# SPDX-License-Identifier: Apache-2.0
"""The server's log: its file, and the lines in it that explain a failure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from flagtriton_tools.errors import ToolError

__all__ = ["log_excerpt", "opened_log", "printed_by_steps"]

_ERROR_LINE = re.compile(r"E\d{4} |.*: unrecognized option ")
"""Errors in Triton's log, which begin with the level, month and day; and the message about an unknown flag."""

_TRITONS_LINE = re.compile(r"[EWI]\d{4} |[+|]")
_PRINTED_LINES = 12
_ERROR_LINES = 4
_TAIL_LINES = 6


@contextmanager
def opened_log(file: Path | None, *, again: bool = False) -> Iterator[BinaryIO | None]:
    """Yield the log file, emptied first or, with `again`, continued. None stays None.

    Raises:
        ToolError: the log cannot be written.
    """
    if file is None:
        yield None
        return
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        log = file.open("ab" if again else "wb")
    except OSError as error:
        raise ToolError(f"cannot write the log {file}: {error}; choose another with --log-file") from error
    with log:
        yield log


def printed_by_steps(log_file: Path | None) -> str:
    """Return a pointer to the log, with the last lines that the steps' processes, and not Triton, have written."""
    if log_file is None:
        return "; its log is above"
    lines = [line for line in log_file.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip("+-| ")]
    printed = [line for line in lines if not _TRITONS_LINE.match(line)][-_PRINTED_LINES:]
    return "; see {}, where the steps say:\n{}".format(log_file, "\n".join(f"  {line}" for line in printed))


def log_excerpt(log_file: Path | None) -> str:
    """Return a pointer to the log, with its last errors and last lines but without Triton's tables."""
    if log_file is None:
        return "; its log is above"
    lines = [line for line in log_file.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip("+-| ")]
    prose = [line for line in lines if not line.startswith(("|", "+"))]
    errors = [line for line in prose[:-_TAIL_LINES] if _ERROR_LINE.match(line)][-_ERROR_LINES:]
    shown = [line.replace("\\n", "\n    ") for line in (*errors, *prose[-_TAIL_LINES:])]
    return "; see {}, which ends:\n{}".format(log_file, "\n".join(f"  {line}" for line in shown))
