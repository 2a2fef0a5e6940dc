# SPDX-License-Identifier: Apache-2.0
"""What clients load on a running server, to be reported: `flagtriton load`, and Triton's own repository API. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from flagtriton_tools.tritonserver.admin import ModelState

__all__ = ["Changes", "Processes"]

Processes = Mapping[str, frozenset[int]]
"""The processes of a deployment, by step."""


class Changes:
    """Remembers how a server's models stood, and tells once what is different."""

    def __init__(self) -> None:
        self._causes: dict[str, str] | None = None
        self._settled: dict[str, Processes] = {}
        self._last: dict[str, Processes] = {}

    def failures(self, states: Mapping[str, ModelState], leave_out: Collection[str]) -> dict[str, str]:
        """Return the models that could not be loaded since the last call, and why; at first none.

        Args:
            states: how all models stand.
            leave_out: models that are being brought back, of which is reported elsewhere.
        """
        causes = {name: state.cause for name, state in states.items() if _has_failed(state)}
        former, self._causes = self._causes, causes
        if former is None:
            return {}
        new = {name: cause for name, cause in causes.items() if former.get(name) != cause}
        return {name: cause for name, cause in new.items() if name not in leave_out}

    def loaded_again(self, name: str, processes: Processes) -> bool:
        """Return whether a deployment has other processes than when this was last asked, and all of them.

        Those of several steps come one after another: it is so once they stay the same from one call to the next.
        """
        former, self._last[name] = self._last.get(name), processes
        if processes != former or not all(processes.values()):
            return False
        known, self._settled[name] = self._settled.get(name), processes
        return known not in (None, processes)

    def forget(self, name: str) -> None:
        """Take the next processes of a deployment for its first: it was unloaded, or brought back."""
        self._last.pop(name, None)
        self._settled.pop(name, None)


def _has_failed(state: ModelState) -> bool:
    return state.state == "UNAVAILABLE" and state.cause not in ("", "unloaded")
