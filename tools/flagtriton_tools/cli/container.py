# SPDX-License-Identifier: Apache-2.0
r"""What a container does: add the models that the environment names, and serve.

`FLAGTRITON_MODELS` has one of them a line, or several with semicolons between, each as `flagtriton add` takes it:

    BAAI/bge-m3 --max-length 1024; BAAI/bge-reranker-v2-m3 --device gpu:0

Without it the repository is served as it is. With arguments the container does what `flagtriton` does with them.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from flagtriton_tools.cli.main import main as flagtriton
from flagtriton_tools.errors import ToolError

__all__ = ["ContainerSettings", "run"]

_MESSAGES = Console(stderr=True, soft_wrap=True, highlight=False)


@dataclass(frozen=True)
class ContainerSettings:
    """What the environment says.

    Attributes:
        models: arguments of `flagtriton add`, for each of them.
        repository: `FLAGTRITON_REPOSITORY`, by default `/models`.
        host: `FLAGTRITON_HOST`, where the server listens, by default everywhere: a container has a network of its own.
        health_file: `FLAGTRITON_HEALTH_FILE`, there while all deployments answer.
        secret_file: `FLAGTRITON_SECRET_FILE`, a mounted secret for admin operations; None makes one.
        serve: `FLAGTRITON_SERVE`, further arguments of `flagtriton serve`.
    """

    models: tuple[tuple[str, ...], ...] = ()
    repository: Path = Path("/models")
    host: str = "0.0.0.0"
    health_file: Path = Path("/tmp/flagtriton/healthy")
    secret_file: Path | None = None
    serve: tuple[str, ...] = ()

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> ContainerSettings:
        """Return the settings; a variable that is empty counts as if it were not there.

        Raises:
            ToolError: a variable cannot be read.
        """
        said = {name.removeprefix("FLAGTRITON_"): value for name, value in environment.items() if value.strip()}
        secret = said.get("SECRET_FILE")
        return cls(
            models=_models(said.get("MODELS", "")),
            repository=Path(said.get("REPOSITORY", cls.repository)),
            host=said.get("HOST", cls.host),
            health_file=Path(said.get("HEALTH_FILE", cls.health_file)),
            secret_file=None if secret is None else Path(secret),
            serve=tuple(_split(said.get("SERVE", ""), "FLAGTRITON_SERVE")),
        )

    @property
    def additions(self) -> list[list[str]]:
        """The commands that add the models, anew where they are there from the last time."""
        return [["add", *model, "--repository", str(self.repository), "--force"] for model in self.models]

    @property
    def serving(self) -> list[str]:
        """The command that serves."""
        return [
            *("serve", "--repository", str(self.repository)),
            *("--host", self.host),
            *("--health-file", str(self.health_file)),
            *("--log-file", "-"),
            *([] if self.secret_file is None else ["--secret-file", str(self.secret_file)]),
            *self.serve,
        ]


def run(
    arguments: Sequence[str], environment: Mapping[str, str], command: Callable[[Sequence[str]], int] = flagtriton
) -> int:
    """Do what a container is started for; return its exit code.

    Args:
        arguments: of the container; none adds and serves.
        environment: of the container.
        command: runs `flagtriton` with some arguments.
    """
    if arguments:
        return command(arguments)
    try:
        settings = ContainerSettings.of(environment)
        _make_folders(settings)
    except ToolError as error:
        _MESSAGES.print(f"[red]flagtriton:[/] {escape(str(error))}")
        return error.exit_code
    for addition in settings.additions:
        code = command(addition)
        if code:
            return code
    return command(settings.serving)


def _make_folders(settings: ContainerSettings) -> None:
    folders = [settings.health_file.parent, *([settings.repository] if settings.models else [])]
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ToolError(f"{folder} cannot be made: {error.strerror}; mount a volume there") from error
    if settings.models and not os.access(settings.repository, os.W_OK):
        raise ToolError(
            f"{settings.repository} cannot be written, but FLAGTRITON_MODELS names models to add; mount a volume that "
            "can be, or add them beforehand and leave FLAGTRITON_MODELS out"
        )


def _models(text: str) -> tuple[tuple[str, ...], ...]:
    entries = [entry for line in text.splitlines() for entry in line.split(";") if entry.strip()]
    return tuple(tuple(_split(entry, "FLAGTRITON_MODELS")) for entry in entries)


def _split(text: str, name: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise ToolError(f"{name} is {text!r}: {error}") from error


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:], os.environ))
