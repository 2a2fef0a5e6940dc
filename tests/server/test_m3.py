# SPDX-License-Identifier: Apache-2.0
"""BGE-M3 over both wires: every choice of outputs, what runs for it, pairs, and what bad input gets."""

from __future__ import annotations

import itertools
import json
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from flagtriton import BGEM3FlagModel, DeploymentMismatchError, FlagAutoModel, FlagModel, InvalidRequestError
from tests.conftest import Served
from tests.support.checkpoints.tiny import TEXTS
from tests.support.waiting import wait_for

pytestmark = pytest.mark.server

WIRES = [tritonclient.grpc, tritonclient.http]
STEPS = ("tokenizer", "encoder", "dense_sparse", "colbert", "scorer")
OUTPUTS = {
    "dense_vecs": ["dense_vecs"],
    "lexical_weights": ["sparse_ids", "sparse_weights"],
    "colbert_vecs": ["colbert_vecs", "colbert_lengths"],
}
SUBSETS = [subset for size in (1, 2, 3) for subset in itertools.combinations(OUTPUTS, size)]
SCORES = ["dense", "sparse", "colbert", "sparse_dense", "colbert_sparse_dense"]
ALL = {"return_dense": True, "return_sparse": True, "return_colbert_vecs": True}
THREE = ["the quick brown fox", "", "lazy lazy dog"]


@pytest.fixture(scope="module")
def sdk(served: Served) -> Iterator[BGEM3FlagModel]:
    with BGEM3FlagModel("m3", url=served.grpc_url, use_fp16=False, **ALL) as model:
        yield model


def infer(
    wire: ModuleType, served: Served, model: str, inputs: dict[str, np.ndarray], outputs: list[str], **options: Any
) -> dict[str, Any]:
    url = served.grpc_url if wire is tritonclient.grpc else served.http_url
    tensors = []
    for name, array in inputs.items():
        tensors.append(wire.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype)))
        tensors[-1].set_data_from_numpy(array)
    wanted = [wire.InferRequestedOutput(name) for name in outputs]
    with wire.InferenceServerClient(url.split("//")[1]) as client:
        result = client.infer(model, tensors, outputs=wanted, parameters=options)
        return {name: result.as_numpy(name) for name in outputs}


def column(texts: list[str]) -> np.ndarray:
    return np.array([[text.encode()] for text in texts], dtype=np.object_)


def executions(served: Served, model: str = "m3") -> dict[str, int]:
    with tritonclient.http.InferenceServerClient(served.http_url.split("//")[1]) as client:
        statistics = {step: client.get_inference_statistics(f"{model}_{step}") for step in STEPS}
    return {step: found["model_stats"][0]["execution_count"] for step, found in statistics.items()}


def settled_executions(served: Served) -> dict[str, int]:
    """Return the counts once they stand still: Triton counts an execution some time after it has sent the response."""
    counts = executions(served)
    while True:
        time.sleep(0.2)
        earlier, counts = counts, executions(served)
        if counts == earlier:
            return counts


def refusal(served: Served, model: str, inputs: dict[str, np.ndarray], outputs: list[str], **options: Any) -> str:
    with pytest.raises(InferenceServerException) as caught:
        infer(tritonclient.grpc, served, model, inputs, outputs, **options)
    return str(caught.value)


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("subset", SUBSETS, ids="+".join)
def test_every_choice_of_outputs_comes_over_both_wires(
    wire: ModuleType, subset: tuple[str, ...], served: Served, sdk: BGEM3FlagModel
) -> None:
    reply = infer(wire, served, "m3", {"text": column(THREE)}, [name for key in subset for name in OUTPUTS[key]])
    expected = sdk.encode(THREE)
    if "dense_vecs" in subset:
        assert np.allclose(reply["dense_vecs"], expected["dense_vecs"], atol=1e-6)
    if "lexical_weights" in subset:
        for ids, weights, text in zip(
            reply["sparse_ids"].tolist(), reply["sparse_weights"].tolist(), expected["lexical_weights"], strict=True
        ):
            assert [str(i) for i in ids if i >= 0] == list(text)
            assert np.allclose([w for w in weights if w > 0], list(text.values()), atol=1e-6)
    if "colbert_vecs" in subset:
        for vectors, length, text in zip(
            reply["colbert_vecs"], reply["colbert_lengths"][:, 0], expected["colbert_vecs"], strict=True
        ):
            assert np.allclose(vectors[:length], text, atol=1e-6)
            assert not vectors[length:].any()


@pytest.mark.parametrize("subset", SUBSETS, ids="+".join)
def test_no_step_behind_the_last_output_asked_for_runs(subset: tuple[str, ...], served: Served) -> None:
    before = settled_executions(served)
    infer(tritonclient.grpc, served, "m3", {"text": column(THREE)}, [name for key in subset for name in OUTPUTS[key]])
    heads = {"dense_vecs": "dense_sparse", "lexical_weights": "dense_sparse", "colbert_vecs": "colbert"}
    last = max(list(heads).index(key) for key in subset)
    expected = {"tokenizer", "encoder", *list(heads.values())[: last + 1]}  # ColBERT alone runs both heads' steps

    def ran(after: dict[str, int]) -> set[str]:
        return {step for step in STEPS if after[step] > before[step]}

    wait_for(lambda: ran(executions(served)) >= expected)
    assert ran(settled_executions(served)) == expected


@pytest.mark.parametrize("wire", WIRES)
def test_pairs_are_scored_over_both_wires(wire: ModuleType, served: Served, sdk: BGEM3FlagModel) -> None:
    queries, passages = ["a fox", "a dog", "a fox"], ["the quick brown fox", "lazy", "lazy"]
    inputs = {"query": column(queries), "passage": column(passages)}
    reply = infer(wire, served, "m3_score", inputs, SCORES, weights="1,0.3,0.5", passage_max_length=4)
    expected = sdk.compute_score(
        list(zip(queries, passages, strict=True)), weights_for_different_modes=[1, 0.3, 0.5], max_passage_length=4
    )
    for name, score in zip(SCORES, ["dense", "sparse", "colbert", "sparse+dense", "colbert+sparse+dense"], strict=True):
        assert reply[name].shape == (3, 1)
        assert np.allclose(reply[name][:, 0], expected[score], atol=1e-6)


def test_generate_scores_one_pair_as_json(served: Served, sdk: BGEM3FlagModel) -> None:
    body = json.dumps({"query": "a fox", "passage": "the quick brown fox", "weights": "0,0,1"}).encode()
    request = urllib.request.Request(
        f"{served.http_url}/v2/models/m3_score/generate", body, {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as reply:
        answer = json.load(reply)
    expected = sdk.compute_score(("a fox", "the quick brown fox"))
    assert abs(answer["colbert"] - expected["colbert"]) < 1e-6
    assert answer["colbert_sparse_dense"] == answer["colbert"]
    assert answer["sparse_dense"] == 0  # the mean of two scores without weight


def test_a_query_of_many_pairs_is_encoded_once(served: Served) -> None:
    inputs = {"query": column(["the lazy dog"] * 5), "passage": column(TEXTS[:5])}
    reply = infer(tritonclient.grpc, served, "m3_tokenizer", inputs, ["query_ids", "query_rows", "passage_rows"])
    assert reply["query_rows"].tolist() == [[0]] * 5
    assert reply["passage_rows"].tolist() == [[0], [1], [2], [3], [4]]
    tokens = (reply["query_ids"] >= 0).sum(axis=1)
    assert tokens[0] > 2
    assert not tokens[1:].any()


def test_requests_with_other_options_share_the_queue_and_keep_their_own(served: Served, sdk: BGEM3FlagModel) -> None:
    text = "the quick brown fox jumps over the lazy dog"
    lengths = [2 + i % 8 for i in range(24)]
    with ThreadPoolExecutor(len(lengths)) as pool:
        outputs = list(pool.map(lambda n: sdk.encode(text, max_length=n), lengths))
    assert [len(output["colbert_vecs"]) for output in outputs] == [n - 1 for n in lengths]
    for length, output in zip(lengths, outputs, strict=True):
        assert np.allclose(output["dense_vecs"], sdk.encode([text], max_length=length)["dense_vecs"][0], atol=1e-6)


def test_http_gives_the_sdk_what_grpc_gives(served: Served, sdk: BGEM3FlagModel) -> None:
    with BGEM3FlagModel("m3", url=served.http_url, use_fp16=False, **ALL) as over_http:
        ours, theirs = over_http.encode(TEXTS), sdk.encode(TEXTS)
        assert np.array_equal(ours["dense_vecs"], theirs["dense_vecs"])
        assert ours["lexical_weights"] == theirs["lexical_weights"]
        for mine, other in zip(ours["colbert_vecs"], theirs["colbert_vecs"], strict=True):
            assert np.array_equal(mine, other)
        assert over_http.compute_score((TEXTS[0], TEXTS[1])) == sdk.compute_score((TEXTS[0], TEXTS[1]))
        weights = ours["lexical_weights"]
        assert over_http.convert_id_to_token(weights) == sdk.convert_id_to_token(weights)


def test_the_best_passages_come_first(sdk: BGEM3FlagModel) -> None:
    ranked = sdk.rerank("the quick brown fox", TEXTS, top_k=3)
    scores = sdk.compute_score([("the quick brown fox", text) for text in TEXTS])["colbert+sparse+dense"]
    assert [index for index, *_ in ranked] == np.argsort(scores)[::-1][:3].tolist()
    assert [(score, text) for _, score, text in ranked] == [(scores[i], TEXTS[i]) for i, *_ in ranked]


def test_a_text_of_8192_tokens_has_8191_colbert_vectors(sdk: BGEM3FlagModel) -> None:
    output = sdk.encode(["fox " * 9000, "fox"], max_length=8192)
    assert [len(vectors) for vectors in output["colbert_vecs"]] == [8191, len(sdk.encode("fox")["colbert_vecs"])]
    assert np.allclose(np.linalg.norm(output["colbert_vecs"][0], axis=1), 1, atol=1e-5)


def test_from_finetuned_finds_the_class_by_what_is_served(served: Served) -> None:
    with FlagAutoModel.from_finetuned("m3", url=served.grpc_url, return_sparse=True) as model:
        assert isinstance(model, BGEM3FlagModel)
        assert model.encode("a fox")["lexical_weights"]


def test_half_precision_on_the_wire_is_float32_at_the_caller(served: Served) -> None:
    with BGEM3FlagModel("m3-narrow", url=served.grpc_url, pooling_method="mean", colbert_dim=16, **ALL) as model:
        [vectors] = model.encode(["a fox"])["colbert_vecs"]
    assert vectors.dtype == np.float32
    assert vectors.shape[1] == 16


@pytest.mark.parametrize("wire", WIRES)
def test_a_request_says_in_which_dtype_its_colbert_vectors_travel(wire: ModuleType, served: Served) -> None:
    text, outputs = {"text": column(["a fox"])}, ["colbert_vecs"]
    whole = infer(wire, served, "m3-narrow", text, outputs)["colbert_vecs"]
    half = infer(wire, served, "m3-narrow", text, outputs, colbert_dtype="fp16")["colbert_vecs"]
    assert (whole.dtype, half.dtype) == (np.float32, np.float16)
    assert np.array_equal(half, whole.astype(np.float16))


@pytest.mark.parametrize("model", ["m3", "m3-narrow"])
def test_json_carries_all_outputs_whatever_the_deployments_dtype(model: str, served: Served) -> None:
    address, headers = f"{served.http_url}/v2/models/{model}", {"content-type": "application/json"}
    bodies = {
        "generate": {"text": "a fox"},
        "infer": {"inputs": [{"name": "text", "shape": [1, 1], "datatype": "BYTES", "data": ["a fox"]}]},
    }
    for kind, body in bodies.items():
        request = urllib.request.Request(f"{address}/{kind}", json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=60) as reply:
            answer = json.load(reply)
        outputs = {output["name"]: output["data"] for output in answer["outputs"]} if kind == "infer" else answer
        names = ["dense_vecs", "sparse_ids", "sparse_weights", "colbert_vecs"]
        expected = infer(tritonclient.grpc, served, model, {"text": column(["a fox"])}, names)
        for name in names:
            assert np.allclose(outputs[name], expected[name].reshape(-1), atol=1e-6)


@pytest.mark.parametrize(
    ("weights", "complaint"),
    [
        ("1,1", "option 'weights' is '1,1'; weights are [1.0, 1.0]; expected three finite numbers"),
        ("1,-1,1", "weights are [1.0, -1.0, 1.0]; expected three finite numbers"),
        ("0,0,0", "none below 0 and not all of them 0"),
        ("nan,1,1", "weights are [nan, 1.0, 1.0]"),
        ("1;1;1", "could not convert string to float"),
    ],
)
def test_bad_weights_are_refused_with_what_came(weights: str, complaint: str, served: Served) -> None:
    inputs = {"query": column(["a"]), "passage": column(["b"])}
    message = refusal(served, "m3_score", inputs, SCORES, weights=weights)
    assert "INVALID_ARGUMENT" in message
    assert complaint in message


def test_query_and_passage_counts_that_differ_are_refused(served: Served) -> None:
    message = refusal(served, "m3_score", {"query": column(["a", "b"]), "passage": column(["c"])}, SCORES)
    assert "INVALID_ARGUMENT" in message
    assert "input 'query' batch size does not match other inputs" in message


@pytest.mark.parametrize(
    ("model", "option", "value", "complaint"),
    [
        (
            "m3_score",
            "max_length",
            8,
            "unknown option 'max_length'; this model has bulk, normalize, passage_max_length",
        ),
        ("m3_score", "query_max_length", 9000, "option 'query_max_length' is 9000; expected a whole number from 2"),
        ("m3_score", "truncate", "SOME", "option 'truncate' is 'SOME'"),
        ("m3", "weights", "1,1,1", "unknown option 'weights'; this model has bulk, colbert_dtype, input_type"),
        ("m3", "truncate_dim", 0, "option 'truncate_dim' is 0"),
    ],
)
def test_an_option_of_another_model_or_out_of_range_is_refused(
    model: str, option: str, value: Any, complaint: str, served: Served
) -> None:
    pair = {"query": column(["a"]), "passage": column(["b"])}
    inputs, outputs = (pair, SCORES) if model == "m3_score" else ({"text": column(["a"])}, ["dense_vecs"])
    assert complaint in refusal(served, model, inputs, outputs, **{option: value})


def test_a_longer_passage_is_refused_by_name_where_nothing_may_be_cut(served: Served) -> None:
    inputs = {"query": column(["a", "a"]), "passage": column(["fox", "the quick brown fox"])}
    message = refusal(served, "m3_score", inputs, SCORES, truncate="NONE", passage_max_length=5)
    assert "passage 1 has more than 5 tokens and truncate=NONE" in message


def test_bytes_that_are_no_text_are_refused_by_side(served: Served) -> None:
    inputs = {"query": column(["a"]), "passage": np.array([[b"\xff"]], dtype=np.object_)}
    assert "passage 0 is not valid UTF-8" in refusal(served, "m3_score", inputs, SCORES)


def test_an_output_that_there_is_not_is_refused(served: Served) -> None:
    assert "sparse_vecs" in refusal(served, "m3", {"text": column(["a"])}, ["sparse_vecs"])


def test_a_token_id_that_there_is_not_is_refused(served: Served) -> None:
    inputs = {"token_id": np.array([[7], [99_999]], dtype=np.int32)}
    assert "token id 99999 is not one of this tokenizer's" in refusal(served, "m3_tokenizer", inputs, ["token"])


def test_a_length_beyond_the_deployments_is_refused_through_the_sdk(sdk: BGEM3FlagModel) -> None:
    with pytest.raises(InvalidRequestError, match="option 'query_max_length' is 9000"):
        sdk.compute_score(("a", "b"), max_query_length=9000)


def test_another_class_is_told_which_one_is_served(served: Served) -> None:
    with pytest.raises(DeploymentMismatchError, match="m3 is served as embed encoder-only-m3"):
        FlagModel("m3", url=served.grpc_url)
    with pytest.raises(DeploymentMismatchError, match="bert-cls is served as embed encoder-only-base"):
        BGEM3FlagModel("bert-cls", url=served.grpc_url)
    with pytest.raises(DeploymentMismatchError, match="colbert_dim=32, but m3 is served with 48"):
        BGEM3FlagModel("m3", url=served.grpc_url, colbert_dim=32)
