# SPDX-License-Identifier: Apache-2.0
"""`flagtriton_tools.top`: two moments of a server to what it does."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest
from click.testing import CliRunner
from rich.console import Console

from flagtriton_tools.cli.main import cli
from flagtriton_tools.cli.top import table_of
from flagtriton_tools.errors import ToolError
from flagtriton_tools.observe.rates import Rates, quantile, rates_between
from flagtriton_tools.observe.scrape import Scrape, scrape

INF = float("inf")
NOW = 1_700_000_000.0


def metrics(**changed: float) -> str:
    """Return what a server says, with some of its numbers changed."""
    numbers = {
        "ok": 0, "busy": 0, "refused": 0, "invalid": 0, "fast": 0, "slow": 0, "waited": 0, "tokens": 0, "passes": 0,
        "padding": 0, "texts": 0, "cut": 0, "waiting": 0, "seen": NOW, **changed,
    }  # fmt: skip
    own = 'deployment="bge-m3",step="encoder"'
    process = f'{own},process="bge-m3_encoder_0_0"'
    priority = f'{own},priority="interactive"'
    tokenizer = 'deployment="bge-m3",step="tokenizer"'
    lines = [
        f'flagtriton_requests_total{{{priority},code="ok"}} {numbers["ok"]}',
        f'flagtriton_requests_total{{{tokenizer},priority="bulk",code="unavailable"}} {numbers["refused"]}',
        f'flagtriton_requests_total{{{tokenizer},priority="bulk",code="invalid_arg"}} {numbers["invalid"]}',
        f'flagtriton_requests_total{{{tokenizer},priority="interactive",code="ok"}} {numbers["ok"]}',
        f'flagtriton_requests_within_total{{{priority},seconds="0.1"}} {numbers["fast"]}',
        f'flagtriton_requests_within_total{{{priority},seconds="1"}} {numbers["fast"] + numbers["slow"]}',
        f'flagtriton_requests_within_total{{{priority},seconds="+Inf"}} {numbers["fast"] + numbers["slow"]}',
        f"flagtriton_queue_seconds_total{{{priority}}} {numbers['waited']}",
        f"flagtriton_requests_taken_total{{{priority}}} {numbers['ok']}",
        f"flagtriton_busy_seconds_total{{{process}}} {numbers['busy']}",
        f"flagtriton_texts_total{{{tokenizer}}} {numbers['texts']}",
        f"flagtriton_truncated_texts_total{{{tokenizer}}} {numbers['cut']}",
        f"flagtriton_tokens_total{{{own}}} {numbers['tokens']}",
        f"flagtriton_micro_batches_total{{{own}}} {numbers['passes']}",
        f"flagtriton_micro_batch_tokens_total{{{own}}} {numbers['tokens']}",
        f"flagtriton_padding_tokens_total{{{own}}} {numbers['padding']}",
        f'flagtriton_waiting_requests{{{process},priority="bulk"}} {numbers["waiting"]}',
        f"flagtriton_waiting_requests_limit{{{process}}} 128",
        f"flagtriton_step_last_seen_timestamp_seconds{{{process}}} {numbers['seen']}",
    ]
    return "\n".join(lines) + "\n"


def rates(seconds: float = 2.0, **after: float) -> Rates:
    (row,) = rates_between(
        Scrape.parsed(metrics(), at=10.0), Scrape.parsed(metrics(**after), at=10.0 + seconds), now=lambda: NOW
    )
    return row


def test_numbers_that_grew_are_rates() -> None:
    row = rates(
        ok=40, refused=6, invalid=2, fast=30, slow=10, waited=4, tokens=9_000, passes=3, padding=1_000, texts=80,
        cut=20, waiting=5, busy=1.5,
    )  # fmt: skip
    assert (row.deployment, row.silent) == ("bge-m3", ())
    assert (row.requests_per_s, row.refused_per_s, row.failed_per_s) == (20, 3, 1)
    assert (row.texts_per_s, row.tokens_per_s, row.tokens_a_pass) == (40, 4_500, 3_000)
    assert (row.waiting, row.waiting_limit, row.busy, row.queue_s) == (5, 256, 0.75, 0.1)
    assert (row.padding, row.truncated) == (0.1, 0.25)
    assert row.p50_s == pytest.approx(0.1 * 20 / 30)
    assert row.p99_s == pytest.approx(0.1 + 0.9 * 9.6 / 10)


def test_where_nothing_happened_nothing_is_told() -> None:
    row = rates()
    assert (row.p50_s, row.p99_s, row.queue_s, row.tokens_a_pass, row.padding, row.truncated) == (None,) * 6
    assert (row.requests_per_s, row.tokens_per_s, row.busy) == (0, 0, 0)


def test_a_server_that_began_anew_has_no_negative_rates() -> None:
    before, after = Scrape.parsed(metrics(ok=50, tokens=100), 0.0), Scrape.parsed(metrics(ok=1), 1.0)
    (row,) = rates_between(before, after, now=lambda: NOW)
    assert (row.requests_per_s, row.tokens_per_s) == (0, 0)


def test_a_step_not_heard_of_is_silent() -> None:
    assert rates(seen=NOW - 9).silent == ()
    assert rates(seen=NOW - 11).silent == ("encoder",)


@pytest.mark.parametrize(
    ("share", "counts", "expected"),
    [
        (0.5, [], None),
        (0.5, [(1.0, 0.0), (INF, 0.0)], None),
        (0.5, [(1.0, 10.0), (INF, 10.0)], 0.5),
        (0.5, [(1.0, 5.0), (2.0, 10.0), (INF, 10.0)], 1.0),
        (0.75, [(1.0, 5.0), (2.0, 10.0), (INF, 10.0)], 1.5),
        (0.99, [(1.0, 5.0), (2.0, 6.0), (INF, 10.0)], 2.0),
    ],
)
def test_quantiles_by_hand(share: float, counts: list[tuple[float, float]], expected: float | None) -> None:
    assert quantile(share, counts) == (None if expected is None else pytest.approx(expected))


def test_what_is_no_metrics_is_told() -> None:
    with pytest.raises(ValueError):
        Scrape.parsed("<html> 1 2 3 4\n", 0.0)


# A port.


@pytest.fixture
def served() -> Iterator[Callable[..., str]]:
    """Return what serves some texts one after another, the last of them again and again."""
    servers: list[ThreadingHTTPServer] = []

    def serve(*texts: str) -> str:
        left = list(texts)

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                text = left.pop(0) if len(left) > 1 else left[0]
                self.send_response(200 if self.path == "/metrics" else 404)
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_: object) -> None: ...

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_address[1]}"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


def top(*arguments: str) -> Any:
    return CliRunner().invoke(cli, ["top", "--every", "0.2", *arguments])


def test_once_prints_a_table(served: Callable[..., str]) -> None:
    result = top("--once", "--url", served(metrics(), metrics(ok=10, fast=10)))
    assert result.exit_code == 0, result.output
    assert "bge-m3" in result.output
    assert "requests/s" in result.output


def test_once_as_json_is_a_line_a_deployment(served: Callable[..., str]) -> None:
    result = top("--once", "--json", "--url", served(metrics(), metrics(texts=10, cut=5)))
    (line,) = result.stdout.splitlines()
    assert json.loads(line)["deployment"] == "bge-m3"
    assert json.loads(line)["truncated"] == 0.5


@pytest.mark.parametrize(
    ("url", "words"),
    [("localhost:8002", "expected the metrics port's address"), ("http://127.0.0.1:9", "is a server running")],
)
def test_an_address_that_does_not_answer_is_said(url: str, words: str) -> None:
    result = top("--once", "--url", url)
    assert isinstance(result.exception, ToolError)
    assert words in str(result.exception)


def test_another_server_s_port_is_said(served: Callable[..., str]) -> None:
    with pytest.raises(ToolError, match="does not answer with metrics"):
        scrape(served("<html> 1 2 3 4\n"))


def table_text(rows: list[Rates]) -> str:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(table_of(rows, "http://localhost:8002"))
    return console.export_text()


def test_a_row_s_cells() -> None:
    line = table_text([rates(ok=40, fast=40, texts=80, cut=20, waiting=200, seen=NOW - 60)]).splitlines()[-1]
    for cell in ("bge-m3 encoder silent", "20.0", "50 ms", "99 ms", "200 / 256", "25.0%"):
        assert cell in line


@pytest.mark.parametrize("width", [60, 80, 100, 120, 200])
def test_columns_that_do_not_fit_are_left_out_and_named(width: int) -> None:
    rows = [rates(ok=40, fast=40, texts=80, cut=20, waiting=200)]
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(table_of(rows, "http://localhost:8002", width))
    lines = console.export_text().splitlines()
    title, header, row = " ".join(lines[:-2]), lines[-2], lines[-1]
    assert {"requests/s", "refused/s", "p99", "busy"} <= set(header.split())  # which tell whether all is well
    assert {"bge-m3", "20.0"} <= set(row.split())  # none is broken over two lines or cut
    assert "…" not in header + row
    for column in ("cut", "padding", "p50", "tokens/s"):
        assert (column in header.split()) != (column in title.replace(",", "").split())


def test_a_wide_terminal_has_all_columns() -> None:
    assert "no room" not in table_text([rates(ok=40, fast=40)])


def test_a_server_without_deployments_says_so() -> None:
    assert "serves no deployment" in table_text([])
