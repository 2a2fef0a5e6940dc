# SPDX-License-Identifier: Apache-2.0
"""Checkpoints as they lie on people's disks, on a real server: the Hub's cache, links, weights beyond numbers."""

from __future__ import annotations

import json
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from flagtriton import BGEM3FlagModel, DeploymentMismatchError, FlagAutoModel, FlagICLModel, FlagLLMModel, ServerError
from flagtriton_tools.cli.main import main
from flagtriton_tools.deploy.build import build
from flagtriton_tools.deploy.facts import inspect_checkpoint
from flagtriton_tools.deploy.options import AddOptions
from flagtriton_tools.repository.store import add_models
from flagtriton_tools.serve.launcher import running_server
from flagtriton_tools.tritonserver.process import RunningServer
from tests.conftest import ICL_TOKENS, serve_options
from tests.support.checkpoints.tiny import TEXTS, make_decoder, make_m3

pytestmark = pytest.mark.server

GOOD, BAD = "a lazy dog", TEXTS[6]  # with a token that no other text here has
EXAMPLES = [{"query": "what is a fox", "response": "an animal"}]
ADVICE = "are not finite in fp32; no precision is wider: check the checkpoint's weights"


def in_the_hubs_cache(folder: Path) -> Path:
    """Write a published checkpoint as the Hub's client keeps it, its files links to blobs; return its snapshot."""
    made = make_decoder(folder / "made", "mistral", added=ICL_TOKENS)
    repository = folder / "models--BAAI--bge-en-icl"
    snapshot = repository / "snapshots" / "5617a9f61b028005a4858fdac845db406aefb181"
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    for number, file in enumerate(sorted(made.iterdir())):
        shutil.move(file, repository / "blobs" / f"{number:040x}")
        (snapshot / file.name).symlink_to(f"../../blobs/{number:040x}")
    return snapshot


def with_a_token_that_is_no_number(folder: Path) -> Path:
    """Write a BGE-M3 in which one token of `BAD` has a vector whose sum float32 does not hold; return a link to it."""
    checkpoint = make_m3(folder / "store-0f3c")
    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    others = {token for text in (GOOD, *TEXTS) if text != BAD for token in tokenizer.encode(text).ids}
    tried = set(np.random.default_rng(0).integers(0, tokenizer.get_vocab_size(), 30).tolist())  # at load
    odd = next(token for token in tokenizer.encode(BAD).ids if token not in others | tried)
    content = load_file(checkpoint / "model.safetensors")
    content["embeddings.word_embeddings.weight"][odd] = 3e38
    save_file(content, checkpoint / "model.safetensors", {"format": "pt"})
    (folder / "my-m3").symlink_to("store-0f3c")
    return folder / "my-m3"


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("checkpoints")
    return {"icl": in_the_hubs_cache(folder), "m3": with_a_token_that_is_no_number(folder)}


@pytest.fixture(scope="module")
def server(checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("real")
    for checkpoint in checkpoints.values():
        arguments = ["add", str(checkpoint), "--repository", str(folder / "repository"), "--precision", "fp32"]
        assert main(arguments) == 0
    with running_server(serve_options(folder / "repository", folder / "log")) as server:
        yield server


def test_a_snapshot_of_the_hubs_cache_is_found_by_its_path_and_by_its_name(
    server: RunningServer, checkpoints: dict[str, Path]
) -> None:
    for name in (str(checkpoints["icl"]), "BAAI/bge-en-icl", "bge-en-icl"):
        with FlagAutoModel.from_finetuned(name, url=server.options.grpc_url, examples_for_task=EXAMPLES) as model:
            assert type(model) is FlagICLModel
            behind_examples = model.encode_queries(GOOD)
            model.set_examples([])
            assert np.abs(model.encode_queries(GOOD) - behind_examples).max() > 0.01


def test_another_class_is_refused_with_the_command_that_deploys_it(
    server: RunningServer, checkpoints: dict[str, Path]
) -> None:
    command = (
        f"flagtriton add {checkpoints['icl'].resolve()} --name bge-en-icl --repository REPOSITORY --force "
        "--model-class decoder-only-base$"
    )
    with pytest.raises(DeploymentMismatchError, match=command):
        FlagLLMModel(str(checkpoints["icl"]), url=server.options.grpc_url)


@pytest.fixture(params=["grpc", "http"])
def m3(request: pytest.FixtureRequest, server: RunningServer, checkpoints: dict[str, Path]) -> Iterator[BGEM3FlagModel]:
    url = server.options.grpc_url if request.param == "grpc" else server.options.http_url
    with BGEM3FlagModel(str(checkpoints["m3"]), url=url, use_fp16=False) as model:
        assert model.served.name == "my-m3"
        yield model


@pytest.mark.parametrize("output", ["dense", "sparse", "colbert_vecs"])
def test_a_text_without_finite_values_is_refused_in_every_output(m3: BGEM3FlagModel, output: str) -> None:
    wanted = {f"return_{name}": name == output for name in ("dense", "sparse", "colbert_vecs")}
    assert m3.encode([GOOD], **wanted) is not None
    with pytest.raises(ServerError, match=ADVICE):
        m3.encode([GOOD, BAD], **wanted)


def test_a_pair_without_finite_values_is_refused_beside_others(m3: BGEM3FlagModel) -> None:
    expected = m3.compute_score([(GOOD, TEXTS[0])])["colbert+sparse+dense"]
    with ThreadPoolExecutor(8) as callers:
        refused = [callers.submit(m3.compute_score, [(GOOD, BAD)]) for _ in range(8)]
        answered = [callers.submit(m3.compute_score, [(GOOD, TEXTS[0])]) for _ in range(8)]
        for call in answered:
            assert call.result()["colbert+sparse+dense"] == pytest.approx(expected, abs=1e-5)
        for call in refused:
            assert ADVICE in str(call.exception())


def test_generate_answers_with_an_error_that_is_json(server: RunningServer) -> None:
    def generate(text: str) -> dict[str, object]:
        request = urllib.request.Request(
            f"{server.options.http_url}/v2/models/my-m3/generate", json.dumps({"text": text}).encode()
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return dict(json.load(answer))

    assert np.isfinite(np.array(generate(GOOD)["dense_vecs"])).all()
    with pytest.raises(urllib.error.HTTPError) as refused:
        generate(BAD)
    assert refused.value.code >= 400  # Triton's own choice for an internal error
    assert ADVICE in json.load(refused.value)["error"]


def test_a_checkpoint_that_fp16_does_not_hold_is_refused_at_load(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    models = build(inspect_checkpoint(str(checkpoints["m3"])), AddOptions(precision="fp16"))
    add_models(models, tmp_path / "repository")
    with (
        pytest.raises(Exception, match=r"embeddings\.weight are not finite in fp16; add it with --precision bf16 or"),
        running_server(serve_options(tmp_path / "repository", tmp_path / "log")),
    ):
        pass
