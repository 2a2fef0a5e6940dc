# SPDX-License-Identifier: Apache-2.0
"""Deployments of a running server, loaded and unloaded with all of their models, no other being touched."""

from __future__ import annotations

import time

from flagtriton.protocol import score_model_name
from flagtriton_tools.admin import Admin, ModelState
from flagtriton_tools.errors import ToolError
from flagtriton_tools.supervision import public_ensembles, steps_of

__all__ = ["load_deployment", "unload_deployment"]

_UNLOADING_TIMEOUT_S = 60.0


def load_deployment(admin: Admin, name: str) -> list[str]:
    """Load a deployment, or load what has changed of it; return the names of its models.

    Triton loads an ensemble's steps with it, but looks for changed files only in what is named. So what is there
    already is named model by model; each serves until its successor is ready.

    Raises:
        ToolError: it does not load, and why, or the server does not answer.
    """
    before = _states(admin)
    if name not in before:
        raise ToolError(
            f"{admin.url} has no model {name} in its repository; `flagtriton add CHECKPOINT --name {name}` adds it"
        )
    for ensemble in (name, score_model_name(name)):
        if ensemble in before and not before[ensemble].is_ready:
            admin.load(ensemble)
    configs = public_ensembles(admin, name, _states(admin))
    models = [*configs, *steps_of(configs)] or [name]
    for model in reversed(models):  # steps first: the ensembles then find them as they are to be
        admin.load(model)
    return models


def unload_deployment(admin: Admin, name: str) -> list[str]:
    """Unload a deployment once its requests are answered; return the names of its models.

    Raises:
        ToolError: it is not loaded, or the server does not answer, or requests do not end.
    """
    states = _states(admin)
    if not states.get(name, ModelState(name)).is_ready:
        raise ToolError(f"{name} is not loaded at {admin.url}")
    configs = public_ensembles(admin, name, states)
    batches = list(configs) or [name], steps_of(configs)
    for batch in batches:
        for model in batch:
            admin.unload(model)
        _wait_until_gone(admin, batch)
    return [model for batch in batches for model in batch]


def _states(admin: Admin) -> dict[str, ModelState]:
    states = admin.states()
    if states is None:
        raise ToolError(f"no answer from {admin.url}; is the server running, and is this its HTTP port?")
    return states


def _wait_until_gone(admin: Admin, models: list[str]) -> None:
    deadline = time.monotonic() + _UNLOADING_TIMEOUT_S
    while time.monotonic() < deadline:
        states = _states(admin)
        if all(states.get(name, ModelState(name)).is_gone for name in models):
            return
        time.sleep(0.05)
    raise ToolError(f"{', '.join(models)} still had requests after {_UNLOADING_TIMEOUT_S:.0f} s")
