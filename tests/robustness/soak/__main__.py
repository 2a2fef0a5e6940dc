# SPDX-License-Identifier: Apache-2.0
"""The command line of the soak test."""

from __future__ import annotations

import json
import sys
import time
import warnings
from pathlib import Path

import click
from tqdm import tqdm

from flagtriton import DeploymentWarning
from tests.robustness.fuzz.serving import test_server
from tests.robustness.soak.load import MALFORMED, Load
from tests.robustness.soak.picture import draw
from tests.robustness.soak.samples import Sample, samples_of, summary
from tests.robustness.soak.verdict import MOST_GROWTH, complaints

_HELP = """Call a server of the tests' deployments through the SDK for a long time, and watch it.

Writes soak.json and soak.png. Ends with 1 where an answer is wrong, an error comes that should not, or memory, open
files, threads or shared memory grow by more than 2 % between the end of the first quarter and the end.

A step's shared memory grows to what the largest requests that ever meet there take, and stays so. In mixed load they
take an hour to meet, so the server gets nothing but malformed requests first, all kinds of them, many times.

\b
python -m tests.robustness.soak --minutes 30 --out soak/
"""


@click.command(help=_HELP, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option("--minutes", type=click.FloatRange(0.1), default=30.0, show_default=True)
@click.option("--warm-up", "warm_up_s", type=click.FloatRange(0), default=180.0, show_default=True, help="Seconds.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=Path("soak"), show_default=True)
@click.option("--threads", type=click.IntRange(1), default=6, show_default=True, help="That call at once.")
@click.option("--every", "every_s", type=click.FloatRange(0.5), default=5.0, show_default=True, help="Seconds.")
@click.option("--seed", type=int, default=1, show_default=True, help="Of what is called in which order.")
def main(minutes: float, warm_up_s: float, out: Path, threads: int, every_s: float, seed: int) -> None:
    """Run from the command line; the exit code is 1 where the server did not stand."""
    warnings.simplefilter("ignore", DeploymentWarning)
    samples: list[Sample] = []
    click.echo("starting a server with the tests' repository, which takes minutes", err=True)
    with test_server() as served:
        click.echo(f"malformed requests alone for {warm_up_s:.0f} s", err=True)
        first = Load(served, threads, seed + 1, MALFORMED)
        with first.running():
            time.sleep(warm_up_s)
        load = Load(served, threads, seed)
        load.learn()
        with load.running(), tqdm(total=round(minutes * 60), unit="s", disable=None) as bar:
            for sample in samples_of(load, served.server.process.pid, minutes * 60, every_s):
                samples.append(sample)
                bar.update(round(sample.seconds) - bar.n)
                bar.set_postfix(requests=sample.requests, errors=sample.errors, rss_mb=round(sample.rss_mb))
    out.mkdir(parents=True, exist_ok=True)
    found = summary(samples, load)
    (out / "soak.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    picture = draw(samples, out / "soak.png", MOST_GROWTH)
    click.echo(
        json.dumps({name: value for name, value in found.items() if name not in ("samples", "errors")}, indent=1)
    )
    click.echo(f"wrote {out / 'soak.json'} and {picture}")
    said = complaints(found) + [f"in the warm-up: {error}" for error in first.tally.errors]
    for sentence in said:
        click.echo(f"FAILED {sentence}")
    sys.exit(1 if said else 0)


if __name__ == "__main__":
    main()
