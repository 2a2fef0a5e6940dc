# SPDX-License-Identifier: Apache-2.0
"""OpenTelemetry spans of a real server, as a collector gets them over HTTP."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton

from flagtriton import FlagModel
from flagtriton_tools.deploy.build import build
from flagtriton_tools.deploy.facts import inspect_checkpoint
from flagtriton_tools.deploy.options import AddOptions
from flagtriton_tools.repository.store import add_models
from flagtriton_tools.serve.launcher import running_server
from tests.conftest import serve_options
from tests.support.waiting import wait_for

pytestmark = pytest.mark.server

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"


class Collector:
    """Takes spans; the part of an OpenTelemetry collector that stands at its port."""

    def __init__(self) -> None:
        spans = self.spans = list[dict[str, Any]]()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                sent = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                scopes = [scope for resource in sent["resourceSpans"] for scope in resource["scopeSpans"]]
                spans.extend(span for scope in scopes for span in scope["spans"])
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}/v1/traces"


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    yield made
    made.server.shutdown()
    made.server.server_close()


def own_spans(collector: Collector) -> list[dict[str, Any]]:
    """Return the spans of the request that brought a trace of its own."""
    return [span for span in collector.spans if span["traceId"] == TRACE_ID]


def models_of(spans: list[dict[str, Any]]) -> set[str]:
    said = [(each["key"], each["value"]) for span in spans for each in span.get("attributes", ())]
    return {value["stringValue"] for key, value in said if key.endswith("model_name")}


def test_a_request_is_a_trace_with_a_span_for_each_step(bert: Path, tmp_path: Path, collector: Collector) -> None:
    options = AddOptions(name="tiny", precision="fp32", pooling_method="mean")
    add_models(build(inspect_checkpoint(str(bert)), options), tmp_path / "repository")
    flags = (
        *("--trace-config", "mode=opentelemetry", "--trace-config", f"opentelemetry,url={collector.url}"),
        *("--trace-config", "level=TIMESTAMPS", "--trace-config", "rate=1"),
    )
    serving = serve_options(tmp_path / "repository", tmp_path / "log", extra=flags)
    with running_server(serving) as server:
        with FlagModel("tiny", url=server.options.grpc_url, pooling_method="mean") as model:
            model.encode(["a text"])
        with triton.InferenceServerClient(server.options.http_url.removeprefix("http://")) as client:
            text = triton.InferInput("text", [1, 1], "BYTES")
            text.set_data_from_numpy(np.array([[b"a text"]], dtype=object))
            client.infer("tiny", [text], headers={"traceparent": f"00-{TRACE_ID}-00f067aa0ba902b7-01"})
        wait_for(lambda: len(collector.spans) >= 8 and len(models_of(own_spans(collector))) >= 4)  # they come in parts
    own = own_spans(collector)
    assert models_of(own) == {"tiny", "tiny_tokenizer", "tiny_encoder", "tiny_pooler"}
    assert all(int(span["startTimeUnixNano"]) <= int(span["endTimeUnixNano"]) for span in own)
