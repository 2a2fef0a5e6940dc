# SPDX-License-Identifier: Apache-2.0
"""State of one deployment for the supervisor: its public models, its steps and their processes."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from flagtriton.protocol.deployment import DEPLOYMENT_KEYS
from flagtriton_tools.deploy.ensembles import PART_OF
from flagtriton_tools.serve.changes import Processes
from flagtriton_tools.tritonserver.admin import Admin, ModelState
from flagtriton_tools.tritonserver.stubs import instances

__all__ = ["Watched", "public_ensembles", "steps_of", "watched_deployment"]


@dataclass
class Watched:
    """One deployment of a running server.

    Attributes:
        ensembles: input names of each public model.
        steps: number of processes that one version of each step has.
        version: version that answers. Other loaded versions do not matter to callers.
        attempts: number of recovery attempts since the deployment last answered.
        ask_at: monotonic time of the next probe.
        revive_at: monotonic time before which no recovery starts.
        task: probe or recovery that runs now.
    """

    name: str
    ensembles: dict[str, list[str]]
    steps: dict[str, int]
    version: str = ""
    attempts: int = 0
    ask_at: float = 0.0
    revive_at: float = 0.0
    task: Future[None] | None = field(default=None, repr=False)

    @property
    def is_busy(self) -> bool:
        """Whether a probe or a recovery runs."""
        return self.task is not None and not self.task.done()

    def lacking(self, alive: Mapping[tuple[str, str], int]) -> list[str]:
        """Return the steps that have too few live processes. `alive` counts them by model and version."""
        return [step for step, count in self.steps.items() if alive.get((step, self.version), 0) < count]

    def processes(self, alive: Mapping[tuple[str, str], set[int]]) -> Processes:
        """Return the processes of the answering version, by step. `alive` has them by model and version."""
        return {step: frozenset(alive.get((step, self.version), ())) for step in self.steps}

    def see_version(self, states: Mapping[str, ModelState]) -> None:
        """Set the version that answers: the ensemble's, which its steps share. If none is ready, keep the last."""
        ready = states.get(self.name, ModelState(self.name)).versions
        self.version = ready[-1] if ready else self.version


def public_ensembles(admin: Admin, name: str, states: Mapping[str, ModelState]) -> dict[str, dict[str, Any]]:
    """Return the configurations of a deployment's public models, the main one first; empty for other models."""
    own = admin.config(name)
    if own is None or not set(own.get("parameters", {})) >= DEPLOYMENT_KEYS or "ensemble_scheduling" not in own:
        return {}
    found = {name: own}
    for other in states:
        config = admin.config(other) if other.startswith(f"{name}_") else None
        if config is not None and config.get("parameters", {}).get(PART_OF, {}).get("string_value") == name:
            found[other] = config
    return found


def steps_of(configs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the models that the ensembles chain, each once."""
    steps = [step["model_name"] for config in configs.values() for step in config["ensemble_scheduling"]["step"]]
    return list(dict.fromkeys(steps))


def watched_deployment(admin: Admin, name: str, states: Mapping[str, ModelState]) -> Watched | None:
    """Return the present state of a loaded deployment, or None for a model that is no deployment."""
    configs = public_ensembles(admin, name, states)
    if not configs:
        return None
    inputs = {ensemble: [tensor["name"] for tensor in config["input"]] for ensemble, config in configs.items()}
    watched = Watched(name, inputs, {step: instances(admin.config(step) or {}) for step in sorted(steps_of(configs))})
    watched.see_version(states)
    return watched
