# SPDX-License-Identifier: Apache-2.0
"""The command line of the fuzz test."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click
from rich.console import Console
from tqdm import tqdm

from tests.robustness.fuzz.attack import Attack
from tests.robustness.fuzz.campaign import Campaign
from tests.robustness.fuzz.catalogue import Catalogue
from tests.robustness.fuzz.known import good_requests
from tests.robustness.fuzz.models import served_models
from tests.robustness.fuzz.report import print_findings
from tests.robustness.fuzz.serving import Target, test_server

_RESULTS = Console(highlight=False, width=None if sys.stdout.isatty() else 200)
_MOST_SHOWN = 3_000
_HELP = """Send malformed requests to every model of a server, good ones between them, and check that it stands.

Ends with 1 where a good answer is wrong, a bad request gets success or nothing at all, a process ends, or memory or
open files grow. What is sent depends on the seed and on what is served.

\b
python -m tests.robustness.fuzz --requests 20000 --seed 1
python -m tests.robustness.fuzz --seed 1 --only 4711 --url http://localhost:8000 --grpc-url grpc://localhost:8001
"""


@click.command(help=_HELP, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option("--requests", type=click.IntRange(1), default=20_000, show_default=True, help="Good ones included.")
@click.option("--seed", type=int, default=1, show_default=True, help="The same seed sends the same requests.")
@click.option("--threads", type=click.IntRange(1), default=8, show_default=True, help="That send at once.")
@click.option("--warm-up", type=click.IntRange(0), help="Requests before memory counts.  [default: half of them]")
@click.option("--only", type=click.IntRange(0), help="Send the request with this number alone, and show it.")
@click.option("--deadly", is_flag=True, help="Send what ends tritonserver 2.51, too.")
@click.option("--url", help="HTTP address of a running server.  [default: one with the tests' repository is started]")
@click.option("--grpc-url", help="Its gRPC address.")
@click.option("--pid", type=int, help="Its process, on this machine, whose memory and files are watched.")
def main(
    requests: int,
    seed: int,
    threads: int,
    warm_up: int | None,
    only: int | None,
    deadly: bool,
    url: str | None,
    grpc_url: str | None,
    pid: int | None,
) -> None:
    """Run from the command line; the exit code is 1 where something that must not be was found."""
    if (url is None) != (grpc_url is None):
        raise click.UsageError("--url and --grpc-url go together")
    with _target(url, grpc_url, pid) as target:
        world = served_models(target.http)
        known = good_requests(world, target.grpc)
        catalogue = Catalogue(world, seed, deadly)
        if only is not None:
            sys.exit(_send_one(Campaign(target, catalogue, known, 1), only))
        with tqdm(total=requests, unit="request", smoothing=0.05, disable=None) as bar:
            campaign = Campaign(target, catalogue, known, threads, bar.update)
            found = campaign.run(requests, requests // 2 if warm_up is None else warm_up)
    print_findings(found, seed, _RESULTS)
    sys.exit(1 if found.violations else 0)


@contextmanager
def _target(url: str | None, grpc_url: str | None, pid: int | None) -> Iterator[Target]:
    if url is not None and grpc_url is not None:
        yield Target.at(url, grpc_url, pid)
        return
    click.echo("starting a server with the tests' repository, which takes minutes", err=True)
    with test_server() as served:
        yield Target.of(served)


def _send_one(campaign: Campaign, number: int) -> int:
    sent, outcome = campaign.send_one(number)
    _show(sent)
    if outcome is not None:
        click.echo(f"{outcome.fate.value}; {outcome.code} {outcome.message[:_MOST_SHOWN]}")
    for _, sentence in campaign.findings.violations:
        click.echo(f"FAILED {sentence}")
    return 1 if campaign.findings.violations else 0


def _show(sent: Any) -> None:
    if not isinstance(sent, Attack):
        click.echo(f"a good request: {sent.request}")
        return
    click.echo(f"{sent.kind}, to {sent.model} by {sent.wire.value} {sent.method}, the client {sent.manner.value}")
    rest = len(sent.payload) - _MOST_SHOWN
    click.echo(f"{sent.payload[:_MOST_SHOWN]!r}{f' … {rest} bytes more' if rest > 0 else ''}")


if __name__ == "__main__":
    main()
