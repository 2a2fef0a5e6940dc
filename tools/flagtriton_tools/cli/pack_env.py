# SPDX-License-Identifier: Apache-2.0
"""Command `flagtriton pack-env`."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from flagtriton_tools.repository.environment import environment_members, write_environment

__all__ = ["pack_env_command"]

_MESSAGES = Console(stderr=True, soft_wrap=True, highlight=False)


@click.command("pack-env")
@click.argument("target", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--without", multiple=True, metavar="PACKAGE", help="Leave this out, and what only it requires; repeated."
)
@click.option(
    "--interpreter",
    type=click.Path(path_type=Path),
    help="Where the server's machine has its Python, of the same version as this.  [default: this one's own path]",
)
@click.option("--system-packages", is_flag=True, help="Find packages of that Python's own, too, such as its torch.")
@click.option("--compression", type=click.IntRange(0, 9), default=6, show_default=True, help="gzip's level.")
def pack_env_command(
    target: Path, without: tuple[str, ...], interpreter: Path | None, system_packages: bool, compression: int
) -> None:
    """Pack what the steps need of this Python environment into TARGET, a .tar.gz.

    A Triton on which flagtriton is not installed runs the steps in it: put the file where that server can read it and
    say so with `flagtriton add … --execution-env PATH`. Pack in the server's own image, so that Python, its path and
    the CUDA of torch are the same.

    \b
    flagtriton pack-env flagtriton-env.tar.gz
    flagtriton pack-env env.tar.gz --interpreter /usr/bin/python3.12
    flagtriton pack-env env.tar.gz --without torch --system-packages
    """
    members = environment_members(without)
    total = sum(source.stat().st_size for source in members.values())
    columns = (TextColumn("packing"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=_MESSAGES, transient=True) as progress:
        task = progress.add_task("packing", total=total)
        write_environment(
            members,
            target,
            interpreter=interpreter,
            system_packages=system_packages,
            compression=compression,
            advance=lambda size: progress.advance(task, size),
        )
    size = target.stat().st_size
    _MESSAGES.print(
        f"packed {len(members)} files, {total / 1e6:.0f} MB, into {escape(str(target))}: {size / 1e6:.0f} MB"
    )
    _MESSAGES.print("use it with: flagtriton add … --execution-env PATH_ON_THE_SERVER")
