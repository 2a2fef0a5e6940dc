# SPDX-License-Identifier: Apache-2.0
"""The command line of the capacity check."""

from __future__ import annotations

import itertools
import json
import sys
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

from flagtriton import DeploymentWarning
from flagtriton_tools.plan.scenario import Outcome, Server, Traffic
from flagtriton_tools.plan.simulation import simulate
from flagtriton_tools.workload import Workload, make_texts
from tests.robustness.capacity.measure import Observed, at_moments, counters, latencies_alone, moments, under_callers
from tests.robustness.capacity.probe import Probe, probing
from tests.robustness.capacity.servers import running_servers

_HELP = """Hold the simulation behind `flagtriton plan` to real servers, each with its own part of a core.

What one server does is fitted to requests one by one, and to two, eight and sixteen callers of one server; all else is
foretold: the same requests, at the same moments, of as many servers. A probe tells how fast the machine was each time.
Ends with 1 where throughput or p95 differ by more than 15 %. Needs root, and a machine that is idle else.

\b
python -m tests.robustness.capacity --servers 4 --out capacity.json
"""

_MOST_OFF = 0.15
_FITTED_CALLERS = (2, 8, 16)
_WARM_UP_S = 4.0
_SEEDS = range(5)
_BUDGET = 4_096


@click.command(help=_HELP, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option("--servers", "most", type=click.IntRange(1), default=4, show_default=True)
@click.option("--share", type=click.FloatRange(0.05, 1), default=0.4, show_default=True, help="Of a core, for each.")
@click.option("--texts", "texts_each", type=click.IntRange(1), default=2, show_default=True, help="Of a request.")
@click.option("--seconds", type=click.FloatRange(1), default=25.0, show_default=True, help="Of each measurement.")
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), default=Path("capacity.json"), show_default=True
)
def main(most: int, share: float, texts_each: int, seconds: float, out: Path) -> None:
    """Run from the command line."""
    warnings.simplefilter("ignore", DeploymentWarning)
    texts = make_texts(Workload(count=400 * texts_each))
    requests = [texts[start : start + texts_each] for start in range(0, len(texts), texts_each)]
    rows = []
    with (
        tempfile.TemporaryDirectory() as folder,
        running_servers(most, share, Path(folder)) as servers,
        probing() as probe,
    ):
        tokens, tokenizer_s = _counted(servers[:1], requests)
        under = {c: under_callers(servers[:1], requests, c, seconds, _WARM_UP_S) for c in _FITTED_CALLERS}
        server, took_s = _fitted(servers[:1], requests, tokens, tokenizer_s, under, probe)
        click.echo(f"fitted: {asdict(server)}")
        alone = under[8].requests_per_s
        for count in range(1, most + 1):
            some = servers[:count]
            for callers in (4 * count, 12 * count):
                seen = under_callers(some, requests, callers, seconds, _WARM_UP_S)
                rows.append(
                    _row(count, f"{callers} callers", seen, Traffic(tokens, callers=callers), server, probe, took_s)
                )
            at = moments(0.6 * alone * count, _WARM_UP_S + seconds)
            seen = at_moments(some, requests, at, _WARM_UP_S)
            rows.append(
                _row(
                    count,
                    f"{0.6 * alone * count:.1f} requests/s",
                    seen,
                    Traffic(tokens, moments_s=at),
                    server,
                    probe,
                    took_s,
                )
            )
    out.write_text(json.dumps({"server": asdict(server), "rows": rows}, indent=1), encoding="utf-8")
    worst = max(abs(row[name] - 1) for row in rows for name in ("throughput_ratio", "p95_ratio"))
    click.echo(f"wrote {out}; the worst is off by {worst:.0%}")
    sys.exit(1 if worst > _MOST_OFF else 0)


def _counted(servers: Sequence, requests: list[list[str]]) -> tuple[NDArray[np.int64], float]:
    """Return `[N]` tokens of each request, by its words, and the seconds that one keeps the tokenizer busy."""
    words = np.array([sum(len(text.split()) for text in request) for request in requests])
    some = 40
    counted, busy_s = counters(servers[0], lambda: latencies_alone(servers, requests[:some]))
    tokens = np.maximum(1, np.round(words * counted / (words[:some].sum() + words[0])))  # the first goes twice
    return tokens.astype(np.int64), busy_s / (some + 1)


def _fitted(
    servers: Sequence,
    requests: list[list[str]],
    tokens: NDArray[np.int64],
    tokenizer_s: float,
    under: dict[int, Observed],
    probe: Probe,
) -> tuple[Server, float]:
    """Return what one server does, and what the probe's work took meanwhile.

    A request alone takes the tokenizer's time, a turn's, its own and its tokens'. How much is whose shows in what
    callers get: turns are shared by those who wait, the rest is not.
    """
    seconds = _time_alone(servers, requests, tokens)
    took_s = probe.seconds_between(
        min(seen.began for seen in under.values()), max(seen.ended for seen in under.values())
    )
    best = (float("inf"), Server(1.0, _BUDGET))
    for turn_part, work_part, tokens_part in itertools.product(
        np.linspace(0, 0.4, 9), np.linspace(0, 0.2, 9), (0.9, 1)
    ):
        left_s = seconds - tokenizer_s
        pass_s, work_s = turn_part * left_s, work_part * left_s
        rest_s = left_s - pass_s - work_s
        tokens_per_s = float(tokens.mean() / (tokens_part * rest_s))
        fixed_s = (1 - tokens_part) * rest_s
        server = Server(tokens_per_s, _BUDGET, float(pass_s), float(work_s), tokenizer_s, fixed_s=float(fixed_s))
        off = 0.0
        for callers, seen in under.items():
            told = _foretold(_at_speed(server, probe, took_s, seen), 1, Traffic(tokens, callers=callers), seen)
            ratios = (
                told.requests_per_s / seen.requests_per_s,
                told.percentile_s(50) / seen.p50_s,
                told.percentile_s(95) / seen.p95_s,
            )
            off += float(np.square(np.log(ratios)).sum())
        best = min(best, (float(off), server), key=lambda each: each[0])
    return best[1], took_s


def _time_alone(servers: Sequence, requests: list[list[str]], tokens: NDArray[np.int64]) -> float:
    """Return what a request of the mean length takes where no other is, seconds."""
    some = range(120)
    took = latencies_alone(servers, [requests[place] for place in some])
    slope, intercept = np.polyfit(tokens[: len(some)], took, 1)
    return float(intercept + slope * tokens.mean())


def _at_speed(server: Server, probe: Probe, took_s: float, seen: Observed) -> Server:
    """Return what a server does while the probe's work takes longer or shorter than when it was fitted."""
    slower = probe.seconds_between(seen.began, seen.ended) / took_s
    return replace(
        server,
        tokens_per_s=server.tokens_per_s / slower,
        pass_s=server.pass_s * slower,
        work_s=server.work_s * slower,
        request_s=server.request_s * slower,
        fixed_s=server.fixed_s * slower,
    )


def _foretold(server: Server, count: int, traffic: Traffic, seen: Observed) -> Outcome:
    """Return what as many servers do with the same traffic, over what the balancer may draw."""
    seconds = seen.ended - seen.began
    each = [simulate(server, count, traffic, seconds=seconds, warm_up_s=_WARM_UP_S, seed=seed) for seed in _SEEDS]
    return replace(
        each[0],
        latencies_s=np.concatenate([outcome.latencies_s for outcome in each]),
        seconds=seconds * len(each),
    )


def _row(count: int, load: str, seen: Observed, traffic: Traffic, fitted: Server, probe: Probe, took_s: float) -> dict:
    told = _foretold(_at_speed(fitted, probe, took_s, seen), count, traffic, seen)
    row = {
        "servers": count,
        "load": load,
        "measured": asdict(seen),
        "slower": probe.seconds_between(seen.began, seen.ended) / took_s,
        "foretold": {
            "requests_per_s": told.requests_per_s,
            "p50_s": told.percentile_s(50),
            "p95_s": told.percentile_s(95),
        },
        "throughput_ratio": told.requests_per_s / seen.requests_per_s,
        "p50_ratio": told.percentile_s(50) / seen.p50_s,
        "p95_ratio": told.percentile_s(95) / seen.p95_s,
    }
    click.echo(
        f"{count} servers, {load}: {seen.requests_per_s:.1f}/s (foretold {row['throughput_ratio']:.2f} times), p95 "
        f"{seen.p95_s * 1e3:.0f} ms ({row['p95_ratio']:.2f} times), p50 {seen.p50_s * 1e3:.0f} ms "
        f"({row['p50_ratio']:.2f} times); the machine took {row['slower']:.2f} times as long"
    )
    return row


if __name__ == "__main__":
    main()
