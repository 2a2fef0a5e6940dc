# SPDX-License-Identifier: Apache-2.0
"""A server from start to stop: checked, started, waited for, and never left behind."""

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
    """The server ended by itself before it was ready, or has nothing to serve."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass(frozen=True)
class Launcher:
    """Starts servers of one repository, one after another.

    Attributes:
        secret: what admin operations need; None is nothing.
        report: told what is happening, a line at a time.
    """

    options: ServeOptions
    binary: Tritonserver
    work_folder: Path
    secret: str | None
    report: Report

    @property
    def admin(self) -> Admin:
        """What loads and unloads models of a server that this has started."""
        return Admin(self.options.http_url, self.secret)

    @contextmanager
    def started(self, names: Sequence[str] = (), *, again: bool = False) -> Iterator[RunningServer]:
        """Yield a server that is ready; stop it on leaving, whatever the reason. It ends with this thread, too.

        Args:
            names: the deployments it loads; none is what the options say.
            again: after another one, whose log it continues.

        Raises:
            ServerStoppedError: the server ended before it was ready, or could load nothing; the message ends with the
                log's last lines.
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
        """Return how each model stands once all of them are ready, or cannot be, and which failures were reported.

        Those are reported when they happen, as other deployments may load for minutes.
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
        """Return why each deployment that is not ready is not; another's model counts as one.

        Raises:
            ServerStoppedError: none is.
        """
        failed = {name: cause for name, parts in units.items() if (cause := _cause(parts, states)) is not None}
        for name in failed.keys() - told:
            self.report(f"not served: {name}: {failed[name]}")
        if units and len(failed) == len(units):
            raise ServerStoppedError(f"no model could be loaded{server.last_words()}", 1)
        return failed


@contextmanager
def prepared(options: ServeOptions, report: Report = lambda _: None) -> Iterator[Launcher]:
    """Check everything that can be wrong before a server is started, and yield what starts it.

    Raises:
        ToolError: the repository, a name or a port is wrong, or there is no server to run.
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
    """Yield a server whose models are all ready, or those that can be unless `exit_on_error`; stop it on leaving.

    It ends with the thread that started it, too.

    Args:
        options: what to serve, where.
        report: told what is happening, a line at a time.

    Raises:
        ToolError: the repository, a name or a port is wrong, or there is no server to run; nothing was started.
        ServerStoppedError: the server ended before it was ready; the message ends with the log's last lines.
    """
    with prepared(options, report) as launcher, launcher.started() as server:
        yield server


def _models(repository: Path, names: Sequence[str]) -> list[str]:
    """Return the models of some deployments, their steps included; of all in the repository where none is named."""
    if not names:
        return model_names(repository)
    found = {entry.name: entry.folders for entry in entries(repository)}
    return list(dict.fromkeys(model for name in names for model in found.get(name, (name,))))


def _foreign(repository: Path) -> list[str]:
    """Return the models that belong to no deployment."""
    parts = {folder for entry in entries(repository) for folder in entry.folders}
    return [name for name in model_names(repository) if name not in parts]


def _units(repository: Path, models: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return what is named to the user, deployments and models of others, each with its models."""
    found: list[Entry] = entries(repository)
    units = {entry.name: entry.folders for entry in found if entry.name in models}
    parts = {folder for entry in found for folder in entry.folders}
    others = {name: (name,) for name in models if name not in parts}
    return units | others or {name: (name,) for name in models}  # steps alone, which somebody wants to try


def _cause(parts: Sequence[str], states: Mapping[str, ModelState]) -> str | None:
    """Return why not all of a deployment's models are ready, None if they are: a step's own cause rather than that."""
    missing = [states.get(name, ModelState(name)) for name in parts if not states.get(name, ModelState(name)).is_ready]
    if not missing:
        return None
    causes = [state.cause for state in missing if state.cause]
    return _explained(causes[-1]) if causes else f"{missing[0].name} was not loaded"


def _explained(cause: str) -> str:
    """Return a cause with what is mostly behind it, where Triton says only that a process is gone."""
    if unhealthy_model(cause) is None:
        return cause
    return f"{cause} It died while it was loading, mostly for want of memory: `dmesg` then says `Killed process`"
