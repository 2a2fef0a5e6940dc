# SPDX-License-Identifier: Apache-2.0
"""Handles signals that end a command like Ctrl-C, so that context managers clean up."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["exit_code_of", "stopped_in_order"]


class Signalled(KeyboardInterrupt):
    """Raised when a signal other than SIGINT asks the process to end."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


@contextmanager
def stopped_in_order() -> Iterator[None]:
    """Raise `Signalled` on SIGTERM, and on SIGHUP unless the process ignores it, as under nohup."""

    def interrupt(number: int, _frame: FrameType | None) -> None:
        raise Signalled(number)

    wanted = [n for n in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) is not signal.SIG_IGN]
    former = {number: signal.signal(number, interrupt) for number in wanted}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def exit_code_of(interruption: BaseException) -> int:
    """Return 128 plus the signal's number, for an interruption or an exception raised from it."""
    cause = interruption if isinstance(interruption, KeyboardInterrupt) else interruption.__cause__
    return 128 + (cause.number if isinstance(cause, Signalled) else signal.SIGINT)
