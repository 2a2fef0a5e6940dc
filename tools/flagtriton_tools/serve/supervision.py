# SPDX-License-Identifier: Apache-2.0
"""Supervises a running server: probes every deployment every few seconds, and recovers it if a process is dead.

Triton 24.10 neither restarts a Python process that has died nor reports it. It calls the model ready and fails every
request. Reloading only that model fixes this and affects no other.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from flagtriton_tools.errors import ToolError
from flagtriton_tools.serve.changes import Changes
from flagtriton_tools.serve.health import READY, Health
from flagtriton_tools.serve.watched import Watched, watched_deployment
from flagtriton_tools.tritonserver.admin import Admin, ModelState
from flagtriton_tools.tritonserver.process import RunningServer
from flagtriton_tools.tritonserver.stubs import live_stubs, stub_processes, unhealthy_model

__all__ = ["Supervisor"]

_TICK_S = 0.5
_ROUND_S = 1.0
"""Interval between two checks for loaded and unloaded deployments, seconds. A restarted server loads those that the
checks have found."""

_LONGEST_WAIT_S = 60.0
_HANGING_S = 60.0
_WORKERS = 8
_BUSY = 503


class Supervisor:
    """Watches one server from the thread that calls `run`.

    Args:
        server: server to watch.
        admin: client that loads its models.
        health: receives the state of each deployment.
        report: called with one line for each event.
        every_s: interval between two probes of one deployment, seconds.
    """

    def __init__(
        self,
        server: RunningServer,
        admin: Admin,
        health: Health,
        report: Callable[[str], None],
        every_s: float = 2.0,
    ) -> None:
        self._server = server
        self._admin = admin
        self._health = health
        self._report = report
        self._every_s = every_s
        self._watched: dict[str, Watched] = {}
        self._changes = Changes()
        self._looked = False
        self._next_round = 0.0
        self._last_alive = time.monotonic()
        self._stopped = False

    @property
    def names(self) -> list[str]:
        """Deployments that are served or being recovered."""
        return sorted(self._watched)

    @property
    def ensembles(self) -> list[str]:
        """Public models of all deployments."""
        return [ensemble for watched in self._watched.values() for ensemble in watched.ensembles]

    def run(self) -> int:
        """Watch until the server ends; return its exit code."""
        pool = ThreadPoolExecutor(_WORKERS, "supervisor")
        try:
            while (code := self._server.exit_code) is None:
                self._tick(pool)
                time.sleep(_TICK_S)
            return code
        finally:
            self._stopped = True
            pool.shutdown(wait=False, cancel_futures=True)

    def _tick(self, pool: ThreadPoolExecutor) -> None:
        now = time.monotonic()
        if now >= self._next_round:
            self._next_round = now + _ROUND_S
            self.look_for_changes()
        alive = live_stubs(self._server.process.pid)
        for watched in self._watched.values():
            if watched.is_busy:
                continue
            dead = watched.lacking(alive)
            if dead and now >= watched.revive_at:
                watched.task = pool.submit(self._revive, watched, dead)
            elif not dead and now >= watched.ask_at:
                watched.task = pool.submit(self._ask, watched)
        self._health.beat()

    def look_for_changes(self) -> None:
        """Watch deployments that were loaded, forget those that were unloaded, and kill a server that hangs."""
        if self._end_if_it_hangs() or (states := self._admin.states()) is None:
            return
        for name in set(states) - set(self._watched):
            if states[name].is_ready and (found := watched_deployment(self._admin, name, states)) is not None:
                self._watched[name] = found
                self._health.deployment_is(name, "starting")
                if self._looked:
                    self._report(f"loaded: {name}, as a client asked")
        for watched in list(self._watched.values()):
            former = watched.version
            watched.see_version(states)
            if watched.is_busy:
                continue
            if _is_gone(states, watched):
                self._forget(watched, "as a client asked" if watched.name in states else "its folder is gone")
            elif former != watched.version:
                self._report(f"loaded: {watched.name} version {watched.version}, was {former}, as a client asked")
        self._report_loads(states)
        self._looked = True

    def _end_if_it_hangs(self) -> bool:
        if self._admin.get("/v2/health/live").status == 200:
            self._last_alive = time.monotonic()
        elif time.monotonic() > self._last_alive + _HANGING_S:
            self._report(f"tritonserver has not answered for {_HANGING_S:.0f} s, so it is ended")
            self._server.kill()
            return True
        return False

    def _forget(self, watched: Watched, cause: str) -> None:
        del self._watched[watched.name]
        self._changes.forget(watched.name)
        self._health.forget(watched.name)
        self._report(f"unloaded: {watched.name}, {cause}")

    def _report_loads(self, states: Mapping[str, ModelState]) -> None:
        """Report reloaded deployments, as after `flagtriton add --force`, and models that could not be loaded."""
        idle = [watched for watched in self._watched.values() if not (watched.is_busy or watched.attempts)]
        revived = {model for w in self._watched.values() if w not in idle for model in (*w.ensembles, *w.steps)}
        for name, cause in self._changes.failures(states, revived).items():
            self._report(f"not loaded: {name}: {cause}")
        alive = stub_processes(self._server.process.pid)
        for watched in idle:
            if self._changes.loaded_again(watched.name, watched.processes(alive)):
                self._report(f"loaded: {watched.name}, changed, as a client asked")

    def _ask(self, watched: Watched) -> None:
        """Send a tiny request through all steps of a deployment, and revive steps that do not answer it."""
        for ensemble, inputs in watched.ensembles.items():
            reply = self._admin.post(f"/v2/models/{ensemble}/generate", dict.fromkeys(inputs, "ok"))
            if reply.status in (200, _BUSY):
                continue
            watched.ask_at = time.monotonic() + self._every_s
            states = self._admin.states()
            dead = unhealthy_model(reply.error)
            if dead in watched.steps:
                self._revive(watched, [dead])
            elif watched.attempts and states and (lacking := [s for s in watched.steps if not _is_ready(states, s)]):
                self._revive(watched, lacking)
            elif states is None or not _was_unloaded(states, ensemble):
                self._says(watched, "failing", reply.error if reply.status else "no answer")
            return
        watched.attempts = 0
        watched.ask_at = time.monotonic() + self._every_s
        self._says(watched, READY)

    def _revive(self, watched: Watched, dead: Sequence[str]) -> None:
        """Reload dead steps; after each failure double the wait before the next attempt, up to 60 s."""
        began = time.monotonic()
        states = self._admin.states() or {}
        if not watched.attempts and not self._still_dead(watched, dead, states):
            watched.revive_at = began + _TICK_S  # a client is loading or unloading it
            return
        self._says(watched, "recovering", f"the process of {', '.join(dead)} has died")
        try:
            for step in dead:
                self._admin.unload(step)  # takes 30 s or more, and the successor need not wait for it
            for step in dead:
                if self._stopped:
                    return
                self._admin.load(step)
            self._load_what_is_missing(watched)
        except ToolError as error:
            wait_s = min(_LONGEST_WAIT_S, 2.0**watched.attempts)
            watched.attempts += 1
            watched.revive_at = watched.ask_at = time.monotonic() + wait_s
            self._says(watched, "failing", f"{error}; another try in {wait_s:.0f} s")
            return
        watched.revive_at = watched.ask_at = 0.0
        self._changes.forget(watched.name)
        self._health.deployment_is(watched.name, READY, recovered=True)
        self._report(f"recovered: {watched.name}, after {time.monotonic() - began:.1f} s")

    def _load_what_is_missing(self, watched: Watched) -> None:
        """Load the ensembles that Triton has not brought back with their steps, as it should.

        Loading an ensemble by name makes Triton check all of its steps. It reloads steps whose folders have changed,
        even if only by the bytecode of their first start. That takes half a minute on a busy machine.
        """
        states = self._admin.states() or {}
        for ensemble in watched.ensembles:
            if not self._stopped and not _is_ready(states, ensemble):
                self._admin.load(ensemble)

    def _still_dead(self, watched: Watched, dead: Sequence[str], states: Mapping[str, ModelState]) -> bool:
        """Return whether Triton still calls the dead steps ready.

        A deployment that a client has reloaded may have other steps by now. `watched` takes them over.
        """
        fresh = watched_deployment(self._admin, watched.name, states)
        if fresh is None:
            return False
        was = watched.ensembles, watched.steps, watched.version
        watched.ensembles, watched.steps = fresh.ensembles, fresh.steps
        watched.version = fresh.version or watched.version
        unchanged = was == (watched.ensembles, watched.steps, watched.version)
        return unchanged and all(_is_ready(states, step) for step in dead)

    def _says(self, watched: Watched, state: str, reason: str = "") -> None:
        if self._health.deployment_is(watched.name, state, reason) and state != READY:
            self._report(f"{state}: {watched.name}: {reason}")


def _is_ready(states: Mapping[str, ModelState], name: str) -> bool:
    return states.get(name, ModelState(name)).is_ready


def _is_gone(states: Mapping[str, ModelState], watched: Watched) -> bool:
    """Return whether a client has unloaded a deployment. Triton may keep steps for which it still counts requests."""
    kept = any(_is_ready(states, step) for step in watched.steps)
    return not kept and all(_was_unloaded(states, ensemble) for ensemble in watched.ensembles)


def _was_unloaded(states: Mapping[str, ModelState], name: str) -> bool:
    """Return whether a client has unloaded a model, or the model is no longer in the repository."""
    return name not in states or states[name].reason == "unloaded"
