# SPDX-License-Identifier: Apache-2.0
"""What goes wrong while a server's models load. Triton answers nothing before all have loaded, or cannot."""

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
"""How Triton's log tells how the loading of a model ended; nothing else does before all models have."""

_LOOKED_FOR_EVERY_S = 0.5
_HANGS_AFTER_S = 4.0
"""Triton sees the death of a process that it watches within a second or two, and reaps it."""


class StartUp:
    """Watches a server that loads models.

    Args:
        server_pid: it.
        log_file: what it prints; None is this terminal, where users read it themselves.
        log_start: where in it this server's part begins, bytes.
        models: those it loads.
        clock: seconds.
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
        """Return the models that have failed to load since the last call, and why, as the log tells."""
        failed: dict[str, str] = {}
        for line in self._new_lines():
            if match := _LOADED.search(line):
                self._waited_for.discard(match[1])
            elif match := _FAILED.search(line):
                self._waited_for.discard(match[1])
                failed[match[1]] = match[2].rstrip('"')
        return failed

    def lost(self) -> str | None:
        """Return what is to be said of a process that died so early that Triton goes on waiting for it, or None.

        It stays a zombie, which Triton does not reap.
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
        """Return the whole lines that the log has got since the last call."""
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
            continue  # it was reaped meanwhile
    return found


def _end_of(pid: int) -> str:
    """Return how a process ended that nobody has reaped."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").split()[-1]
        code = os.waitstatus_to_exitcode(int(status))
    except (OSError, ValueError):
        return "a step's process ended"
    if code < 0:
        return f"a step's process was ended by {signal.Signals(-code).name}"
    return f"a step's process ended with code {code}"
