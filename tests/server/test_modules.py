# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of sentence-transformers on a real server: over both protocols, and through the SDK."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import pytest
import tritonclient.grpc as triton
from numpy.typing import NDArray

from flagtriton import FlagAutoModel, FlagModel
from flagtriton.protocol.tensors import DENSE_VECS, TEXT
from flagtriton.protocol.text import text_tensor
from flagtriton_tools.deploy.build import build
from flagtriton_tools.deploy.facts import inspect_checkpoint
from flagtriton_tools.deploy.options import AddOptions
from flagtriton_tools.repository.bundle import with_copies
from flagtriton_tools.repository.store import add_models
from flagtriton_tools.serve.launcher import running_server
from flagtriton_tools.tritonserver.options import ServeOptions
from tests.conftest import serve_options
from tests.support.checkpoints.sentence_transformers import dense, make_sentence_transformer
from tests.support.checkpoints.tiny import TEXTS, make_bert

pytestmark = [pytest.mark.server, pytest.mark.reference, pytest.mark.filterwarnings("ignore")]

BOUND = 1e-5
PROMPTS = {"query": "query: ", "document": "passage: ", "sts": "compare: "}
SENT = [text for text in TEXTS if text]


@dataclass(frozen=True)
class Modules:
    """A running server, and the checkpoints behind its deployments."""

    options: ServeOptions
    labse: Path
    raw: Path


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Modules]:
    """Serve LaBSE's chain, the same from copies of its files, and one that is not normalised and skips prompts."""
    folder = tmp_path_factory.mktemp("modules")
    labse = make_sentence_transformer(
        folder / "labse",
        make_bert,
        pooling=["cls"],
        behind=[dense(48, 32), ("Normalize", {})],
        prompts={"prompts": PROMPTS},
    )
    (labse / "2_Dense").rename(labse / "2_Dense (tanh)+é")
    listed = (labse / "modules.json").read_text(encoding="utf-8").replace("2_Dense", "2_Dense (tanh)+é")
    (labse / "modules.json").write_text(listed, encoding="utf-8")
    raw = make_sentence_transformer(
        folder / "raw",
        make_bert,
        behind=[],
        include_prompt=False,
        transformer={"max_seq_length": 12},
        prompts={"prompts": PROMPTS, "default_prompt_name": "sts"},
    )
    original = shutil.copytree(labse, folder / "original")
    repository = folder / "repository"
    for name, checkpoint, more in (
        ("labse", labse, {}),
        ("raw", raw, {}),
        ("raw-in-encoder", raw, {"pool_in_encoder": True}),
        ("flagembeddings", labse, {"modules": False}),
    ):
        options = AddOptions(name=name, precision="fp32", **more)
        add_models(build(inspect_checkpoint(str(checkpoint)), options), repository)
    copied = build(inspect_checkpoint(str(original)), AddOptions(name="copied", precision="fp32"))
    add_models(with_copies(copied, 1), repository)
    shutil.rmtree(original)
    with running_server(serve_options(repository, folder / "tritonserver.log")) as server:
        yield Modules(server.options, labse, raw)


def over_grpc(modules: Modules, name: str, texts: list[str], **options: Any) -> NDArray[np.float32]:
    client = triton.InferenceServerClient(modules.options.grpc_url.removeprefix("grpc://"))
    tensor = triton.InferInput(TEXT.name, [len(texts), 1], "BYTES")
    tensor.set_data_from_numpy(text_tensor(texts))
    vectors: NDArray[np.float32] = client.infer(name, [tensor], parameters=options).as_numpy(DENSE_VECS.name)
    client.close()
    return vectors


def over_http(modules: Modules, name: str, text: str, **options: Any) -> NDArray[np.float32]:
    url = f"{modules.options.http_url}/v2/models/{name}/generate"
    body = json.dumps({"text": text, **options}).encode()
    with urlopen(Request(url, body, {"Content-Type": "application/json"})) as reply:
        return np.array(json.load(reply)["dense_vecs"], dtype=np.float32)


def peer(folder: Path) -> Any:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder), device="cpu")


def assert_close(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> None:
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= BOUND * max(1.0, np.abs(theirs).max())


@pytest.mark.parametrize("name", ["labse", "copied"])
def test_a_dense_layer_is_served_over_both_protocols(name: str, modules: Modules) -> None:
    expected = peer(modules.labse).encode(SENT)
    assert expected.shape == (len(SENT), 32)
    assert_close(over_grpc(modules, name, SENT), expected)
    assert_close(over_http(modules, name, SENT[0]), expected[0])


def test_prompts_travel_by_name_over_both_protocols(modules: Modules) -> None:
    expected = peer(modules.labse).encode(SENT, prompt_name="sts")
    assert_close(over_grpc(modules, "labse", SENT, prompt_name="sts"), expected)
    assert_close(over_http(modules, "labse", SENT[0], prompt_name="sts"), expected[0])


def test_an_unknown_prompt_is_refused_with_the_names(modules: Modules) -> None:
    sentence = "option 'prompt_name' is 'stz'; expected one of 'document', 'query', 'sts'"
    with pytest.raises(triton.InferenceServerException, match=sentence):
        over_grpc(modules, "labse", SENT, prompt_name="stz")
    with pytest.raises(HTTPError) as raised:
        over_http(modules, "labse", "a", prompt_name="stz")
    assert raised.value.code == 400
    assert sentence in json.load(raised.value)["error"]


@pytest.mark.parametrize("name", ["raw", "raw-in-encoder"])
def test_the_files_are_the_defaults_of_raw_clients(name: str, modules: Modules) -> None:
    reference = peer(modules.raw)
    assert_close(
        over_grpc(modules, name, SENT), reference.encode(SENT)
    )  # 12 tokens, the default prompt, no unit vector
    assert_close(over_grpc(modules, name, SENT, input_type="query"), reference.encode_query(SENT))
    assert_close(over_http(modules, name, SENT[0], prompt_name=""), reference.encode(SENT[0], prompt=""))


@pytest.mark.parametrize("name", ["raw", "raw-in-encoder"])
def test_the_sdks_arguments_are_flagembeddings(name: str, modules: Modules) -> None:
    from FlagEmbedding import FlagModel as Reference

    for arguments in ({}, {"normalize_embeddings": False}, {"query_instruction_for_retrieval": "find: "}):
        reference = Reference(str(modules.raw), pooling_method="mean", use_fp16=False, devices="cpu", **arguments)
        with FlagModel(name, pooling_method="mean", use_fp16=False, url=modules.options.grpc_url, **arguments) as ours:
            assert_close(ours.encode(SENT), reference.encode(SENT))
            if "query_instruction_for_retrieval" in arguments:
                assert_close(ours.encode_queries(SENT), reference.encode_queries(SENT))


def test_an_embedder_of_the_sdk_gets_what_the_checkpoint_defines(modules: Modules) -> None:
    reference = peer(modules.labse)
    with FlagAutoModel.from_finetuned("labse", url=modules.options.http_url, truncate_dim=-8) as ours:
        whole = reference.encode(SENT, normalize_embeddings=False)[:, :24]
        assert_close(ours.encode(SENT), whole / np.linalg.norm(whole, axis=1, keepdims=True))
    with FlagAutoModel.from_finetuned("labse", url=modules.options.http_url) as ours:
        assert_close(ours.encode_queries(SENT), reference.encode_query(SENT))
        assert_close(ours.encode_corpus(SENT), reference.encode_document(SENT))


def test_flagembeddings_own_vectors_are_to_be_had(modules: Modules) -> None:
    from FlagEmbedding import FlagModel as Reference

    reference = Reference(str(modules.labse), pooling_method="cls", use_fp16=False, devices="cpu")
    with FlagModel("flagembeddings", use_fp16=False, url=modules.options.grpc_url) as ours:
        assert_close(ours.encode(SENT), reference.encode(SENT))
        assert_close(ours.encode_queries(SENT), reference.encode_queries(SENT))
