# SPDX-License-Identifier: Apache-2.0
"""Clients that know nothing of the SDK: curl's JSON, plain tritonclient over both wires, NVIDIA's perf_analyzer."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import subprocess
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http

from flagtriton import FlagModel
from tests.conftest import Served

pytestmark = pytest.mark.server

MODEL = "bert-cls"
PERF_ANALYZER = Path(sys.executable).parent / "perf_analyzer"
WIRES = [tritonclient.grpc, tritonclient.http]


def infer(wire: ModuleType, served: Served, texts: list[str], outputs: list[str], **options: Any) -> dict[str, Any]:
    url = served.grpc_url if wire is tritonclient.grpc else served.http_url
    tensor = wire.InferInput("text", [len(texts), 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[text.encode()] for text in texts], dtype=np.object_))
    wanted = [wire.InferRequestedOutput(name) for name in outputs]
    with wire.InferenceServerClient(url.split("//")[1]) as client:
        result = client.infer(MODEL, [tensor], outputs=wanted, parameters=options)
        return {name: result.as_numpy(name) for name in outputs}


def generate(served: Served, **fields: Any) -> dict[str, Any]:
    request = urllib.request.Request(
        f"{served.http_url}/v2/models/{MODEL}/generate",
        json.dumps(fields).encode(),
        {"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as reply:
        return json.load(reply)


@pytest.fixture(scope="module")
def sdk(served: Served) -> FlagModel:
    return FlagModel(MODEL, url=served.grpc_url, use_fp16=False)


def test_generate_answers_json_with_the_sdks_vector(served: Served, sdk: FlagModel) -> None:
    answer = generate(served, text="hello fox")
    assert np.allclose(answer["dense_vecs"], sdk.encode("hello fox"), atol=1e-6)


def test_generate_takes_options_as_fields_beside_the_text(served: Served) -> None:
    answer = generate(served, text="the quick brown fox", max_length=3, truncate_dim=5, normalize=False)
    assert len(answer["dense_vecs"]) == 5
    assert answer["token_count"] == 3
    assert abs(np.linalg.norm(answer["dense_vecs"]) - 1) > 0.01


@pytest.mark.parametrize("wire", WIRES)
def test_plain_tritonclient_gets_the_sdks_vectors(wire: ModuleType, served: Served, sdk: FlagModel) -> None:
    texts = ["the quick brown fox", "", "lazy"]
    assert np.allclose(infer(wire, served, texts, ["dense_vecs"])["dense_vecs"], sdk.encode(texts), atol=1e-6)


@pytest.mark.parametrize("wire", WIRES)
def test_token_count_counts_special_tokens(wire: ModuleType, served: Served) -> None:
    counts = infer(wire, served, ["", "the quick fox"], ["token_count"])["token_count"]
    assert counts.tolist() == [[2], [5]]  # [CLS] [SEP]; [CLS] the quick fox [SEP]


def test_only_the_tokenizer_runs_where_only_token_counts_are_asked_for(served: Served) -> None:
    def executions(step: str) -> int:
        with tritonclient.http.InferenceServerClient(served.http_url.split("//")[1]) as client:
            return client.get_inference_statistics(f"{MODEL}_{step}")["model_stats"][0]["execution_count"]

    before = {step: executions(step) for step in ("tokenizer", "encoder", "pooler")}
    infer(tritonclient.http, served, ["the quick fox"], ["token_count"])
    after = {step: executions(step) for step in before}
    assert {step: after[step] - before[step] for step in before} == {"tokenizer": 1, "encoder": 0, "pooler": 0}


def test_the_deployments_own_instruction_comes_with_input_type(served: Served, sdk: FlagModel) -> None:
    options = {"input_type": "query", "instruction": "find: "}
    answer = infer(tritonclient.grpc, served, ["the fox"], ["dense_vecs"], **options)
    assert np.allclose(answer["dense_vecs"][0], sdk.encode("find: the fox"), atol=1e-6)


def test_requests_with_other_options_share_a_batch_and_keep_their_own(served: Served, sdk: FlagModel) -> None:
    text = "the quick brown fox jumps over the lazy dog"
    lengths = [2 + i % 8 for i in range(24)]
    with ThreadPoolExecutor(len(lengths)) as pool:
        answers = list(
            pool.map(lambda n: infer(tritonclient.grpc, served, [text], ["dense_vecs"], max_length=n), lengths)
        )
    for length, answer in zip(lengths, answers, strict=True):
        assert np.allclose(answer["dense_vecs"][0], sdk.encode(text, max_length=length), atol=1e-6)


@pytest.mark.skipif(not PERF_ANALYZER.exists(), reason="tritonclient carries perf_analyzer up to 2.51 only")
def test_perf_analyzer_runs_without_a_failed_request(served: Served, tmp_path: Path) -> None:
    report = tmp_path / "report.csv"
    endpoint = ["-m", "all-MiniLM-L6-v2", "-u", served.grpc_url.split("//")[1], "-i", "grpc"]
    text = ["--shape", "text:1", "--string-data", "what is a vector database"]
    load = ["--request-count", "40", "--concurrency-range", "4", "-f", str(report)]
    command = [str(PERF_ANALYZER), *endpoint, *text, *load]
    done = subprocess.run(command, env=perf_analyzer_environment(tmp_path), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    row = next(csv.DictReader(report.read_text().splitlines()))
    assert float(row["Inferences/Second"]) > 1


def perf_analyzer_environment(folder: Path) -> dict[str, str]:
    """Return an environment in which perf_analyzer finds libraries that nvidia-pytriton has under other names."""
    package = importlib.util.find_spec("pytriton")
    assert package is not None
    assert package.submodule_search_locations
    bundled = Path(package.submodule_search_locations[0]).parent / "nvidia_pytriton.libs"
    libraries = folder / "libraries"
    libraries.mkdir()
    for wanted, pattern in {"libb64.so.0d": "libb64-*", "libcudart.so.12": "libcudart-*"}.items():
        (libraries / wanted).symlink_to(next(bundled.glob(pattern)))
    return {**os.environ, "LD_LIBRARY_PATH": f"{libraries}:{bundled}"}
