# SPDX-License-Identifier: Apache-2.0
"""Commands for a running server: `serve`, `load` and `unload`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.status import Status

from flagtriton_tools.interrupts import stopped_in_order
from flagtriton_tools.serve.control import load_deployment, progress, unload_deployment
from flagtriton_tools.serve.session import WatchOptions, serve
from flagtriton_tools.tritonserver.admin import Admin
from flagtriton_tools.tritonserver.admin_secret import find_secret, state_folder
from flagtriton_tools.tritonserver.options import ServeOptions

__all__ = ["load_command", "serve_command", "unload_command"]

_MESSAGES = Console(stderr=True, soft_wrap=True, highlight=False)
_PORT = click.IntRange(1, 65535)
_FILE = click.Path(dir_okay=False, path_type=Path)
_WATCH = ("every_s", "max_restarts", "grace_period_s", "health_file")


@click.command("serve")
@click.option(
    "--repository",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="The model repository's folder.",
)
@click.option("--load", multiple=True, metavar="NAME", help="Load only this deployment; may be repeated.")
@click.option("--host", default="127.0.0.1", show_default=True, help="0.0.0.0 opens the server to the network.")
@click.option("--http-host", "plain_http_host", help="Where HTTP listens.  [default: --host; with TLS, this machine]")
@click.option("--http-port", type=_PORT, default=8000, show_default=True)
@click.option("--grpc-port", type=_PORT, default=8001, show_default=True)
@click.option("--metrics-port", type=_PORT, default=8002, show_default=True)
@click.option("--health-port", type=_PORT, help="Of /healthz and /livez.  [default: --metrics-port + 1]")
@click.option("--health-file", type=_FILE, help="A file that exists while all deployments answer, for probes.")
@click.option(
    "--every", "every_s", type=click.FloatRange(0.1), default=2.0, show_default=True, help="Seconds between checks."
)
@click.option(
    "--max-restarts", type=click.IntRange(0), default=5, show_default=True, help="Of a tritonserver that dies."
)
@click.option(
    "--grace-period",
    "grace_period_s",
    type=click.FloatRange(0),
    default=25.0,
    show_default=True,
    help="Seconds that requests in flight are waited for at the end.",
)
@click.option("--exit-on-error", is_flag=True, help="Stop where a model does not load, rather than serve the others.")
@click.option("--tls-certificate", type=_FILE, help="PEM, for gRPC; HTTP then stays on this machine.")
@click.option("--tls-key", type=_FILE, help="PEM, its private key.")
@click.option("--tls-client-ca", type=_FILE, help="PEM; clients must show a certificate of this authority.")
@click.option("--secret-file", type=_FILE, help="Holds the secret for admin operations.  [default: one is made]")
@click.option("--open-admin", is_flag=True, help="Let anybody load models, register shared memory, change the log.")
@click.option("--tritonserver", metavar="PATH", help="The server's binary.  [default: on PATH, else the embedded one]")
@click.option("--log-file", metavar="FILE", help="Where the server's log goes, - for here.  [default: a state folder]")
@click.option("--request-log", type=_FILE, help="One JSON line a request and step: sizes and times, never a text.")
@click.option("--ready-timeout", type=click.FloatRange(1), default=600.0, show_default=True, help="Seconds.")
@click.argument("tritonserver_flags", nargs=-1, type=click.UNPROCESSED)
def serve_command(
    log_file: str | None,
    ready_timeout: float,
    health_port: int | None,
    tritonserver_flags: tuple[str, ...],
    **chosen: Any,
) -> int:
    """Serve a repository until Ctrl-C; bring back what dies. What stands behind -- goes to tritonserver as it is.

    \b
    flagtriton serve --repository repo
    flagtriton serve --repository repo --load bge-m3 --http-port 9000 -- --log-verbose=1
    flagtriton serve --repository repo --host 0.0.0.0 --tls-certificate cert.pem --tls-key key.pem
    curl -s localhost:8003/healthz
    """
    watch = WatchOptions(**{name: chosen.pop(name) for name in _WATCH})
    options = ServeOptions(
        log_file=_log_file(log_file, chosen["http_port"]),
        ready_timeout_s=ready_timeout,
        health_port=health_port or min(chosen["metrics_port"] + 1, 65535),
        extra=tritonserver_flags,
        **chosen,
    )
    with stopped_in_order(), _MESSAGES.status("starting tritonserver …") as status:

        def report(line: str) -> None:
            status.stop()
            _MESSAGES.print(escape(line))

        return serve(options, watch, report)


def _control(command: Any) -> Any:  # noqa: ANN401 - decorators of click
    for option in (
        click.option("--secret-file", type=_FILE, help="The server's admin secret.  [default: found on this machine]"),
        click.option("--ca-file", type=click.Path(dir_okay=False), help="PEM, of an https:// server's authority."),
        click.option("--url", default="http://localhost:8000", show_default=True, help="The server's HTTP address."),
        click.argument("name"),
    ):
        command = option(command)
    return command


@click.command("load")
@_control
def load_command(name: str, url: str, secret_file: Path | None, ca_file: str | None) -> None:
    """Load the deployment NAME of the server's repository, or load it anew after `flagtriton add --force`.

    \b
    flagtriton add BAAI/bge-m3 --repository repo && flagtriton load bge-m3
    flagtriton load bge-m3 --url https://triton:8443 --secret-file secret
    """
    admin = Admin(url, find_secret(url, secret_file), ca_file=ca_file)
    every_s = 1.0 if _MESSAGES.is_terminal else 30.0  # in a log each report is a separate line
    with _MESSAGES.status(f"loading {escape(name)} …") as status, progress(admin, name, _shown_on(status), every_s):
        models = load_deployment(admin, name)
    _MESSAGES.print(f"loaded {escape(', '.join(models))}")


@click.command("unload")
@_control
def unload_command(name: str, url: str, secret_file: Path | None, ca_file: str | None) -> None:
    """Take the deployment NAME out of service; requests it has are answered first.

    \b
    flagtriton unload bge-m3 && flagtriton remove bge-m3 --repository repo
    """
    with _MESSAGES.status(f"unloading {escape(name)} …"):
        admin = Admin(url, find_secret(url, secret_file), ca_file=ca_file)
        models = unload_deployment(admin, name, lambda warning: _MESSAGES.print(f"warning: {escape(warning)}"))
    _MESSAGES.print(f"unloaded {escape(', '.join(models))}")


def _shown_on(status: Status) -> Callable[[str], None]:
    """Return a function that shows a line of progress: on a terminal over the last line, else below it."""
    if _MESSAGES.is_terminal:
        return lambda line: status.update(escape(line))
    return lambda line: _MESSAGES.print(escape(line))


def _log_file(chosen: str | None, http_port: int) -> Path | None:
    if chosen is not None:
        return None if chosen == "-" else Path(chosen)
    return state_folder() / f"tritonserver-{http_port}.log"
