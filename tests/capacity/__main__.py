# SPDX-License-Identifier: Apache-2.0
"""The command line of the capacity check."""

from __future__ import annotations

import json
import sys
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

from flagtriton import DeploymentWarning
from flagtriton_tools.bench.workload import Workload, make_texts
from flagtriton_tools.plan.scenario import Outcome, Server, Traffic
from flagtriton_tools.plan.simulation import simulate
from tests.capacity.measure import Observed, latencies_alone, tokens_of, under_callers, under_rate
from tests.capacity.servers import running_servers

_HELP = """Hold the simulation behind `flagtriton plan` to real servers, each with its own part of a core.

What one server does is fitted to requests one by one and to eight callers of one server; all else is foretold, and
compared. Ends with 1 where throughput or p95 differ by more than 15 %. Needs root, and a machine that is idle else.

\b
python -m tests.capacity --servers 4 --out capacity.json
"""

_MOST_OFF = 0.15
_FITTED_CALLERS = 8


@click.command(help=_HELP, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option("--servers", "most", type=click.IntRange(1), default=4, show_default=True)
@click.option("--share", type=click.FloatRange(0.05, 1), default=0.4, show_default=True, help="Of a core, for each.")
@click.option("--texts", "texts_each", type=click.IntRange(1), default=8, show_default=True, help="Of a request.")
@click.option("--seconds", type=click.FloatRange(1), default=20.0, show_default=True, help="Of each measurement.")
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), default=Path("capacity.json"), show_default=True
)
def main(most: int, share: float, texts_each: int, seconds: float, out: Path) -> None:
    """Run from the command line."""
    warnings.simplefilter("ignore", DeploymentWarning)
    texts = make_texts(Workload(count=400 * texts_each))
    requests = [texts[start : start + texts_each] for start in range(0, len(texts), texts_each)]
    rows = []
    with tempfile.TemporaryDirectory() as folder, running_servers(most, share, Path(folder)) as servers:
        tokens = _tokens(servers[:1], requests)
        server = _fitted(servers[:1], requests, tokens, seconds)
        click.echo(f"fitted: {asdict(server)}")
        alone = simulate(server, 1, Traffic(tokens, callers=64), seconds=60, warm_up_s=10).requests_per_s
        for count in range(1, most + 1):
            some = servers[:count]
            for callers in (4 * count, 12 * count):
                seen = under_callers(some, requests, callers, seconds, 4)
                told = simulate(server, count, Traffic(tokens, callers=callers), seconds=120, warm_up_s=10)
                rows.append(_row(count, f"{callers} callers", seen, told))
            rate = 0.6 * alone * count
            seen = under_rate(some, requests, rate, seconds, 4)
            told = simulate(server, count, Traffic(tokens, rate=rate), seconds=240, warm_up_s=10)
            rows.append(_row(count, f"{rate:.1f} requests/s", seen, told))
    out.write_text(json.dumps({"server": asdict(server), "rows": rows}, indent=1), encoding="utf-8")
    worst = max(abs(row[name] - 1) for row in rows for name in ("throughput_ratio", "p95_ratio"))
    click.echo(f"wrote {out}; the worst is off by {worst:.0%}")
    sys.exit(1 if worst > _MOST_OFF else 0)


def _tokens(servers: Sequence, requests: list[list[str]]) -> NDArray[np.int64]:
    """Return `[N]` tokens of each request, by its words and what all of them came to."""
    words = np.array([sum(len(text.split()) for text in request) for request in requests])
    some = 40
    counted = tokens_of(servers[0], lambda: latencies_alone(servers, requests[:some]))
    return np.maximum(1, np.round(words * counted / words[: some + 1].sum())).astype(np.int64)  # the first goes twice


def _fitted(servers: Sequence, requests: list[list[str]], tokens: NDArray[np.int64], seconds: float) -> Server:
    """Return what one server does.

    The line through latencies over tokens gives the time of a token and that of a request; of the latter, what shows in
    the rate under eight callers is work, and the rest is waiting for something else.
    """
    sizes = [
        (place, count) for place in range(0, 180, 3) for count in (1, len(requests[place]) // 2, len(requests[place]))
    ]
    took = latencies_alone(servers, [requests[place][:count] for place, count in sizes])
    words = [[len(text.split()) for text in requests[place]] for place, _ in sizes]
    lengths = [tokens[place] * sum(of[:count]) / sum(of) for (place, count), of in zip(sizes, words, strict=True)]
    slope, intercept = np.polyfit(lengths, took, 1)
    rate = under_callers(servers, requests, _FITTED_CALLERS, seconds, 4).requests_per_s
    work_s = float(np.clip(1 / rate - slope * tokens.mean(), 0.0, intercept))
    tokens_per_s = float(tokens.mean() / (1 / rate - work_s))
    return Server(tokens_per_s, 4_096, work_s=work_s, fixed_s=float(intercept - work_s))


def _row(count: int, load: str, seen: Observed, told: Outcome) -> dict:
    row = {
        "servers": count,
        "load": load,
        "measured": asdict(seen),
        "foretold": {
            "requests_per_s": told.requests_per_s,
            "p50_s": told.percentile_s(50),
            "p95_s": told.percentile_s(95),
        },
        "throughput_ratio": told.requests_per_s / seen.requests_per_s,
        "p95_ratio": told.percentile_s(95) / seen.p95_s,
    }
    click.echo(
        f"{count} servers, {load}: {seen.requests_per_s:.1f}/s (foretold {row['throughput_ratio']:.2f} times), p95 "
        f"{seen.p95_s * 1e3:.0f} ms ({row['p95_ratio']:.2f} times)"
    )
    return row


if __name__ == "__main__":
    main()
