# SPDX-License-Identifier: Apache-2.0
r"""Entry point of a container: adds the models that the environment names, and serves.

`FLAGTRITON_MODELS` lists models on separate lines or between semicolons, each with the arguments of `flagtriton add`:

    BAAI/bge-m3 --max-length 1024; BAAI/bge-reranker-v2-m3 --device gpu:0

Without it, the container serves the repository unchanged. With arguments, it runs `flagtriton` with these arguments.
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
    """Settings from the environment variables of a container.

    Attributes:
        models: `FLAGTRITON_MODELS`, the arguments of `flagtriton add` for each model.
        repository: `FLAGTRITON_REPOSITORY`, by default `/models`.
        host: `FLAGTRITON_HOST`, the address on which the server listens. The default is all interfaces, because a
            container has a separate network.
        health_file: `FLAGTRITON_HEALTH_FILE`, a file that exists while all deployments answer.
        secret_file: `FLAGTRITON_SECRET_FILE`, a mounted secret for admin operations; None makes a secret.
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
        """Return the settings in an environment. An empty variable counts as missing.

        Raises:
            ToolError: a variable cannot be parsed.
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
        """Commands that add the models, and replace those that exist from an earlier start."""
        return [["add", *model, "--repository", str(self.repository), "--force"] for model in self.models]

    @property
    def serving(self) -> list[str]:
        """Command that serves the repository."""
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
    """Run the container; return its exit code.

    Args:
        arguments: arguments of the container; without any it adds the models and serves.
        environment: environment variables of the container.
        command: function that runs `flagtriton` with arguments and returns the exit code.
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
