# SPDX-License-Identifier: Apache-2.0
"""Command `flagtriton top`."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial

import click
from rich.console import Console, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from flagtriton_tools.cli.tables import fitted
from flagtriton_tools.errors import ToolError
from flagtriton_tools.observe.rates import Rates, rates_between
from flagtriton_tools.observe.scrape import scrape

__all__ = ["table_of", "top_command"]

_COLUMNS = (
    "requests/s",
    "refused/s",
    "failed/s",
    "texts/s",
    "tokens/s",
    "p50",
    "p99",
    "wait",
    "queue",
    "busy",
    "tokens/pass",
    "padding",
    "cut",
)
_DROPPED_FIRST = ("cut", "padding", "tokens/pass", "wait", "texts/s", "p50", "failed/s", "tokens/s", "queue")
"""Order in which columns are dropped if the terminal is too narrow. The columns that remain show problems best."""


@click.command("top")
@click.option("--url", default="http://localhost:8002", show_default=True, help="The server's metrics port.")
@click.option("--every", "every_s", type=click.FloatRange(0.2), default=2.0, show_default=True, help="Seconds.")
@click.option("--once", is_flag=True, help="Print what happened within one such time, and end.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a deployment and time, for programs.")
def top_command(url: str, every_s: float, once: bool, as_json: bool) -> None:
    """Show what each deployment of a running server is doing, until Ctrl-C.

    \b
    flagtriton top
    flagtriton top --url http://triton:8002 --every 5
    flagtriton top --once --json | jq .tokens_per_s

    p50 and p99 are of the time a request spends in the encoder step, the wait for its turn included, and `wait` the
    mean of that wait; `queue` has the requests that wait now and how many may; `busy` is the share of the time that
    the encoder's processes were at work; `cut` the share of texts that were truncated. A step that has not been heard
    of for 10 s is `silent`.
    """
    if as_json or once:
        _print_on(url, every_s, once, as_json)
    else:
        _show(url, every_s)


def _print_on(url: str, every_s: float, once: bool, as_json: bool) -> None:
    before = scrape(url)
    while True:
        time.sleep(every_s)
        after = scrape(url)
        rows = rates_between(before, after)
        if as_json:
            for row in rows:
                click.echo(json.dumps(asdict(row)))
        else:
            console = Console(width=None if sys.stdout.isatty() else 200)
            console.print(table_of(rows, url, console.width))
        if once:
            return
        before = after


def _show(url: str, every_s: float) -> None:
    before = scrape(url)
    try:
        with Live(Text("measuring …"), screen=sys.stdout.isatty(), auto_refresh=False) as live:
            while True:
                time.sleep(every_s)
                try:
                    after = scrape(url)
                    shown: RenderableType = table_of(rates_between(before, after), url, live.console.width)
                    before = after
                except ToolError as error:
                    shown = Text.from_markup(f"[red]{escape(str(error))}[/]")
                live.update(shown, refresh=True)
    except KeyboardInterrupt:
        return


def table_of(rows: list[Rates], url: str, width: int = 200) -> RenderableType:
    """Return the rates as a table with the columns that fit the terminal.

    Args:
        rows: rates of each deployment.
        url: URL of the server's metrics port.
        width: width of the terminal, characters.
    """
    if not rows:
        return Text(f"{url} serves no deployment of flagtriton's yet")
    return fitted(partial(_table, rows, url), _COLUMNS, _DROPPED_FIRST, width)


def _table(rows: list[Rates], url: str, columns: Sequence[str]) -> Table:
    left_out = f"; no room for {', '.join(name for name in _COLUMNS if name not in columns)}"
    title = f"flagtriton top, {url}{'' if len(columns) == len(_COLUMNS) else left_out}"
    table = Table("deployment", box=None, title=title, title_justify="left", title_style="dim")
    for name in columns:
        table.add_column(name, justify="right")
    for row in rows:
        state = f" [red]{', '.join(row.silent)} silent[/]" if row.silent else ""
        cells = dict(zip(_COLUMNS, _cells(row), strict=True))
        table.add_row(f"{escape(row.deployment)}{state}", *(cells[name] for name in columns))
    return table


def _cells(row: Rates) -> list[str]:
    queue = f"{row.waiting} / {row.waiting_limit}"
    return [
        f"{row.requests_per_s:,.1f}",
        _warned(f"{row.refused_per_s:,.1f}", row.refused_per_s > 0),
        _warned(f"{row.failed_per_s:,.1f}", row.failed_per_s > 0),
        f"{row.texts_per_s:,.0f}",
        f"{row.tokens_per_s:,.0f}",
        _duration(row.p50_s),
        _duration(row.p99_s),
        _duration(row.queue_s),
        _warned(queue, 2 * row.waiting > row.waiting_limit),
        f"{row.busy:.0%}",
        "" if row.tokens_a_pass is None else f"{row.tokens_a_pass:,.0f}",
        _share(row.padding),
        _warned(_share(row.truncated), (row.truncated or 0) > 0.05),
    ]


def _warned(cell: str, warn: bool) -> str:
    return f"[yellow]{cell}[/]" if warn else cell


def _share(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"{seconds * 1e3:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
