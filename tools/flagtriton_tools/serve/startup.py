# SPDX-License-Identifier: Apache-2.0
"""Detects failures while a server's models load.

Triton answers no request until each model has loaded or failed.
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import psutil

from flagtriton_tools.tritonserver.stubs import stub_processes

__all__ = ["StartUp"]

_LOADED = re.compile(r"successfully loaded '([^']+)'")
_FAILED = re.compile(r"failed to load '([^']+)' version \d+: (.*)")
"""Lines of Triton's log about the end of a model's loading. No other source has it until all have loaded or failed."""

_LOOKED_FOR_EVERY_S = 0.5
_HANGS_AFTER_S = 4.0
"""Seconds after which a zombie counts as unwatched. Triton reaps a process that it watches within 1 or 2 s."""


class StartUp:
    """Watches a server that loads models.

    Args:
        server_pid: process id of the server.
        log_file: log of the server; None is this terminal, where users read it themselves.
        log_start: start of this server's part in the log, bytes.
        models: models that the server loads.
        clock: returns the present time in seconds.
    """

    def __init__(
        self,
        server_pid: int,
        log_file: Path | None,
        log_start: int,
        models: Iterable[str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._server_pid = server_pid
        self._log_file, self._read = log_file, log_start
        self._waited_for = set(models)
        self._clock, self._next_look = clock, clock()
        self._seen: dict[int, str] = {}
        self._dead_since: dict[int, float] = {}

    def failures(self) -> dict[str, str]:
        """Return the models that failed to load since the last call, with the cause from the log."""
        failed: dict[str, str] = {}
        for line in self._new_lines():
            if match := _LOADED.search(line):
                self._waited_for.discard(match[1])
            elif match := _FAILED.search(line):
                self._waited_for.discard(match[1])
                failed[match[1]] = match[2].rstrip('"')
        return failed

    def lost(self) -> str | None:
        """Return a message about a process that died before Triton watched it, or None.

        Triton goes on waiting for it. The process stays a zombie, which Triton does not reap.
        """
        now = self._clock()
        if now < self._next_look:
            return None
        self._next_look = now + _LOOKED_FOR_EVERY_S
        for (name, _), pids in stub_processes(self._server_pid).items():
            self._seen.update(dict.fromkeys(pids, name))
        zombies = _zombies(self._server_pid)
        self._dead_since = {pid: self._dead_since.get(pid, now) for pid in zombies}
        for pid, since in self._dead_since.items():
            model = self._seen.get(pid)  # None if it died before it was seen
            if now - since >= _HANGS_AFTER_S and (model is None or model in self._waited_for):
                names = [model] if model else sorted(self._waited_for - set(self._seen.values()))
                return f"{_end_of(pid)} before the model was loaded: {' or '.join(names) or 'a step'}"
        return None

    def _new_lines(self) -> list[str]:
        """Return the complete lines in the log since the last call."""
        if self._log_file is None:
            return []
        try:
            with self._log_file.open("rb") as log:
                log.seek(self._read)
                new, _, _ = log.read().rpartition(b"\n")
        except OSError:
            return []
        self._read += len(new) + bool(new)
        return new.decode(errors="replace").splitlines()


def _zombies(parent: int) -> list[int]:
    try:
        children = psutil.Process(parent).children()
    except psutil.Error:
        return []
    found = []
    for child in children:
        try:
            if child.status() == psutil.STATUS_ZOMBIE:
                found.append(child.pid)
        except psutil.Error:
            continue  # Triton has reaped it since
    return found


def _end_of(pid: int) -> str:
    """Return how a zombie process ended."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").split()[-1]
        code = os.waitstatus_to_exitcode(int(status))
    except (OSError, ValueError):
        return "a step's process ended"
    if code < 0:
        return f"a step's process was ended by {signal.Signals(-code).name}"
    return f"a step's process ended with code {code}"
