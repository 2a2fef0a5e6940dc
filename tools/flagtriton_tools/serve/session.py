# SPDX-License-Identifier: Apache-2.0
"""`flagtriton serve`: supervises a server, restarts it if it dies, and drains it before it ends."""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from flagtriton_tools.errors import ToolError
from flagtriton_tools.serve.health import READY, Health, served_health
from flagtriton_tools.serve.launcher import Launcher, Report, ServerStoppedError, prepared
from flagtriton_tools.serve.running import announced
from flagtriton_tools.serve.supervision import Supervisor
from flagtriton_tools.tritonserver.admin import Admin, ModelState
from flagtriton_tools.tritonserver.options import ServeOptions
from flagtriton_tools.tritonserver.process import RunningServer

__all__ = ["WatchOptions", "drain", "serve"]

_FIRST_WAIT_S = 1.0
_LONGEST_WAIT_S = 60.0
_STOP_TIMEOUT_S = 4.0
_STEADY_S = 600.0
"""Time after which a running server counts as recovered, seconds. Earlier restarts no longer count then."""


@dataclass(frozen=True)
class WatchOptions:
    """How a server is supervised.

    Attributes:
        every_s: interval between two probes of each deployment, seconds.
        max_restarts: maximum number of restarts in a row; 0 never restarts.
        grace_period_s: maximum wait for requests in flight when the server ends, seconds.
        health_file: file that exists while everything answers; None has none.
    """

    every_s: float = 2.0
    max_restarts: int = 5
    grace_period_s: float = 25.0
    health_file: Path | None = None


def serve(options: ServeOptions, watch: WatchOptions, report: Report) -> int:
    """Serve until interrupted. Return 0 after draining, else the exit code of the server that could not be kept up.

    Raises:
        ToolError: the server could not be started or restarted.
        KeyboardInterrupt: the interrupt came while no server ran that could be drained.
    """
    health = Health(watch.health_file)
    with ExitStack() as stack:
        stack.callback(health.close)
        launcher = stack.enter_context(prepared(options, report))
        stack.enter_context(announced(options))
        for flag, host in options.open_to_network.items():
            report(_warning(flag, host, options))
        if options.health_port is not None:
            stack.enter_context(served_health(health, options.host, options.health_port))
        return _Serving(launcher, watch, health).run()


def drain(admin: Admin, ensembles: Iterable[str], grace_period_s: float) -> bool:
    """Refuse new requests and wait for those in flight; return whether all of them were answered.

    Triton's own stop accepts requests until its end and then drops them. An unloaded ensemble takes no new requests and
    answers those it has. Its steps run until it is gone.

    Raises:
        ToolError: the server does not answer.
    """
    waiting = set(ensembles)
    deadline = time.monotonic() + grace_period_s
    refusal = None
    for name in waiting:
        try:
            admin.unload(name)
        except ToolError as error:
            refusal = error
    while waiting and time.monotonic() < deadline:
        states = admin.states()
        if states is None:
            if refusal is not None:
                raise refusal
            return False
        waiting = {name for name in waiting if not states.get(name, ModelState(name)).is_gone}
        time.sleep(0.05)
    return not waiting


class _Serving:
    """Runs servers one after another, until one is stopped or they die too often."""

    def __init__(self, launcher: Launcher, watch: WatchOptions, health: Health) -> None:
        self._launcher = launcher
        self._watch = watch
        self._health = health
        self._report = launcher.report
        self._restarts = 0
        self._names: list[str] = []

    def run(self) -> int:
        while True:
            began = time.monotonic()
            try:
                code, last_words = self._one_server()
            except ServerStoppedError as error:
                if not self._restarts:  # the first server has never served, so the user has to act
                    raise
                code, last_words = error.exit_code, f": {error}"
            if code is None:
                return 0
            if time.monotonic() - began > _STEADY_S:
                self._restarts = 0
            if self._restarts >= self._watch.max_restarts:
                self._report(f"tritonserver ended by itself with code {code}{last_words}")
                return code
            self._wait_before_restart(code, last_words)

    def _one_server(self) -> tuple[int | None, str]:
        """Return the exit code and the last log lines of a server that died; the code is None if it was drained."""
        options = self._launcher.options
        with self._launcher.started(self._names, again=self._restarts > 0) as server:
            for name, cause in server.failed.items():
                self._health.deployment_is(name, "failed", cause)
            supervisor = Supervisor(server, self._launcher.admin, self._health, self._report, self._watch.every_s)
            try:
                self._health.server_is(READY, restarts=self._restarts)
                self._report(f"ready: tritonserver {server.version}, {options.http_url}, {options.grpc_url}")
                log = f"log: {options.log_file or 'above'}; stop with Ctrl-C"
                self._report(f"{_further_addresses(options)}\n{log}")
                code = supervisor.run()
            except KeyboardInterrupt:
                try:
                    self._end(server, supervisor)
                except KeyboardInterrupt:
                    server.kill()
                    raise
                return None, ""
            self._names = sorted({*supervisor.names, *server.failed}) or self._names
            return code or 1, server.last_words()  # only a server that was asked to end gives 0

    def _end(self, server: RunningServer, supervisor: Supervisor) -> None:
        """Drain the server and stop it."""
        self._health.server_is("draining")
        self._report("stopping; again to kill …")
        began = time.monotonic()
        if not supervisor.ensembles:  # the supervisor had not begun yet
            supervisor.look_for_changes()
        try:
            drained = drain(self._launcher.admin, supervisor.ensembles, self._watch.grace_period_s)
        except ToolError as error:
            self._report(f"could not be drained: {error}")
            drained = False
        if not drained:
            self._report(f"requests were still in flight after {time.monotonic() - began:.0f} s")
        # Only connections that clients keep open are left, and Triton would wait for them.
        server.stop(_STOP_TIMEOUT_S)

    def _wait_before_restart(self, code: int, last_words: str) -> None:
        wait_s = min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2**self._restarts)
        self._restarts += 1
        self._health.server_is("restarting", restarts=self._restarts)
        self._report(
            f"tritonserver ended by itself with code {code}{last_words}\n"
            f"starting it again in {wait_s:.0f} s ({self._restarts} of {self._watch.max_restarts})"
        )
        time.sleep(wait_s)


def _further_addresses(options: ServeOptions) -> str:
    """Return the addresses of health and metrics, seen from this machine."""
    metrics = f"metrics: {options.url_of(options.metrics_port)}/metrics"
    if options.health_port is None:
        return metrics
    return f"health: {options.url_of(options.health_port)}/healthz, {metrics}"


def _warning(flag: str, host: str, options: ServeOptions) -> str:
    plain = "" if flag == "--host" and options.tls_certificate is not None else "; what they send travels in plain text"
    admin = "" if not options.open_admin else ", or load models, which is to run code,"
    return (
        f"warning: {flag} is {host}: whoever reaches this machine can send requests{admin} without a password{plain}. "
        "docs/proxy.md puts TLS and tokens before it"
    )
