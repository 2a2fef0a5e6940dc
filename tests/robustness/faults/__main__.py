# SPDX-License-Identifier: Apache-2.0
"""Faults and overload, in full. Figures go to FOLDER/*.json; the exit code is 1 where a bound is missed."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from tests.robustness.faults.overload import beside_bulk, overload
from tests.robustness.faults.scenarios import kill_server, kill_stubs, stop_under_load
from tests.robustness.faults.serving import make_repository, serving

Scenario = Callable[[Path, Path], dict[str, Any]]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--out", type=click.Path(path_type=Path), default=Path("bench/faults"), show_default=True)
@click.pass_context
def cli(context: click.Context, out: Path) -> None:
    """Kill, drain and overload a server.

    \b
    python -m tests.robustness.faults stubs --kills 15
    python -m tests.robustness.faults server --texts 20000
    python -m tests.robustness.faults drain --times 20
    python -m tests.robustness.faults overload
    python -m tests.robustness.faults beside-bulk
    """
    context.obj = out


def _run(out: Path, name: str, scenario: Scenario, is_good: Callable[[dict[str, Any]], bool]) -> None:
    with tempfile.TemporaryDirectory(prefix="flagtriton-faults-") as folder:
        figures = scenario(make_repository(Path(folder)), Path(folder) / "serve")
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{name}.json").write_text(json.dumps(figures, indent=2), encoding="utf-8")
    short = {key: value for key, value in figures.items() if key not in ("recoveries", "stops", "rounds")}
    click.echo(json.dumps(short, indent=2))
    if not is_good(figures):
        raise click.ClickException("a bound was missed")


@cli.command()
@click.option("--kills", default=15, show_default=True)
@click.option("--every", default=20.0, show_default=True, help="Seconds.")
@click.option("--callers", default=16, show_default=True)
@click.option("--seed", default=1, show_default=True)
@click.pass_obj
def stubs(out: Path, kills: int, every: float, callers: int, seed: int) -> None:
    """Kill a random model process now and then."""

    def scenario(repository: Path, folder: Path) -> dict[str, Any]:
        with serving(repository, folder) as server:
            return kill_stubs(
                server, repository, every_s=every, kills=kills, threads=callers, seed=seed, report=click.echo
            )

    _run(
        out,
        "stubs",
        scenario,
        lambda figures: (
            figures["sent"] == figures["answered"]
            and not figures["wrong"]
            and not figures["raised"]
            and all(each["seconds"] <= 15 and not each["failures_of_others"] for each in figures["recoveries"])
        ),
    )


@cli.command()
@click.option("--texts", default=20_000, show_default=True)
@click.pass_obj
def server(out: Path, texts: int) -> None:
    """Kill tritonserver in the middle of one call."""

    def scenario(repository: Path, folder: Path) -> dict[str, Any]:
        with serving(repository, folder) as server:
            return kill_server(server, count=texts, report=click.echo)

    _run(
        out,
        "server",
        scenario,
        lambda figures: (
            figures["shape_is_right"] and figures["largest_difference"] <= 1e-6 and figures["restarts"] == 1
        ),
    )


@cli.command()
@click.option("--times", default=20, show_default=True)
@click.option("--callers", default=8, show_default=True)
@click.pass_obj
def drain(out: Path, times: int, callers: int) -> None:
    """Send SIGTERM under load."""
    _run(
        out,
        "drain",
        lambda repository, folder: stop_under_load(repository, folder, times=times, threads=callers, report=click.echo),
        lambda figures: all(not stop["lost"] and stop["exit_code"] == 0 for stop in figures["stops"]),
    )


@cli.command("overload")
@click.option("--seconds", default=20.0, show_default=True, help="Of each phase.")
@click.option("--rounds", default=3, show_default=True)
@click.pass_obj
def overload_command(out: Path, seconds: float, rounds: int) -> None:
    """Send four times what the server can answer."""
    _run(
        out,
        "overload",
        lambda repository, folder: overload(repository, folder, seconds=seconds, rounds=rounds, report=click.echo),
        lambda figures: (
            figures["refused_p99_ms"] <= 50
            and figures["accepted_p99_ms"] <= 2 * figures["saturated_p99_ms"]
            and figures["back_to_normal_s"] <= 5
        ),
    )


@cli.command("beside-bulk")
@click.option("--seconds", default=15.0, show_default=True, help="Of each phase.")
@click.option("--rounds", default=3, show_default=True)
@click.pass_obj
def beside_bulk_command(out: Path, seconds: float, rounds: int) -> None:
    """Send queries with and without a corpus job beside them."""
    _run(
        out,
        "beside-bulk",
        lambda repository, folder: beside_bulk(repository, folder, seconds=seconds, rounds=rounds, report=click.echo),
        lambda figures: figures["p99_ratio"] <= 2,
    )


if __name__ == "__main__":
    cli()
