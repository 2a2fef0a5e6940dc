# SPDX-License-Identifier: Apache-2.0
"""One deployment of a running server, as what watches it sees it: its public models, its steps and their processes."""

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
        ensembles: its public models; what each takes, by input.
        steps: its private ones, each with how many processes a version of it has.
        version: which answers; what becomes of others that are loaded beside it is of no matter to callers.
        attempts: to bring it back, since it last answered.
        ask_at: when it is asked again, by the monotonic clock.
        revive_at: before that it is not brought back again.
        task: what is being done about it.
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
        """Whether something is being done about it."""
        return self.task is not None and not self.task.done()

    def lacking(self, alive: Mapping[tuple[str, str], int]) -> list[str]:
        """Return the steps that have fewer live processes than they should, by processes of each model's versions."""
        return [step for step, count in self.steps.items() if alive.get((step, self.version), 0) < count]

    def processes(self, alive: Mapping[tuple[str, str], set[int]]) -> Processes:
        """Return the processes of its version, by step, among those of each model's versions."""
        return {step: frozenset(alive.get((step, self.version), ())) for step in self.steps}

    def see_version(self, states: Mapping[str, ModelState]) -> None:
        """See which version answers, an ensemble's being that of all its steps; while none does, the last that did."""
        ready = states.get(self.name, ModelState(self.name)).versions
        self.version = ready[-1] if ready else self.version


def public_ensembles(admin: Admin, name: str, states: Mapping[str, ModelState]) -> dict[str, dict[str, Any]]:
    """Return the configurations of a deployment's public models, its own first; none where it is none of ours."""
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
    """Return the models that some ensembles chain, each once."""
    steps = [step["model_name"] for config in configs.values() for step in config["ensemble_scheduling"]["step"]]
    return list(dict.fromkeys(steps))


def watched_deployment(admin: Admin, name: str, states: Mapping[str, ModelState]) -> Watched | None:
    """Return a deployment as it is loaded now; None where it is none of ours."""
    configs = public_ensembles(admin, name, states)
    if not configs:
        return None
    inputs = {ensemble: [tensor["name"] for tensor in config["input"]] for ensemble, config in configs.items()}
    watched = Watched(name, inputs, {step: instances(admin.config(step) or {}) for step in sorted(steps_of(configs))})
    watched.see_version(states)
    return watched
