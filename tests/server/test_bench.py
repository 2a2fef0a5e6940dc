# SPDX-License-Identifier: Apache-2.0
"""`flagtriton bench` as a user runs it: real servers, real libraries in their processes, few texts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flagtriton_tools.cli.main import main
from tests.conftest import Served

pytestmark = pytest.mark.server


def measured(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    """Run the command; return its JSON line, which must be all of stdout."""
    assert main(["bench", *arguments]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    content: dict[str, Any] = json.loads(line)
    return content


def test_a_deployment_is_measured_beside_libraries_on_the_same_texts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--texts", "64", "--rounds", "2", "--callers", "2", "--out", str(tmp_path / "out")]
    found = measured(capsys, *arguments, "--peer", "raw", "--peer", "flagembedding")
    ours, raw, reference = found["results"]
    assert (ours["name"], raw["name"], reference["name"]) == ("flagtriton", "raw", "flagembedding")
    for result in found["results"]:
        assert len(result["bulk_s"]) == 2
        assert min(result["bulk_s"]) > 0
        assert result["peak_mb"]
    assert {process.partition(" ")[0] for process in ours["peak_mb"]} >= {"bench_encoder", "bench_pooler"}
    assert [at["callers"] for at in ours["latencies"]] == [2]
    assert raw["latencies"] == []
    assert found["tokens"] > 64 * 7  # five words and two special tokens at least
    assert (tmp_path / "out" / "bench.png").is_file()


@pytest.mark.parametrize("model", ["all-MiniLM-L6-v2", "m3", "mistral"])
def test_a_running_server_can_be_measured_too(
    model: str, served: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--url", served.http_url, "--model", model, str(served.checkpoints[model])]
    found = measured(capsys, *where, "--texts", "32", "--rounds", "1", "--callers", "", "--out", str(tmp_path))
    assert found["protocol"] == "http"
    assert found["results"][0]["peak_mb"] == {}  # whose processes these are is not known


def test_m3s_outputs_and_scores_are_measured_on_a_running_server(
    served: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--url", served.grpc_url, "--model", "m3", str(served.checkpoints["m3"])]
    found = measured(capsys, "--hybrid", *where, "--texts", "32", "--rounds", "2", "--out", str(tmp_path))
    (ours,) = found["results"]
    tasks = {"three outputs", "dense", "one query", "one long query", "distinct queries"}
    assert {task: len(seconds) for task, seconds in ours["seconds"].items()} == dict.fromkeys(tasks, 2)


def test_a_reranker_is_measured_beside_the_reference(
    served: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--url", served.grpc_url, "--model", "reranker-gemma", str(served.checkpoints["reranker-gemma"])]
    arguments = ["--texts", "32", "--rounds", "2", "--peer", "flagembedding", "--peer-batch", "16"]
    found = measured(capsys, "--rerank", *where, *arguments, "--out", str(tmp_path))
    names = {result["name"]: {task: len(s) for task, s in result["seconds"].items()} for result in found["results"]}
    assert names == {"flagtriton": {"one query": 2}, "flagembedding-reranker (batch 16)": {"one query": 2}}


def test_a_layered_rerankers_shorter_ways_are_measured(
    served: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "reranker-lightweight"
    where = ["--url", served.grpc_url, "--model", name, str(served.checkpoints[name])]
    found = measured(capsys, "--rerank", *where, "--texts", "32", "--rounds", "1", "--out", str(tmp_path))
    assert list(found["results"][0]["seconds"]) == ["one query", "layers 1 to 2 of 6", "4 tokens to 1 from layer 2"]


def test_queries_behind_examples_are_measured_beside_the_reference(
    served: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--url", served.grpc_url, "--model", "icl", str(served.checkpoints["icl"]), "--callers", ""]
    arguments = ["--example-words", "20", "--texts", "32", "--most-words", "20", "--rounds", "1"]
    found = measured(capsys, *where, *arguments, "--peer", "flagembedding", "--out", str(tmp_path))
    assert [result["name"] for result in found["results"]] == ["flagtriton", "flagembedding"]
    assert found["example_words"] == 20


def test_a_published_shape_is_made_and_served(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lengths = ["--texts", "32", "--median-words", "6", "--spread", "0.1"]
    found = measured(capsys, "--shape", "minilm-l6", *lengths, "--rounds", "1", "--callers", "", "--out", str(tmp_path))
    assert found["checkpoint"] == "minilm-l6"
    assert len(found["results"][0]["bulk_s"]) == 1


def test_a_soak_keeps_its_memory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The short form: 6,000 short texts rather than 200,000 long ones, behind as many that warm the server up.

    Without bf16 an encoder's memory grows for its first thousands of texts, while new sizes of passes come.
    """
    lengths = ["--texts", "300", "--median-words", "6", "--spread", "0.2"]
    found = measured(capsys, "--soak", "12000", *lengths, "--out", str(tmp_path))
    assert found["texts"] == 12_000
    moving = [sample for sample in found["samples"] if sample["done"] >= 6_000]
    assert max(s["server_mb"] for s in moving) < 1.1 * moving[0]["server_mb"]
    assert max(s["client_mb"] for s in moving) < moving[0]["client_mb"] + 50
    assert (tmp_path / "soak.png").is_file()
