# SPDX-License-Identifier: Apache-2.0
"""Command `flagtriton plan`."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from flagtriton_tools.errors import ToolError
from flagtriton_tools.shapes import SHAPES

__all__ = ["parse_rate", "plan_command"]

_SECONDS = {"s": 1, "min": 60, "h": 3_600, "d": 86_400, "day": 86_400}
_SCALES = {"": 1, "k": 1e3, "M": 1e6, "G": 1e9}


def parse_rate(text: str) -> float:
    """Return the requests per second of `2000/s`, `5k/min` or `1M/day`.

    Raises:
        ToolError: the text has another form.
    """
    match = re.fullmatch(r"([0-9.]+)([kMG]?)/(s|min|h|d|day)", text.replace(",", "").strip())
    try:
        assert match is not None
        rate = float(match[1]) * _SCALES[match[2]] / _SECONDS[match[3]]
        assert rate > 0
    except (AssertionError, ValueError) as error:
        raise ToolError(f"--rate is {text!r}; expected requests and a time, as 2000/s, 5k/min or 1M/day") from error
    return rate


@click.command("plan")
@click.option("--shape", required=True, help=f"A published model: {', '.join(SHAPES)}.")
@click.option("--rate", required=True, help="Requests: 2000/s, 5k/min, 1M/day.")
@click.option("--tokens", type=click.FloatRange(1), required=True, help="Of a text, the mean.")
@click.option("--texts", type=click.IntRange(1), default=1, show_default=True, help="Of a request.")
@click.option("--spread", type=click.FloatRange(0, 2), default=0.6, show_default=True, help="Of texts' log lengths.")
@click.option("--gpu", help="One a server, e.g. h200.  [default: a processor]")
@click.option("--tokens-per-s", type=click.FloatRange(1), help="Of one server, as you measured it.")
@click.option("--p95", "p95_s", type=click.FloatRange(0.001), default=0.25, show_default=True, help="Seconds.")
@click.option("--tokenizers", type=click.IntRange(1), default=1, show_default=True, help="--tokenizer-instances.")
@click.option("--spare", type=click.IntRange(0), default=1, show_default=True, help="Servers that may be away.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def plan_command(
    rate: str, gpu: str | None, tokens_per_s: float | None, spare: int, as_json: bool, **of_load: Any
) -> None:
    """Reckon how many servers a load needs, by measured rates and a simulation of their queues.

    \b
    flagtriton plan --shape bge-m3 --rate 2000/s --tokens 180 --gpu h200
    flagtriton plan --shape bge-m3 --rate 2000/s --tokens 180 --gpu h200 --tokens-per-s 400000 --p95 0.1
    flagtriton plan --shape minilm-l6 --rate 1M/day --tokens 60 --spare 0
    """
    try:
        from flagtriton_tools.plan.capacity import Load, Plan, make_plan
    except ImportError as error:
        raise ToolError("planning simulates queues with simpy: pip install 'flagtriton[plan]'") from error
    load = Load(requests_per_s=parse_rate(rate), **of_load)
    plan: Plan = make_plan(load, gpu=gpu, tokens_per_s=tokens_per_s, spare=spare)
    if as_json:
        click.echo(json.dumps({"load": asdict(load), "plan": asdict(plan)}))
        return
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    of_spare = f", {plan.spare} of them to spare" if plan.spare else ""
    rows = {
        "servers": f"[bold]{plan.servers:,}[/]{of_spare}",
        "GPUs": f"{plan.gpus:,} {gpu}" if gpu else "none",
        "tokens": f"{plan.tokens_per_s:,.0f}/s come, {plan.server_tokens_per_s:,.0f}/s one server encodes",
        "busy": f"{plan.busy:.0%}",
        "p50, p95": f"{_ms(plan.p50_s)}, {_ms(plan.p95_s)}; p95 without the spare: {_ms(plan.p95_failing_s)}",
        "memory": f"{plan.memory_bytes / 1e9:.1f} GB {'of each GPU' if gpu else 'of each server'}, at least",
        "/dev/shm": f"{plan.shared_memory_bytes / 1e6:.0f} MB of each server, at least",
        "network": f"{_rate(plan.in_bytes_per_s)} in, {_rate(plan.out_bytes_per_s)} out, over all servers",
    }
    for name, value in rows.items():
        table.add_row(f"[dim]{name}[/]", value)
    console = Console(highlight=False, soft_wrap=True)
    console.print(table)
    console.print("\n[dim]It took for granted that[/]")
    for assumption in plan.assumptions:
        console.print(f"  {assumption}", markup=False)


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.0f} ms"


def _rate(bytes_per_s: float) -> str:
    return f"{bytes_per_s / 1e6:,.1f} MB/s"
