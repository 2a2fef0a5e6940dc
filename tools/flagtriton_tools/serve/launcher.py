# SPDX-License-Identifier: Apache-2.0
"""Checks the options of a server, starts it, waits until it is ready, and stops it in every case."""

from __future__ import annotations

import importlib.metadata
import json
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from flagtriton_tools.deploy.stub_paths import check_stub_words, plain_temporary_folder
from flagtriton_tools.errors import ToolError
from flagtriton_tools.repository.bytecode import compile_steps
from flagtriton_tools.repository.store import Entry, entries, model_names
from flagtriton_tools.serve.startup import StartUp
from flagtriton_tools.tritonserver.admin import Admin, ModelState
from flagtriton_tools.tritonserver.admin_secret import hide_from_process_list, kept_secret, read_secret
from flagtriton_tools.tritonserver.embedded import Tritonserver, check_numpy, find_tritonserver
from flagtriton_tools.tritonserver.log import printed_by_steps
from flagtriton_tools.tritonserver.machine import check_room
from flagtriton_tools.tritonserver.options import ServeOptions, check_options
from flagtriton_tools.tritonserver.process import RunningServer, start_server
from flagtriton_tools.tritonserver.stubs import unhealthy_model

__all__ = ["Launcher", "Report", "ServerStoppedError", "prepared", "running_server"]

_POLL_S = 0.1

Report = Callable[[str], None]


class ServerStoppedError(ToolError):
    """Raised if a server ends by itself before it is ready, waits for a dead process, or can load no model."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass(frozen=True)
class Launcher:
    """Starts servers of one repository, one after another.

    Attributes:
        secret: secret for admin operations; None leaves them open.
        report: called with one line for each event.
    """

    options: ServeOptions
    binary: Tritonserver
    work_folder: Path
    secret: str | None
    report: Report

    @property
    def admin(self) -> Admin:
        """Client that loads and unloads models of a server that this launcher has started."""
        return Admin(self.options.http_url, self.secret)

    @contextmanager
    def started(self, names: Sequence[str] = (), *, again: bool = False) -> Iterator[RunningServer]:
        """Yield a server that is ready, and stop it on leaving for any reason. It also ends with this thread.

        Args:
            names: deployments to load; empty means those of the options.
            again: the server follows another one, and continues its log.

        Raises:
            ServerStoppedError: the server ended before it was ready, or could load no model. The message ends with the
                last lines of the log.
        """
        models = _models(self.options.repository, names or self.options.load)
        check_stub_words(self.options.repository, models)
        foreign = _foreign(self.options.repository)
        if names and not self.options.load:
            models += foreign
        compile_steps(self.options.repository / model for model in models)
        for warning in check_room(len(models), self.options.log_file):
            self.report(warning)
        server = start_server(
            self.binary, self.options, self.work_folder, models, self.secret, again=again, auto_complete=bool(foreign)
        )
        try:
            units = _units(self.options.repository, models)
            states, told = self._wait(server, models, units)
            server.version = str(json.loads(self.admin.get("/v2").body or b"{}").get("version", "unknown"))
            check_numpy(importlib.metadata.version("numpy"), server.version)
            if self.secret is not None:
                hide_from_process_list(server.process.pid, self.secret)
            server.failed.update(self._failed(server, units, states, told))
            for name in sorted(units.keys() - server.failed.keys()):
                self.report(f"ready: {name}")
            yield server
        finally:
            server.stop()

    def _wait(
        self, server: RunningServer, models: Sequence[str], units: Mapping[str, Sequence[str]]
    ) -> tuple[Mapping[str, ModelState], set[str]]:
        """Return the state of each model once none is loading, and the failures that were already reported.

        A failure is reported as soon as it happens, because other deployments may load for minutes.
        """
        deadline = time.monotonic() + self.options.ready_timeout_s
        start_up = StartUp(server.process.pid, self.options.log_file, server.log_start, models)
        told: set[str] = set()
        while time.monotonic() < deadline:
            if server.exit_code is not None:
                raise ServerStoppedError(
                    f"tritonserver ended with code {server.exit_code} before it was ready{server.last_words()}",
                    server.exit_code or 1,
                )
            states = self.admin.states()
            if states and all(states.get(name, ModelState(name)).state != "LOADING" for name in models):
                return states, told
            if (lost := start_up.lost()) is not None:
                last_words = printed_by_steps(self.options.log_file)
                raise ServerStoppedError(f"{lost}; Triton would wait for it for ever{last_words}", 1)
            for model, cause in start_up.failures().items():
                for name in (name for name, parts in units.items() if model in parts and name not in told):
                    self.report(f"not served: {name}: {_explained(ModelState(model, reason=cause).cause)}")
                    told.add(name)
            time.sleep(_POLL_S)
        raise ToolError(f"not ready within {self.options.ready_timeout_s:.0f} s{server.last_words()}")

    def _failed(
        self,
        server: RunningServer,
        units: Mapping[str, Sequence[str]],
        states: Mapping[str, ModelState],
        told: Collection[str],
    ) -> Mapping[str, str]:
        """Return the reason of each deployment that is not ready. A model of no deployment counts as one.

        Raises:
            ServerStoppedError: no deployment is ready.
        """
        failed = {name: cause for name, parts in units.items() if (cause := _cause(parts, states)) is not None}
        for name in failed.keys() - told:
            self.report(f"not served: {name}: {failed[name]}")
        if units and len(failed) == len(units):
            raise ServerStoppedError(f"no model could be loaded{server.last_words()}", 1)
        return failed


@contextmanager
def prepared(options: ServeOptions, report: Report = lambda _: None) -> Iterator[Launcher]:
    """Check all that can be wrong before a server starts, and yield its launcher.

    Raises:
        ToolError: the repository, a name or a port is wrong, or there is no server binary.
    """
    check_options(options)
    with ExitStack() as stack:
        folder = tempfile.TemporaryDirectory(prefix="flagtriton-", dir=plain_temporary_folder())
        work_folder = Path(stack.enter_context(folder))
        binary = find_tritonserver(options.tritonserver, work_folder)
        report(f"tritonserver: {binary.binary} ({binary.origin})")
        secret = None
        if options.secret_file is not None:
            secret = read_secret(options.secret_file)
        elif not options.open_admin:
            secret = stack.enter_context(kept_secret(options.http_port))
        yield Launcher(options, binary, work_folder, secret, report)


@contextmanager
def running_server(options: ServeOptions, report: Report = lambda _: None) -> Iterator[RunningServer]:
    """Yield a server whose models are ready, and stop it on leaving. Without `exit_on_error` some may be missing.

    The server also ends with the thread that started it.

    Args:
        options: repository and addresses.
        report: called with one line for each event.

    Raises:
        ToolError: the repository, a name or a port is wrong, or there is no server binary; nothing was started.
        ServerStoppedError: the server ended before it was ready. The message ends with the last lines of the log.
    """
    with prepared(options, report) as launcher, launcher.started() as server:
        yield server


def _models(repository: Path, names: Sequence[str]) -> list[str]:
    """Return the models of the named deployments with their steps, or of the whole repository if none is named."""
    if not names:
        return model_names(repository)
    found = {entry.name: entry.folders for entry in entries(repository)}
    return list(dict.fromkeys(model for name in names for model in found.get(name, (name,))))


def _foreign(repository: Path) -> list[str]:
    """Return the models that belong to no deployment."""
    parts = {folder for entry in entries(repository) for folder in entry.folders}
    return [name for name in model_names(repository) if name not in parts]


def _units(repository: Path, models: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return the models by the name that users see: a deployment, or a model that belongs to none."""
    found: list[Entry] = entries(repository)
    units = {entry.name: entry.folders for entry in found if entry.name in models}
    parts = {folder for entry in found for folder in entry.folders}
    others = {name: (name,) for name in models if name not in parts}
    return units | others or {name: (name,) for name in models}  # steps without their ensemble, loaded for a trial


def _cause(parts: Sequence[str], states: Mapping[str, ModelState]) -> str | None:
    """Return why a deployment is not ready, or None if it is. The cause of a step comes before that of an ensemble."""
    missing = [states.get(name, ModelState(name)) for name in parts if not states.get(name, ModelState(name)).is_ready]
    if not missing:
        return None
    causes = [state.cause for state in missing if state.cause]
    return _explained(causes[-1]) if causes else f"{missing[0].name} was not loaded"


def _explained(cause: str) -> str:
    """Return a cause, with its usual reason if Triton says only that a process has died."""
    if unhealthy_model(cause) is None:
        return cause
    return f"{cause} It died while it was loading, mostly for want of memory: `dmesg` then says `Killed process`"
