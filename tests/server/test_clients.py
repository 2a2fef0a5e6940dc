# SPDX-License-Identifier: Apache-2.0
"""The SDK in programs as they are: forks, greenlets, silent networks, wrong ports, and refusals that name a text."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from flagtriton import BGEM3FlagModel, FlagModel, FlagReranker, InvalidRequestError, WrongServerError
from flagtriton.transport.connect import connect
from tests.conftest import Served
from tests.support.paths import ROOT
from tests.support.servers.network import silent_proxy

pytestmark = pytest.mark.server

both_wires = pytest.mark.parametrize("wire", ["grpc", "http"])
TOO_LONG = "er" * 750_000  # one word, which both tokenizers need whole


def url_of(served: Served, wire: str) -> str:
    return served.grpc_url if wire == "grpc" else served.http_url


def run(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", f"tests.server.{module}", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)


@both_wires
@pytest.mark.parametrize("how", ["idle", "busy", "fork", "spawn", "loader"])
def test_an_object_made_before_a_fork_answers_lists_in_the_child(served: Served, wire: str, how: str) -> None:
    program = run("forking_program", url_of(served, wire), how)
    assert program.returncode == 0, program.stderr


@both_wires
def test_greenlets_run_while_others_wait_for_an_answer(served: Served, wire: str) -> None:
    program = run("greenlets_program", url_of(served, wire))
    assert program.returncode == 0, program.stderr


@both_wires
def test_a_connection_that_went_silent_is_replaced_after_one_time_out(served: Served, wire: str) -> None:
    options = served.server.options
    with silent_proxy(options.grpc_port if wire == "grpc" else options.http_port) as proxy:
        model = FlagModel("bert-cls", url=f"{wire}://127.0.0.1:{proxy.port}", request_timeout_s=2)
        expected = model.encode("fox")
        proxy.silence()
        began = time.monotonic()
        assert model.encode("fox") == pytest.approx(expected, abs=1e-6)
        assert time.monotonic() - began < 4
        model.close()


@pytest.mark.parametrize(
    ("scheme", "port", "advice"),
    [
        ("http", "grpc_port", "use grpc://localhost:{}"),
        ("https", "grpc_port", "use grpc://localhost:{}"),
        ("https", "http_port", "use http://localhost:{}"),
        ("grpc", "http_port", "use http://localhost:{}"),
        ("grpcs", "http_port", "use http://localhost:{}"),
        ("grpcs", "grpc_port", "use grpc://localhost:{}"),
        ("grpc", "metrics_port", "not Triton's"),
    ],
)
def test_a_wrong_scheme_or_port_is_told_within_a_second(served: Served, scheme: str, port: str, advice: str) -> None:
    number = getattr(served.server.options, port)
    connect(f"{scheme}://localhost:1").close()  # tritonclient's import is not what is timed
    began = time.monotonic()
    with pytest.raises(WrongServerError) as caught:
        FlagModel("bert-cls", url=f"{scheme}://localhost:{number}")
    assert time.monotonic() - began < 1
    assert advice.format(number) in str(caught.value)


@both_wires
def test_an_oversized_text_is_named_by_the_callers_index(served: Served, wire: str) -> None:
    texts = [f"text {number}" for number in range(100)]
    texts[17] = TOO_LONG
    model = FlagModel("bert-cls", url=url_of(served, wire), batch_size=8)
    with pytest.raises(InvalidRequestError, match=": text 17 has 1500000 bytes") as caught:
        model.encode(texts)
    assert caught.value.index == 17
    model.close()


@both_wires
def test_an_oversized_passage_is_named_by_the_callers_index(served: Served, wire: str) -> None:
    passages = [f"passage {number}" for number in range(30)]
    passages[11] = TOO_LONG
    for model in (
        FlagReranker("reranker-bert", url=url_of(served, wire)),
        BGEM3FlagModel("m3", url=url_of(served, wire)),
    ):
        with pytest.raises(InvalidRequestError, match=": passage 11 has 1500000 bytes"):
            model.compute_score([("query", passage) for passage in passages], batch_size=7)
        model.close()


@both_wires
def test_a_message_names_the_model_once(served: Served, wire: str) -> None:
    model = FlagModel("bert-cls", url=url_of(served, wire))
    with pytest.raises(InvalidRequestError) as caught:
        model.encode("a", max_length=10_000)
    assert str(caught.value).startswith(f"model 'bert-cls' at {url_of(served, wire)}: option ")
    model.close()
