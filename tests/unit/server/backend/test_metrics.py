# SPDX-License-Identifier: Apache-2.0
"""`flagtriton_server.backend.metrics`, and what steps on tiny models tell through it."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from flagtriton.protocol.metrics import METRICS
from flagtriton.protocol.runtime_files import REQUEST_LOG
from flagtriton.protocol.settings import EncoderSettings, LayerwiseSettings, TokenizerSettings
from flagtriton_server.backend.queue import QueuedRequest
from flagtriton_server.errors import RequestError
from flagtriton_server.packing.ragged import packed_length
from tests.support.checkpoints.layerwise import make_layerwise
from tests.support.checkpoints.tiny import make_bert, make_decoder
from tests.support.steps.fake_backend import MetricFamily, Request, answered, ids, imported_steps, responses_of, started
from tests.support.steps.jobs import queue

OWN = {"deployment": "tiny", "step": "step", "version": "1"}
PROCESS = {**OWN, "process": "tiny_step"}
INTERACTIVE = {**OWN, "priority": "interactive"}
BULK = {**OWN, "priority": "bulk"}


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    with imported_steps(
        monkeypatch, "backend.requests", "backend.metrics", "tokenizer", "encoder", "layerwise_encoder"
    ) as modules:
        yield modules


def watch(steps: SimpleNamespace, *, encodes: bool = True) -> Any:
    return steps.metrics.StepMetrics({"model_name": "tiny_step", "model_version": "1"}, encodes=encodes)


def job(
    steps: SimpleNamespace, took_s: float, *, waited_s: float = 0.0, tokens: int = 5, **more: Any
) -> QueuedRequest[Any]:
    """Return a request that came so long ago."""
    enqueued_at = steps.metrics.time.monotonic() - took_s
    work = SimpleNamespace(rows=2)
    return QueuedRequest(work, tokens, print, enqueued_at=enqueued_at, dequeued_at=enqueued_at + waited_s, **more)


@contextmanager
def published(made: Any) -> Iterator[None]:
    """Let numbers be read that have been told once; then end."""
    made.start()
    last = next(reversed(made._tally._gauges))
    deadline = time.monotonic() + 30
    while last not in made._tally._series or "flagtriton_step_last_seen_timestamp_seconds" not in names():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(0.05)
    yield
    made.stop()


def names() -> set[str]:
    return {name for name, _ in MetricFamily.values}


def value(name: str, **labels: str) -> float:
    return MetricFamily.value(f"flagtriton_{name}", **labels)


def test_everything_is_known_before_the_first_request(steps: SimpleNamespace) -> None:
    for encodes in (True, False):
        made = watch(steps, encodes=encodes)
        made.of_queue(queue(), steps.metrics.QueueLimits(7, 80))
        with published(made):
            assert value("waiting_requests_limit", **PROCESS) == 7
            assert value("waiting_tokens_limit", **PROCESS) == 80
            assert value("step_last_seen_timestamp_seconds", **PROCESS) == pytest.approx(time.time(), abs=60)
        assert math.isnan(value("step_last_seen_timestamp_seconds", **PROCESS))
    assert names() == {metric.name for metric in METRICS}
    for name, labels in MetricFamily.values:
        (metric,) = [metric for metric in METRICS if metric.name == name]
        assert {label for label, _ in labels} == {"deployment", "step", "version", *metric.labels}


def test_requests_are_counted_by_what_they_got(steps: SimpleNamespace) -> None:
    made = watch(steps)
    made.on_response(job(steps, 0.1), {})
    made.on_response(job(steps, 0.1, bulk=True), {})
    made.on_response(job(steps, 0.1, bulk=True), RequestError("too late", "UNAVAILABLE"))
    made.on_rejected(steps.requests.RequestContext(), RequestError("bad"))
    made.on_rejected(steps.requests.RequestContext(), ValueError("of an option"))
    made.start()
    made.stop()
    assert value("requests_total", **INTERACTIVE, code="ok") == 1
    assert value("requests_total", **BULK, code="ok") == 1
    assert value("requests_total", **BULK, code="unavailable") == 1
    assert value("requests_total", **INTERACTIVE, code="invalid_arg") == 2
    assert value("tokens_total", **OWN) == 10  # of those answered
    assert value("requests_taken_total", **BULK) == 2


def test_times_are_added_up_and_counted_by_their_limits(steps: SimpleNamespace) -> None:
    made = watch(steps)
    for took_s, waited_s in [(0.004, 0.001), (0.02, 0.01), (0.3, 0.2), (60.0, 50.0)]:
        made.on_response(job(steps, took_s, waited_s=waited_s), {})
    made.on_batch_done(0.25)
    made.on_batch_done(0.5)
    made.start()
    made.stop()
    assert value("request_seconds_total", **INTERACTIVE) == pytest.approx(60.324, abs=0.5)
    assert value("queue_seconds_total", **INTERACTIVE) == pytest.approx(50.211)
    assert value("busy_seconds_total", **PROCESS) == 0.75
    within = {"0.025": 2, "0.1": 2, "0.25": 2, "0.5": 3, "10": 3, "+Inf": 4}
    assert {bound: value("requests_within_total", **INTERACTIVE, seconds=bound) for bound in within} == within


def test_what_waits_is_read_when_it_is_told(steps: SimpleNamespace) -> None:
    waiting = queue(
        *(QueuedRequest(None, tokens, print, bulk=bulk) for tokens, bulk in [(3, False), (4, True), (5, True)])
    )
    made = watch(steps)
    made.of_queue(waiting, steps.metrics.QueueLimits(7, 80))
    both = [(of, priority) for priority in ("interactive", "bulk") for of in ("requests", "tokens")]
    with published(made):
        assert [value(f"waiting_{of}", **PROCESS, priority=priority) for of, priority in both] == [1, 3, 2, 9]


def test_the_log_has_sizes_and_times_and_no_text(
    steps: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "log"
    monkeypatch.setenv(REQUEST_LOG, str(path))
    made = watch(steps)
    made.on_response(job(steps, 0.1, waited_s=0.05, request_id="a-1", bulk=True), {})
    made.on_response(job(steps, 0.1), RequestError("it failed", "INTERNAL"))
    made.on_rejected(steps.requests.RequestContext(request_id="b-2"), RequestError("bad"))
    good, failed, refused = (json.loads(line) for line in path.read_text().splitlines())
    assert good.pop("total_ms") == pytest.approx(100, abs=90)
    assert good.pop("queue_ms") == 50.0
    del good["time"]
    assert good == {**OWN, "id": "a-1", "priority": "bulk", "code": "ok", "texts": 2, "tokens": 5}
    assert (failed["code"], failed["error"], "id" in failed) == ("internal", "it failed", False)
    assert (refused["code"], refused["error"], refused["id"]) == ("invalid_arg", "bad", "b-2")
    assert "total_ms" not in refused


# What steps tell.


def text_request(*texts: str, options: str = "", of: str = "text") -> Request:
    return Request({of: np.array([[text.encode()] for text in texts], dtype=object)}, options)


def test_a_tokenizer_tells_texts_and_which_were_cut(steps: SimpleNamespace, tmp_path: Path) -> None:
    model = started(steps.tokenizer, TokenizerSettings(str(make_bert(tmp_path / "tiny")), 4))
    long, exact, pair = "quick fox lazy dog", "quick fox", text_request("fox", of="query")
    pair.tensors["passage"] = text_request(long).tensors["text"]
    answered(model, text_request(long, exact, "fox"), pair)
    (refused,) = responses_of(model, text_request(long, options='{"truncate": "NONE"}'))
    assert refused.error is not None
    model.finalize()
    assert value("texts_total", **OWN) == 5
    assert value("truncated_texts_total", **OWN) == 2
    assert value("requests_total", **INTERACTIVE, code="ok") == 2
    assert value("requests_total", **INTERACTIVE, code="invalid_arg") == 1


def test_a_reranker_s_tokenizer_counts_the_texts_of_pairs(steps: SimpleNamespace, tmp_path: Path) -> None:
    settings = TokenizerSettings(str(make_bert(tmp_path / "tiny")), 8, joins_pairs=True)
    model = started(steps.tokenizer, settings)
    pair = text_request("fox", "quick fox", of="query")
    pair.tensors["passage"] = text_request("dog", "quick fox lazy dog quick fox").tensors["text"]
    answered(model, pair)
    model.finalize()
    assert (value("texts_total", **OWN), value("truncated_texts_total", **OWN)) == (4, 1)


@pytest.mark.parametrize("packed", [True, False])
def test_an_encoder_tells_tokens_passes_and_padding(steps: SimpleNamespace, tmp_path: Path, packed: bool) -> None:
    checkpoint = str(make_bert(tmp_path / "tiny"))
    settings = EncoderSettings(checkpoint, 64, token_budget=24, precision="fp32", trust_remote_code=not packed)
    model = started(steps.encoder, settings)
    lengths = (12, 11, 10, 4)  # 12 and 11 share a pass, as do 10 and 4
    answered(model, Request({"input_ids": ids(*(list(range(5, 5 + length)) for length in lengths))}))
    model.finalize()
    places = packed_length(23) + packed_length(14) if packed else 2 * 12 + 2 * 10
    assert value("tokens_total", **OWN) == value("micro_batch_tokens_total", **OWN) == sum(lengths)
    assert value("micro_batches_total", **OWN) == 2
    assert value("padding_tokens_total", **OWN) == places - sum(lengths)
    assert value("busy_seconds_total", **PROCESS) > 0


@pytest.mark.parametrize("name", ["llama", "layerwise"])
def test_a_prefix_that_texts_share_goes_through_once(steps: SimpleNamespace, tmp_path: Path, name: str) -> None:
    settings: Any
    if name == "llama":
        checkpoint = make_decoder(tmp_path / name, "llama")
        settings = EncoderSettings(str(checkpoint), 64, 96, precision="fp32", pooling_method="last_token")
    else:
        settings = LayerwiseSettings(str(make_layerwise(tmp_path / name)), f"decoder-only-{name}", 64, 96, "fp32")
    model = started(steps.encoder if name == "llama" else steps.layerwise_encoder, settings)
    prefix = list(range(10, 34))
    texts = [[*prefix, 40 + place] for place in range(6)]
    ends = {"passage_start": [24] * 6, "passage_end": [25] * 6}
    parts = {name: np.array(of, dtype=np.int32)[:, None] for name, of in ends.items()}
    answered(model, Request({"input_ids": ids(*texts), **parts}))
    model.finalize()
    assert value("tokens_total", **OWN) == 6 * 25
    assert value("micro_batch_tokens_total", **OWN) == 24 + 6
