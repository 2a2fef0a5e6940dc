# SPDX-License-Identifier: Apache-2.0
"""Options of `flagtriton verify`, and its report as a table or JSON."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flagtriton.errors import FlagTritonError
from flagtriton.remote.connection import ConnectionSettings
from flagtriton.remote.model import ServedModel
from flagtriton_tools.errors import ToolError
from flagtriton_tools.serve.launcher import running_server
from flagtriton_tools.tritonserver.options import ServeOptions, free_ports
from flagtriton_tools.verify.checks import Check
from flagtriton_tools.verify.texts import DIFFICULT_TEXTS, read_texts

if TYPE_CHECKING:
    from flagtriton.protocol.deployment import Deployment

__all__ = ["verify_command", "verify_repository"]

MISMATCH = 1
"""Exit code if something differs."""

_MESSAGES = Console(stderr=True, soft_wrap=True, highlight=False)
_VERDICTS = {True: "[green]equal[/]", False: "[red]differs[/]", None: "[yellow]not compared[/]"}


@click.command("verify")
@click.argument("name")
@click.option("--url", help="The server, grpc://… or http://….  [default: FLAGTRITON_URL, else grpc://localhost:8001]")
@click.option("--texts", "file", type=click.Path(dir_okay=False, path_type=Path), help="One text a line, UTF-8.")
@click.option("--checkpoint", help="Where the checkpoint lies here, if elsewhere than on the server.")
@click.option(
    "--library",
    "libraries",
    multiple=True,
    type=click.Choice(["sentence-transformers", "flagembedding", "none"]),
    help="Compare with this one, too; may be repeated.  [default: those that are installed]",
)
@click.option(
    "--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True, help="Of the reference."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for programs.")
def verify_command(
    name: str,
    url: str | None,
    file: Path | None,
    checkpoint: str | None,
    libraries: tuple[str, ...],
    device: str,
    as_json: bool,
) -> int:
    """Compare the deployment NAME with plain transformers, and with the libraries it stands for.

    Token ids must be those of the checkpoint's own tokenizer files, and vectors or scores those that plain transformers
    computes of them in fp32, padded: within 1e-5 (logits 1e-4) for an fp32 deployment, at cosine 0.999 for others.
    Exit code 0: all equal; 1: something differs.

    \b
    flagtriton verify bge-m3
    flagtriton verify my-bge --texts texts.txt --json
    flagtriton verify bge-m3 --url http://triton:8000 --checkpoint ./bge-m3 --library none
    """
    texts = list(DIFFICULT_TEXTS) if file is None else read_texts(file)
    return verify_deployment(
        name, url, texts, checkpoint=checkpoint, libraries=libraries, device=device, as_json=as_json
    )


def verify_deployment(
    name: str,
    url: str | None,
    texts: list[str],
    *,
    checkpoint: str | None = None,
    libraries: tuple[str, ...] = (),
    device: str = "cpu",
    as_json: bool = False,
) -> int:
    """Verify a deployment of a running server, print the report, and return the exit code.

    Raises:
        ToolError: the server, the deployment or the checkpoint cannot be reached, or torch is not installed.
    """
    try:
        from flagtriton_tools.verify.plain import PlainModel
        from flagtriton_tools.verify.run import checks_of
        from flagtriton_tools.verify.served import ServedDeployment
    except ImportError as error:
        raise ToolError("verify needs torch and transformers: pip install 'flagtriton[server]'") from error
    try:
        model = ServedModel.find(name, ConnectionSettings(url=url))
    except FlagTritonError as error:
        raise ToolError(str(error)) from error
    source = checkpoint or model.deployment.checkpoint
    checks: list[Check] = []
    with _MESSAGES.status("") as status:
        try:
            plain = PlainModel(model.deployment, source, device)
            for check in checks_of(ServedDeployment(model), plain, source, texts, _wanted(libraries)):
                checks.append(check)
                status.update(f"verifying {escape(name)}: {escape(check.what)} done …")
        except FlagTritonError as error:
            raise ToolError(f"{name}: {error}") from error
        except (OSError, ValueError) as error:
            raise ToolError(
                f"{source}, the checkpoint of {name}, cannot be read here: {error}; say where it lies with --checkpoint"
            ) from error
        finally:
            model.close()
    _print(name, model.deployment, checks, as_json=as_json)
    return MISMATCH if any(check.ok is False for check in checks) else 0


def verify_repository(name: str, repository: Path) -> int:
    """Serve one deployment of a repository while it is verified; return the exit code.

    Raises:
        ToolError: it cannot be served. The message ends with the server's log.
    """
    with tempfile.TemporaryDirectory(prefix="flagtriton-verify-") as folder:
        http_port, grpc_port, metrics_port = free_ports(3)
        options = ServeOptions(
            repository,
            load=(name,),
            http_port=http_port,
            grpc_port=grpc_port,
            metrics_port=metrics_port,
            log_file=Path(folder) / "tritonserver.log",
        )
        with ExitStack() as serving:
            with _MESSAGES.status(f"serving {escape(name)} to verify it …"):
                serving.enter_context(running_server(options))
            return verify_deployment(name, options.grpc_url, list(DIFFICULT_TEXTS))


def _wanted(libraries: tuple[str, ...]) -> list[str] | None:
    return [library for library in libraries if library != "none"] if libraries else None


def _print(name: str, deployment: Deployment, checks: Iterable[Check], *, as_json: bool) -> None:
    if as_json:
        rows = [asdict(check) for check in checks]
        ok = all(row["ok"] is not False for row in rows)
        click.echo(json.dumps({"name": name, "checkpoint": deployment.checkpoint, "ok": ok, "checks": rows}))
        return
    table = Table("compared", "texts", "lowest cosine", "largest difference", "", "remark", box=None)
    for check in checks:
        cosine = "" if check.cosine is None else f"{check.cosine:.6f}"
        difference = "" if check.difference is None else f"{check.difference:.1e}"
        count = str(check.compared) if check.compared else ""
        table.add_row(check.what, count, cosine, difference, _VERDICTS[check.ok], escape(check.detail))
    Console(highlight=False, width=None if sys.stdout.isatty() else 200).print(table)
