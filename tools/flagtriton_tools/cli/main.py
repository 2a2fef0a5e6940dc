# SPDX-License-Identifier: Apache-2.0
"""Command line: turns options into function calls, and every `ToolError` into a message and exit code 2."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markup import escape

from flagtriton_tools.cli.bench import bench_command
from flagtriton_tools.cli.class_choice import ask_at_terminal, settle_class
from flagtriton_tools.cli.definition_options import definition_options
from flagtriton_tools.cli.listing import list_table
from flagtriton_tools.cli.pack_env import pack_env_command
from flagtriton_tools.cli.plan import plan_command
from flagtriton_tools.cli.serve import load_command, serve_command, unload_command
from flagtriton_tools.cli.top import top_command
from flagtriton_tools.cli.verify import verify_command, verify_repository
from flagtriton_tools.deploy.build import build, describe
from flagtriton_tools.deploy.facts import inspect_checkpoint
from flagtriton_tools.deploy.options import AddOptions
from flagtriton_tools.deploy.pooling_options import finishing_said
from flagtriton_tools.deploy.sentence_transformers_overlay import with_reading
from flagtriton_tools.errors import ToolError
from flagtriton_tools.interrupts import exit_code_of
from flagtriton_tools.repository.bundle import bytes_of, with_copies
from flagtriton_tools.repository.store import add_models, entries, remove_deployment
from flagtriton_tools.repository.versions import add_version, remove_version, switch_version
from flagtriton_tools.serve.running import how_to_load, how_to_serve, still_served

__all__ = ["cli", "main"]

_MESSAGES = Console(stderr=True, soft_wrap=True, highlight=False)
_RESULTS = Console(highlight=False, width=None if sys.stdout.isatty() else 200)

_repository = click.option(
    "--repository",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="The model repository's folder.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="flagtriton")
def cli() -> None:
    """Serve FlagEmbedding's embedders and rerankers from NVIDIA Triton.

    \b
    flagtriton add BAAI/bge-large-en-v1.5 --repository repo
    flagtriton serve --repository repo
    curl -s localhost:8000/v2/models/bge-large-en-v1.5/generate -d '{"text": "hello"}'
    """


@cli.command()
@click.argument("checkpoint")
@_repository
@click.option("--name", help="The deployment's name.  [default: the checkpoint's last path part]")
@click.option("--task", type=click.Choice(["embed", "rerank"]), help="Needed where the checkpoint does not tell.")
@click.option("--model-class", help="FlagEmbedding's class, e.g. encoder-only-base; needed where nothing tells.")
@definition_options
@click.option("--device", default="cpu", show_default=True, help="cpu, or GPUs by number: gpu:0,1")
@click.option("--instances", type=click.IntRange(1), default=1, show_default=True, help="On the CPU, or on each GPU.")
@click.option("--shard", is_flag=True, help="One instance over all GPUs of --device, for models too big for one.")
@click.option("--precision", type=click.Choice(["auto", "fp32", "fp16", "bf16"]), default="auto", show_default=True)
@click.option("--max-length", type=click.IntRange(2), help="Tokens of a text.  [default: all the checkpoint has]")
@click.option(
    "--max-batch-size",
    type=click.IntRange(1),
    help="Texts of a request.  [default: 256; pairs for a reranker: 1024]",
)
@click.option(
    "--token-budget",
    type=click.IntRange(16),
    help="Tokens of one forward pass.  [default: 4096 on the CPU, 65536 on a GPU]",
)
@click.option(
    "--max-text-bytes",
    type=click.IntRange(1),
    default=1 << 20,
    show_default=True,
    help="Tokenised of a text at most; a longer one is refused unless it can be cut there.",
)
@click.option("--max-request-bytes", type=click.IntRange(1), default=16 << 20, show_default=True, help="Of all texts.")
@click.option(
    "--queue-requests",
    type=click.IntRange(1),
    help="Requests that may wait before more are refused, of each priority.  [default: token budget / 32]",
)
@click.option("--queue-tokens", type=click.IntRange(1), help="Likewise, of all their texts.  [default: 32 budgets]")
@click.option("--queue-timeout", type=click.FloatRange(0.001), help="Seconds one may wait at most.  [default: 60]")
@click.option("--tokenizer-instances", type=click.IntRange(1), default=1, show_default=True, help="Processes.")
@click.option("--pool-in-encoder", is_flag=True, help="One step fewer: a short query takes less time.")
@click.option("--colbert-dim", type=click.IntRange(1), help="Of BGE-M3's ColBERT vectors.  [default: the hidden size]")
@click.option(
    "--colbert-dtype",
    type=click.Choice(["fp32", "fp16"]),
    help="In which the SDK has ColBERT vectors travel; fp16 halves 2 MB a text.  [default: fp32]",
)
@click.option("--query-instruction", help="Put before texts sent with input_type=query.")
@click.option("--query-instruction-format", help="Two fields, instruction and text.  [default: the model table's]")
@click.option("--passage-instruction", help="Put before texts sent with input_type=passage.")
@click.option("--passage-instruction-format", help="Two fields, instruction and text.  [default: {}{}]")
@click.option(
    "--trust-remote-code/--no-trust-remote-code", default=None, help="Run Python code that comes with the checkpoint."
)
@click.option("--peft", metavar="PATH", help="A PEFT adapter, merged into the weights when they load.")
@click.option("--revision", help="A hub revision: branch, tag or commit.")
@click.option(
    "--copy-checkpoint",
    is_flag=True,
    help="Copy the checkpoint's files into the repository, which then needs nothing beside it: for buckets.",
)
@click.option(
    "--execution-env",
    metavar="PATH",
    help="Where on the server's machine a packed environment lies, for one without this package: see pack-env.",
)
@click.option(
    "--model-version", type=click.IntRange(1), help="Add it as this version of the deployment, beside those it has."
)
@click.option("--force", is_flag=True, help="Replace a deployment of the same name, or a version of the same number.")
@click.option("--verify", is_flag=True, help="Serve it for a moment and compare it with plain transformers.")
def add(
    checkpoint: str,
    repository: Path,
    copy_checkpoint: bool,
    model_version: int | None,
    force: bool,
    verify: bool,
    **chosen: Any,
) -> int:
    """Add the Triton models of CHECKPOINT, a local folder or a hub name, to a repository.

    \b
    flagtriton add ./my-bge --repository repo --pooling cls
    flagtriton add BAAI/bge-large-en-v1.5 --repository repo --device gpu:0,1 --instances 2
    flagtriton add intfloat/e5-base-v2 --repository repo --query-instruction 'query: '
    flagtriton add BAAI/bge-m3 --repository repo --max-length 8192 --colbert-dtype fp16
    flagtriton add BAAI/bge-en-icl --repository repo --device gpu:0,1 --shard
    flagtriton add Qwen/Qwen3-Embedding-0.6B --repository repo --peft ./my-lora
    flagtriton add BAAI/bge-reranker-v2-gemma --repository repo --device gpu:0
    flagtriton add ./my-bge-of-may --repository repo --name my-bge --model-version 2
    flagtriton add ./my-bge --repository s3-staging/repo --copy-checkpoint
    flagtriton add ./my-bge --repository repo --verify
    """
    facts = inspect_checkpoint(checkpoint)
    options, class_hint = settle_class(facts, AddOptions(**chosen), ask_at_terminal())
    facts = with_reading(facts, options)
    models = build(facts, options)
    with _MESSAGES.status("") as status:
        if copy_checkpoint:
            status.update(f"fetching what there is to copy of {escape(facts.source)}")
            models = with_copies(models, model_version or 1)
            status.update(f"copying {bytes_of(models) / 1e9:.1f} GB of {escape(facts.source)}")
        if model_version is None:
            add_models(models, repository, force=force)
        else:
            add_version(models, repository, model_version, force=force)
    served = describe(facts, options)
    known = options.pooling_method or facts.pooling_method
    pooling = f"{served.pooling_method} pooling, " if served.task == "embed" else ""
    default = "" if known or served.task == "rerank" else "the default; --pooling chooses another, "
    _MESSAGES.print(
        f"added [bold]{escape(models[0].name)}[/]{'' if model_version is None else f' version {model_version}'} "
        f"to {escape(str(repository))}: {served.task} {served.model_class}, "
        f"{pooling}{default}{escape(finishing_said(served))}up to {served.max_length} tokens, "
        f"{served.precision} on {served.device}"
    )
    if class_hint is not None:
        _MESSAGES.print(escape(class_hint))
    for line in how_to_serve(repository, models[0].name, is_version=model_version is not None):
        _MESSAGES.print(escape(line))
    return verify_repository(models[0].name, repository) if verify else 0


@cli.command("list")
@_repository
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, for programs.")
def list_deployments(repository: Path, as_json: bool) -> None:
    """List a repository's deployments.

    \b
    flagtriton list --repository repo
    flagtriton list --repository repo --json
    """
    found = entries(repository)
    if as_json:
        for entry in found:
            served = entry.deployment
            further = {"version": entry.version, "versions": entry.versions, "steps": entry.steps}
            further["resolved_precision"] = served.resolved_precision
            click.echo(json.dumps({"name": entry.name, **asdict(served), **further}))
        return
    if not found:
        _MESSAGES.print(f"{escape(str(repository))} has no deployment yet; `flagtriton add CHECKPOINT` adds one")
        return
    table = list_table(found, _RESULTS.width if _RESULTS.is_terminal else sys.maxsize)
    with _RESULTS.capture() as capture:
        _RESULTS.print(table)
    for line in capture.get().splitlines():
        click.echo(line.rstrip())


@cli.command()
@click.argument("name")
@click.argument("version", type=click.IntRange(1))
@_repository
def switch(name: str, version: int, repository: Path) -> None:
    """Let VERSION of the deployment NAME answer, as it did before or in place of an older one.

    A running server does so from `flagtriton load NAME` on; no request fails meanwhile.

    \b
    flagtriton switch my-bge 1 --repository repo
    flagtriton load my-bge
    """
    before = switch_version(name, version, repository)
    how = how_to_load(repository, name)
    _MESSAGES.print(f"{escape(name)} is now version {version}, was {before}; on a running server: {escape(how)}")


@cli.command()
@click.argument("name")
@_repository
@click.option(
    "--model-version", type=click.IntRange(1), help="Only this version, which must not be the one that answers."
)
def remove(name: str, repository: Path, model_version: int | None) -> None:
    """Remove the deployment NAME, its steps included, from a repository.

    \b
    flagtriton remove my-bge --repository repo
    flagtriton remove my-bge --repository repo --model-version 1
    """
    if model_version is not None:
        remove_version(name, model_version, repository)
        _MESSAGES.print(f"removed version {model_version} of {escape(name)} from {escape(str(repository))}")
        return
    folders = remove_deployment(name, repository)
    _MESSAGES.print(f"removed {escape(', '.join(folders))} from {escape(str(repository))}")
    for line in still_served(repository, name):
        _MESSAGES.print(escape(line))


for _command in (
    serve_command,
    load_command,
    unload_command,
    verify_command,
    top_command,
    bench_command,
    plan_command,
    pack_env_command,
):
    cli.add_command(_command)


def _print_anything() -> None:
    """Make both streams write escapes for characters that their encoding lacks, in place of an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code: 0, 2 for errors that the user can fix, or the server's own."""
    _print_anything()
    try:
        code = cli.main(arguments, prog_name="flagtriton", standalone_mode=False)
    except ToolError as error:
        _MESSAGES.print(f"[red]flagtriton:[/] {escape(str(error))}")
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt) as error:
        return exit_code_of(error)
    return code or 0
