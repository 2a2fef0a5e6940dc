# SPDX-License-Identifier: Apache-2.0
"""A tritonserver without a process: models that are loaded and unloaded, a clock that stands still, and their admin."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from google.protobuf.json_format import MessageToDict

from flagtriton_tools.deploy.build import build
from flagtriton_tools.deploy.options import AddOptions
from flagtriton_tools.tritonserver.admin import Admin, ModelState, Reply
from flagtriton_tools.tritonserver.stubs import instances
from tests.support.folders import facts

__all__ = ["FakeAdmin", "FakeClock", "FakeServer", "FakeTriton", "InlinePool", "deployment"]

UNLOADED = "unloaded"
LACKS_STEPS = "ensemble contains models that are not available or ambiguous"


def deployment(name: str, model_class: str = "encoder-only-base", **options: Any) -> dict[str, dict[str, Any]]:
    """Return the configurations of a deployment's models as the server tells them, by name."""
    models = build(facts(name=name, model_class=model_class), AddOptions(**options))
    return {model.name: MessageToDict(model.config, preserving_proto_field_name=True) for model in models}


@dataclass
class FakeTriton:
    """A server's models.

    Attributes:
        files: what its repository holds: configurations by model.
        loaded: those that are loaded, likewise.
        states: of models that have been loaded once.
        stubs: live processes of each version of a model, but for those of `dead` ones.
        dead: versions whose processes have ended: model and number.
        calls: what it was asked to load and unload, in order.
        failures: why the next attempts to load a model fail.
        replies: to requests for a model, one after another, the last one again and again.
        unloading_polls: how often a model is still being unloaded when the index is read.
        versions: of models that have not just the one.
        brings_back: whether a step that is loaded brings back the ensembles that went with it.
        answers: whether it answers at all.
    """

    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    loaded: dict[str, dict[str, Any]] = field(default_factory=dict)
    states: dict[str, ModelState] = field(default_factory=dict)
    stubs: Counter[str] = field(default_factory=Counter)
    dead: set[tuple[str, str]] = field(default_factory=set)
    calls: list[str] = field(default_factory=list)
    failures: dict[str, list[str]] = field(default_factory=dict)
    replies: dict[str, list[Reply]] = field(default_factory=dict)
    asked: list[tuple[str, Mapping[str, Any]]] = field(default_factory=list)
    unloading_polls: dict[str, int] = field(default_factory=dict)
    versions: dict[str, tuple[str, ...]] = field(default_factory=dict)
    brings_back: bool = True
    answers: bool = True

    def serve(self, *deployments: Mapping[str, dict[str, Any]]) -> FakeTriton:
        """Add deployments, loaded; return itself."""
        for models in deployments:
            self.files.update(models)
            for name in models:
                self._load(name)
        return self

    def die(self, step: str) -> None:
        """End a step's processes; the server goes on to call it ready."""
        self.stubs[step] = 0

    def live_stubs(self) -> Counter[tuple[str, str]]:
        """Return the processes of each version of each model."""
        every = ((name, version) for name in self.stubs for version in self.versions.get(name, ("1",)))
        return Counter({key: self.stubs[key[0]] for key in every if key not in self.dead})

    def answer(self, path: str, body: Mapping[str, Any] | None) -> Reply:
        """Return what a tritonserver would."""
        if not self.answers:
            return Reply(0, b"Connection refused")
        if path == "/v2/health/live":
            return Reply(200)
        if path == "/v2/repository/index":
            return Reply(200, json.dumps(self._index()).encode())
        if match := re.fullmatch("/v2/models/([^/]+)/config", path):
            return _told(self.loaded[match[1]]) if match[1] in self.loaded else _refused(400, "unknown model")
        if match := re.fullmatch("/v2/models/([^/]+)/generate", path):
            return self._generate(match[1], body or {})
        match = re.fullmatch("/v2/repository/models/([^/]+)/(load|unload)", path)
        assert match, path
        name, wanted = match.groups()
        self.calls.append(f"{wanted} {name}")
        if wanted == "unload":
            return self._unload(name)
        if left := self.failures.get(name):
            why = left.pop(0)
            self.states[name] = ModelState(name, "UNAVAILABLE", why)
            return _refused(400, f"load failed for model '{name}': {why}")
        if name not in self.files:
            return _refused(400, f"failed to load '{name}', failed to poll from model repository")
        self._load(name)
        return Reply(200)

    def _generate(self, name: str, body: Mapping[str, Any]) -> Reply:
        self.asked.append((name, body))
        if not self.states.get(name, ModelState(name)).is_ready:
            return _refused(404, f"Request for unknown model: '{name}' has no available versions")
        scripted = self.replies.get(name, [])
        if scripted:
            return scripted.pop(0) if len(scripted) > 1 else scripted[0]
        for step in _steps(self.loaded[name]):
            if not self.stubs[step]:
                return _refused(500, f"in ensemble '{name}', Stub process '{step}_0_0' is not healthy.")
        return _told({"embedding": [1.0]})

    def _load(self, name: str) -> None:
        config = self.loaded[name] = self.files[name]
        self.states[name] = ModelState(name, "READY", versions=self.versions.get(name, ("1",)))
        self.stubs[name] = instances(config)
        self.dead -= {(name, version) for version in self.states[name].versions}
        for step in _steps(config):
            if step not in self.loaded:
                self._load(step)
        for ensemble in self._ensembles_of(name) if self.brings_back else ():
            if self.states.get(ensemble, ModelState(ensemble)).reason == LACKS_STEPS:
                self._load(ensemble)

    def _ensembles_of(self, step: str) -> list[str]:
        return [name for name, config in self.files.items() if step in _steps(config)]

    def _unload(self, name: str) -> Reply:
        state = "UNLOADING" if name in self.unloading_polls else "UNAVAILABLE"
        self.states[name] = ModelState(name, state, UNLOADED)
        self.loaded.pop(name, None)
        self.stubs[name] = 0
        for ensemble in self._ensembles_of(name):
            if self.loaded.pop(ensemble, None) is not None:
                self.states[ensemble] = ModelState(ensemble, "UNAVAILABLE", LACKS_STEPS)
        return Reply(200)

    def _index(self) -> list[dict[str, str]]:
        for name, state in list(self.states.items()):
            if state.state == "UNLOADING":
                self.unloading_polls[name] -= 1
                if self.unloading_polls[name] < 0:
                    self.states[name] = ModelState(name, "UNAVAILABLE", UNLOADED)
        told = [self.states.get(name, ModelState(name)) for name in sorted(self.files)]
        rows = [(state, version) for state in told for version in state.versions or ("",)]
        return [_without_empty({"name": s.name, "version": v, "state": s.state, "reason": s.reason}) for s, v in rows]


@dataclass(frozen=True)
class FakeAdmin(Admin):
    """An `Admin` whose requests reach a `FakeTriton`."""

    url: str = "http://triton:8000"
    triton: FakeTriton = field(default_factory=FakeTriton)

    def _send(self, path: str, body: bytes | None, timeout_s: float | None) -> Reply:
        return self.triton.answer(path, None if body is None else json.loads(body))


class FakeClock:
    """Stands in for the module `time`: it goes on while somebody sleeps, and then does what is due."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []
        self._due: list[tuple[float, Callable[[], object]]] = []

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        for each in sorted((due for due in self._due if due[0] <= self.now), key=lambda due: due[0]):
            self._due.remove(each)
            each[1]()

    def at(self, seconds: float, what: Callable[[], object]) -> None:
        """Do something so many seconds after the beginning."""
        self._due.append((1000.0 + seconds, what))


class FakeServer:
    """A `RunningServer` that runs until it is told otherwise."""

    def __init__(self, failed: Mapping[str, str] | None = None, options: Any = None) -> None:
        self.process = SimpleNamespace(pid=4711)
        self.exit_code: int | None = None
        self.version = "2.51.0"
        self.failed = dict(failed or {})
        self.options = options
        self.stops: list[float] = []

    def end(self, code: int = 0) -> None:
        self.exit_code = code

    def kill(self) -> None:
        self.end(137)

    def stop(self, timeout_s: float = 40.0) -> int:
        self.stops.append(timeout_s)
        self.end()
        return 0

    def last_words(self) -> str:
        return "; see server.log, which ends:\n  E1122 gone"


class InlinePool:
    """A pool whose tasks are done before `submit` returns; or only once they are told to be, if `later`."""

    def __init__(self, *_: object, later: bool = False) -> None:
        self.later = later
        self.waiting: list[tuple[Future[None], Callable[[], None]]] = []

    def submit(self, function: Callable[..., None], *arguments: Any) -> Future[None]:
        future: Future[None] = Future()
        self.waiting.append((future, lambda: function(*arguments)))
        if not self.later:
            self.work()
        return future

    def work(self) -> None:
        """Do what waits."""
        for future, task in self.waiting:
            task()
            future.set_result(None)
        self.waiting.clear()

    def shutdown(self, wait: bool, cancel_futures: bool) -> None:
        self.shut_down = (wait, cancel_futures)


def _steps(config: Mapping[str, Any]) -> list[str]:
    return [step["model_name"] for step in config.get("ensemble_scheduling", {}).get("step", ())]


def _refused(status: int, error: str) -> Reply:
    return Reply(status, json.dumps({"error": error}).encode())


def _told(what: Any) -> Reply:
    return Reply(200, json.dumps(what).encode())


def _without_empty(values: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in values.items() if value}
