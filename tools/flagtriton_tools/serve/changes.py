# SPDX-License-Identifier: Apache-2.0
"""Detects models that clients load on a running server, with `flagtriton load` or Triton's repository API. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from flagtriton_tools.tritonserver.admin import ModelState

__all__ = ["Changes", "Processes"]

Processes = Mapping[str, frozenset[int]]
"""Process ids of a deployment, by step."""


class Changes:
    """Keeps the last states of a server's models, and reports each difference once."""

    def __init__(self) -> None:
        self._causes: dict[str, str] | None = None
        self._settled: dict[str, Processes] = {}
        self._last: dict[str, Processes] = {}

    def failures(self, states: Mapping[str, ModelState], leave_out: Collection[str]) -> dict[str, str]:
        """Return the models that failed to load since the last call, with the cause. The first call returns none.

        Args:
            states: states of all models.
            leave_out: models that are being recovered, as they are reported elsewhere.
        """
        causes = {name: state.cause for name, state in states.items() if _has_failed(state)}
        former, self._causes = self._causes, causes
        if former is None:
            return {}
        new = {name: cause for name, cause in causes.items() if former.get(name) != cause}
        return {name: cause for name, cause in new.items() if name not in leave_out}

    def loaded_again(self, name: str, processes: Processes) -> bool:
        """Return whether a deployment has a complete and settled set of processes that differs from the last one.

        The processes of several steps start one after another. So a set is settled once two calls in a row see it.
        """
        former, self._last[name] = self._last.get(name), processes
        if processes != former or not all(processes.values()):
            return False
        known, self._settled[name] = self._settled.get(name), processes
        return known not in (None, processes)

    def forget(self, name: str) -> None:
        """Treat the next processes of a deployment as its first ones, after it was unloaded or recovered."""
        self._last.pop(name, None)
        self._settled.pop(name, None)


def _has_failed(state: ModelState) -> bool:
    return state.state == "UNAVAILABLE" and state.cause not in ("", "unloaded")
