# SPDX-License-Identifier: Apache-2.0
"""Texts of a mebibyte beside another client's short queries, over the real wire.

The figures go to the log: `pytest tests/server/test_long_texts.py --log-cli-level=INFO`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton

from flagtriton.protocol.text import text_tensor
from flagtriton_server.tokenize.text_tokenizer import TextTokenizer
from flagtriton_tools.deploy.build import build
from flagtriton_tools.deploy.facts import inspect_checkpoint
from flagtriton_tools.deploy.options import AddOptions
from flagtriton_tools.repository.store import add_models
from flagtriton_tools.serve.launcher import running_server
from flagtriton_tools.tritonserver.process import RunningServer
from flagtriton_tools.tritonserver.stubs import stub_processes
from tests.conftest import serve_options
from tests.support.checkpoints.tiny import TEXTS, make_bert, make_decoder, make_xlm_roberta
from tests.support.checkpoints.tokenizer_kinds import llama

pytestmark = pytest.mark.server

MEBIBYTE = 1 << 20
LETTERS = ("a b c d e f g h " * (MEBIBYTE // 16 + 1))[:MEBIBYTE]
DOCUMENT = (" ".join(TEXTS) + " ") * (MEBIBYTE // len(" ".join(TEXTS)) + 1)
MEBIBYTE_OF_IT = DOCUMENT.encode()[:MEBIBYTE].decode(errors="ignore")
LOADS = {"letters": ([LETTERS] * 4, 3), "documents": ([MEBIBYTE_OF_IT] * 16, 256)}
"""The texts of one request that is sent again and again, and its `max_length`. A request has 16 MiB at most."""

NAMES = ["bert", "xlm-roberta", "llama"]
QUERIES = 150
MOST_S = 1.0
"""Of the 99th percentile, seconds. The goal is 0.1 on an idle machine, which docs/benchmarks.md shows; a query waited 5
to 17 s for whole texts, and as many processes beside it as CI may have multiply the 0.1."""

MOST_GROWTH = 200 * MEBIBYTE


@dataclass(frozen=True)
class Deployments:
    """A running server and where its deployments came from."""

    server: RunningServer
    checkpoints: dict[str, Path]


def make_llama(folder: Path) -> Path:
    """Write a Llama whose tokenizer takes a whole text for one word."""
    make_decoder(folder, "llama")
    llama().save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployments]:
    folder = tmp_path_factory.mktemp("long-texts")
    makers = {"bert": make_bert, "xlm-roberta": make_xlm_roberta, "llama": make_llama}
    checkpoints = {name: make(folder / name) for name, make in makers.items()}
    for name, checkpoint in checkpoints.items():
        model_class = "decoder-only-base" if name == "llama" else None
        options = AddOptions(name=name, precision="fp32", max_length=256, pool_in_encoder=True, model_class=model_class)
        add_models(build(inspect_checkpoint(str(checkpoint)), options), folder / "repository")
    with running_server(serve_options(folder / "repository", folder / "log")) as server:
        yield Deployments(server, checkpoints)


def tensor_of(texts: list[str]) -> triton.InferInput:
    values = text_tensor(texts)
    tensor = triton.InferInput("text", list(values.shape), "BYTES")
    tensor.set_data_from_numpy(values)
    return tensor


def answer(client: triton.InferenceServerClient, name: str, texts: list[str], max_length: int) -> triton.InferResult:
    return client.infer(name, [tensor_of(texts)], parameters={"max_length": max_length}, client_timeout=120)


class Load:
    """Another client, a process of its own, that sends one large request after the other until it is told to stop."""

    def __init__(self, url: str, name: str, load: str) -> None:
        context = get_context("spawn")  # gRPC does not survive a fork
        self._ours, theirs = context.Pipe()
        self._process = context.Process(target=send_again_and_again, args=(url, name, load, theirs), daemon=True)
        self.sent = 0

    def __enter__(self) -> Load:
        self._process.start()
        assert self._ours.poll(120)
        self._ours.recv()  # one request has been answered, the next is under way
        return self

    def __exit__(self, *_: object) -> None:
        self._ours.send("stop")
        assert self._ours.poll(120)
        self.sent = self._ours.recv()
        self._process.join()


def send_again_and_again(url: str, name: str, load: str, told: Connection) -> None:
    texts, max_length = LOADS[load]
    tensor = tensor_of(texts)
    with triton.InferenceServerClient(url) as client:
        sent = 0
        while not told.poll():
            client.infer(name, [tensor], parameters={"max_length": max_length}, client_timeout=120)
            sent += 1
            if sent == 1:
                told.send("begun")
        told.send(sent)


def resident_bytes(process: int) -> int:
    """Return the memory of a process that is its own: what it has of others' shared memory does not count."""
    lines = Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


@pytest.mark.parametrize("load", LOADS)
@pytest.mark.parametrize("name", NAMES)
def test_short_queries_overtake_texts_of_a_mebibyte(served: Deployments, name: str, load: str) -> None:
    url = served.server.options.grpc_url.removeprefix("grpc://")
    (process,) = stub_processes(served.server.process.pid)[f"{name}_tokenizer", "1"]
    with triton.InferenceServerClient(url) as client:
        expected = answer(client, name, ["the lazy dog"], 16).as_numpy("dense_vecs")
        before, times = resident_bytes(process), []
        with Load(url, name, load) as long:
            most = before
            for _ in range(QUERIES):
                began = time.monotonic()
                got = answer(client, name, ["the lazy dog"], 16).as_numpy("dense_vecs")
                times.append(time.monotonic() - began)
                most = max(most, resident_bytes(process))
                np.testing.assert_allclose(got, expected, atol=1e-5)
    p50, p99 = np.percentile(times, [50, 99])
    growth = (most - before) / MEBIBYTE
    logging.getLogger(__name__).info(
        "%s, %s: p50 %.0f ms, p99 %.0f ms, memory %+.0f MiB, %d requests",
        name,
        load,
        p50 * 1e3,
        p99 * 1e3,
        growth,
        long.sent,
    )
    assert long.sent > 1
    assert p99 < MOST_S
    assert most - before < MOST_GROWTH


@pytest.mark.parametrize("name", NAMES)
def test_a_text_of_five_mebibytes_is_served_as_its_beginning_is(served: Deployments, name: str) -> None:
    tokenizer = TextTokenizer.from_checkpoint(str(served.checkpoints[name]), None, False)
    longer = DOCUMENT * 5
    beginning = longer[:20_000]
    assert len(tokenizer.bare_ids([beginning])[0]) > 256
    with triton.InferenceServerClient(served.server.options.grpc_url.removeprefix("grpc://")) as client:
        result = answer(client, name, ["a fox", longer, beginning], 256)
    vectors, counts = result.as_numpy("dense_vecs"), result.as_numpy("token_count")
    assert counts[1:].tolist() == [[256], [256]]
    np.testing.assert_allclose(vectors[1], vectors[2], atol=1e-6)


def test_a_text_of_five_mebibytes_without_a_place_to_cut_is_refused_by_its_number(served: Deployments) -> None:
    with (
        triton.InferenceServerClient(served.server.options.grpc_url.removeprefix("grpc://")) as client,
        pytest.raises(triton.InferenceServerException, match="text 1 has 5242880 bytes; this model takes 1048576"),
    ):
        answer(client, "bert", ["a fox", "x" * (5 * MEBIBYTE)], 256)
