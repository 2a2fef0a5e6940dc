# SPDX-License-Identifier: Apache-2.0
"""Loads and unloads a deployment with all of its models on a running server.

Other deployments stay untouched.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from flagtriton.protocol.deployment import score_model_name
from flagtriton_tools.errors import ToolError
from flagtriton_tools.serve.watched import public_ensembles, steps_of
from flagtriton_tools.tritonserver.admin import Admin, ModelState

__all__ = ["load_deployment", "progress", "unload_deployment"]

_REQUESTS_END_WITHIN_S = 60.0
_PROCESSES_END_WITHIN_S = 20.0


def load_deployment(admin: Admin, name: str) -> list[str]:
    """Load a deployment, or reload its changed models; return the names of its models.

    Triton loads the steps of an ensemble with it, but checks only named models for changed files. So the models that
    are loaded already are named one by one. Each of them answers until its successor is ready.

    Raises:
        ToolError: a model does not load (with the cause), the name is a step, or the server does not answer.
    """
    before = _states(admin)
    _refuse_step(admin, name, before, "load")
    if name not in before:
        raise ToolError(
            f"{admin.url} has no model {name} in its repository; `flagtriton add CHECKPOINT --name {name}` adds it"
        )
    for ensemble in (name, score_model_name(name)):
        if ensemble in before and not before[ensemble].is_ready:
            admin.load(ensemble)
    configs = public_ensembles(admin, name, _states(admin))
    models = [*configs, *steps_of(configs)] or [name]
    for model in reversed(models):  # steps before ensembles, which then find the new steps
        try:
            admin.load(model)
        except ToolError as error:
            if not before.get(model, ModelState(model)).is_ready:
                raise
            raise ToolError(
                f"{error}\nWhat answered before goes on until its server or process ends, as Triton loads all versions "
                f"of a model or none: mend it, or `flagtriton switch {name}`, then `remove {name} --model-version`"
            ) from error
    return models


def _refuse_step(admin: Admin, name: str, states: Mapping[str, ModelState], command: str) -> None:
    """Raise `ToolError` if the name is a step, without which its deployment would not answer."""
    for owner in states:
        if name.startswith(f"{owner}_") and name in steps_of(public_ensembles(admin, owner, states)):
            raise ToolError(f"{name} is a step of {owner}; name the deployment: `flagtriton {command} {owner}`")


@contextmanager
def progress(admin: Admin, name: str, show: Callable[[str], object], every_s: float) -> Iterator[None]:
    """Show, every few seconds while the block runs, which models of a deployment are still loading.

    Args:
        admin: client of the server.
        name: name of the deployment.
        show: called with one line.
        every_s: interval, seconds.
    """
    began, ended = time.monotonic(), threading.Event()

    def watch() -> None:
        while not ended.wait(every_s):
            with contextlib.suppress(ToolError):
                show(f"loading {name}, {time.monotonic() - began:.0f} s: {_stage(admin.states() or {}, name)}")

    thread = threading.Thread(target=watch, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()


def _stage(states: Mapping[str, ModelState], name: str) -> str:
    own = [state for state in states.values() if state.name == name or state.name.startswith(f"{name}_")]
    loading = sorted(state.name for state in own if state.state == "LOADING")
    ready = sum(state.is_ready for state in own)
    return f"{ready} of {len(own)} models ready{', waiting for ' if loading else ''}{', '.join(loading)}"


def unload_deployment(admin: Admin, name: str, report: Callable[[str], object] = lambda _: None) -> list[str]:
    """Unload a deployment once its requests are answered; return the names of its models.

    Args:
        admin: client of the server.
        name: name of the deployment.
        report: called with a line about steps that Triton keeps. Triton waits for their requests that were in a process
            when it died.

    Raises:
        ToolError: the deployment is not loaded, the name is a step, the server does not answer, or requests do not end
            within 60 s.
    """
    states = _states(admin)
    _refuse_step(admin, name, states, "unload")
    if not states.get(name, ModelState(name)).is_ready:
        raise ToolError(f"{name} is not loaded at {admin.url}")
    configs = public_ensembles(admin, name, states)
    ensembles, steps = list(configs) or [name], steps_of(configs)
    for model in ensembles:
        admin.unload(model)
    if left := _left_after(admin, ensembles, _REQUESTS_END_WITHIN_S):
        raise ToolError(f"{', '.join(left)} still had requests after {_REQUESTS_END_WITHIN_S:.0f} s")
    for model in steps:
        admin.unload(model)
    if left := _left_after(admin, steps, _PROCESSES_END_WITHIN_S):
        report(
            f"{', '.join(left)}: Triton still waits for requests that were in a process which died; they are unloaded, "
            "and their memory is free once the server is started anew"
        )
    return [*ensembles, *steps]


def _states(admin: Admin) -> dict[str, ModelState]:
    states = admin.states()
    if states is None:
        raise ToolError(f"no answer from {admin.url}; is the server running, and is this its HTTP port?")
    return states


def _left_after(admin: Admin, models: list[str], seconds: float) -> list[str]:
    """Wait until the models are gone, at most `seconds`; return those that are not."""
    deadline = time.monotonic() + seconds
    while True:
        states = _states(admin)
        left = [name for name in models if not states.get(name, ModelState(name)).is_gone]
        if not left or time.monotonic() >= deadline:
            return left
        time.sleep(0.05)
